//! `tritlab.Model`.

use std::path::PathBuf;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use numpy::{PyArray1, PyArray2};
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyDict, PyString, PyTuple};
use tritlab_kernels::Format;
use tritlab_model::model::{Options, Role, TensorReport};
use tritlab_model::sample::Sampling;
use tritlab_model::source::i2_s_order;
use tritlab_model::{Error, eval, speed};

use crate::arrays::{self, token_ids};
use crate::callback::Progress;
use crate::errors::{ModelError, OrRaise, TritlabError};

/// How often a thread that waits for generated text looks for Ctrl-C.
const SIGNALS: Duration = Duration::from_millis(50);

/// A decoder model, ready to run. Immutable; may be shared between threads.
#[pyclass(frozen, module = "tritlab")]
pub(crate) struct Model {
    model: tritlab_model::Model,
    path: PathBuf,
    context: usize,
}

#[derive(IntoPyObject)]
pub(crate) struct TensorInfo<'py> {
    name: String,
    role: &'static str,
    file_type: &'static str,
    format: &'static str,
    shape: Bound<'py, PyTuple>,
    n_params: usize,
    nbytes: usize,
    bits_per_weight: f64,
    rel_error: f64,
}

#[derive(IntoPyObject)]
pub(crate) struct BenchTimes {
    prompt_ns: Vec<u128>,
    gen_ns: Vec<u128>,
}

impl Model {
    fn sum(
        &self,
        which: impl Fn(&&TensorReport) -> bool,
        of: impl Fn(&TensorReport) -> usize,
    ) -> usize {
        self.model.tensors.iter().filter(which).map(of).sum()
    }

    /// `Ok` if the model was loaded for `tokens` positions.
    fn fits(&self, tokens: usize) -> PyResult<()> {
        match tokens <= self.context {
            true => Ok(()),
            false => {
                Err(Error::ContextOverflow { needed: tokens, capacity: self.context }).or_raise()
            }
        }
    }

    /// Ids of one sequence.
    fn sequence(&self, ids: &Bound<'_, PyAny>) -> PyResult<Vec<u32>> {
        let ids = token_ids(ids, self.n_vocab())?;
        self.fits(ids.len()).map(|()| ids)
    }
}

#[pymethods]
impl Model {
    /// Load a GGUF file, or a Hugging Face folder (`config.json` and safetensors).
    ///
    /// `format` re-quantises every linear layer of the blocks in memory; `None` keeps the file's
    /// own types. `head` does the same for the embedding and the output head; `None` keeps the
    /// file's own types, whatever `format` is. `tensors()` shows what became of each tensor.
    /// `context` is the longest sequence that the other calls accept; it costs no memory here.
    /// `i2_s` is the order of the codes of I2_S tensors, which a file does not tell: "I2_S" (x86
    /// and published files), "I2_S_64" (Arm) or "I2_S_ROWS4"; a wrong one talks nonsense.
    #[staticmethod]
    #[pyo3(signature = (path, format=None, *, head=None, context=2048, i2_s="I2_S", progress=None))]
    fn load(
        py: Python<'_>,
        path: PathBuf,
        format: Option<&str>,
        head: Option<&str>,
        context: usize,
        i2_s: &str,
        progress: Option<Py<PyAny>>,
    ) -> PyResult<Self> {
        let format = format.map(Format::from_name).transpose().or_raise()?;
        let head = head.map(Format::from_name).transpose().or_raise()?;
        let i2_s = i2_s_order(i2_s).or_raise()?;
        let mut progress = Progress::new(progress);
        let result = py.detach(|| {
            let options = Options { format, head, i2_s };
            tritlab_model::Model::load(&path, options, &mut |done, total, name| {
                progress.call(done, total, name)
            })
        });
        let model = progress.finish(result.or_raise())?;
        Ok(Self { model, path, context })
    }

