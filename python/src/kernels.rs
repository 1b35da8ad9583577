//! The kernel table, and the machine code of its kernels.

use pyo3::prelude::*;
use pyo3::types::PyDict;
use tritlab_kernels::disassembly::{self, COMPILER};
use tritlab_kernels::{Backend, Format, backend};

use crate::errors::OrRaise;

/// One kernel: a cell of operations × formats × backends.
#[pyclass(frozen, module = "tritlab")]
pub(crate) struct Kernel {
    kernel: backend::Kernel,
    selected: bool,
}

/// The code of a kernel as it ran, with what 256 weights cost: `print` shows the hot loop.
#[pyclass(frozen, module = "tritlab")]
pub(crate) struct Disassembly(disassembly::Disassembly);

#[derive(IntoPyObject)]
struct InstructionCounts {
    total: f64,
    loads: f64,
    stores: f64,
    dots: f64,
    shuffles: f64,
    multiplies: f64,
    other: f64,
    bytes_read: f64,
}

#[derive(IntoPyObject)]
struct InstructionInfo {
    at: usize,
    text: String,
    kind: &'static str,
    bytes_read: usize,
    bytes_written: usize,
    executed: f64,
}

/// Every kernel by its name: operations × formats × backends.
#[pyfunction]
pub(crate) fn kernels(py: Python<'_>) -> PyResult<Bound<'_, PyDict>> {
    let current = py.detach(backend::current).ok();
    let out = PyDict::new(py);
    for kernel in backend::kernels() {
        let name = kernel.name.clone();
        let selected = current == Some(kernel.backend);
        out.set_item(name, Bound::new(py, Kernel { kernel, selected })?)?;
    }
    Ok(out)
}

#[pymethods]
impl Kernel {
    /// Operation, format and backend: "gemv-q4_0-avx512".
    #[getter]
    fn name(&self) -> &str {
        &self.kernel.name
    }

    /// The operation: "gemv" for one token, "gemm" for several, or one without weights.
    #[getter]
    fn op(&self) -> &'static str {
        self.kernel.op
    }

    /// The format; `None` for operations without weights.
    #[getter]
    fn format(&self) -> Option<&'static str> {
        self.kernel.format.map(Format::name)
    }

    /// The backend.
    #[getter]
    fn backend(&self) -> &'static str {
        Backend::name(self.kernel.backend)
    }

    /// Whether this CPU can run it.
    #[getter]
    fn available(&self) -> bool {
        self.kernel.available
    }

    /// Whether it is the one that runs: its backend was in use when the table was made.
    #[getter]
    fn selected(&self) -> bool {
        self.selected
    }

    /// Run the kernel instruction by instruction; give its code and what 256 weights cost.
    ///
    /// On x86-64 with Linux, from milliseconds to some seconds. `BackendError` elsewhere, for a
    /// kernel that this CPU cannot run, and on systems without single steps (some emulators).
    fn disassemble(&self, py: Python<'_>) -> PyResult<Disassembly> {
        py.detach(|| self.kernel.disassemble()).or_raise().map(Disassembly)
    }

    fn __repr__(&self) -> String {
        let state = match (self.kernel.available, self.selected) {
            (false, _) => ", not on this CPU",
            (true, false) => "",
            (true, true) => ", in use",
        };
        format!("<Kernel {}{state}>", self.kernel.name)
    }
}

#[pymethods]
impl Disassembly {
    /// Name of the kernel.
    #[getter]
    fn kernel(&self) -> &str {
        &self.0.kernel
    }

    /// What the counts are per: "256 weights", "256 weights and token" or "256 numbers".
    #[getter]
    fn per(&self) -> String {
        self.0.per()
    }

    /// Tokens of the product that was run.
    #[getter]
    fn tokens(&self) -> usize {
        self.0.tokens
    }

    /// Executed instructions, of the whole kernel.
    ///
    /// `dots`, `shuffles` and `multiplies` are by what an instruction does, `loads` and `stores` by
    /// whether it reads or writes memory, so one may be in two of them; `other` is in none.
    #[getter]
    fn counts(&self) -> InstructionCounts {
        let disassembly::Counts {
            total,
            loads,
            stores,
            dots,
            shuffles,
            multiplies,
            other,
            bytes_read,
        } = self.0.counts;
        InstructionCounts { total, loads, stores, dots, shuffles, multiplies, other, bytes_read }
    }

    /// The hot loop, in the order of addresses; `executed` as in `counts`.
    #[getter]
    fn instructions(&self) -> Vec<InstructionInfo> {
        let info = |i: &disassembly::Instruction| InstructionInfo {
            at: i.at,
            text: i.text.clone(),
            kind: i.kind.name(),
            bytes_read: i.bytes_read,
            bytes_written: i.bytes_written,
            executed: i.executed,
        };
        self.0.instructions.iter().map(info).collect()
    }

    /// The hot loop's part of all executed instructions, 0 to 1.
    #[getter]
    fn share(&self) -> f64 {
        self.0.share
    }

    /// The compiler that made the code.
    #[getter]
    fn compiler(&self) -> &'static str {
        COMPILER
    }

    /// The counts and the hot loop, as `print` shows them.
    #[getter]
    fn text(&self) -> String {
        self.0.to_string()
    }

    /// The same for notebooks: one HTML element that needs nothing from elsewhere.
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
        let (kernel, per, total) = (self.kernel(), self.per(), self.0.counts.total);
        format!("<Disassembly of {kernel}, {total:.1} instructions per {per}; print() shows them>")
    }
}
