//! The only place where errors of the two Rust crates become Python exceptions.

use std::io::ErrorKind;

use pyo3::exceptions::{
    PyFileExistsError, PyFileNotFoundError, PyKeyboardInterrupt, PyMemoryError, PyOSError,
    PyValueError,
};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{IntoPyDict, PyTuple, PyType};
use tritlab_kernels::Error as KernelError;
use tritlab_model::Error as ModelErr;

macro_rules! exceptions {
    ($($name:ident: $base:ty, $doc:literal;)*) => {
        $(pyo3::create_exception!(tritlab._native, $name, $base, $doc);)*
    };
}

exceptions! {
    TritlabError: PyValueError, "Base of every error this library raises by itself.";
    FormatError: TritlabError, "A format that does not exist, or numbers a format cannot hold (NaN, infinity).";
    ShapeError: TritlabError, "A shape or memory layout that does not fit.";
    BackendError: TritlabError, "A backend that does not exist, or that this CPU lacks.";
    GgufError: TritlabError, "A file that is truncated, malformed, or not GGUF.";
    TokenizerError: TritlabError, "A tokenizer that is missing or not supported.";
    ModelError: TritlabError, "An architecture, tensor or setting that the model cannot be built from.";
    EvaluationError: TritlabError, "A text too short for one window, or settings that cannot be evaluated.";
}

/// `MissingFileError`, a `TritlabError` and a `FileNotFoundError`: the macro has no two bases.
pub(crate) fn missing_file_error(py: Python<'_>) -> PyResult<Bound<'_, PyType>> {
    static CLASS: PyOnceLock<Py<PyType>> = PyOnceLock::new();
    let class = CLASS.get_or_try_init(py, || -> PyResult<Py<PyType>> {
        let bases = [py.get_type::<TritlabError>(), py.get_type::<PyFileNotFoundError>()];
        let doc = "A file that a model needs and that is not there: config.json, weights, a shard.";
        let body = [("__doc__", doc), ("__module__", "tritlab._native")].into_py_dict(py)?;
        let name = "MissingFileError";
        let class = py.get_type::<PyType>().call1((name, PyTuple::new(py, bases)?, body))?;
        Ok(class.cast_into::<PyType>()?.unbind())
    })?;
    Ok(class.bind(py).clone())
}

fn missing_file(text: String) -> PyErr {
    Python::attach(|py| match missing_file_error(py) {
        Ok(class) => PyErr::from_type(class, (text,)),
        Err(error) => error,
    })
}

/// An error that has a Python class.
pub(crate) trait IntoPy {
    fn into_py(self) -> PyErr;
}

/// `?` for results of the Rust crates.
pub(crate) trait OrRaise<T> {
    fn or_raise(self) -> PyResult<T>;
}

impl<T, E: IntoPy> OrRaise<T> for Result<T, E> {
    fn or_raise(self) -> PyResult<T> {
        self.map_err(IntoPy::into_py)
    }
}

impl IntoPy for KernelError {
    fn into_py(self) -> PyErr {
        let text = self.to_string();
        kernel_class(&self, text)
    }
}

fn kernel_class(error: &KernelError, text: String) -> PyErr {
    use KernelError as E;
    match error {
        E::UnknownFormat { .. }
        | E::UnknownPacking { .. }
        | E::UnknownProjection { .. }
        | E::CodeRange { .. }
        | E::BlockSum { .. }
        | E::NotFinite { .. }
        | E::ScaleOverflow { .. }
        | E::NotTernary { .. }
        | E::NoCodes { .. }
        | E::NotExact { .. }
        | E::PackingScale { .. }
        | E::Importance { .. }
        | E::Divisor { .. }
        | E::BadCode { .. } => FormatError::new_err(text),
        E::UnknownBackend { .. }
        | E::BackendUnavailable { .. }
        | E::SelfCheck { .. }
        | E::Disassembly { .. }
        | E::Environment { .. } => BackendError::new_err(text),
        E::Length { .. }
        | E::Shapes { .. }
        | E::Columns { .. }
        | E::TooLarge { .. }
        | E::PackingShape { .. }
        | E::OutOfRange { .. }
        | E::Grouping { .. } => ShapeError::new_err(text),
        _ => TritlabError::new_err(text),
    }
}

impl IntoPy for ModelErr {
    fn into_py(self) -> PyErr {
        use ModelErr as E;
        let text = self.to_string();
        match self.cause() {
            E::Io { path, source } => os_error(path, source, text),
            E::NotAModel { .. } | E::MissingShard { .. } => missing_file(text),
            E::Memory { .. } => PyMemoryError::new_err(text),
            E::Kernel(error) | E::Tensor { source: error, .. } => kernel_class(error, text),
            E::NotInGguf { .. } | E::TwoRules => FormatError::new_err(text),
            E::MissingTokenizer { .. }
            | E::UnsupportedTokenizer { .. }
            | E::UnsupportedPreTokenizer { .. }
            | E::BadTokenizer { .. }
            | E::Unencodable { .. }
            | E::TextTooLong { .. }
            | E::VocabularyMismatch { .. }
            | E::NoTokenizer { .. } => TokenizerError::new_err(text),
            E::MissingKey { .. }
            | E::WrongType { .. }
            | E::MissingTensor { .. }
            | E::ShapeMismatch { .. }
            | E::UnsupportedArchitecture { .. }
            | E::UnsupportedModelType { .. }
            | E::BadJson { .. }
            | E::StandIn { .. }
            | E::BadSafetensors { .. }
            | E::UnsupportedTensorType { .. }
            | E::BadConfig { .. }
            | E::BadTensor { .. }
            | E::BadDestination { .. }
            | E::UnusedTensor { .. }
            | E::ContextOverflow { .. }
            | E::EmptyPrompt
            | E::EmptyStop
            | E::CacheOverflow { .. }
            | E::NoChatTemplate
            | E::ChatTemplate { .. }
            | E::UnknownCapture { .. }
            | E::Override { .. }
            | E::Imatrix { .. }
            | E::OutOfRange { .. } => ModelError::new_err(text),
            E::TextTooShort { .. } | E::Evaluation { .. } => EvaluationError::new_err(text),
            E::UnknownToken { .. } => TritlabError::new_err(text),
            // A callback's own exception is raised before this is reached (`callback.rs`).
            E::Cancelled => PyKeyboardInterrupt::new_err(()),
            // What is left are the container's errors.
            _ => GgufError::new_err(text),
        }
    }
}

/// `OSError` with its number, so that Python picks the subclass (`FileNotFoundError`) and has the path.
fn os_error(path: &std::path::Path, source: &std::io::Error, text: String) -> PyErr {
    match source.raw_os_error() {
        Some(code) => {
            let reason = source.to_string();
            let reason = reason.split(" (os error").next().unwrap_or_default().to_owned();
            PyOSError::new_err((code, reason, path.display().to_string()))
        }
        None if source.kind() == ErrorKind::AlreadyExists => PyFileExistsError::new_err(text),
        None => PyOSError::new_err(text),
    }
}