    /// The file it was loaded from, as given.
    #[getter]
    fn path(&self) -> String {
        self.path.display().to_string()
    }

    /// `general.architecture` of the file; of a folder, what its GGUF file would have.
    #[getter]
    fn architecture(&self) -> &str {
        &self.model.config().architecture
    }

    /// `general.name` of the file, or the file's name.
    #[getter]
    fn name(&self) -> String {
        match &self.model.config().name {
            Some(name) if !name.is_empty() => name.clone(),
            _ => {
                let name = self.path.file_name().unwrap_or(self.path.as_os_str());
                name.to_string_lossy().into_owned()
            }
        }
    }

    /// Number of weights.
    #[getter]
    fn n_params(&self) -> usize {
        self.sum(|_| true, TensorReport::params)
    }

    /// Number of decoder blocks.
    #[getter]
    fn n_layers(&self) -> usize {
        self.model.config().layers
    }

    /// Number of tokens in the vocabulary.
    #[getter]
    fn n_vocab(&self) -> usize {
        self.model.config().vocab
    }

    /// Longest sequence it was loaded for, tokens.
    #[getter]
    fn context(&self) -> usize {
        self.context
    }

    /// The format asked of `load`; `None` for the file's own types.
    #[getter]
    fn format(&self) -> Option<&'static str> {
        self.model.format.map(Format::name)
    }

    /// Bytes of all linear layers, without the head.
    #[getter]
    fn linear_bytes(&self) -> usize {
        self.sum(|t| t.role == Role::Linear, |t| t.nbytes)
    }

    /// Weights of all linear layers, without the head.
    #[getter]
    fn linear_params(&self) -> usize {
        self.sum(|t| t.role == Role::Linear, TensorReport::params)
    }

    /// Bytes of all weights in memory.
    #[getter]
    fn total_bytes(&self) -> usize {
        self.sum(|_| true, |t| t.nbytes)
    }

    /// Bytes of weights that one decode step reads.
    #[getter]
    fn bytes_per_token(&self) -> usize {
        self.model.bytes_per_token()
    }

    /// Every weight tensor, in the order in which the model reads them.
    fn tensors<'py>(&self, py: Python<'py>) -> PyResult<Vec<TensorInfo<'py>>> {
        let info = |t: &TensorReport| {
            Ok(TensorInfo {
                name: t.name.clone(),
                role: t.role.name(),
                file_type: t.file_type,
                format: t.format,
                shape: PyTuple::new(py, &t.shape)?,
                n_params: t.params(),
                nbytes: t.nbytes,
                bits_per_weight: 8.0 * t.nbytes as f64 / t.params().max(1) as f64,
                rel_error: t.rel_error,
            })
        };
        self.model.tensors.iter().map(info).collect()
    }

    /// Token ids of a text, int32 [n]. `TokenizerError` if the file has no tokenizer.
    #[pyo3(signature = (text, add_special=true))]
    fn tokenize<'py>(
        &self,
        py: Python<'py>,
        text: &str,
        add_special: bool,
    ) -> PyResult<Bound<'py, PyArray1<i32>>> {
        let ids = py
            .detach(|| {
                let ids = self.model.tokenizer()?.encode(text, add_special, false)?;
                // At most 2^24 tokens in a vocabulary: the configuration was checked.
                Ok(ids.into_iter().map(|id| id as i32).collect::<Vec<_>>())
            })
            .map_err(|e: Error| e)
            .or_raise()?;
        Ok(arrays::vector(py, ids))
    }

    /// Text of token ids, int32 [n]. Bytes that are not UTF-8 become U+FFFD.
    fn detokenize(&self, py: Python<'_>, ids: &Bound<'_, PyAny>) -> PyResult<String> {
        let ids = token_ids(ids, self.n_vocab())?;
        py.detach(|| self.model.tokenizer()?.decode(&ids, false)).or_raise()
    }

    /// Logits after each of `ids`, int32 [n], from an empty cache: float32 [n, vocab].
    ///
    /// The array is all the memory this needs beside the cache: 4 · n · vocab bytes.
    fn logits<'py>(
        &self,
        py: Python<'py>,
        ids: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyArray2<f32>>> {
        let ids = self.sequence(ids)?;
        let logits = py.detach(|| self.model.logits(&ids)).or_raise()?;
        arrays::matrix(py, logits, ids.len(), self.n_vocab())
    }

    /// SHA-256 of the bits of `logits(ids)`, hexadecimal: the same on every machine.
    fn fingerprint(&self, py: Python<'_>, ids: &Bound<'_, PyAny>) -> PyResult<String> {
        let ids = self.sequence(ids)?;
        py.detach(|| self.model.fingerprint(&ids)).or_raise()
    }

    /// Score a text by llama.cpp's convention.
    ///
    /// `ids`, int32 [n], is cut into windows of `context` tokens without overlap; the second half
    /// of each is scored. With `reference`, the arrays that compare the two models come too.
    /// `EvaluationError` if there is not one whole window.
    #[pyo3(signature = (ids, context=512, reference=None, progress=None))]
    fn evaluate<'py>(
        &self,
        py: Python<'py>,
        ids: &Bound<'py, PyAny>,
        context: usize,
        reference: Option<&Bound<'py, Model>>,
        progress: Option<Py<PyAny>>,
    ) -> PyResult<Bound<'py, PyDict>> {
        let ids = token_ids(ids, self.n_vocab())?;
        self.fits(context)?;
        let reference = reference.map(Bound::get);
        if let Some(reference) = reference {
            reference.fits(context)?;
        }
        let mut progress = Progress::new(progress);
        let result = py.detach(|| {
            let reference = reference.map(|r| &r.model);
            eval::score(&self.model, reference, &ids, context, &mut |done, total| {
                progress.call(done, total, "evaluate")
            })
        });
        let scored = progress.finish(result.or_raise())?;

        let out = PyDict::new(py);
        let floats =
            |of: fn(&eval::Scored) -> f64| arrays::vector(py, scored.iter().map(of).collect());
        out.set_item("n_chunks", ids.len() / context)?;
        out.set_item("nll", floats(|s| s.nll))?;
        let tokens = scored.iter().map(|s| s.token as i32).collect();
        out.set_item("token", arrays::vector(py, tokens))?;
        let positions = scored.iter().map(|s| s.position as i64).collect();
        out.set_item("position", arrays::vector(py, positions))?;
        if reference.is_some() {
            out.set_item("ref_nll", floats(|s| s.ref_nll))?;
            out.set_item("kl", floats(|s| s.kl))?;
            let same = scored.iter().map(|s| s.same_top).collect();
            out.set_item("same_top", arrays::vector::<bool>(py, same))?;
            out.set_item("p", floats(eval::Scored::p))?;
            out.set_item("ref_p", floats(eval::Scored::ref_p))?;
        }
        Ok(out)
    }

    /// Perplexity of a text, as `tritlab.perplexity(model, text, ...)`.
    #[pyo3(signature = (text, *, reference=None, context=512, chunks=None, progress=None))]
    fn perplexity<'py>(
        slf: &Bound<'py, Self>,
        text: Bound<'py, PyAny>,
        reference: Option<Bound<'py, Model>>,
        context: usize,
        chunks: Option<usize>,
        progress: Option<Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        // The statistics are written once, in Python.
        let py = slf.py();
        let settings = PyDict::new(py);
        settings.set_item("reference", reference)?;
        settings.set_item("context", context)?;
        settings.set_item("chunks", chunks)?;
        settings.set_item("progress", progress)?;
        py.import("tritlab.comparison")?.call_method("perplexity", (slf, text), Some(&settings))
    }

    /// Continue `prompt`; temperature 0 is greedy, top_k 0 and top_p 1 cut nothing.
    ///
    /// `callback` gets each piece of text as soon as it is whole UTF-8; returning `False` stops.
    /// It runs on the calling thread. The result is the continuation without the prompt.
    #[pyo3(signature = (
        prompt, *, max_tokens=128, temperature=0.0, top_k=0, top_p=1.0, seed=0, callback=None
    ))]
    #[allow(clippy::too_many_arguments, reason = "they are Python's keywords")]
    fn generate(
        &self,
        py: Python<'_>,
        prompt: &str,
        max_tokens: usize,
        temperature: f32,
        top_k: usize,
        top_p: f32,
        seed: u64,
        callback: Option<Py<PyAny>>,
    ) -> PyResult<String> {
        let sampling = Sampling { temperature, top_k, top_p, seed };
        let call = |piece: &str| -> PyResult<bool> {
            Python::attach(|py| {
                let Some(callback) = &callback else { return Ok(true) };
                let answer = callback.call1(py, (PyString::new(py, piece),))?;
                Ok(!answer.bind(py).is(PyBool::new(py, false)))
            })
        };
        py.detach(|| {
            // The model works on its own threads. This one calls Python, where the caller's context is and
            // where Ctrl-C arrives, and says after each piece whether to go on.
            let (piece_in, pieces) = channel::<String>();
            let (answer_in, answers) = channel::<bool>();
            std::thread::scope(|scope| {
                let work = scope.spawn(move || {
                    self.model.generate(
                        prompt,
                        max_tokens,
                        sampling,
                        self.context,
                        &mut move |piece| {
                            piece_in.send(piece.to_owned()).is_ok()
                                && answers.recv().unwrap_or(false)
                        },
                    )
                });
                let mut outcome = Ok(());
                loop {
                    let signals = |()| Python::attach(|py| py.check_signals());
                    match pieces.recv_timeout(SIGNALS) {
                        Ok(piece) => {
                            let go_on = outcome.is_ok()
                                && match call(&piece) {
                                    Ok(go_on) => go_on,
                                    Err(error) => {
                                        outcome = Err(error);
                                        false
                                    }
                                };
                            // A worker that has finished needs no answer.
                            let _ = answer_in.send(go_on);
                        }
                        Err(RecvTimeoutError::Timeout) => {}
                        Err(RecvTimeoutError::Disconnected) => break,
                    }
                    outcome = outcome.and_then(signals);
                }
                let text = work.join().map_err(|_| TritlabError::new_err("generation panicked"))?;
                outcome.and_then(|()| text.or_raise())
            })
        })
    }

    /// Time prefill of `n_prompt` tokens and decoding of `n_gen`, after an untimed warm-up.
    #[pyo3(signature = (n_prompt=512, n_gen=128, repetitions=5, progress=None))]
    fn bench(
        &self,
        py: Python<'_>,
        n_prompt: usize,
        n_gen: usize,
        repetitions: usize,
        progress: Option<Py<PyAny>>,
    ) -> PyResult<BenchTimes> {
        if repetitions == 0 {
            return Err(ModelError::new_err("repetitions is 0, but must be at least 1"));
        }
        self.fits(n_prompt.max(n_gen))?;
        let mut progress = Progress::new(progress);
        let result = py.detach(|| {
            speed::measure(&self.model, n_prompt, n_gen, repetitions, &mut |done, total| {
                progress.call(done, total, "time")
            })
        });
        let times = progress.finish(result.or_raise())?;
        let ns = |times: &[Duration]| times.iter().map(Duration::as_nanos).collect();
        Ok(BenchTimes { prompt_ns: ns(&times.prompt), gen_ns: ns(&times.generate) })
    }

    fn __repr__(&self) -> String {
        let (architecture, name) = (self.architecture(), self.name());
        let millions = self.n_params() as f64 / 1e6;
        let format = self.format().unwrap_or("the file's own types");
        format!("<Model {architecture} {name:?}: {millions:.1} M weights, {format}>")
    }
}
