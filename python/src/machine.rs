//! Facts about this machine, and its measured limits.

use std::process::Command;
use std::time::Duration;

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use tritlab_kernels::{Backend, Panels, backend, roofline, speed};

use crate::arguments;
use crate::errors::OrRaise;
use crate::matrix::{self, Matrix};

#[derive(IntoPyObject)]
pub(crate) struct MachineFacts {
    cpu: String,
    features: Vec<&'static str>,
    cores: usize,
    memory_bytes: u64,
    arch: &'static str,
    os: &'static str,
}

/// Facts about this machine: processor, features, cores, memory.
#[pyfunction]
pub(crate) fn machine(py: Python<'_>) -> MachineFacts {
    py.detach(|| MachineFacts {
        cpu: cpu(),
        features: features(),
        cores: std::thread::available_parallelism().map_or(1, usize::from),
        memory_bytes: memory_bytes(),
        arch: std::env::consts::ARCH,
        os: std::env::consts::OS,
    })
}

/// The processor's name; where the system has none, its architecture.
fn cpu() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    ["model name", "Model", "Hardware"]
        .iter()
        .find_map(|key| field(&info, key))
        .map(str::to_owned)
        .or_else(|| sysctl("machdep.cpu.brand_string"))
        .or_else(|| std::env::var("PROCESSOR_IDENTIFIER").ok())
        .unwrap_or_else(|| std::env::consts::ARCH.to_owned())
}

/// Bytes of memory; 0 where the system does not say.
fn memory_bytes() -> u64 {
    let info = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kib = field(&info, "MemTotal").and_then(|v| v.split(' ').next()?.parse::<u64>().ok());
    match kib {
        Some(kib) => kib * 1024,
        None => sysctl("hw.memsize").and_then(|v| v.parse().ok()).unwrap_or(0),
    }
}

/// The value of the first line `key : value`.
fn field<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    text.lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| name.trim() == key)
        .map(|(_, value)| value.trim())
        .filter(|value| !value.is_empty())
}

fn sysctl(name: &str) -> Option<String> {
    if !cfg!(target_os = "macos") {
        return None;
    }
    let out = Command::new("/usr/sbin/sysctl").args(["-n", name]).output().ok()?;
    let text = String::from_utf8(out.stdout).ok()?.trim().to_owned();
    (!text.is_empty()).then_some(text)
}

/// The features that matter to kernels, of those this CPU has.
fn features() -> Vec<&'static str> {
    let mut found = Vec::new();
    macro_rules! list {
        ($detect:ident: $($name:tt)+) => {
            $(if std::arch::$detect!($name) {
                found.push($name);
            })+
        };
    }
    #[cfg(target_arch = "x86_64")]
    list!(is_x86_feature_detected: "avx" "avx2" "fma" "f16c" "avxvnni" "avx512f" "avx512bw" "avx512vl"
        "avx512vbmi" "avx512vnni" "avx512bf16" "gfni");
    #[cfg(target_arch = "aarch64")]
    list!(is_aarch64_feature_detected: "neon" "fp16" "dotprod" "i8mm" "bf16" "sve" "sve2");
    found
}

fn duration(seconds: f64) -> PyResult<Duration> {
    match seconds {
        s if s > 0.0 && s <= 60.0 => Ok(Duration::from_secs_f64(s)),
        s => Err(PyValueError::new_err(format!("seconds is {s}, but must be above 0, at most 60"))),
    }
}

/// Bytes per second that `threads` threads read from memory, far out of cache.
///
/// `seconds` of reading, after some tenths of a second in which the memory is filled.
#[pyfunction]
#[pyo3(signature = (threads, seconds=0.3))]
pub(crate) fn measure_bandwidth(
    py: Python<'_>,
    #[pyo3(from_py_with = arguments::threads)] threads: usize,
    seconds: f64,
) -> PyResult<f64> {
    let seconds = duration(seconds)?;
    Ok(py.detach(|| roofline::read_bandwidth(threads, seconds)))
}

/// Bytes per second that `threads` threads read from the last-level cache, 3 MiB each.
#[pyfunction]
#[pyo3(signature = (threads, seconds=0.2))]
pub(crate) fn measure_cache_bandwidth(
    py: Python<'_>,
    #[pyo3(from_py_with = arguments::threads)] threads: usize,
    seconds: f64,
) -> PyResult<f64> {
    let seconds = duration(seconds)?;
    Ok(py.detach(|| roofline::cache_bandwidth(threads, seconds)))
}

/// Int8 multiply-accumulates per second that `threads` threads reach in registers.
#[pyfunction]
#[pyo3(signature = (threads, backend=None, seconds=0.2))]
pub(crate) fn measure_dot_peak(
    py: Python<'_>,
    #[pyo3(from_py_with = arguments::threads)] threads: usize,
    backend: Option<&str>,
    seconds: f64,
) -> PyResult<f64> {
    let seconds = duration(seconds)?;
    py.detach(|| {
        let backend = match backend {
            Some(name) => Backend::from_name(name)?,
            None => backend::current()?,
        };
        roofline::dot_peak(backend, threads, seconds)
    })
    .or_raise()
}

/// Seconds that the products of `matrices`, one after another, with `n` vectors at once take.
///
/// In one parallel region and with memory that is there already, as in a decoder; activations are
/// made up, and quantised within the time. The first call packs the matrices, outside of it.
/// `MemoryError` where `n` vectors or their answers do not fit.
#[pyfunction]
pub(crate) fn measure_products(
    py: Python<'_>,
    matrices: Vec<Py<Matrix>>,
    #[pyo3(from_py_with = arguments::n)] n: usize,
) -> PyResult<f64> {
    let matrices: Vec<&Matrix> = matrices.iter().map(Py::get).collect();
    let most =
        |f: fn((usize, usize)) -> usize| matrices.iter().map(|w| f(w.size())).max().unwrap_or(0);
    let mut x = matrix::room(most(|(_, cols)| cols), n)?;
    let mut y = matrix::room(most(|(rows, _)| rows), n)?;
    py.detach(|| {
        let panels = matrices.iter().map(|w| w.panels()).collect::<Result<Vec<&Panels>, _>>()?;
        // Any numbers will do: values do not change the time. Written, so that the pages are there.
        x.extend((0..x.capacity()).map(|i| (i * 7919 % 2003) as f32 / 1001.0 - 1.0));
        y.resize(y.capacity(), 1.0);
        speed::products(&panels, &x, n, &mut y)
    })
    .map(|time| time.as_secs_f64())
    .or_raise()
}
