//! No operation reads or writes outside its slices: inputs and outputs lie flush against an inaccessible
//! page, before or behind them, and outputs lie in the middle of a painted buffer at every alignment.
//!
//! What cannot be placed so are [`Panels`], [`Acts`](tritlab_kernels::Acts) and [`KeyValues`], which own
//! their memory. Kernels see them as slices in safe Rust; the loads in `isa/` take references to arrays
//! of exactly the size they read, so a load outside them does not compile or panics on its bounds.

#![cfg(unix)]

#[path = "support/inputs.rs"]
mod inputs;

use inputs::*;
use tritlab_kernels::backend::{available, force};
use tritlab_kernels::op::{CacheType, KeyValues, Queries, Query};
use tritlab_kernels::oracle::Activation;
use tritlab_kernels::{Backend, Format, Grouping, Panels, Weights, matmul};

/// Lengths around a vector of 16 and a group of 32 and 256.
const LENGTHS: &[usize] = &[
    0,   // nothing: not even a pointer may be followed
    1,   // a load of a whole vector would pass the end
    15,  // one short of a vector
    16,  // a vector
    17,  // a tail of one
    33,  // a group of 32 and one
    64,  // whole vectors
    100, // a tail of four
    257, // a group of 256 and one
];

/// Numbers that may lie anywhere and hold any bits.
trait Number: Copy {}
impl Number for f32 {}
impl Number for i32 {}
impl Number for i8 {}

/// Memory between two pages that nobody may touch.
struct Fenced {
    base: *mut u8,
    page: usize,
    len: usize,
}

impl Fenced {
    fn new(bytes: usize) -> Self {
        // SAFETY: reads a constant of the system.
        let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) } as usize;
        let len = bytes.next_multiple_of(page).max(page);
        let (protection, flags) =
            (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        // SAFETY: a new anonymous mapping at an address that the system chooses touches no other memory.
        let base =
            unsafe { libc::mmap(std::ptr::null_mut(), len + 2 * page, protection, flags, -1, 0) };
        assert_ne!(base, libc::MAP_FAILED, "mmap");
        let base: *mut u8 = base.cast();
        for fence in [0, page + len] {
            // SAFETY: the page lies inside the mapping made above, which nobody else knows.
            let rc = unsafe { libc::mprotect(base.add(fence).cast(), page, libc::PROT_NONE) };
            assert_eq!(rc, 0, "mprotect");
        }
        Fenced { base, page, len }
    }

    /// A slice flush against the fence behind it, or the one before it.
    fn slice<T: Number>(&mut self, n: usize, behind: bool) -> &mut [T] {
        let bytes = n * size_of::<T>();
        assert!(bytes <= self.len);
        let at = self.page + if behind { self.len - bytes } else { 0 };
        // SAFETY: `bytes` bytes from `at` on are inside the readable and writable middle of the mapping,
        // which starts zeroed; page borders and sizes of T are multiples of T's alignment; any bits are a
        // T; the slice borrows `self`, so there is only one.
        unsafe { std::slice::from_raw_parts_mut(self.base.add(at).cast(), n) }
    }
}

impl Drop for Fenced {
    fn drop(&mut self) {
        // SAFETY: the mapping made in `new`, whole, and every slice of it has ended.
        unsafe { libc::munmap(self.base.cast(), self.len + 2 * self.page) };
    }
}

/// Where slices lie in a run of [`each_place`].
#[derive(Clone, Copy, Debug)]
enum Place {
    /// A fence behind the last element.
    Behind,
    /// A fence before the first element.
    Before,
    /// In a painted buffer, this many elements from a 64-byte border.
    Painted(usize),
}

