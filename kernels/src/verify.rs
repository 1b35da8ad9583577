//! Whether two matrices hold the same weights, whatever they are packed in.

use std::sync::atomic::{AtomicUsize, Ordering};

use crate::error::{Error, Result};
use crate::matrix::Weights;
use crate::threads;

/// The first weight, in row-major order, that two matrices do not share.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Difference {
    /// Its row.
    pub row: usize,
    /// Its column.
    pub col: usize,
    /// Its value in the first matrix.
    pub first: f32,
    /// Its value in the second.
    pub second: f32,
}

/// The first difference of two matrices of one shape; `None` where there is none. Weights are the same if they
/// are equal as numbers (zeros of both signs are), or, with a relative tolerance `rtol`, if `|a - b| <= rtol *
/// max(|a|, |b|)`: scales may then be rounded, but a zero is only ever a zero. NaN is the same as NaN.
///
/// # Errors
/// [`Error::Shapes`]; [`Error::Tolerance`] unless `rtol` is 0 or more, and below 1.
pub fn first_difference(
    first: &(impl Weights + Sync),
    second: &(impl Weights + Sync),
    rtol: f32,
) -> Result<Option<Difference>> {
    if !(0.0..1.0).contains(&rtol) {
        return Err(Error::Tolerance { value: rtol.to_string() });
    }
    let (a, b) = ((first.rows(), first.cols()), (second.rows(), second.cols()));
    if a != b {
        return Err(Error::Shapes { first: a, second: b });
    }
    let (rows, cols) = a;
    let found = AtomicUsize::new(usize::MAX);
    let mut rows_left: Vec<()> = vec![(); rows];
    threads::for_each_chunk(&mut rows_left, 1, |r, _| {
        // A difference in an earlier row has been found: this one cannot be the first.
        if cols == 0 || found.load(Ordering::Relaxed) < r * cols {
            return;
        }
        let (mut x, mut y) = (vec![0.0; cols], vec![0.0; cols]);
        first.dequantize_row(r, &mut x);
        second.dequantize_row(r, &mut y);
        if let Some(c) = x.iter().zip(&y).position(|(x, y)| !same(*x, *y, rtol)) {
            found.fetch_min(r * cols + c, Ordering::Relaxed);
        }
    });
    Ok(match found.into_inner() {
        usize::MAX => None,
        i => {
            let (row, col) = (i / cols, i % cols);
            let (mut x, mut y) = (vec![0.0; cols], vec![0.0; cols]);
            first.dequantize_row(row, &mut x);
            second.dequantize_row(row, &mut y);
            Some(Difference { row, col, first: x[col], second: y[col] })
        }
    })
}

/// See [`first_difference`].
pub fn same(a: f32, b: f32, rtol: f32) -> bool {
    a == b || (a.is_nan() && b.is_nan()) || (a - b).abs() <= rtol * a.abs().max(b.abs())
}
