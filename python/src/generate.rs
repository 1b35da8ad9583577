//! Generation: its settings, and a text as a Python iterator.

use std::sync::{Mutex, PoisonError};

use numpy::PyArray1;
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::{PyList, PyString};
use tritlab_kernels::op::CacheType;
use tritlab_model::generate::{Finish, Generation, Request};
use tritlab_model::sample::Sampling;
use tritlab_model::{Cancel, Error};

use crate::arrays::{self, token_ids};
use crate::chat;
use crate::errors::{ModelError, OrRaise, TokenizerError};
use crate::interrupt::interruptible;
use crate::model::Model;

/// Python's keywords.
pub(crate) struct Settings<'a> {
    pub(crate) max_tokens: usize,
    pub(crate) temperature: f32,
    pub(crate) top_k: usize,
    pub(crate) top_p: f32,
    pub(crate) min_p: f32,
    pub(crate) repetition_penalty: f32,
    pub(crate) repetition_window: usize,
    pub(crate) seed: u64,
    pub(crate) stop: Option<Vec<String>>,
    pub(crate) stop_tokens: Option<Vec<u32>>,
    pub(crate) kv: &'a str,
}

impl Settings<'_> {
    pub(crate) fn request(self, model: &Model) -> PyResult<Request> {
        let vocab = model.n_vocab();
        let stop_ids = self.stop_tokens.unwrap_or_default();
        if let Some(id) = stop_ids.iter().find(|id| **id as usize >= vocab) {
            return Err(ModelError::new_err(format!(
                "stop token {id} is outside the vocabulary of {vocab} tokens"
            )));
        }
        Ok(Request {
            max_tokens: self.max_tokens,
            sampling: Sampling {
                temperature: self.temperature,
                top_k: self.top_k,
                top_p: self.top_p,
                min_p: self.min_p,
                repetition_penalty: self.repetition_penalty,
                repetition_window: self.repetition_window,
                seed: self.seed,
            },
            context: model.context(),
            stop: self.stop.unwrap_or_default(),
            stop_ids,
            cache_type: cache_type(self.kv)?,
        })
    }
}

pub(crate) fn cache_type(name: &str) -> PyResult<CacheType> {
    CacheType::from_name(name).ok_or_else(|| {
        ModelError::new_err(format!("kv is {name:?}, but must be \"f32\" or \"f16\""))
    })
}

/// Ids of a prompt: a text, ids, or a chat.
pub(crate) fn prompt_ids(model: &Model, prompt: &Bound<'_, PyAny>) -> PyResult<Vec<u32>> {
    let py = prompt.py();
    if let Ok(text) = prompt.cast::<PyString>() {
        let text = text.to_cow()?;
        return py.detach(|| model.inner().tokenizer()?.encode(&text, true, true)).or_raise();
    }
    if prompt.cast::<PyList>().is_ok() {
        let text = chat::render(model, prompt, chat::Options::default())?;
        return py.detach(|| model.inner().encode_chat(&text)).or_raise();
    }
    if prompt.hasattr("dtype")? {
        return token_ids(prompt, model.n_vocab());
    }
    let found = prompt.get_type().qualname()?;
    Err(PyTypeError::new_err(format!(
        "prompt: a text, a list of messages, or token ids as int32 [n] is wanted, not {found}"
    )))
}

/// `Ok` if the model has a tokenizer: without one its ids have no text.
pub(crate) fn text_can_be_made(model: &Model) -> PyResult<()> {
    model.inner().tokenizer().map(drop).map_err(|error| {
        TokenizerError::new_err(format!("{error} (generate_ids takes and gives them)"))
    })
}

/// Ids after ids, until the model, `max_tokens` or `stop_tokens` end them.
pub(crate) fn ids_after(
    py: Python<'_>,
    model: &Model,
    prompt: &[u32],
    mut request: Request,
) -> PyResult<Vec<i32>> {
    if let Ok(tokenizer) = model.inner().tokenizer() {
        request.stop_ids.extend_from_slice(tokenizer.eog());
    }
    let model = model.inner();
    let mut one = [py.detach(|| Generation::of_ids(model, prompt, &request)).or_raise()?];
    while one[0].finish().is_none() {
        py.check_signals()?;
        match one[0].takes_long(model) {
            true => interruptible(py, |cancel| {
                one[0].cancelled_by(cancel);
                Generation::advance(model, &mut one)
            })?,
            false => py.detach(|| Generation::advance(model, &mut one)).or_raise()?,
        }
    }
    // A vocabulary has at most 2^24 tokens.
    Ok(one[0].ids().iter().map(|id| *id as i32).collect())
}

