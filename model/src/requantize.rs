//! A matrix in another format, and what that costs.

use tritlab_kernels::{Format, Matrix, Projection, Scales, Weights, threads};

use crate::error::{Error, Result};
use crate::imatrix::Imatrix;
use crate::overrides::Overrides;
use crate::rounding::project;
use crate::source::exact_ternary;

/// What a change of format cost: sums of squares over the weights.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Cost {
    /// Of the differences.
    pub error: f64,
    /// Of the weights themselves.
    pub norm: f64,
}

impl Cost {
    /// `|w - q| / |w|`; 0 where all weights are 0.
    pub fn relative(&self) -> f64 {
        if self.norm > 0.0 { (self.error / self.norm).sqrt() } else { 0.0 }
    }
}

/// Weights that are decoded at once: a head in f32 is larger than the rest of a small model.
const CHUNK: usize = 1 << 22;

/// How weights are rounded to a format.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Rule<'a> {
    /// As the format's own quantiser does, its columns of some importance.
    Own(Option<&'a [f32]>),
    /// By a projection.
    Projected(Projection),
}

impl<'a> Rule<'a> {
    /// The one that a tensor's projection and importance ask for; [`check_rules`] has seen to it that a model has
    /// not both.
    pub(crate) fn new(projection: Option<Projection>, importance: Option<&'a [f32]>) -> Self {
        projection.map_or(Rule::Own(importance), Rule::Projected)
    }
}

/// Refuses a projection, of the whole model or of a tensor, beside an importance matrix, which it would not use.
pub(crate) fn check_rules(
    projection: Option<Projection>,
    overrides: &Overrides,
    imatrix: Option<&Imatrix>,
) -> Result<()> {
    match (projection.or(overrides.projection()), imatrix) {
        (Some(_), Some(_)) => Err(Error::TwoRules),
        _ => Ok(()),
    }
}

/// `m` in another format, and what that cost. Beside the two matrices this needs [`CHUNK`] weights in f32, or all
/// of them where the format has one scale for all. Weights that are ternary stay as they are in another ternary
/// format that can hold them: absmean would shrink their scale.
pub(crate) fn requantize(
    name: &str,
    m: &Matrix<'_>,
    format: Format,
    rule: Rule<'_>,
) -> Result<(Matrix<'static>, Cost)> {
    requantize_by(name, m, format, rule, (CHUNK / m.cols().max(1)).max(1))
}

/// [`requantize`], `chunk` rows at a time.
fn requantize_by(
    name: &str,
    m: &Matrix<'_>,
    format: Format,
    rule: Rule<'_>,
    chunk: usize,
) -> Result<(Matrix<'static>, Cost)> {
    let (rows, cols) = (m.rows(), m.cols());
    let one_scale = match format.info().scales {
        Scales::Tensor => true,
        Scales::None => matches!(rule, Rule::Projected(_)),
        Scales::Row | Scales::Block => false,
    };
    let at_once = if one_scale { rows.max(1) } else { chunk };
    let blame = |source| Error::Tensor { tensor: name.to_owned(), source };
    if let Some(same) = exact_ternary(format, m) {
        let mut cost = Cost::default();
        let mut w = Vec::new();
        for first in (0..rows).step_by(chunk) {
            decode(m, first, chunk.min(rows - first), &mut w);
            cost.norm = w.iter().fold(cost.norm, |sum, w| sum + f64::from(*w).powi(2));
        }
        return Ok((same, cost));
    }
    let row_bytes = format.row_bytes(cols).map_err(blame)?;
    let mut bytes = Vec::with_capacity(rows.saturating_mul(row_bytes));
    let mut scales = Vec::new();
    let mut cost = Cost::default();
    let (mut w, mut decoded) = (Vec::new(), Vec::new());
    for first in (0..rows).step_by(at_once) {
        let n = at_once.min(rows - first);
        decode(m, first, n, &mut w);
        let q = match rule {
            Rule::Own(importance) => Matrix::quantize_weighted(format, n, cols, &w, importance),
            Rule::Projected(projection) => project(projection, format, (n, cols), &w),
        };
        let q = q.map_err(|e| blame(after(e, first, cols)))?;
        for start in (0..n).step_by(chunk) {
            decode(&q, start, chunk.min(n - start), &mut decoded);
            for (w, q) in w[start * cols..].iter().zip(&decoded) {
                cost.error += f64::from(w - q).powi(2);
                cost.norm += f64::from(*w).powi(2);
            }
        }
        if at_once >= rows {
            return Ok((q, cost));
        }
        bytes.extend_from_slice(q.bytes());
        scales.extend_from_slice(q.scales());
    }
    let q = Matrix::new(format, rows, cols, bytes, scales).map_err(blame)?;
    Ok((q, cost))
}

/// Rows `first..first + n` as f32.
fn decode(m: &Matrix<'_>, first: usize, n: usize, out: &mut Vec<f32>) {
    out.clear();
    out.resize(n * m.cols(), 0.0);
    threads::for_each_chunk(out, m.cols().max(1), |r, row| m.dequantize_row(first + r, row));
}

/// An error of the rows from `first` on, with the place it has in the whole matrix.
fn after(error: tritlab_kernels::Error, first: usize, cols: usize) -> tritlab_kernels::Error {
    use tritlab_kernels::Error as E;
    match error {
        E::NotFinite { what, index, value } => {
            E::NotFinite { what, index: first * cols + index, value }
        }
        E::ScaleOverflow { format, block } => {
            let per_row =
                Format::from_name(format).map_or(0, |f| cols.div_ceil(f.info().block.max(1)));
            E::ScaleOverflow { format, block: first * per_row + block }
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn weights(rows: usize, cols: usize) -> Vec<f32> {
        let x = |i: usize| (i.wrapping_mul(2_654_435_761) >> 7) % 2001;
        (0..rows * cols).map(|i| x(i) as f32 / 1000.0 - 1.0).collect()
    }

    /// However many rows at a time: the same bytes, scales and cost, and the same place in an error.
    #[test]
    fn chunks_change_nothing() {
        let (rows, cols) = (37, 256);
        let mut w = weights(rows, cols);
        let dense = |w: &[f32]| Matrix::quantize(Format::F32, rows, cols, w).unwrap();
        let m = dense(&w);
        let own = Rule::Own(None);
        let projected = [Format::F16, Format::TERNARY, Format::TERNARY_ROW, Format::TQ2_0]
            .map(|format| (format, Rule::Projected(Projection::Twn)));
        for (format, rule) in Format::ALL.iter().map(|f| (*f, own)).chain(projected) {
            let (whole, cost) = requantize_by("w", &m, format, rule, rows).unwrap();
            for chunk in [1, 5, 36] {
                let (parts, other) = requantize_by("w", &m, format, rule, chunk).unwrap();
                assert_eq!(parts, whole, "{format} by {chunk}, {rule:?}");
                assert_eq!((other.error, other.norm), (cost.error, cost.norm), "{format}");
            }
        }
        w[20 * cols + 70] = 1e9;
        let m = dense(&w);
        for format in [Format::F16, Format::Q4_0, Format::Q4_K] {
            let place = |chunk| requantize_by("w", &m, format, own, chunk).unwrap_err().to_string();
            assert_eq!(place(5), place(rows), "{format}");
        }
        let exact = Matrix::quantize(Format::TERNARY, rows, cols, &weights(rows, cols)).unwrap();
        let (same, cost) = requantize_by("w", &exact, Format::TERNARY_B3, own, 5).unwrap();
        assert_eq!(same.dequantize(), exact.dequantize());
        assert!(cost.error == 0.0 && cost.norm > 0.0);
    }
}
