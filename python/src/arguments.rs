//! Integers and strings in: what an argument takes, or an error that names the argument and says what it takes.
//!
//! Rust's own conversion of integers raises `OverflowError` without a name. Each argument that is a number has a
//! function here, given to PyO3 as its `from_py_with`.

use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;

use crate::errors::TritlabError;

/// The largest count of tokens, rows, columns: as large as sums of them may be on any machine.
const MANY: i128 = i32::MAX as i128;

/// `value` as an integer from `least` to `most`.
fn integer(value: &Bound<'_, PyAny>, name: &str, least: i128, most: i128) -> PyResult<i128> {
    let range = format!("must be an integer from {least} to {most}");
    match value.extract::<i128>() {
        Ok(n) if (least..=most).contains(&n) => Ok(n),
        Ok(n) => Err(TritlabError::new_err(format!("{name} is {n}, but {range}"))),
        // An integer, of more bits than anything here takes.
        Err(_) if value.hasattr("__index__")? => {
            Err(TritlabError::new_err(format!("{name} is out of range: it {range}")))
        }
        Err(_) => {
            let found = value.get_type().qualname()?;
            Err(PyTypeError::new_err(format!("{name} {range}, not {found}")))
        }
    }
}

macro_rules! integers {
    ($($name:ident: $type:ty = $least:expr, $most:expr;)*) => {
        $(pub(crate) fn $name(value: &Bound<'_, PyAny>) -> PyResult<$type> {
            integer(value, stringify!($name), $least, $most).map(|n| n as $type)
        })*
    };
}

integers! {
    block: usize = 0, MANY;
    cols: usize = 0, MANY;
    context: usize = 0, MANY;
    i: usize = 0, MANY;
    max_tokens: usize = 0, MANY;
    n: usize = 0, MANY;
    n_gen: usize = 0, MANY;
    n_prompt: usize = 0, MANY;
    random: u32 = 0, u32::MAX.into();
    repetition_window: usize = 0, MANY;
    repetitions: usize = 1, MANY;
    row: usize = 0, MANY;
    seed: u64 = 0, u64::MAX.into();
    threads: usize = 1, 4096;
    top_k: usize = 0, MANY;
}

/// Windows of text, or all of them.
pub(crate) fn chunks(value: &Bound<'_, PyAny>) -> PyResult<Option<usize>> {
    match value.is_none() {
        true => Ok(None),
        false => integer(value, "chunks", 1, MANY).map(|n| Some(n as usize)),
    }
}

/// Rows and columns. Up to `isize::MAX`: a matrix of no columns has room for any number of rows.
pub(crate) fn shape(value: &Bound<'_, PyAny>) -> PyResult<(usize, usize)> {
    let Ok((rows, cols)) = value.extract::<(Bound<'_, PyAny>, Bound<'_, PyAny>)>() else {
        return Err(PyTypeError::new_err(format!(
            "shape: (rows, cols) is wanted, not {}",
            value.repr()?
        )));
    };
    let side = |n: &Bound<'_, PyAny>, name| integer(n, name, 0, isize::MAX as i128);
    Ok((side(&rows, "shape[0]")? as usize, side(&cols, "shape[1]")? as usize))
}

/// Prompts of one batch, of any kind each.
pub(crate) fn prompts<'py>(value: &Bound<'py, PyAny>) -> PyResult<Vec<Bound<'py, PyAny>>> {
    value.extract().map_err(|_| {
        let found = value.get_type().qualname().map(|t| t.to_string()).unwrap_or_default();
        PyTypeError::new_err(format!(
            "prompts: a list of prompts (or another sequence) is wanted, not {found}; \
             generate continues a single one"
        ))
    })
}

/// Ids of tokens that end a text.
pub(crate) fn stop_tokens(value: &Bound<'_, PyAny>) -> PyResult<Option<Vec<u32>>> {
    if value.is_none() {
        return Ok(None);
    }
    let Ok(ids) = value.extract::<Vec<Bound<'_, PyAny>>>() else {
        let found = value.get_type().qualname()?;
        return Err(PyTypeError::new_err(format!(
            "stop_tokens: a list of token ids is wanted, not {found}"
        )));
    };
    let id = |(at, id): (usize, &Bound<'_, PyAny>)| {
        integer(id, &format!("stop_tokens[{at}]"), 0, MANY).map(|n| n as u32)
    };
    ids.iter().enumerate().map(id).collect::<PyResult<_>>().map(Some)
}

/// Strings that end a text.
pub(crate) fn stop(value: &Bound<'_, PyAny>) -> PyResult<Option<Vec<String>>> {
    match value.is_none() {
        true => Ok(None),
        false => strings(value, "stop").map(Some),
    }
}

/// Names of activations.
pub(crate) fn what(value: &Bound<'_, PyAny>) -> PyResult<Vec<String>> {
    strings(value, "what")
}

/// One string, or several.
fn strings(value: &Bound<'_, PyAny>, name: &str) -> PyResult<Vec<String>> {
    if let Ok(one) = value.extract::<String>() {
        return Ok(vec![one]);
    }
    value.extract::<Vec<String>>().map_err(|_| {
        let found = match value.extract::<Vec<Bound<'_, PyAny>>>() {
            Ok(_) => value.repr().map(|r| r.to_string()),
            Err(_) => value.get_type().qualname().map(|t| t.to_string()),
        };
        let found = found.unwrap_or_default();
        PyTypeError::new_err(format!(
            "{name}: a string or a list of strings is wanted, not {found}"
        ))
    })
}