/// Text being generated: an iterator of pieces.
///
/// Each piece is whole characters and no part of a stop string. The work is done inside `next`,
/// without the GIL; closing the iterator, or dropping it, ends it.
#[pyclass(frozen, module = "tritlab")]
pub(crate) struct TextStream {
    model: Py<Model>,
    state: Mutex<State>,
}

struct State {
    /// `None` once it was closed.
    generation: Option<[Generation; 1]>,
    ids: Vec<u32>,
    finish: Option<Finish>,
}

/// What one step of work gave.
enum Step {
    Piece(String),
    Nothing,
    End,
}

impl TextStream {
    /// The text after `prompt`.
    pub(crate) fn new(
        model: &Bound<'_, Model>,
        prompt: &Bound<'_, PyAny>,
        settings: Settings<'_>,
    ) -> PyResult<Self> {
        let this = model.get();
        let request = settings.request(this)?;
        let ids = prompt_ids(this, prompt)?;
        text_can_be_made(this)?;
        let py = model.py();
        let generation =
            py.detach(|| Generation::of_text(this.inner(), &ids, &request)).or_raise()?;
        let state = State { generation: Some([generation]), ids: Vec::new(), finish: None };
        Ok(Self { model: model.clone().unbind(), state: Mutex::new(state) })
    }

    /// Whether the next step may take many tokens' time.
    fn takes_long(&self, py: Python<'_>) -> bool {
        let model = self.model.get().inner();
        self.read(py, |s| s.generation.as_ref().is_some_and(|[one]| one.takes_long(model)))
    }

    /// One step of work.
    fn advance(&self, cancel: &Cancel) -> tritlab_model::Result<()> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(one) = &mut state.generation else { return Ok(()) };
        if one[0].finish().is_some() {
            return Ok(());
        }
        one[0].cancelled_by(cancel);
        let outcome = Generation::advance(self.model.get().inner(), one);
        // What was cancelled can go on.
        if outcome.as_ref().is_err_and(|e| !matches!(e.cause(), Error::Cancelled)) {
            state.generation = None;
        }
        outcome
    }

    /// What the steps so far have given.
    fn take(&self) -> Step {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let State { generation, ids, finish } = &mut *state;
        let Some(one) = generation else { return Step::End };
        ids.extend_from_slice(&one[0].ids()[ids.len()..]);
        let piece = one[0].take_text();
        *finish = one[0].finish();
        let end = finish.is_some();
        if end {
            // The cache is the largest part of it.
            *generation = None;
        }
        match piece.is_empty() {
            false => Step::Piece(piece),
            true if end => Step::End,
            true => Step::Nothing,
        }
    }

    /// The next piece; `None` at the end.
    pub(crate) fn next(&self, py: Python<'_>) -> PyResult<Option<String>> {
        loop {
            py.check_signals()?;
            let step = match self.takes_long(py) {
                true => {
                    interruptible(py, |cancel| self.advance(cancel))?;
                    py.detach(|| self.take())
                }
                false => {
                    let step = || self.advance(&Cancel::default()).map(|()| self.take());
                    py.detach(step).or_raise()?
                }
            };
            match step {
                Step::Piece(piece) => return Ok(Some(piece)),
                Step::Nothing => {}
                Step::End => return Ok(None),
            }
        }
    }

    fn read<T>(&self, py: Python<'_>, of: impl FnOnce(&mut State) -> T + Send) -> T
    where
        T: Send,
    {
        py.detach(|| of(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner)))
    }
}

#[pymethods]
impl TextStream {
    fn __iter__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    fn __next__(&self, py: Python<'_>) -> PyResult<Option<String>> {
        self.next(py)
    }

    fn __enter__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    #[pyo3(signature = (*_args))]
    fn __exit__(&self, py: Python<'_>, _args: &Bound<'_, pyo3::types::PyTuple>) {
        self.close(py);
    }

    /// End the work and free the cache; no more pieces come.
    fn close(&self, py: Python<'_>) {
        self.read(py, |state| state.generation = None);
    }

    /// Token ids generated so far, int32 [n]: a new array.
    #[getter]
    fn ids<'py>(&self, py: Python<'py>) -> Bound<'py, PyArray1<i32>> {
        let ids = self.read(py, |state| state.ids.iter().map(|id| *id as i32).collect());
        arrays::vector(py, ids)
    }

    /// Why the text ended: "length", "stop_token" or "stop_string"; `None` while it has not.
    #[getter]
    fn finish_reason(&self, py: Python<'_>) -> Option<&'static str> {
        self.read(py, |state| state.finish).map(|finish| match finish {
            Finish::Length => "length",
            Finish::StopToken => "stop_token",
            Finish::StopString => "stop_string",
        })
    }
}
