//! `tritlab.Matrix`: bytes as on disk, and the panels that products read, made on the first product.

use std::sync::OnceLock;

use numpy::ndarray::ArrayView1;
use numpy::{Element, PyArray1, PyArray2, PyArrayMethods};
use pyo3::exceptions::PyMemoryError;
use pyo3::prelude::*;
use tritlab_kernels::{
    self as kernels, Acts, Format, Granularity, GroupScales, Packing, Panels, Weights, op,
};

use crate::activations::Activations;
use crate::arguments;
use crate::arrays::{self, Borrowed};
use crate::errors::{OrRaise, ShapeError};
use crate::explain::Explanation;
use crate::ternary::Ternary;

/// A quantised weight matrix, row-major. Immutable.
#[pyclass(frozen, module = "tritlab")]
pub(crate) struct Matrix {
    matrix: kernels::Matrix<'static>,
    panels: OnceLock<Panels>,
}

impl Matrix {
    /// The packed weights.
    pub(crate) fn weights(&self) -> &kernels::Matrix<'static> {
        &self.matrix
    }

    /// The product with activations that are quantised already, [rows, n].
    fn times<'py>(&self, py: Python<'py>, acts: &Acts) -> PyResult<Bound<'py, PyAny>> {
        let (rows, n) = (self.matrix.rows(), acts.n());
        let mut y = room(rows, n)?;
        let y = py
            .detach(|| {
                y.resize(rows * n, 0.0);
                op::matmul_acts(self.panels()?, acts, &mut y)?;
                Ok(transpose(&y, n, rows))
            })
            .map_err(|e: kernels::Error| e)
            .or_raise()?;
        Ok(arrays::matrix(py, y, rows, n)?.into_any())
    }

    pub(crate) fn new(matrix: kernels::Matrix<'static>) -> Self {
        Self { matrix, panels: OnceLock::new() }
    }

    /// (rows, cols).
    pub(crate) fn size(&self) -> (usize, usize) {
        (self.matrix.rows(), self.matrix.cols())
    }

    /// Two threads may both pack on the very first product; one result is kept.
    pub(crate) fn panels(&self) -> kernels::Result<&Panels> {
        match self.panels.get() {
            Some(panels) => Ok(panels),
            None => {
                let panels = Panels::pack(&self.matrix)?;
                Ok(self.panels.get_or_init(|| panels))
            }
        }
    }
}

