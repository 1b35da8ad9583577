//! `tritlab.Activations`: int8 activations, made by a named rule or from codes of one's own.

use numpy::{PyArray1, PyArray2};
use pyo3::prelude::*;
use tritlab_kernels::{self as kernels, Acts, Grouping};

use crate::arguments;
use crate::arrays::{self, Borrowed};
use crate::errors::{OrRaise, ShapeError, TritlabError};
use crate::matrix::transpose;

/// int8 activations for products: codes -127 to 127 times a scale per group. Immutable.
///
/// `codes` is int8 [cols, n], each column one vector; `scales` float32 [groups, n]; `per` the
/// elements per group: "token" (the whole vector), "256", "128", "64" or "32".
#[pyclass(frozen, module = "tritlab")]
pub(crate) struct Activations {
    pub(crate) acts: Acts,
}

/// A grouping by name; `more` are other names that the caller takes.
fn grouping(name: &str, more: &str) -> PyResult<Grouping> {
    Grouping::ALL.into_iter().find(|g| *g != Grouping::Dense && g.name() == name).ok_or_else(|| {
        let names: Vec<_> = Grouping::ALL[1..].iter().map(|g| g.name()).collect();
        TritlabError::new_err(format!("per: {name:?} is none of {}{more}", names.join(", ")))
    })
}

#[pymethods]
impl Activations {
    #[new]
    fn from_codes(
        codes: &Bound<'_, PyAny>,
        scales: &Bound<'_, PyAny>,
        per: &str,
    ) -> PyResult<Self> {
        let grouping = grouping(per, "")?;
        let codes = Borrowed::<i8>::new(codes, "codes, int8 [cols, n]")?;
        let [cols, n] = codes.dims()?;
        let scales = Borrowed::<f32>::new(scales, "scales, float32 [groups, n]")?;
        let wanted = [grouping.len().map_or(1, |len| cols.div_ceil(len)), n];
        if scales.shape() != wanted {
            let found = scales.shape();
            return Err(ShapeError::new_err(format!(
                "scales per {per} of {cols} x {n} codes have the shape {wanted:?}, not {found:?}"
            )));
        }
        let codes = transpose(codes.slice()?, cols, n);
        let scales = transpose(scales.slice()?, wanted[0], n);
        let acts = Acts::from_codes(grouping, n, cols, &codes, &scales).or_raise()?;
        Ok(Self { acts })
    }

    /// Read Q8_K blocks of ggml, 292 bytes per 256 elements, of vectors of `cols` elements.
    #[staticmethod]
    fn from_q8_k(
        data: &Bound<'_, PyAny>,
        #[pyo3(from_py_with = arguments::cols)] cols: usize,
    ) -> PyResult<Self> {
        let data = Borrowed::<u8>::new(data, "data, uint8 [nbytes]")?;
        let [nbytes] = data.dims()?;
        let n = nbytes.checked_div((cols / 256).saturating_mul(292)).unwrap_or(0);
        let acts = Acts::from_q8_k(data.slice()?, n, cols).or_raise()?;
        Ok(Self { acts })
    }

    /// The same as Q8_K blocks of ggml; groups must be of 256.
    fn to_q8_k<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyArray1<u8>>> {
        Ok(arrays::vector(py, self.acts.to_q8_k().or_raise()?))
    }

    /// (cols, n).
    #[getter]
    fn shape(&self) -> (usize, usize) {
        (self.acts.cols(), self.acts.n())
    }

    /// Elements per group: "token", "256", "128", "64" or "32".
    #[getter]
    fn per(&self) -> &'static str {
        self.acts.grouping().name()
    }

    /// The codes, int8 [cols, n], a new array.
    #[getter]
    fn codes<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyArray2<i8>>> {
        let (cols, n) = self.shape();
        let rows: Vec<i8> = (0..n).flat_map(|t| &self.acts.codes(t)[..cols]).copied().collect();
        arrays::matrix(py, transpose(&rows, n, cols), cols, n)
    }

    /// The scales, float32 [groups, n], a new array.
    #[getter]
    fn scales<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyArray2<f32>>> {
        let (n, groups) = (self.acts.n(), self.acts.groups());
        let rows: Vec<f32> = (0..n).flat_map(|t| self.acts.scales(t)).copied().collect();
        arrays::matrix(py, transpose(&rows, n, groups), groups, n)
    }

    /// Codes times scales, float32 [cols, n], a new array.
    fn dequantize<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyArray2<f32>>> {
        let (cols, n) = self.shape();
        let len = self.acts.grouping().len().unwrap_or(cols).max(1);
        let mut x = Vec::with_capacity(n * cols);
        for t in 0..n {
            let codes = self.acts.codes(t)[..cols].chunks(len);
            for (codes, scale) in codes.zip(self.acts.scales(t)) {
                x.extend(codes.iter().map(|&q| scale * f32::from(q)));
            }
        }
        arrays::matrix(py, transpose(&x, n, cols), cols, n)
    }

    fn __repr__(&self) -> String {
        let (cols, n) = self.shape();
        format!("<Activations {cols} × {n}, int8 per {}>", self.per())
    }
}

/// Quantise x, float32 [cols] or [cols, n], to int8 as products do it, or as ggml does.
///
/// `per` is "token", "256", "128", "64" or "32" for the rule of products (`formats` says which a
/// format uses), or "Q8_K" for ggml's rule in groups of 256.
#[pyfunction]
pub(crate) fn quantize_activations(
    py: Python<'_>,
    x: &Bound<'_, PyAny>,
    per: &str,
) -> PyResult<Activations> {
    let grouping = if per == "Q8_K" { None } else { Some(grouping(per, ", Q8_K")?) };
    let x = Borrowed::<f32>::new(x, "x, float32 [cols] or [cols, n]")?;
    let [cols, n] = match *x.shape() {
        [cols] => [cols, 1],
        _ => x.dims()?,
    };
    let x = x.slice()?;
    py.detach(|| {
        let rows = transpose(x, cols, n);
        let acts = match grouping {
            Some(grouping) => Acts::quantize(grouping, &rows, n, cols)?,
            None => Acts::quantize_q8_k(&rows, n, cols)?,
        };
        Ok(Activations { acts })
    })
    .map_err(|e: kernels::Error| e)
    .or_raise()
}
