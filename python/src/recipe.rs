//! Which tensors are to be in which format, as Python says it.

use std::str::FromStr;

use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString};
use tritlab_kernels::Format;
use tritlab_model::overrides::Overrides;
use tritlab_model::quantize::Fallback;
use tritlab_model::rounding::Rounding;

use crate::errors::{OrRaise, TritlabError};

/// What a call's `format`, `head`, `overrides` and `fallback` ask for, or the `recipe` in their place.
pub(crate) struct Wanted {
    pub rounding: Option<Rounding>,
    pub head: Option<Format>,
    pub overrides: Overrides,
    pub fallback: Fallback,
}

impl Wanted {
    pub(crate) fn new(
        py: Python<'_>,
        recipe: Option<&Bound<'_, PyAny>>,
        format: Option<&str>,
        head: Option<&str>,
        overrides: Option<&Bound<'_, PyAny>>,
        fallback: Option<&str>,
    ) -> PyResult<Self> {
        let Some(recipe) = recipe else {
            return Ok(Self {
                rounding: format.map(Rounding::from_str).transpose().or_raise()?,
                head: head.map(Format::from_name).transpose().or_raise()?,
                overrides: self::overrides(overrides)?,
                fallback: self::fallback(fallback)?,
            });
        };
        if format.is_some() || head.is_some() || overrides.is_some() || fallback.is_some() {
            return Err(TritlabError::new_err(
                "a recipe says all formats: give no format, head, overrides or fallback beside it",
            ));
        }
        // The file of a recipe is read in one place, in Python.
        let said = py.import("tritlab.recipe")?.call_method1("arguments", (recipe,))?;
        let name = |key: &str| said.get_item(key)?.extract::<Option<String>>();
        let (format, head, fallback) = (name("format")?, name("head")?, name("fallback")?);
        let overrides = said.get_item("overrides")?;
        Self::new(
            py,
            None,
            format.as_deref(),
            head.as_deref(),
            Some(&overrides),
            fallback.as_deref(),
        )
    }
}

/// Overrides from a dict or a list of pairs.
pub(crate) fn overrides(value: Option<&Bound<'_, PyAny>>) -> PyResult<Overrides> {
    let Some(value) = value else { return Ok(Overrides::default()) };
    let items = match value.cast::<PyDict>() {
        Ok(dict) => dict.items().into_any(),
        Err(_) => value.clone(),
    };
    let wrong = || {
        let found = value.get_type().qualname().map(|t| t.to_string()).unwrap_or_default();
        PyTypeError::new_err(format!(
            "overrides: a dict, or a list of pairs, of patterns and names of formats is wanted, not {found}"
        ))
    };
    if items.is_instance_of::<PyString>() {
        return Err(wrong());
    }
    let pairs: Vec<(String, Option<String>)> = items.extract().map_err(|_| wrong())?;
    let rules = pairs.into_iter().map(|(pattern, name)| {
        let rounding = name.as_deref().map(Rounding::from_str).transpose().or_raise()?;
        Ok((pattern, rounding))
    });
    Ok(Overrides::new(rules.collect::<PyResult<Vec<_>>>()?))
}

/// What takes the place of a format that does not fit.
fn fallback(name: Option<&str>) -> PyResult<Fallback> {
    Ok(match name {
        None => Fallback::Refuse,
        Some(name) if name.eq_ignore_ascii_case("llama.cpp") => Fallback::LlamaCpp,
        Some(name) => Fallback::To(Format::from_name(name).or_raise()?),
    })
}
