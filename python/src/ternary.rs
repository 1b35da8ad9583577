//! `tritlab.Ternary`: codes -1, 0 and 1 and their scales, from a projection, a matrix or arrays.

use numpy::PyArrayMethods;
use numpy::{PyArray1, PyArray2, PyArrayDyn};
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::PyString;
use tritlab_kernels::projection::Stats;
use tritlab_kernels::{self as kernels, Format, Granularity, Packing, Projection};

use crate::arrays::{self, Borrowed};
use crate::errors::{OrRaise, ShapeError};
use crate::matrix::Matrix;

/// Ternary weights: codes -1, 0 and 1 times a scale per tensor, row or group. Immutable.
///
/// `codes` is int8 [rows, cols]; `scales` float32 [1] (per tensor), [rows] (per row) or
/// [rows, groups]; `per` says which: "tensor", "row" or the weights per group.
#[pyclass(frozen, module = "tritlab")]
pub(crate) struct Ternary {
    ternary: kernels::Ternary,
    /// Beside the weights it was made from, where it was.
    stats: Option<Stats>,
}

impl Ternary {
    pub(crate) fn new(ternary: kernels::Ternary) -> Self {
        Self { ternary, stats: None }
    }
}

/// "tensor", "row" or the weights per group.
pub(crate) fn granularity(per: &Bound<'_, PyAny>) -> PyResult<Granularity> {
    if let Ok(name) = per.cast::<PyString>() {
        match name.to_str()? {
            "tensor" => return Ok(Granularity::Tensor),
            "row" => return Ok(Granularity::Row),
            _ => {}
        }
    } else if let Ok(n) = per.extract::<usize>()
        && n > 0
    {
        return Ok(Granularity::Group(n));
    }
    Err(PyTypeError::new_err(format!(
        "per: \"tensor\", \"row\" or a number of weights, 1 or more, is wanted, not {}",
        per.repr()?
    )))
}

#[pymethods]
impl Ternary {
    #[new]
    #[pyo3(signature = (codes, scales, per=None))]
    fn from_arrays(
        codes: &Bound<'_, PyAny>,
        scales: &Bound<'_, PyAny>,
        per: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Self> {
        let codes = Borrowed::<i8>::new(codes, "codes, int8 [rows, cols]")?;
        let [rows, cols] = codes.dims()?;
        let scales = Borrowed::<f32>::new(scales, "scales, float32 [1], [rows] or [rows, groups]")?;
        let granularity = per.map_or(Ok(Granularity::Tensor), granularity)?;
        let wanted = match granularity {
            Granularity::Tensor => vec![1],
            Granularity::Row => vec![rows],
            Granularity::Group(n) => vec![rows, cols.div_ceil(n)],
        };
        if scales.shape() != wanted {
            let found = scales.shape();
            return Err(ShapeError::new_err(format!(
                "scales per {granularity} of {rows} x {cols} codes have the shape {wanted:?}, not {found:?}"
            )));
        }
        let (codes, scales) = (codes.slice()?.to_vec(), scales.slice()?.to_vec());
        kernels::Ternary::new(rows, cols, codes, scales, granularity).or_raise().map(Self::new)
    }

    /// (rows, cols).
    #[getter]
    fn shape(&self) -> (usize, usize) {
        (self.ternary.rows(), self.ternary.cols())
    }

    /// Of a scale: "tensor", "row" or the weights per group.
    #[getter]
    fn per<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        Ok(match self.ternary.granularity() {
            Granularity::Group(n) => n.into_pyobject(py)?.into_any(),
            named => PyString::new(py, &named.to_string()).into_any(),
        })
    }

    /// The codes, int8 [rows, cols], a new array.
    #[getter]
    fn codes<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyArray2<i8>>> {
        let (rows, cols) = self.shape();
        arrays::matrix(py, self.ternary.codes().to_vec(), rows, cols)
    }

    /// The scales, float32 [1], [rows] or [rows, groups], a new array.
    #[getter]
    fn scales<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyArrayDyn<f32>>> {
        let scales = arrays::vector(py, self.ternary.scales().to_vec());
        let shape = match self.ternary.granularity() {
            Granularity::Group(n) => vec![self.ternary.rows(), self.ternary.cols().div_ceil(n)],
            _ => vec![self.ternary.scales().len()],
        };
        scales.reshape(shape)
    }

    /// The fraction of codes that are 0.
    #[getter]
    fn zeros(&self) -> f64 {
        self.ternary.zeros()
    }

