//! A kit that tests kernels: yours as well as ours (feature `testing`).
//!
//! Give it a function and say what the function should compute. It runs the shapes at every edge of tiles and
//! blocks, painted numbers, saturating codes, every byte at every place, hostile scales, subnormal and huge
//! numbers, and random cases; compares bits with the definition ([`crate::oracle`], a format's `decode` and
//! `encode`); and names the kernel, the shape, the first bad index, both values, and the line that runs this
//! one case again.
//!
//! ```
//! use tritlab_kernels::testing::Kit;
//! use tritlab_kernels::{Acts, Format, Matrix};
//!
//! // y = W x for TERNARY: four 2-bit codes to a byte, codes 0 to 2 mean -1 to 1, one scale per matrix.
//! fn mine(w: &Matrix<'_>, acts: &Acts, y: &mut [f32]) {
//!     for (r, y) in y.iter_mut().enumerate() {
//!         let mut sum = 0i32;
//!         for k in 0..w.cols() {
//!             let code = w.row(r)[k / 4] >> (2 * (k % 4)) & 3;
//!             sum += (i32::from(code) - 1) * i32::from(acts.codes(0)[k]);
//!         }
//!         *y = acts.scales(0)[0] * sum as f32 * w.scales()[0];
//!     }
//! }
//! # use tritlab_kernels::Weights;
//! Kit::gemv(Format::TERNARY, "mine", mine).assert();
//!
//! // The same in i16, which is too narrow for the sum of a long row.
//! fn narrow(w: &Matrix<'_>, acts: &Acts, y: &mut [f32]) {
//!     for (r, y) in y.iter_mut().enumerate() {
//!         let mut sum = 0i16;
//!         for k in 0..w.cols() {
//!             let code = w.row(r)[k / 4] >> (2 * (k % 4)) & 3;
//!             sum = sum.wrapping_add((i16::from(code) - 1) * i16::from(acts.codes(0)[k]));
//!         }
//!         *y = acts.scales(0)[0] * f32::from(sum) * w.scales()[0];
//!     }
//! }
//! let failure = Kit::gemv(Format::TERNARY, "narrow", narrow).run().unwrap_err();
//! assert!(failure.to_string().starts_with("narrow is not gemv of TERNARY"), "{failure}");
//! ```
//!
//! [`strategies`] has proptest strategies for properties of your own; [`shapes`] and [`Values`] are the lists
//! that the project's own suites run.
//!
//! A kernel that sums in another order is judged by the sum in f64 and its error bound: [`Kit::within`].

mod bytes;
mod case;
mod check;
mod compare;
mod failure;
mod guarded;
mod kit;
pub mod shapes;
pub mod strategies;
mod values;

pub use bytes::{
    EVERY_BYTE_ROWS, F16_SCALES, any_matrix, every_byte, f16_places, make_finite, painted_matrix,
    random_matrix, raw_matrix,
};
pub use case::{Bytes, Case};
pub use check::Check;
pub use compare::assert_bits;
pub use failure::{Failure, Finding};
pub use guarded::{Guarded, Number};
pub use kit::Kit;
pub use values::{Random, Values, paint};