#[pymethods]
impl Matrix {
    /// Quantise `weights`, float32 [rows, cols]. `FormatError` on NaN or infinity.
    ///
    /// `importance`, float32 [cols] and 0 or more, is how much an error in each column counts;
    /// formats that search for their scales use it, the others have no choice to make. Only ratios
    /// count; all 0 is the same as all 1. `FormatError` for one that is negative or not finite.
    ///
    /// Formats with float32 scales hold weights up to the largest float32; products with such can
    /// overflow to infinity, as those of float32 do.
    #[staticmethod]
    #[pyo3(signature = (weights, format, *, importance=None))]
    fn quantize(
        py: Python<'_>,
        weights: &Bound<'_, PyAny>,
        format: &str,
        importance: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Self> {
        let format = Format::from_name(format).or_raise()?;
        let weights = Borrowed::<f32>::new(weights, "weights, float32 [rows, cols]")?;
        let [rows, cols] = weights.dims()?;
        let weights = weights.slice()?;
        let importance = importance
            .map(|w| Borrowed::<f32>::new(w, "importance, float32 [cols]"))
            .transpose()?;
        let importance = match &importance {
            None => None,
            Some(w) => {
                let [_] = w.dims()?;
                Some(w.slice()?)
            }
        };
        py.detach(|| kernels::Matrix::quantize_weighted(format, rows, cols, weights, importance))
            .or_raise()
            .map(Self::new)
    }

    /// Take packed blocks as they lie in a file: uint8 [nbytes], copied once.
    ///
    /// `scales` is float32 [1] or [rows] for formats with a scale per tensor or row. `format` may
    /// also be one of `packings()`: the matrix is then TERNARY or TERNARY_ROW, the same weights,
    /// and `scales` float32 [1] where the packing has its scale outside.
    #[staticmethod]
    #[pyo3(signature = (data, format, shape, scales=None))]
    fn from_bytes(
        data: &Bound<'_, PyAny>,
        format: &str,
        #[pyo3(from_py_with = arguments::shape)] shape: (usize, usize),
        scales: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Self> {
        let data = Borrowed::<u8>::new(data, "data, uint8 [nbytes]")?;
        let [_] = data.dims()?;
        let scales = match scales {
            None => Vec::new(),
            Some(scales) => {
                let scales = Borrowed::<f32>::new(scales, "scales, float32 [1] or [rows]")?;
                let [_] = scales.dims()?;
                scales.slice()?.to_vec()
            }
        };
        let (rows, cols) = shape;
        if let Ok(packing) = Packing::from_name(format) {
            let scale = match *scales {
                [] => None,
                [scale] => Some(scale),
                _ => {
                    let found = scales.len();
                    return Err(ShapeError::new_err(format!(
                        "{packing} has one scale at most, and {found} were given"
                    )));
                }
            };
            let unpacked = packing.unpack(data.slice()?, rows, cols, scale);
            let format = match packing.granularity() {
                Granularity::Tensor => Format::TERNARY,
                _ => Format::TERNARY_ROW,
            };
            return unpacked
                .and_then(|t| kernels::Matrix::from_ternary(format, &t))
                .or_raise()
                .map(Self::new);
        }
        let format = Format::from_name(format).or_raise()?;
        let bytes = data.slice()?.to_vec();
        kernels::Matrix::new(format, rows, cols, bytes, scales).or_raise().map(Self::new)
    }

    /// Codes and scales of weights that are ternary, whatever the format.
    ///
    /// `FormatError` names the first weight that is not.
    fn ternary(&self, py: Python<'_>) -> PyResult<Ternary> {
        py.detach(|| kernels::Ternary::from_weights(&self.matrix)).or_raise().map(Ternary::new)
    }

    /// Ternary weights in another project's layout; short for `ternary().pack(packing)`.
    fn pack<'py>(
        &self,
        py: Python<'py>,
        packing: &str,
    ) -> PyResult<(Bound<'py, PyArray1<u8>>, Option<f32>)> {
        self.ternary(py)?.pack(py, packing)
    }

    /// (rows, cols).
    #[getter]
    fn shape(&self) -> (usize, usize) {
        self.size()
    }

    /// Name of the format.
    #[getter]
    fn format(&self) -> &'static str {
        self.matrix.format().name()
    }

    /// 8 × nbytes / (rows × cols).
    #[getter]
    fn bits_per_weight(&self) -> f64 {
        self.matrix.bits_per_weight()
    }

    /// Bytes of the blocks and the separate scales.
    #[getter]
    fn nbytes(&self) -> usize {
        self.matrix.nbytes()
    }

