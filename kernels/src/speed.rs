//! How long products take: the time that benches and Python's tables report.

use std::time::{Duration, Instant};

use crate::error::{Result, check_len};
use crate::matrix::Weights;
use crate::op::matmul;
use crate::panel::Panels;
use crate::threads;

/// Multiplies `x`, `[n][cols]` of the widest, with each matrix in turn, a narrower one taking the first numbers it
/// needs; the time of all, activations' quantisation included. `y` is room for the longest answer, `[n][rows]`.
///
/// One parallel region, as in a decoder's step: the pool stays awake from one product to the next. Nothing is
/// allocated that a decoder would not allocate, so that no page is new.
///
/// # Errors
/// Too short an `x` or `y`, NaN or infinity in `x`, no usable backend.
pub fn products(matrices: &[&Panels], x: &[f32], n: usize, y: &mut [f32]) -> Result<Duration> {
    let most = |f: fn(&Panels) -> usize| matrices.iter().map(|w| f(w)).max().unwrap_or(0);
    let (columns, rows) =
        (n.saturating_mul(most(Panels::cols)), n.saturating_mul(most(Panels::rows)));
    check_len("activations", columns, x.len().min(columns))?;
    check_len("outputs", rows, y.len().min(rows))?;
    threads::run_hot(|| {
        let begin = Instant::now();
        for w in matrices {
            matmul(w, &x[..n * w.cols()], n, &mut y[..n * w.rows()])?;
        }
        Ok(begin.elapsed())
    })
}