/// Gives `f` a slice that holds `values`, placed as said; returns what it then holds. Panics if anything
/// around it changed.
fn placed<T: Number + PartialEq + std::fmt::Debug, R>(
    place: Place,
    values: &[T],
    paint: T,
    f: impl FnOnce(&mut [T]) -> R,
) -> (Vec<T>, R) {
    let offset = match place {
        Place::Painted(offset) => offset,
        Place::Behind | Place::Before => {
            let mut fenced = Fenced::new(size_of_val(values));
            let slice = fenced.slice(values.len(), matches!(place, Place::Behind));
            slice.copy_from_slice(values);
            let r = f(slice);
            return (slice.to_vec(), r);
        }
    };
    const MARGIN: usize = 64; // more than the widest store
    let mut fenced = Fenced::new((values.len() + offset + 2 * MARGIN) * size_of::<T>());
    let all: &mut [T] = fenced.slice(values.len() + offset + 2 * MARGIN, false);
    all.fill(paint);
    let (first, last) = (MARGIN + offset, MARGIN + offset + values.len());
    all[first..last].copy_from_slice(values);
    let r = f(&mut all[first..last]);
    let outside = |at: usize| at < first || at >= last;
    let touched = (0..all.len()).find(|&at| outside(at) && all[at] != paint);
    assert!(touched.is_none(), "element {touched:?} outside {first}..{last} was written");
    (all[first..last].to_vec(), r)
}

/// Calls `f` with every length, every backend and every place.
fn each_place(f: impl Fn(Backend, Place, usize)) {
    let places = [Place::Behind, Place::Before].into_iter().chain((0..16).map(Place::Painted));
    for place in places {
        for backend in available() {
            for &n in LENGTHS {
                f(backend, place, n);
            }
        }
    }
}

#[test]
fn the_fences_are_there() {
    let mut fenced = Fenced::new(1);
    let (base, page) = (fenced.base, fenced.page);
    assert_eq!(fenced.slice::<i8>(page, true).len(), page);
    let mut ends = [0; 2];
    // SAFETY: `ends` is an array of two descriptors, as `pipe` wants.
    assert_eq!(unsafe { libc::pipe(ends.as_mut_ptr()) }, 0);
    // The kernel refuses to read an inaccessible byte and says so, instead of ending the process.
    let readable = |at: usize| {
        // SAFETY: `at` is inside the mapping; the system checks whether the byte can be read.
        unsafe { libc::write(ends[1], base.add(at).cast(), 1) == 1 }
    };
    assert!(!readable(page - 1) && readable(page) && readable(2 * page - 1) && !readable(2 * page));
    for end in ends {
        // SAFETY: opened above, closed once.
        unsafe { libc::close(end) };
    }
}

#[test]
fn quantize_row() {
    each_place(|backend, place, n| {
        let ops = backend.ops().unwrap();
        for grouping in [Grouping::Token, Grouping::Group256, Grouping::Group32] {
            let groups = n.div_ceil(grouping.len().unwrap_or(n).max(1));
            let x = Values::Painted.make(n, 1);
            let mut expected = (vec![7i8; n], vec![7.0f32; groups], vec![7i32; groups]);
            let oracle = Backend::Oracle.ops().unwrap();
            let (q, s, sum) = (&mut expected.0, &mut expected.1, &mut expected.2);
            oracle.quantize_row(grouping, &x, q, s, sum);
            let (_, (q, (s, (sum, ())))) = placed(place, &x, 99.0, |x| {
                placed(place, &vec![7i8; n], 99, |q| {
                    placed(place, &vec![7.0f32; groups], 99.0, |s| {
                        placed(place, &vec![7i32; groups], 99, |sum| {
                            ops.quantize_row(grouping, x, q, s, sum);
                        })
                    })
                })
            });
            let what = format!("quantize_row-{backend}, {n}, {place:?}");
            assert!((q, sum) == (expected.0, expected.2), "{what}: codes or sums");
            assert_bits(&what, &s, &expected.1);
        }
    });
}

