//! Exact kernels for low-bit weights.
//!
//! Weights are packed into ternary, 1-bit, Q4, Q5, Q8, k-quant or dense [`Format`]s and multiplied with int8 (or f32)
//! activations on the best backend the CPU has. Every backend returns the same bits as the scalar
//! [`oracle`], for every thread count and batch size.
//!
//! ```
//! use tritlab_kernels::{Format, Matrix, Panels, Weights, op};
//!
//! let weights: Vec<f32> = (0..64 * 32).map(|i| (i % 7) as f32 - 3.0).collect();
//! let matrix = Matrix::quantize(Format::Q4_0, 64, 32, &weights).unwrap();   // bytes as on disk
//! let panels = Panels::pack(&matrix).unwrap();                              // what kernels read
//! let mut y = vec![0.0; 64];
//! op::matmul(&panels, &[1.0; 32], 1, &mut y).unwrap();
//! assert_eq!(panels.dequantize(), matrix.dequantize());
//! ```
//!
//! Where things are: a format is one file in `format/`; a backend is one file in `isa/`, the only place
//! with `unsafe`; an operation is one file in `op/`, generic over both; [`oracle`] is the same operations
//! as plain loops; [`backend`] is the table of all of them. Imports go one way, and a test holds that.
//! `testing` (feature `testing`) is the kit that tests these kernels, and yours; `disassembly` (feature `disassembly`)
//! shows the machine code that runs.

#![deny(unsafe_code)]

pub mod activation;
pub mod backend;
mod codes;
#[cfg(feature = "disassembly")]
pub mod disassembly;
mod environment;
mod error;
pub mod explain;
pub mod format;
mod importance;
#[allow(unsafe_code, reason = "intrinsics; every other module is safe")]
mod isa;
mod matrix;
pub mod op;
pub mod oracle;
pub mod packing;
mod panel;
pub mod projection;
pub mod roofline;
pub mod speed;
mod ternary;
#[cfg(feature = "testing")]
pub mod testing;
pub mod threads;
pub mod verify;

pub use activation::Acts;
pub use backend::Backend;
pub use codes::GroupScales;
pub use error::{Error, Result, all_finite, check_finite};
pub use explain::{Explanation, explain};
pub use format::{Format, Grouping, Info, Scales};
pub use matrix::{Matrix, Weights};
pub use op::{matmul, matmul_acts, matmul_many};
pub use packing::Packing;
pub use panel::Panels;
pub use projection::Projection;
pub use ternary::{Granularity, Ternary};
