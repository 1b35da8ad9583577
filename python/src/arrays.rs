//! Arrays in: exactly the dtype and layout that was asked for, or an error that names both.

use numpy::{
    Element, IntoPyArray, PyArray1, PyArray2, PyArrayDescrMethods, PyArrayDyn, PyArrayMethods,
    PyReadonlyArrayDyn, PyUntypedArray, PyUntypedArrayMethods, dtype,
};
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;

use crate::errors::{ShapeError, TritlabError};

/// A C-contiguous array of `T`, borrowed while this lives.
pub(crate) struct Borrowed<'py, T: Element> {
    array: PyReadonlyArrayDyn<'py, T>,
    what: &'static str,
}

impl<'py, T: Element> Borrowed<'py, T> {
    /// `what` names the argument and its shape in messages: "ids, int32 [n]".
    pub(crate) fn new(object: &Bound<'py, PyAny>, what: &'static str) -> PyResult<Self> {
        let Ok(array) = object.cast::<PyUntypedArray>() else {
            let found = object.get_type().qualname()?;
            return Err(PyTypeError::new_err(format!(
                "{what}: a NumPy array is wanted, not {found}"
            )));
        };
        if !array.dtype().is_equiv_to(&dtype::<T>(object.py())) {
            let found = array.dtype();
            return Err(PyTypeError::new_err(format!(
                "{what}: the array is {found}, and nothing is cast silently"
            )));
        }
        if !array.is_c_contiguous() {
            return Err(ShapeError::new_err(format!(
                "{what}: the array is not C-contiguous; numpy.ascontiguousarray makes it so"
            )));
        }
        let array = object.cast::<PyArrayDyn<T>>()?.try_readonly().map_err(|e| {
            ShapeError::new_err(format!("{what}: the array cannot be borrowed: {e}"))
        })?;
        Ok(Self { array, what })
    }

    pub(crate) fn shape(&self) -> &[usize] {
        self.array.shape()
    }

    /// The shape, which must have `N` dimensions.
    pub(crate) fn dims<const N: usize>(&self) -> PyResult<[usize; N]> {
        self.shape().try_into().map_err(|_| {
            let (what, found) = (self.what, self.shape());
            ShapeError::new_err(format!(
                "{what}: {N} dimension(s) are wanted, and the shape is {found:?}"
            ))
        })
    }

    /// The elements in row-major order.
    pub(crate) fn slice(&self) -> PyResult<&[T]> {
        let what = self.what;
        self.array.as_slice().map_err(|e| ShapeError::new_err(format!("{what}: {e}")))
    }
}

/// Token ids, each in the vocabulary.
pub(crate) fn token_ids(ids: &Bound<'_, PyAny>, vocab: usize) -> PyResult<Vec<u32>> {
    let ids = Borrowed::<i32>::new(ids, "ids, int32 [n]")?;
    let [_] = ids.dims()?;
    ids.slice()?
        .iter()
        .map(|&id| match u32::try_from(id) {
            Ok(id) if (id as usize) < vocab => Ok(id),
            _ => Err(TritlabError::new_err(format!(
                "token id {id} is outside the vocabulary of {vocab} tokens"
            ))),
        })
        .collect()
}

/// Moves a vector into a NumPy array.
pub(crate) fn vector<T: Element>(py: Python<'_>, x: Vec<T>) -> Bound<'_, PyArray1<T>> {
    x.into_pyarray(py)
}

/// Moves a row-major matrix into a NumPy array.
pub(crate) fn matrix<T: Element>(
    py: Python<'_>,
    x: Vec<T>,
    rows: usize,
    cols: usize,
) -> PyResult<Bound<'_, PyArray2<T>>> {
    x.into_pyarray(py).reshape([rows, cols])
}
