//! Memory for weights.
//!
//! **Large pages**, where the system has them for those who ask: a product that streams through megabytes of weights
//! otherwise waits for the translation of every 4 KiB of addresses.
//!
//! **First touch.** A system with several memory nodes gives a page to the node of the thread that first writes it, so
//! the pool's threads do, each a part: weights are spread over the nodes. That is all there is of NUMA: threads are not
//! bound to cores or nodes, which thread reads a part later is not fixed, and batches that are split by tokens read all
//! weights from every thread. With more than one node, bind the process to one (`numactl -N 0 -m 0`) or spread its
//! memory (`numactl --interleave=all`).

use std::mem::MaybeUninit;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A part of memory that nobody has written yet.
pub(crate) struct Piece<'a, T> {
    room: &'a mut [MaybeUninit<T>],
    zero: T,
    written: &'a AtomicUsize,
}

impl<'a, T: Copy> Piece<'a, T> {
    /// Its elements, all zero now: the first touch.
    pub fn begin(self) -> &'a mut [T] {
        for element in self.room.iter_mut() {
            element.write(self.zero);
        }
        self.written.fetch_add(self.room.len(), Ordering::Relaxed);
        // SAFETY: every element has just been written.
        unsafe { self.room.assume_init_mut() }
    }
}

/// `count` elements, in pieces of `each`: `run` must begin every piece, on the thread that is to have it near.
///
/// # Panics
/// If a piece was not begun; if `each` is 0.
pub(crate) fn in_pieces<T: Copy>(
    count: usize,
    each: usize,
    zero: T,
    run: impl FnOnce(Vec<Option<Piece<'_, T>>>),
) -> Vec<T> {
    let mut all = Vec::with_capacity(count);
    let room = &mut all.spare_capacity_mut()[..count];
    prefer_large(room);
    let written = AtomicUsize::new(0);
    run(room.chunks_mut(each).map(|room| Some(Piece { room, zero, written: &written })).collect());
    assert_eq!(written.into_inner(), count, "every piece is begun");
    // SAFETY: there is room for `count` elements. The pieces are parts of it that do not overlap, and each can be begun
    // once only, so that as many elements as there are have been written.
    unsafe { all.set_len(count) };
    all
}

/// Asks for large pages under `memory`, which should not have been written yet (pages that exist stay small).
/// Never fails: without them everything works, slower.
fn prefer_large<T>(memory: &mut [MaybeUninit<T>]) {
    #[cfg(target_os = "linux")]
    {
        /// The large page of x86-64 and of aarch64 with pages of 4 KiB.
        const LARGE: usize = 2 << 20;
        let range = memory.as_mut_ptr_range();
        let start = range.start.cast::<u8>();
        // Whole large pages inside `memory`, so that no neighbour's page is advised.
        let skip = start.align_offset(LARGE);
        let len = size_of_val(memory).saturating_sub(skip) / LARGE * LARGE;
        if len > 0 {
            // SAFETY: the range lies inside `memory`, which is borrowed exclusively, and the advice changes neither
            // its contents nor its access rights. The answer is not needed: see above.
            unsafe {
                libc::madvise(start.wrapping_add(skip).cast(), len, libc::MADV_HUGEPAGE);
            }
        }
    }
    #[cfg(not(target_os = "linux"))]
    let _ = memory;
}
