//! Large pages, where the system has them for those who ask: a product that streams through megabytes of weights
//! otherwise waits for the translation of every 4 KiB of addresses.

use std::mem::MaybeUninit;

/// Asks for large pages under `memory`, which should not have been written yet (pages that exist stay small).
/// Never fails: without them everything works, slower.
pub(crate) fn prefer_large<T>(memory: &mut [MaybeUninit<T>]) {
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
