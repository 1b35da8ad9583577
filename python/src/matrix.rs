//! `tritlab.Matrix`: bytes as on disk, and the panels that products read, made on the first product.

use std::sync::OnceLock;

use numpy::ndarray::ArrayView1;
use numpy::{Element, PyArray1, PyArray2, PyArrayMethods};
use pyo3::exceptions::PyMemoryError;
use pyo3::prelude::*;
use tritlab_kernels::{self as kernels, Format, Panels, Weights, op};

use crate::arrays::{self, Borrowed};
use crate::errors::{OrRaise, ShapeError};
use crate::explain::Explanation;

/// A quantised weight matrix, row-major. Immutable.
#[pyclass(frozen, module = "tritlab")]
pub(crate) struct Matrix {
    matrix: kernels::Matrix<'static>,
    panels: OnceLock<Panels>,
}

impl Matrix {
    fn new(matrix: kernels::Matrix<'static>) -> Self {
        Self { matrix, panels: OnceLock::new() }
    }

    /// Two threads may both pack on the very first product; one result is kept.
    fn panels(&self) -> kernels::Result<&Panels> {
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
    #[staticmethod]
    fn quantize(py: Python<'_>, weights: &Bound<'_, PyAny>, format: &str) -> PyResult<Self> {
        let format = Format::from_name(format).or_raise()?;
        let weights = Borrowed::<f32>::new(weights, "weights, float32 [rows, cols]")?;
        let [rows, cols] = weights.dims()?;
        let weights = weights.slice()?;
        py.detach(|| kernels::Matrix::quantize(format, rows, cols, weights))
            .or_raise()
            .map(Self::new)
    }

    /// Take packed blocks as they lie in a file: uint8 [nbytes], copied once.
    ///
    /// `scales` is float32 [1] or [rows] for formats with a scale per tensor or row.
    #[staticmethod]
    #[pyo3(signature = (data, format, shape, scales=None))]
    fn from_bytes(
        data: &Bound<'_, PyAny>,
        format: &str,
        shape: (usize, usize),
        scales: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Self> {
        let format = Format::from_name(format).or_raise()?;
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
        let bytes = data.slice()?.to_vec();
        kernels::Matrix::new(format, shape.0, shape.1, bytes, scales).or_raise().map(Self::new)
    }

    /// (rows, cols).
    #[getter]
    fn shape(&self) -> (usize, usize) {
        (self.matrix.rows(), self.matrix.cols())
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
    /// The first product packs the matrix into the layout that kernels read, and keeps that.
    ///
    /// Activations are quantised as the format says. The bits of the result do not depend on
    /// backend, thread count, or n.
    fn __matmul__<'py>(
        &self,
        py: Python<'py>,
        x: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyAny>> {
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
        // An x of no rows may have any number of columns: what the answer needs is asked for, not taken.
        let mut y: Vec<f32> = Vec::new();
        let len = n.saturating_mul(rows);
        y.try_reserve_exact(len).map_err(|_| {
            PyMemoryError::new_err(format!(
                "an answer of {rows} x {n} numbers does not fit in memory"
            ))
        })?;
        let y = py
            .detach(|| {
                y.resize(len, 0.0);
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

    /// Explain block `block` of row `row`: its bytes as fields, and the weights in them.
    #[pyo3(signature = (row=0, block=0))]
    fn explain(&self, row: usize, block: usize) -> PyResult<Explanation> {
        self.matrix.explain(row, block).or_raise().map(Explanation::from)
    }

    fn __repr__(&self) -> String {
        let (rows, cols) = self.shape();
        let (format, bits) = (self.format(), self.bits_per_weight());
        format!("<Matrix {format} {rows} × {cols}, {bits:.4} bits per weight>")
    }
}

/// [rows][cols] to [cols][rows].
fn transpose(x: &[f32], rows: usize, cols: usize) -> Vec<f32> {
    let mut out = Vec::with_capacity(x.len());
    for c in 0..cols {
        out.extend((0..rows).map(|r| x[r * cols + c]));
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
