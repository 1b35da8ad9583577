//! `tritlab.Imatrix`.

use std::path::PathBuf;

use numpy::PyArray1;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::arguments;
use crate::arrays::{self, token_ids};
use crate::callback::Progress;
use crate::errors::OrRaise;
use crate::model::Model;

/// How much each column of each linear layer matters: its mean squared input on a text.
#[pyclass(frozen, module = "tritlab")]
pub(crate) struct Imatrix {
    pub(crate) inner: tritlab_model::imatrix::Imatrix,
}

#[pymethods]
impl Imatrix {
    /// Collect from a text's token ids, int32 [n], in windows of `context` tokens.
    ///
    /// `EvaluationError` if there is not one whole window. `dataset` names the text in the file.
    #[staticmethod]
    #[pyo3(signature = (model, ids, *, context=512, dataset="", progress=None))]
    fn collect(
        py: Python<'_>,
        model: &Bound<'_, Model>,
        ids: &Bound<'_, PyAny>,
        #[pyo3(from_py_with = arguments::context)] context: usize,
        dataset: &str,
        progress: Option<Py<PyAny>>,
    ) -> PyResult<Self> {
        let model = model.get();
        let ids = token_ids(ids, model.n_vocab())?;
        model.fits(context)?;
        let mut progress = Progress::new(progress);
        let result = py.detach(|| {
            tritlab_model::imatrix::Imatrix::collect(
                model.inner(),
                &ids,
                context,
                dataset,
                &mut |done, total| progress.call(done, total, "imatrix"),
            )
        });
        Ok(Self { inner: progress.finish(result.or_raise())? })
    }

    /// Read a file in llama.cpp's GGUF form.
    #[staticmethod]
    fn read(py: Python<'_>, path: PathBuf) -> PyResult<Self> {
        let inner = py.detach(|| tritlab_model::imatrix::Imatrix::read(&path)).or_raise()?;
        Ok(Self { inner })
    }

    /// Write a file in llama.cpp's GGUF form, atomically.
    fn save(&self, py: Python<'_>, path: PathBuf) -> PyResult<()> {
        py.detach(|| self.inner.write(&path)).or_raise()
    }

    /// Mean squared input of each column, float32 [columns], by the name of the weight.
    fn arrays<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let out = PyDict::new(py);
        for (name, sums) in &self.inner.sums {
            let importance = self.inner.importance(name, sums.squares.len()).or_raise()?;
            let array: Bound<'_, PyArray1<f32>> = arrays::vector(py, importance);
            out.set_item(name, array)?;
        }
        Ok(out)
    }

    /// Names of the texts.
    #[getter]
    fn datasets(&self) -> Vec<String> {
        self.inner.datasets.clone()
    }

    /// Windows of text.
    #[getter]
    fn chunks(&self) -> u32 {
        self.inner.chunks
    }

    /// Tokens per window.
    #[getter]
    fn chunk_size(&self) -> u32 {
        self.inner.chunk_size
    }

    fn __repr__(&self) -> String {
        let tritlab_model::imatrix::Imatrix { sums, chunks, chunk_size, .. } = &self.inner;
        format!("<Imatrix of {} matrices: {chunks} windows of {chunk_size} tokens>", sums.len())
    }
}

/// An importance matrix, or the file that holds one.
#[derive(FromPyObject)]
pub(crate) enum ImatrixOrPath<'py> {
    Imatrix(Bound<'py, Imatrix>),
    Path(PathBuf),
}

impl ImatrixOrPath<'_> {
    /// Its numbers; a file is read.
    pub(crate) fn get(self, py: Python<'_>) -> PyResult<tritlab_model::imatrix::Imatrix> {
        match self {
            Self::Imatrix(this) => Ok(this.get().inner.clone()),
            Self::Path(path) => Ok(Imatrix::read(py, path)?.inner),
        }
    }
}
