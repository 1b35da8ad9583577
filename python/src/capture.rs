//! Hooks: what goes on inside a model, as arrays.

use std::collections::BTreeMap;

use numpy::{IntoPyArray, PyArray2, PyArrayMethods};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString};
use tritlab_model::Error;

use crate::arrays::Borrowed;
use crate::errors::{ModelError, OrRaise, ShapeError};

/// What a layer's output is to be.
enum Replacement {
    Array(Vec<f32>),
    Function(Py<PyAny>),
}

/// Replacements by layer, and the exception that one of them raised.
pub(crate) struct Replace {
    by_layer: BTreeMap<usize, Replacement>,
    /// [n][E]
    shape: [usize; 2],
    raised: Option<PyErr>,
}

impl Replace {
    pub(crate) fn new(
        replace: Option<&Bound<'_, PyDict>>,
        shape: [usize; 2],
        layers: usize,
    ) -> PyResult<Self> {
        let mut by_layer = BTreeMap::new();
        for (key, value) in replace.into_iter().flatten() {
            let key = key.cast::<PyString>()?.to_cow()?.into_owned();
            let layer = key.strip_prefix("blk.").and_then(|i| i.parse().ok());
            let Some(layer) = layer.filter(|i| *i < layers) else {
                return Err(ModelError::new_err(format!(
                    "nothing to replace is called {key:?}; there are blk.0 to blk.{}",
                    layers.saturating_sub(1)
                )));
            };
            let by = match value.is_callable() {
                true => Replacement::Function(value.unbind()),
                false => Replacement::Array(output(&value, shape)?),
            };
            by_layer.insert(layer, by);
        }
        Ok(Self { by_layer, shape, raised: None })
    }

    /// Whether there is anything to replace.
    pub(crate) fn is_empty(&self) -> bool {
        self.by_layer.is_empty()
    }

    /// Called after each layer, without the GIL.
    pub(crate) fn call(&mut self, layer: usize, x: &mut [f32]) -> tritlab_model::Result<()> {
        let outcome = Python::attach(|py| {
            py.check_signals()?;
            match self.by_layer.get(&layer) {
                None => {}
                Some(Replacement::Array(by)) => x.copy_from_slice(by),
                Some(Replacement::Function(f)) => {
                    let array: Bound<'_, PyArray2<f32>> =
                        x.to_vec().into_pyarray(py).reshape(self.shape)?;
                    // What the function returns counts; a change in place would be lost, so there is none.
                    array.readwrite().make_nonwriteable();
                    let by = f.bind(py).call1((array,))?;
                    if !by.is_none() {
                        x.copy_from_slice(&output(&by, self.shape)?);
                    }
                }
            }
            Ok(())
        });
        outcome.map_err(|e| {
            self.raised = Some(e);
            Error::Cancelled
        })
    }

    /// What a function raised, else the work's own result.
    pub(crate) fn finish<T>(self, result: tritlab_model::Result<T>) -> PyResult<T> {
        match self.raised {
            Some(e) => Err(e),
            None => result.or_raise(),
        }
    }
}

/// A layer's output, [n][E].
fn output(value: &Bound<'_, PyAny>, shape: [usize; 2]) -> PyResult<Vec<f32>> {
    let array = Borrowed::<f32>::new(value, "a layer's output, float32 [n, E]")?;
    let found: [usize; 2] = array.dims()?;
    if found != shape {
        return Err(ShapeError::new_err(format!(
            "a layer's output is float32 {shape:?} here, not {found:?}"
        )));
    }
    Ok(array.slice()?.to_vec())
}
