//! Files without a model: what is inside, and the same in another format or another container.

use std::path::PathBuf;

use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};
use tritlab_kernels::op::CacheType;
use tritlab_model::gguf::{Gguf, Value};
use tritlab_model::hugging_face::Folder;
use tritlab_model::quantize::{self, Recipe};
use tritlab_model::rounding::Rounding;
use tritlab_model::source::i2_s_order;
use tritlab_model::tensors::Source;
use tritlab_model::{Config, convert as converter};

use crate::callback::Progress;
use crate::errors::OrRaise;
use crate::imatrix::ImatrixOrPath;
use crate::model::packaged;
use crate::recipe::Wanted;

#[derive(IntoPyObject)]
pub(crate) struct QuantizeReport {
    format: Option<String>,
    tensors: usize,
    quantized: usize,
    fallbacks: usize,
    replaced: Vec<TypeShare>,
    weight_error: f64,
    types: Vec<TypeShare>,
    bytes_in: u64,
    bytes_out: u64,
}

#[derive(IntoPyObject)]
struct TypeShare {
    #[pyo3(item("type"))]
    name: &'static str,
    tensors: usize,
    weights: u64,
    bytes: u64,
}

impl From<quantize::TypeShare> for TypeShare {
    fn from(t: quantize::TypeShare) -> Self {
        TypeShare { name: t.name, tensors: t.tensors, weights: t.weights, bytes: t.bytes }
    }
}

/// Write a GGUF file, a folder or a packaged model as GGUF, linear layers in `format`.
///
/// It is written atomically. `None` leaves them as they are; a projection may follow,
/// "TQ2_0+optimal", as in `Model.load`.
/// `head` is the format of the embedding and the output head; `None` leaves those as they are.
/// `fallback` is the format of tensors whose rows do not fit, "llama.cpp" for the choices of
/// llama-quantize; `None` makes them a `FormatError`. `replaced` says what it became, by type.
/// `i2_s` is the order of the source's I2_S codes, as in `Model.load`.
/// `imatrix`, an `Imatrix` or its file, weighs the columns of the linear layers.
/// `overrides` give single tensors a format of their own, and `recipe` says all formats, as in
/// `Model.load`, which gives the same model from this file's source.
#[pyfunction]
#[pyo3(signature = (
    src, dst, format=None, *, head=None, overrides=None, fallback=None, recipe=None, i2_s="I2_S",
    imatrix=None, progress=None
))]
#[allow(clippy::too_many_arguments, reason = "keyword arguments in Python")]
pub(crate) fn quantize_gguf(
    py: Python<'_>,
    src: PathBuf,
    dst: PathBuf,
    format: Option<&str>,
    head: Option<&str>,
    overrides: Option<&Bound<'_, PyAny>>,
    fallback: Option<&str>,
    recipe: Option<&Bound<'_, PyAny>>,
    i2_s: &str,
    imatrix: Option<ImatrixOrPath<'_>>,
    progress: Option<Py<PyAny>>,
) -> PyResult<QuantizeReport> {
    let src = packaged(py, src)?;
    let imatrix = imatrix.map(|i| i.get(py)).transpose()?;
    let Wanted { rounding, head, overrides, fallback } =
        Wanted::new(py, recipe, format, head, overrides, fallback)?;
    let i2_s = i2_s_order(i2_s).or_raise()?;
    let format = rounding.map(|r| r.format);
    let projection = rounding.and_then(|r| r.projection);
    let imatrix = imatrix.as_ref();
    let recipe = Recipe { format, head, overrides, fallback, i2_s, imatrix, projection };
    let mut progress = Progress::new(progress);
    let result = py.detach(|| {
        let mut step = |done, total, name: &str| progress.call(done, total, name);
        quantize::quantize_gguf(&src, &dst, &recipe, &mut step)
    });
    let summary = progress.finish(result.or_raise())?;
    Ok(QuantizeReport {
        format: rounding.as_ref().map(Rounding::to_string),
        tensors: summary.tensors,
        quantized: summary.quantized,
        fallbacks: summary.fallbacks,
        weight_error: summary.weight_error,
        replaced: summary.replaced.into_iter().map(TypeShare::from).collect(),
        types: summary.types.into_iter().map(TypeShare::from).collect(),
        bytes_in: summary.bytes_in,
        bytes_out: summary.bytes_out,
    })
}

#[derive(IntoPyObject)]
pub(crate) struct ConvertReport {
    tensors: usize,
    bytes_out: u64,
    tokenizer: bool,
}

