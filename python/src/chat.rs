//! Chats: Python's messages into a template.

use pyo3::exceptions::{PyRecursionError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{IntoPyDict, PyDict};
use tritlab_model::chat::Chat;

use crate::errors::{ModelError, OrRaise};
use crate::model::Model;

/// What a chat is rendered with, beside its messages.
pub(crate) struct Options<'a, 'py> {
    pub(crate) add_generation_prompt: bool,
    pub(crate) tools: Option<&'a Bound<'py, PyAny>>,
    pub(crate) now: Option<&'a str>,
    pub(crate) variables: Option<&'a Bound<'py, PyDict>>,
}

impl Default for Options<'_, '_> {
    fn default() -> Self {
        Self { add_generation_prompt: true, tools: None, now: None, variables: None }
    }
}

/// The text of a chat.
pub(crate) fn render(
    model: &Model,
    messages: &Bound<'_, PyAny>,
    options: Options<'_, '_>,
) -> PyResult<String> {
    let py = messages.py();
    // Python's own conversion: what json.dumps refuses is no message, and keys keep their order.
    let dumps = py.import("json")?.getattr("dumps")?;
    // Unescaped, so that half a surrogate pair is Python's own `UnicodeEncodeError`.
    let unescaped = [("ensure_ascii", false)].into_py_dict(py)?;
    let wrong = |e: &dyn std::fmt::Display| {
        ModelError::new_err(format!("messages, tools and variables: {e}"))
    };
    let json = |object: &Bound<'_, PyAny>| -> PyResult<serde_json::Value> {
        let text = dumps.call((object,), Some(&unescaped)).map_err(|e| {
            // A message that contains itself, or is nested without an end.
            let refused =
                e.is_instance_of::<PyValueError>(py) || e.is_instance_of::<PyRecursionError>(py);
            if refused { wrong(e.value(py)) } else { e }
        })?;
        serde_json::from_str(&text.extract::<String>()?).map_err(|e| wrong(&e))
    };
    let variables = match options.variables {
        Some(variables) => match json(variables.as_any())? {
            serde_json::Value::Object(map) => map,
            _ => serde_json::Map::new(),
        },
        None => serde_json::Map::new(),
    };
    let now = options.now.map(str::parse).transpose().map_err(|e| {
        ModelError::new_err(format!("now is to be a date and time like 2026-01-31T12:00:00: {e}"))
    })?;
    let chat = Chat {
        messages: json(messages)?,
        tools: options.tools.map(json).transpose()?,
        add_generation_prompt: options.add_generation_prompt,
        variables,
        now,
    };
    py.detach(|| model.inner().chat_template(chat.tools.is_some())?.render(&chat)).or_raise()
}