    /// Entropy of the three codes, bits: at most 1.585.
    #[getter]
    fn entropy(&self) -> f64 {
        self.ternary.entropy()
    }

    /// Signal to quantisation noise against the projected weights, dB; `None` without.
    #[getter]
    fn sqnr(&self) -> Option<f64> {
        self.stats.map(|s| s.sqnr)
    }

    /// Cosine with the projected weights; `None` without.
    #[getter]
    fn cosine(&self) -> Option<f64> {
        self.stats.map(|s| s.cosine)
    }

    /// The weights, float32 [rows, cols], a new array.
    fn dequantize<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyArray2<f32>>> {
        let (rows, cols) = self.shape();
        arrays::matrix(py, py.detach(|| self.ternary.dequantize()), rows, cols)
    }

    /// The same weights in a ternary or dense format, or, if no code is 0, in a sign format.
    ///
    /// Nothing is rounded: `FormatError` names the first weight that the format cannot hold.
    /// `round_scales` first rounds scales to float16, which formats with scales in their blocks
    /// need.
    #[pyo3(signature = (format, *, round_scales=false))]
    fn to_matrix(&self, py: Python<'_>, format: &str, round_scales: bool) -> PyResult<Matrix> {
        let format = Format::from_name(format).or_raise()?;
        py.detach(|| match round_scales {
            true => kernels::Matrix::from_ternary(format, &self.ternary.with_f16_scales()?),
            false => kernels::Matrix::from_ternary(format, &self.ternary),
        })
        .or_raise()
        .map(Matrix::new)
    }

    /// The weights in another project's layout, uint8 [nbytes], and a scale outside it.
    ///
    /// `packings` has the names; only `HF_PACKED` and `HF_PACKED_DIVIDE` have their scale outside.
    pub(crate) fn pack<'py>(
        &self,
        py: Python<'py>,
        packing: &str,
    ) -> PyResult<(Bound<'py, PyArray1<u8>>, Option<f32>)> {
        let packing = Packing::from_name(packing).or_raise()?;
        let packed = py.detach(|| packing.pack(&self.ternary)).or_raise()?;
        Ok((arrays::vector(py, packed.bytes), packed.scale))
    }

    fn __repr__(&self) -> String {
        let (rows, cols) = self.shape();
        let (per, zeros) = (self.ternary.granularity(), 100.0 * self.zeros());
        format!("<Ternary {rows} × {cols}, a scale per {per}, {zeros:.1} % zeros>")
    }
}

/// Make weights, float32 [rows, cols], ternary by a named projection.
///
/// `projection` is "absmean" (BitNet b1.58), "absmax" (ggml's TQ types), "twn" (Ternary Weight
/// Networks, threshold 0.7·mean|w|), "optimal" (the least squared error there is), "sign" or
/// "centred_sign" (BitNet; codes are ±1). `per` is the reach of a scale: "tensor" (the default),
/// "row" or a number of weights. `refit` replaces each scale by the one of least squared error for
/// its codes.
#[pyfunction]
#[pyo3(signature = (weights, projection="absmean", *, per=None, refit=false))]
pub(crate) fn project(
    py: Python<'_>,
    weights: &Bound<'_, PyAny>,
    projection: &str,
    per: Option<&Bound<'_, PyAny>>,
    refit: bool,
) -> PyResult<Ternary> {
    let projection = Projection::from_name(projection).or_raise()?;
    let granularity = per.map_or(Ok(Granularity::Tensor), granularity)?;
    let weights = Borrowed::<f32>::new(weights, "weights, float32 [rows, cols]")?;
    let [rows, cols] = weights.dims()?;
    let weights = weights.slice()?;
    py.detach(|| {
        let ternary = projection.apply(weights, rows, cols, granularity, refit)?;
        let stats = Some(ternary.stats(weights)?);
        Ok(Ternary { ternary, stats })
    })
    .map_err(|e: kernels::Error| e)
    .or_raise()
}

#[derive(IntoPyObject)]
pub(crate) struct PackingInfo {
    name: &'static str,
    scales: String,
    scale_outside: bool,
    summary: &'static str,
}

/// Layouts of other projects that `Matrix.from_bytes` and `Matrix.pack` know.
#[pyfunction]
pub(crate) fn packings() -> Vec<PackingInfo> {
    let info = |p: &Packing| PackingInfo {
        name: p.name(),
        scales: p.granularity().to_string(),
        scale_outside: p.scale_is_outside(),
        summary: p.info().summary,
    };
    Packing::ALL.iter().map(info).collect()
}
