//! Python callbacks from long work that runs without the GIL.

use pyo3::prelude::*;

/// A progress callback, or none. What it raises, and Ctrl-C, end the work: `call` then returns `false`,
/// and `finish` gives the exception back.
pub(crate) struct Progress {
    function: Option<Py<PyAny>>,
    error: Option<PyErr>,
}

impl Progress {
    pub(crate) fn new(function: Option<Py<PyAny>>) -> Self {
        Self { function, error: None }
    }

    /// Looks for Ctrl-C; whether the work should go on.
    pub(crate) fn check_signals(&mut self) -> bool {
        let outcome = Python::attach(|py| py.check_signals());
        self.keep(outcome)
    }

    /// Calls the function; whether the work should go on.
    pub(crate) fn call(&mut self, done: usize, total: usize, what: &str) -> bool {
        let outcome = Python::attach(|py| {
            py.check_signals()?;
            match &self.function {
                Some(function) => function.call1(py, (done, total, what)).map(drop),
                None => Ok(()),
            }
        });
        self.keep(outcome)
    }

    /// Keeps the first exception.
    fn keep(&mut self, outcome: PyResult<()>) -> bool {
        match outcome {
            Ok(()) => true,
            Err(error) => {
                self.error.get_or_insert(error);
                false
            }
        }
    }

    /// The callback's exception if there was one, else the work's own result.
    pub(crate) fn finish<T>(self, result: PyResult<T>) -> PyResult<T> {
        match self.error {
            Some(error) => Err(error),
            None => result,
        }
    }
}
