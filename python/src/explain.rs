//! `tritlab.explain`: one block, drawn as text and as HTML by the kernels' own explanation.

use std::path::PathBuf;

use numpy::PyArray1;
use pyo3::prelude::*;
use pyo3::types::{PyByteArray, PyBytes, PyDict};
use tritlab_kernels::explain::{self as kernels, Values};
use tritlab_kernels::{Error, Format};
use tritlab_model::gguf::Gguf;
use tritlab_model::source;

use crate::arguments;
use crate::arrays::{self, Borrowed};
use crate::errors::OrRaise;

/// One block of a format, explained: `print` draws it, a notebook shows it in colours.
#[pyclass(frozen, module = "tritlab")]
pub(crate) struct Explanation(kernels::Explanation);

/// How one weight comes out of a block's bytes: `print` draws it.
#[pyclass(frozen, module = "tritlab")]
pub(crate) struct Trace {
    weight: f32,
    steps: Vec<String>,
    sources: Vec<kernels::Source>,
    text: String,
}

#[derive(IntoPyObject)]
struct FieldFacts<'py> {
    name: &'static str,
    offset: usize,
    bytes: Bound<'py, PyBytes>,
    holds: &'static str,
    about: &'static str,
    values: Bound<'py, PyDict>,
}

#[derive(IntoPyObject)]
struct TraceSource {
    symbol: String,
    value: f32,
    bits: Vec<(usize, u8)>,
}

impl From<kernels::Explanation> for Explanation {
    fn from(of: kernels::Explanation) -> Self {
        Self(of)
    }
}

#[pymethods]
impl Explanation {
    /// Name of the format.
    #[getter]
    fn format(&self) -> &'static str {
        self.0.format().name()
    }

    /// The block's bytes.
    #[getter]
    fn bytes<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, self.0.bytes())
    }

    /// The meaning of all weights, in symbols.
    #[getter]
    fn formula(&self) -> String {
        self.0.formula()
    }

    /// The fields in the order of the bytes, with the numbers they hold.
    #[getter]
    fn fields<'py>(&self, py: Python<'py>) -> PyResult<Vec<FieldFacts<'py>>> {
        let facts = |field: &'static tritlab_kernels::format::Field| {
            let values = PyDict::new(py);
            for (name, numbers) in self.0.values(field) {
                match numbers {
                    Values::Float(x) => values.set_item(name, PyArray1::from_vec(py, x))?,
                    Values::Int(x) => values.set_item(name, PyArray1::from_vec(py, x))?,
                }
            }
            Ok(FieldFacts {
                name: field.name,
                offset: field.at,
                bytes: PyBytes::new(py, &self.0.bytes()[field.range()]),
                holds: field.holds.name(),
                about: field.about,
                values,
            })
        };
        self.0.fields().iter().map(facts).collect()
    }

    /// Decoded weights, float32 [n], a new array; padding of a row's last block is left out.
    ///
    /// In units of the scale where that lies outside the block and was not given.
    #[getter]
    fn weights<'py>(&self, py: Python<'py>) -> Bound<'py, PyArray1<f32>> {
        arrays::vector(py, self.0.weights())
    }

    /// How weight `i` comes out: the formula with its numbers, and the bits they come from.
    fn trace(&self, #[pyo3(from_py_with = arguments::i)] i: usize) -> PyResult<Trace> {
        let trace = self.0.trace(i).or_raise()?;
        let text = trace.to_string();
        Ok(Trace { weight: trace.weight, steps: trace.steps, sources: trace.sources, text })
    }

    /// The drawing for notebooks: one HTML element that needs nothing from elsewhere.
    fn to_html(&self) -> String {
        self.0.to_html()
    }

    fn _repr_html_(&self) -> String {
        self.0.to_html()
    }

    fn __str__(&self) -> String {
        self.0.to_string()
    }

    fn __repr__(&self) -> String {
        let (format, bytes, weights) =
            (self.format(), self.0.bytes().len(), self.0.weights().len());
        format!("<Explanation {format}, {bytes} bytes, {weights} weights; print() draws it>")
    }
}

#[pymethods]
impl Trace {
    /// The weight.
    #[getter]
    fn weight(&self) -> f32 {
        self.weight
    }

    /// The formula in symbols, with numbers, then evaluated step by step.
    #[getter]
    fn steps(&self) -> Vec<String> {
        self.steps.clone()
    }

    /// The numbers in it; bits as (byte, bit), the most significant first.
    #[getter]
    fn sources(&self) -> Vec<TraceSource> {
        let source = |s: &kernels::Source| TraceSource {
            symbol: s.symbol.clone(),
            value: s.value,
            bits: s.bits.iter().map(|b| (b.byte, b.bit)).collect(),
        };
        self.sources.iter().map(source).collect()
    }

    fn __str__(&self) -> &str {
        &self.text
    }

    fn __repr__(&self) -> &str {
        &self.text
    }
}

/// Explain one block: bytes, or uint8 [nbytes], in the format's layout.
///
/// `scale` is the row or tensor scale of formats that keep it outside; without it their weights are
/// in units of it. `Matrix.explain` takes a block from a matrix. `ShapeError` if this is not one
/// block.
#[pyfunction]
#[pyo3(signature = (format, block, scale=None))]
pub(crate) fn explain(
    format: &str,
    block: &Bound<'_, PyAny>,
    scale: Option<f32>,
) -> PyResult<Explanation> {
    let format = Format::from_name(format).or_raise()?;
    if let Ok(bytes) = block.cast::<PyBytes>() {
        return kernels::explain(format, bytes.as_bytes(), scale).or_raise().map(Explanation);
    }
    if let Ok(bytes) = block.cast::<PyByteArray>() {
        return kernels::explain(format, &bytes.to_vec(), scale).or_raise().map(Explanation);
    }
    let bytes = Borrowed::<u8>::new(block, "block, bytes or uint8 [nbytes]")?;
    let [_] = bytes.dims()?;
    kernels::explain(format, bytes.slice()?, scale).or_raise().map(Explanation)
}

/// Explain a block of a tensor of a GGUF file; `i2_s` as in `Model.load`.
#[pyfunction]
#[pyo3(signature = (path, tensor, row=0, block=0, *, i2_s="I2_S"))]
pub(crate) fn explain_gguf(
    py: Python<'_>,
    path: PathBuf,
    tensor: &str,
    #[pyo3(from_py_with = arguments::row)] row: usize,
    #[pyo3(from_py_with = arguments::block)] block: usize,
    i2_s: &str,
) -> PyResult<Explanation> {
    let i2_s = source::i2_s_order(i2_s).or_raise()?;
    py.detach(|| {
        let gguf = Gguf::open(&path)?;
        let missing = || tritlab_model::Error::InFile {
            path: path.clone(),
            source: Box::new(tritlab_model::Error::MissingTensor { name: tensor.to_owned() }),
        };
        let info = gguf.tensor(tensor).ok_or_else(missing)?;
        let explained = source::matrix(&gguf, info, i2_s)?.explain(row, block);
        explained.map_err(|source| tensor_error(tensor, source))
    })
    .or_raise()
    .map(Explanation)
}

fn tensor_error(tensor: &str, source: Error) -> tritlab_model::Error {
    tritlab_model::Error::Tensor { tensor: tensor.to_owned(), source }
}