/// Write a Hugging Face folder as a GGUF file, or a GGUF file as a new folder, atomically.
///
/// `src` may be a packaged model, as in `Model.load`.
/// Weights keep their bits where the other side can hold them; quantised types become F32 in a
/// folder. `i2_s` is the order of a file's I2_S codes, as in `Model.load`. A file that exists is a
/// `FileExistsError` unless `force` replaces it; a folder that exists always is one.
#[pyfunction]
#[pyo3(signature = (src, dst, *, i2_s="I2_S", force=false, progress=None))]
pub(crate) fn convert(
    py: Python<'_>,
    src: PathBuf,
    dst: PathBuf,
    i2_s: &str,
    force: bool,
    progress: Option<Py<PyAny>>,
) -> PyResult<ConvertReport> {
    let src = packaged(py, src)?;
    let i2_s = i2_s_order(i2_s).or_raise()?;
    let mut progress = Progress::new(progress);
    let result = py.detach(|| {
        converter::convert(&src, &dst, i2_s, force, &mut |done, total, name| {
            progress.call(done, total, name)
        })
    });
    let converter::Summary { tensors, bytes_out, tokenizer } =
        progress.finish(result.or_raise())?;
    Ok(ConvertReport { tensors, bytes_out, tokenizer })
}

#[derive(IntoPyObject)]
pub(crate) struct FolderInfo<'py> {
    tensors: Vec<FolderTensor<'py>>,
    cache: CacheSize,
}

#[derive(IntoPyObject)]
struct FolderTensor<'py> {
    name: String,
    shape: Bound<'py, PyTuple>,
    #[pyo3(item("type"))]
    kind: &'static str,
    nbytes: usize,
}

/// Read the tensor tables of a Hugging Face folder, not its weights; check its config.json.
#[pyfunction]
pub(crate) fn inspect_folder(py: Python<'_>, path: PathBuf) -> PyResult<FolderInfo<'_>> {
    let path = packaged(py, path)?;
    let folder = py.detach(|| Folder::open(&path)).or_raise()?;
    let config = folder.config().or_raise()?;
    let tensors = folder
        .tensors()
        .map(|(name, kind, shape, nbytes)| {
            let shape = PyTuple::new(py, shape)?;
            Ok(FolderTensor { name: name.to_owned(), shape, kind, nbytes })
        })
        .collect::<PyResult<_>>()?;
    Ok(FolderInfo { tensors, cache: CacheSize::of(&config) })
}

#[derive(IntoPyObject)]
pub(crate) struct GgufInfo<'py> {
    version: u32,
    metadata: Bound<'py, PyDict>,
    tensors: Vec<GgufTensor<'py>>,
    cache: Option<CacheSize>,
}

#[derive(IntoPyObject)]
struct CacheSize {
    context: usize,
    f32: u128,
    f16: u128,
}

impl CacheSize {
    fn of(config: &Config) -> Self {
        let of = |ty| config.cache_bytes(config.context, ty);
        CacheSize { context: config.context, f32: of(CacheType::F32), f16: of(CacheType::F16) }
    }
}

#[derive(IntoPyObject)]
struct GgufTensor<'py> {
    name: String,
    shape: Bound<'py, PyTuple>,
    #[pyo3(item("type"))]
    kind: &'static str,
    offset: u64,
    nbytes: u64,
}

/// Read version, metadata and tensor table of a GGUF file or a packaged model.
#[pyfunction]
pub(crate) fn inspect_gguf(py: Python<'_>, path: PathBuf) -> PyResult<GgufInfo<'_>> {
    let path = packaged(py, path)?;
    let gguf = py.detach(|| Gguf::open(&path)).or_raise()?;
    let metadata = PyDict::new(py);
    for (key, value) in gguf.metadata().iter() {
        metadata.set_item(key, python(py, &value)?)?;
    }
    let tensors = gguf
        .tensors()
        .iter()
        .map(|t| {
            Ok(GgufTensor {
                name: t.name().to_owned(),
                shape: PyTuple::new(py, t.dims().iter().rev())?,
                kind: t.tensor_type().name(),
                offset: t.offset(),
                nbytes: t.nbytes(),
            })
        })
        .collect::<PyResult<_>>()?;
    let cache = Config::from_gguf(&gguf).ok().map(|config| CacheSize::of(&config));
    Ok(GgufInfo { version: gguf.version(), metadata, tensors, cache })
}

/// A metadata value as Python's own type.
fn python<'py>(py: Python<'py>, value: &Value<'_>) -> PyResult<Bound<'py, PyAny>> {
    Ok(match value {
        Value::Bool(v) => v.into_pyobject(py)?.to_owned().into_any(),
        Value::String(v) => v.as_ref().into_pyobject(py)?.into_any(),
        Value::Array(array) => match (array.strings(), array.scalars()) {
            (Some(strings), _) => strings.collect::<Vec<_>>().into_pyobject(py)?,
            (None, Some(scalars)) => {
                let items: Vec<_> = scalars.map(|v| python(py, &v)).collect::<PyResult<_>>()?;
                items.into_pyobject(py)?
            }
            (None, None) => py.None().into_bound(py),
        },
        number => match number.as_integer() {
            Some(v) => i64::try_from(v)
                .map_or_else(|_| (v as u64).into_pyobject(py), |v| v.into_pyobject(py))?
                .into_any(),
            None => number.as_number().into_pyobject(py)?.into_any(),
        },
    })
}
