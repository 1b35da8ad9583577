//! Whether two models or matrices hold the same weights.

use std::path::PathBuf;

use pyo3::prelude::*;
use tritlab_kernels::verify::first_difference;
use tritlab_model::source::i2_s_order;
use tritlab_model::verify::{self, Difference};

use crate::callback::Progress;
use crate::errors::OrRaise;
use crate::matrix::Matrix;
use crate::model::packaged;

#[derive(IntoPyObject)]
pub(crate) struct VerifyReport {
    tensors: usize,
    weights: u64,
    difference: Option<Found>,
}

/// What differs; the fields that have no meaning for its kind are `None`.
#[derive(IntoPyObject)]
struct Found {
    kind: &'static str,
    tensor: String,
    row: Option<usize>,
    col: Option<usize>,
    first: Option<f32>,
    second: Option<f32>,
    types: Option<(&'static str, &'static str)>,
    shapes: Option<((usize, usize), (usize, usize))>,
}

impl From<Difference> for Found {
    fn from(d: Difference) -> Self {
        let none = |kind, tensor| Found {
            kind,
            tensor,
            row: None,
            col: None,
            first: None,
            second: None,
            types: None,
            shapes: None,
        };
        match d {
            Difference::Missing { tensor, in_first: true } => none("only in the first", tensor),
            Difference::Missing { tensor, in_first: false } => none("only in the second", tensor),
            Difference::Shape { tensor, first, second } => {
                Found { shapes: Some((first.into(), second.into())), ..none("shape", tensor) }
            }
            Difference::Value { tensor, row, col, first, second } => Found {
                row: Some(row),
                col: Some(col),
                first: Some(first.0),
                second: Some(second.0),
                types: Some((first.1, second.1)),
                ..none("value", tensor)
            },
        }
    }
}

/// Compare the weights of two models by value: GGUF files or folders, in any packing.
///
/// `rtol` allows |a - b| <= rtol * max(|a|, |b|). `tritlab.verify` is the friendlier form.
#[pyfunction]
#[pyo3(signature = (first, second, *, rtol=0.0, i2_s="I2_S", progress=None))]
pub(crate) fn verify_models(
    py: Python<'_>,
    first: PathBuf,
    second: PathBuf,
    rtol: f32,
    i2_s: &str,
    progress: Option<Py<PyAny>>,
) -> PyResult<VerifyReport> {
    let (first, second) = (packaged(py, first)?, packaged(py, second)?);
    let i2_s = i2_s_order(i2_s).or_raise()?;
    let mut progress = Progress::new(progress);
    let result = py.detach(|| {
        let mut step = |done, total, name: &str| progress.call(done, total, name);
        verify::models(&first, &second, rtol, i2_s, &mut step)
    });
    let report = progress.finish(result.or_raise())?;
    let difference = report.difference.map(Found::from);
    Ok(VerifyReport { tensors: report.tensors, weights: report.weights, difference })
}

/// First weight that two matrices do not share: (row, col, first, second), or `None`.
#[pyfunction]
#[pyo3(signature = (first, second, *, rtol=0.0))]
pub(crate) fn verify_matrices(
    py: Python<'_>,
    first: &Bound<'_, Matrix>,
    second: &Bound<'_, Matrix>,
    rtol: f32,
) -> PyResult<Option<(usize, usize, f32, f32)>> {
    let (first, second) = (first.get().weights(), second.get().weights());
    let found = py.detach(|| first_difference(first, second, rtol)).or_raise()?;
    Ok(found.map(|d| (d.row, d.col, d.first, d.second)))
}
