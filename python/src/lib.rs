//! The Python module `tritlab._native`. Its contract is `py/tritlab/_native.pyi`; a test holds names,
//! parameters and documentation equal on both sides.
//!
//! Three rules hold for every function here: arrays are borrowed and results moved, never copied or cast
//! silently (`arrays`); whatever computes does so without the GIL; errors become Python classes in one
//! place (`errors`).

#![deny(unsafe_code)]

mod activations;
mod arguments;
mod arrays;
mod callback;
mod capture;
mod chat;
mod errors;
mod explain;
mod generate;
mod gguf;
mod imatrix;
mod interrupt;
mod kernels;
mod machine;
mod matrix;
mod model;
mod recipe;
mod table;
mod ternary;
mod testing;
mod verify;

use pyo3::prelude::*;

/// Native half of `tritlab`. Import the names from `tritlab`, not from here.
#[pymodule(gil_used = false)]
mod _native {
    use pyo3::prelude::*;

    #[pymodule_export]
    use super::activations::{Activations, quantize_activations};
    #[pymodule_export]
    use super::errors::{
        BackendError, EvaluationError, FormatError, GgufError, ModelError, ShapeError,
        TokenizerError, TritlabError,
    };
    #[pymodule_export]
    use super::explain::{Explanation, Trace, explain, explain_gguf};
    #[pymodule_export]
    use super::generate::TextStream;
    #[pymodule_export]
    use super::gguf::{convert, inspect_folder, inspect_gguf, quantize_gguf};
    #[pymodule_export]
    use super::imatrix::Imatrix;
    #[pymodule_export]
    use super::kernels::{Disassembly, Kernel, kernels};
    #[pymodule_export]
    use super::machine::{
        machine, measure_bandwidth, measure_cache_bandwidth, measure_dot_peak, measure_products,
    };
    #[pymodule_export]
    use super::matrix::Matrix;
    #[pymodule_export]
    use super::model::Model;
    #[pymodule_export]
    use super::table::{backends, current_backend, formats, get_threads, set_backend, set_threads};
    #[pymodule_export]
    use super::testing::{kit_case, kit_cases, kit_columns, kit_make_finite, kit_simpler};

    #[pymodule_export]
    use super::ternary::{Ternary, packings, project};
    #[pymodule_export]
    use super::verify::{verify_matrices, verify_models};

    #[pymodule_export]
    #[allow(non_upper_case_globals, reason = "Python's name")]
    const __version__: &str = env!("CARGO_PKG_VERSION");

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        module.add("MissingFileError", super::errors::missing_file_error(module.py())?)
    }
}