/// An operation on `x` in place with a read-only `y` of the same length.
fn in_place(name: &str, f: impl Fn(Backend, &mut [f32], &[f32])) {
    each_place(|backend, place, n| {
        let (x, y) = (Values::Painted.make(n, 2), Values::Painted.make(n, 3));
        let mut expected = x.clone();
        f(Backend::Oracle, &mut expected, &y);
        let (got_y, (got, ())) =
            placed(place, &y, 99.0, |y| placed(place, &x, 99.0, |x| f(backend, x, y)));
        assert_bits(&format!("{name}-{backend}, {n}, {place:?}"), &got, &expected);
        assert_bits(&format!("{name}-{backend}: its input"), &got_y, &y);
    });
}

#[test]
fn rms_norm() {
    in_place("rms_norm", |backend, x, w| {
        let input = x.to_vec();
        backend.ops().unwrap().rms_norm(&input, w, 1e-5, x);
    });
    // The vector itself, not a copy of it, against the fence.
    in_place("rms_norm", |backend, out, x| {
        let w = vec![0.5; x.len()];
        backend.ops().unwrap().rms_norm(x, &w, 1e-5, out);
    });
}

#[test]
fn gated() {
    for act in [Activation::Silu, Activation::Relu2, Activation::GeluTanh] {
        in_place("gated", |backend, x, up| backend.ops().unwrap().gated(act, x, up));
    }
}

#[test]
fn tanh_cap() {
    in_place("tanh_cap", |backend, x, _| backend.ops().unwrap().tanh_cap(x, 30.0));
}

#[test]
fn softmax() {
    in_place("softmax", |backend, x, _| backend.ops().unwrap().softmax(x));
}

#[test]
fn rope() {
    in_place("rope", |backend, x, tables| {
        let half = x.len() / 2;
        // The cosines end, and the sines begin, inside; both ends of `tables` are fenced in turn.
        let (cos, sin) = (&tables[..half], &tables[tables.len() - half..]);
        backend.ops().unwrap().rope(x, cos, sin);
    });
}

#[test]
fn attention() {
    in_place("attention", |backend, out, q| {
        let dim = q.len();
        if dim == 0 {
            return;
        }
        let mut kv = KeyValues::new(dim, 0, CacheType::F16);
        for j in 0..21 {
            kv.push(&Values::Painted.make(dim, j), &Values::Painted.make(dim, j + 50));
        }
        let ops = backend.ops().unwrap();
        let each = [Query { at: 0, range: 2..21 }];
        let queries = Queries { vectors: q, each: &each, scale: 0.125, cap: Some(50.0) };
        ops.attention(&queries, &kv, &mut Vec::new(), out);
    });
}

/// The front door and each backend's own entry: activations that are read and outputs that are written.
#[test]
fn products() {
    for &format in Format::ALL {
        let (rows, cols) = (70, 512); // a panel and six rows: the last store is a part of a vector
        let panels = Panels::pack(&random_matrix(format, rows, cols, 1)).unwrap();
        let grouping = format.info().activation;
        for n in [1, 3] {
            let x = Values::Painted.make(n * cols, 4);
            let oracle = Backend::Oracle.ops().unwrap();
            let mut expected = vec![0.0; n * rows];
            oracle.matmul(
                &panels,
                &oracle.quantize_acts(grouping, &x, n, cols).unwrap(),
                &mut expected,
            );
            for place in [Place::Behind, Place::Before, Place::Painted(0), Place::Painted(5)] {
                for backend in available() {
                    let ops = backend.ops().unwrap();
                    let acts = ops.quantize_acts(grouping, &x, n, cols).unwrap();
                    let what = format!("{format} on {backend}, {n} tokens, {place:?}");
                    let fresh = vec![7.0; n * rows];
                    let (got, ()) = placed(place, &fresh, 99.0, |y| ops.matmul(&panels, &acts, y));
                    assert_bits(&what, &got, &expected);
                    force(Some(backend.name())).unwrap();
                    let (_, (got, ())) = placed(place, &x, 99.0, |x| {
                        placed(place, &fresh, 99.0, |y| matmul(&panels, x, n, y).unwrap())
                    });
                    assert_bits(&format!("{what}, front door"), &got, &expected);
                }
            }
        }
        assert_eq!(panels.rows(), rows);
    }
}
