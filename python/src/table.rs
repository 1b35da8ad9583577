//! The tables of formats and backends, and the process-wide settings.

use pyo3::prelude::*;
use tritlab_kernels::{Backend, Format, Scales, backend, threads};
use tritlab_model::source::type_of;

use crate::arguments;
use crate::errors::OrRaise;

#[derive(IntoPyObject)]
pub(crate) struct FormatInfo {
    name: &'static str,
    block: usize,
    bytes: usize,
    bits_per_weight: f64,
    activation: &'static str,
    scales: &'static str,
    summary: &'static str,
    in_gguf: bool,
}

#[derive(IntoPyObject)]
pub(crate) struct BackendInfo {
    name: &'static str,
    available: bool,
    selected: bool,
}

/// Weight formats, in table order.
#[pyfunction]
pub(crate) fn formats() -> Vec<FormatInfo> {
    let scales = |scales| match scales {
        Scales::None => "none",
        Scales::Block => "block",
        Scales::Row => "row",
        Scales::Tensor => "tensor",
    };
    let info = |format: &Format| {
        let info = format.info();
        FormatInfo {
            name: info.name,
            block: info.block,
            bytes: info.bytes,
            bits_per_weight: format.bits_per_weight(),
            activation: info.activation.name(),
            scales: scales(info.scales),
            summary: info.summary,
            in_gguf: type_of(*format).is_some(),
        }
    };
    Format::ALL.iter().map(info).collect()
}

/// Instruction-set backends in order of preference; last the scalar oracle, never preferred.
#[pyfunction]
pub(crate) fn backends(py: Python<'_>) -> Vec<BackendInfo> {
    let current = py.detach(backend::current).ok();
    let info = |b: Backend| BackendInfo {
        name: b.name(),
        available: b.available(),
        selected: current == Some(b),
    };
    Backend::preferred().into_iter().map(info).collect()
}

/// Force a backend for the whole process; `None` chooses the best one again.
///
/// Raises `BackendError` if there is no such backend or the CPU lacks it.
#[pyfunction]
pub(crate) fn set_backend(py: Python<'_>, name: Option<&str>) -> PyResult<()> {
    py.detach(|| backend::force(name)).or_raise()
}

/// Name of the backend in use.
#[pyfunction]
pub(crate) fn current_backend(py: Python<'_>) -> PyResult<&'static str> {
    py.detach(backend::current).or_raise().map(Backend::name)
}

/// Set the number of threads, 1 to 4096.
#[pyfunction]
pub(crate) fn set_threads(
    py: Python<'_>,
    #[pyo3(from_py_with = arguments::threads)] n: usize,
) -> PyResult<()> {
    py.detach(|| threads::set(n)).or_raise()
}

/// Number of threads in use.
#[pyfunction]
pub(crate) fn get_threads(py: Python<'_>) -> usize {
    py.detach(threads::get)
}