    /// The packed blocks: read-only view uint8 [n], no copy; it keeps the matrix alive.
    #[getter]
    fn bytes<'py>(slf: &Bound<'py, Self>) -> Bound<'py, PyArray1<u8>> {
        view(slf, slf.get().matrix.bytes())
    }

    /// Scales that lie outside the blocks: float32 [0], [1] or [rows], read-only.
    #[getter]
    fn scales<'py>(slf: &Bound<'py, Self>) -> Bound<'py, PyArray1<f32>> {
        view(slf, slf.get().matrix.scales())
    }

    /// Multiply by x, float32 [cols] or [cols, n]; gives float32 [rows] or [rows, n].
    ///
    /// Or by `Activations`, grouped as the format wants them; gives float32 [rows, n].
    ///
    /// The first product packs the matrix into the layout that kernels read, and keeps that.
    ///
    /// Activations are quantised as the format says. The bits of the result do not depend on
    /// backend, thread count, or n.
    fn __matmul__<'py>(
        &self,
        py: Python<'py>,
        x: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyAny>> {
        if let Ok(acts) = x.cast::<Activations>() {
            return self.times(py, &acts.get().acts);
        }
        let x = Borrowed::<f32>::new(x, "x, float32 [cols] or [cols, n]")?;
        let (rows, cols) = self.shape();
        let (n, single) = match *x.shape() {
            [_] => (1, true),
            [_, n] => (n, false),
            _ => {
                let [_, _] = x.dims()?;
                unreachable!("another number of dimensions is an error")
            }
        };
        if x.shape()[0] != cols {
            let found = x.shape()[0];
            return Err(ShapeError::new_err(format!(
                "the matrix has {cols} columns, but x has {found} rows"
            )));
        }
        let x = x.slice()?;
        let mut y = room(rows, n)?;
        let y = py
            .detach(|| {
                y.resize(rows * n, 0.0);
                // Kernels take vectors one after the other; NumPy's are columns.
                let panels = self.panels()?;
                if single || n == 1 {
                    op::matmul(panels, x, n, &mut y)?;
                    return Ok(y);
                }
                op::matmul(panels, &transpose(x, cols, n), n, &mut y)?;
                Ok(transpose(&y, n, rows))
            })
            .map_err(|e: kernels::Error| e)
            .or_raise()?;
        Ok(match single {
            true => arrays::vector(py, y).into_any(),
            false => arrays::matrix(py, y, rows, n)?.into_any(),
        })
    }

    /// Decoded weights, float32 [rows, cols], a new array.
    fn dequantize<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyArray2<f32>>> {
        let (rows, cols) = self.shape();
        arrays::matrix(py, py.detach(|| self.matrix.dequantize()), rows, cols)
    }

    /// Signed codes, int8 [rows, cols], a new array. `FormatError` for dense formats.
    ///
    /// A weight is its group's scale times its code, less the minimum where the format has one.
    #[getter]
    fn codes<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyArray2<i8>>> {
        let (rows, cols) = self.shape();
        let codes = py.detach(|| self.matrix.codes()).or_raise()?;
        arrays::matrix(py, codes, rows, cols)
    }

    /// Scale of each group of codes, float32 [rows, groups], [rows, 1] or [1, 1], a new array.
    ///
    /// As far as one reaches; in k-quants each sub-block's own. `FormatError` for dense formats.
    #[getter]
    fn group_scales<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyArray2<f32>>> {
        let GroupScales { values, shape: (rows, groups) } =
            py.detach(|| self.matrix.group_scales()).or_raise()?;
        arrays::matrix(py, values, rows, groups)
    }

    /// Explain block `block` of row `row`: its bytes as fields, and the weights in them.
    #[pyo3(signature = (row=0, block=0))]
    fn explain(
        &self,
        #[pyo3(from_py_with = arguments::row)] row: usize,
        #[pyo3(from_py_with = arguments::block)] block: usize,
    ) -> PyResult<Explanation> {
        self.matrix.explain(row, block).or_raise().map(Explanation::from)
    }

    fn __repr__(&self) -> String {
        let (rows, cols) = self.shape();
        let (format, bits) = (self.format(), self.bits_per_weight());
        format!("<Matrix {format} {rows} × {cols}, {bits:.4} bits per weight>")
    }
}

/// Room for `n` vectors, an answer's for one. An x of no rows may have any number of columns: it is asked for, not taken.
pub(crate) fn room(rows: usize, n: usize) -> PyResult<Vec<f32>> {
    let mut y = Vec::new();
    y.try_reserve_exact(rows.saturating_mul(n)).map_err(|_| {
        PyMemoryError::new_err(format!("{rows} x {n} numbers do not fit in memory"))
    })?;
    Ok(y)
}

/// [rows][cols] to [cols][rows].
pub(crate) fn transpose<T: Copy + Default>(x: &[T], rows: usize, cols: usize) -> Vec<T> {
    // By squares, so that every line that is read or written is used whole while it is near.
    const SIDE: usize = 32;
    let mut out = vec![T::default(); x.len()];
    for (r0, c0) in
        (0..rows).step_by(SIDE).flat_map(|r| (0..cols).step_by(SIDE).map(move |c| (r, c)))
    {
        for c in c0..cols.min(c0 + SIDE) {
            for r in r0..rows.min(r0 + SIDE) {
                out[c * rows + r] = x[r * cols + c];
            }
        }
    }
    out
}

/// A read-only array over memory of the matrix, which it keeps alive.
#[allow(unsafe_code, reason = "NumPy has no safe way to look at memory that another object owns")]
fn view<'py, T: Element>(owner: &Bound<'py, Matrix>, x: &[T]) -> Bound<'py, PyArray1<T>> {
    // SAFETY: `x` lies in `owner`, a frozen class that never changes or frees its buffers while it lives;
    // the array holds a reference to it.
    let array =
        unsafe { PyArray1::borrow_from_array(&ArrayView1::from(x), owner.clone().into_any()) };
    // Nobody else has seen the array: from here on it is read-only.
    array.readwrite().make_nonwriteable();
    array
}
