//! A GGUF file as a folder: `config.json`, `model.safetensors`, and what the file has of a tokenizer.

use std::borrow::Cow;
use std::cell::{Cell, RefCell};
use std::collections::HashSet;
use std::path::Path;

use safetensors::{Dtype, View};
use serde_json::{Value, json};
use tritlab_kernels::{Format, Matrix, Scales, Weights};

use super::config_json::{self, Found};
use super::{CLASSES, LINEAR_CLASS, PHI3_WINDOW, Summary, WEIGHT_SCALE};
use crate::bitlinear;
use crate::config::{Config, count};
use crate::error::{Error, Result};
use crate::gguf::Gguf;
use crate::hugging_face::names::{self, Names};
use crate::model::{Progress, fold};
use crate::source::{format_of, gather, halves};
use crate::tensors::{File, Roles, Source, Stored, check_all_used};
use crate::tokenizer::Tokenizer;

/// What a tensor of the folder is made from.
#[derive(Clone, Debug)]
enum Content {
    Vector(Stored),
    /// A matrix in its own element type, or in F32.
    Dense(Stored),
    /// The packed codes of a BitLinear layer.
    Codes(Stored),
    /// Its scale.
    Scale(f32),
}

/// A tensor of the folder.
#[derive(Clone, Debug)]
struct Out {
    name: String,
    dtype: Dtype,
    shape: Vec<usize>,
    content: Content,
}

/// What the tensors are made of, and what became of making them.
struct Job<'a, 'p> {
    file: &'a File,
    config: &'a Config,
    total: usize,
    done: Cell<usize>,
    progress: RefCell<&'a mut Progress<'p>>,
    /// The first error: the writer asks for bytes and takes no other answer.
    error: RefCell<Option<Error>>,
}

pub(super) fn write(
    file: &File,
    destination: &Path,
    progress: &mut Progress<'_>,
) -> Result<Summary> {
    let config = file.config()?;
    let (outs, found) = plan(file, &config)?;
    let parent = match destination.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let mut builder = tempfile::Builder::new();
    #[cfg(unix)] // a temporary folder is private by default; a model should follow the umask
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o777));
    let folder =
        builder.prefix(".tritlab-").tempdir_in(parent).map_err(Error::temporary_in(parent))?;

    let save = |name: &str, bytes: &[u8]| {
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).map_err(Error::io(&path))
    };
    save("config.json", &pretty(&config_json::write(&config, &found)?))?;
    let tokenizer = tokenizer(file, &found.roles, &save)?;
    let total = outs.len();
    let job = Job {
        file,
        config: &config,
        total,
        done: Cell::new(0),
        progress: RefCell::new(progress),
        error: RefCell::new(None),
    };
    let weights = folder.path().join("model.safetensors");
    let views: Vec<_> =
        outs.iter().map(|out| (out.name.clone(), Tensor { job: &job, out })).collect();
    let metadata = [("format".to_owned(), "pt".to_owned())].into();
    let written = safetensors::serialize_to_file(views, Some(metadata), &weights);
    if let Some(error) = job.error.take() {
        return Err(error);
    }
    written.map_err(|e| Error::io(destination)(std::io::Error::other(e)))?;
    let bytes_out = std::fs::metadata(&weights).map_err(Error::io(&weights))?.len();
    // Mapped files are readable by all that the umask allows, as the rest of the folder is.
    let temporary = folder.keep();
    if let Err(e) = std::fs::rename(&temporary, destination) {
        let _ = std::fs::remove_dir_all(&temporary);
        return Err(Error::io(destination)(e));
    }
    Ok(Summary { tensors: total, bytes_out, tokenizer })
}

/// Every tensor of the folder.
fn plan(file: &File, config: &Config) -> Result<(Vec<Out>, Found)> {
    let names = Names::of_architecture(&config.architecture);
    let (mut outs, mut dense) = (Vec::new(), Vec::new());
    let mut used = HashSet::new();
    let mut found = Found {
        tied: true,
        attention_bias: false,
        mlp_bias: false,
        not_ternary: None,
        linear_class: "autobitlinear",
        exact_scales: false,
        window: window(file, config)?,
        roles: file.roles()?,
    };
    let mut any_ternary = false;
    for name in names::all(config) {
        let Some(tensor) = file.find(&name) else { continue };
        used.insert(tensor.own_name.clone());
        found.tied &= name != "output.weight";
        found.attention_bias |= name.ends_with(".bias") && name.contains(".attn_");
        found.mlp_bias |= name.ends_with(".bias") && name.contains(".ffn_");
        if name.ends_with(".scale") {
            continue;
        }
        let own = names.own(&name);
        let info = file.gguf.tensor(&name).map_or(0, |t| t.dims().len());
        if info <= 1 {
            let (shape, content) = (vec![tensor.cols], Content::Vector(tensor));
            outs.push(Out { name: own, dtype: Dtype::F32, shape, content });
            continue;
        }
        let shape = vec![tensor.rows, tensor.cols];
        if let Some(factor) = ternary_factor(file, &tensor)? {
            if !tensor.rows.is_multiple_of(4) {
                let found = shape.iter().map(|n| *n as u64).collect();
                let expected = vec![tensor.rows.next_multiple_of(4) as u64, tensor.cols as u64];
                return Err(Error::ShapeMismatch { tensor: name, expected, found });
            }
            any_ternary = true;
            let content = Content::Scale(factor);
            let name = format!("{own}_scale");
            outs.push(Out { name, dtype: Dtype::F32, shape: vec![1], content });
            let shape = vec![tensor.rows / 4, tensor.cols];
            let content = Content::Codes(tensor);
            outs.push(Out { name: own, dtype: Dtype::U8, shape, content });
            continue;
        }
        if file.find(&scale_name(&name)).is_some() {
            let reason =
                "a factor on products has no place in a folder, except a BitLinear layer's";
            let tensor = scale_name(&name);
            return Err(Error::BadTensor { tensor, reason: reason.to_owned() });
        }
        if names::is_linear_weight(&name) {
            dense.push(own.trim_end_matches(".weight").to_owned());
        }
        let dtype = match file.gguf.tensor(&name).and_then(|t| format_of(t.tensor_type())) {
            Some(Format::F16) => Dtype::F16,
            Some(Format::BF16) => Dtype::BF16,
            _ => Dtype::F32,
        };
        outs.push(Out { name: own, dtype, shape, content: Content::Dense(tensor) });
    }
    if any_ternary {
        dense.push(names.head.clone());
        found.not_ternary = Some(dense);
    }
    check_all_used(file, &used, &config.architecture)?;
    let scales = outs.iter_mut().filter_map(|out| match &mut out.content {
        Content::Scale(s) => Some(s),
        _ => None,
    });
    store_scales(file, &mut found, scales.collect())?;
    Ok((outs, found))
}

/// Makes of factors what a folder has for them: with one meaning for all of a model. A file that was made of a
/// folder knows that folder's, of which a factor's inverse is not always one.
fn store_scales(file: &File, found: &mut Found, scales: Vec<&mut f32>) -> Result<()> {
    let metadata = file.gguf.metadata();
    let stated: Vec<f32> = metadata.optional(WEIGHT_SCALE)?.unwrap_or_default();
    let class = metadata.optional::<Cow<'_, str>>(LINEAR_CLASS)?;
    let class = CLASSES.into_iter().find(|(name, _)| class.as_deref() == Some(name));
    if let Some((name, multiply)) = class
        && stated.len() == scales.len()
        && stated.iter().zip(&scales).all(|(s, f)| bitlinear::factor(*s, multiply) == **f)
    {
        found.linear_class = name;
        scales.into_iter().zip(stated).for_each(|(scale, stated)| *scale = stated);
        return Ok(());
    }
    found.exact_scales = scales.iter().any(|s| stored_scale(**s).is_none());
    if !found.exact_scales {
        scales.into_iter().for_each(|s| *s = stored_scale(*s).unwrap_or(*s));
    }
    Ok(())
}

/// Phi-3's window as the file states it: one that is no smaller than the context is none when a model runs.
fn window(file: &File, config: &Config) -> Result<Option<usize>> {
    match config.architecture.as_str() {
        "phi3" => Ok(count(&file.gguf, PHI3_WINDOW)?.filter(|w| *w != 0)),
        _ => Ok(None),
    }
}

fn scale_name(weight: &str) -> String {
    format!("{}.scale", weight.trim_end_matches(".weight"))
}

/// The factor of a matrix that is BitLinear's.
fn ternary_factor(file: &File, tensor: &Stored) -> Result<Option<f32>> {
    if !names::is_linear_weight(&tensor.name) {
        return Ok(None);
    }
    let m = matrix(file, tensor)?;
    let ternary = matches!(m.format(), Format::TERNARY | Format::TERNARY_B3);
    Ok(ternary.then(|| m.scales()[0]))
}

/// The matrix with a factor outside it drawn in, where it can be.
fn matrix<'a>(file: &'a File, tensor: &Stored) -> Result<Matrix<'a>> {
    let m = file.matrix(tensor)?;
    let scale = match file.find(&scale_name(&tensor.name)) {
        Some(scale) => Some(file.vector(&scale)?[0]),
        None => None,
    };
    let left = scale.is_some() && m.format().info().scales != Scales::Tensor;
    Ok(if left { m } else { fold(m, scale)?.0 })
}

/// The `weight_scale` whose inverse of an inverse is `factor`; not every f32 is one.
fn stored_scale(factor: f32) -> Option<f32> {
    let near = [factor, factor.next_up(), factor.next_down()];
    near.into_iter().find(|s| bitlinear::factor(*s, true) == factor)
}

/// A tensor as the writer wants it: its bytes when their turn has come.
struct Tensor<'a, 'p> {
    job: &'a Job<'a, 'p>,
    out: &'a Out,
}

impl View for Tensor<'_, '_> {
    fn dtype(&self) -> Dtype {
        self.out.dtype
    }

    fn shape(&self) -> &[usize] {
        &self.out.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        let job = self.job;
        if job.error.borrow().is_some() {
            return Cow::Borrowed(&[]);
        }
        let done = job.done.replace(job.done.get() + 1);
        let go_on = (job.progress.borrow_mut())(done, job.total, &self.out.name);
        let bytes = if go_on { self.bytes() } else { Err(Error::Cancelled) };
        bytes.unwrap_or_else(|e| {
            *job.error.borrow_mut() = Some(e);
            Cow::Borrowed(&[])
        })
    }

    fn data_len(&self) -> usize {
        self.out.shape.iter().product::<usize>() * self.out.dtype.bitsize() / 8
    }
}

impl Tensor<'_, '_> {
    fn bytes(&self) -> Result<Cow<'_, [u8]>> {
        let (file, config) = (self.job.file, self.job.config);
        let is_interleaved = |t: &Stored| {
            config.interleaved && (t.name.contains(".attn_q.") || t.name.contains(".attn_k."))
        };
        let order = |rows| halves(rows, config.head_dim, config.rope.dims);
        let floats = |x: Vec<f32>| Cow::Owned(x.iter().flat_map(|v| v.to_le_bytes()).collect());
        Ok(match &self.out.content {
            Content::Scale(s) => Cow::Owned(s.to_le_bytes().to_vec()),
            Content::Vector(t) => {
                let mut x = file.vector(t)?;
                if is_interleaved(t) && t.name.ends_with(".bias") {
                    x = order(x.len()).map(|r| x[r]).collect();
                }
                // Adding 1 again gives the same numbers: what GGUF holds is a sum with 1 already.
                if config.architecture == "gemma3" && t.name.ends_with("_norm.weight") {
                    x.iter_mut().for_each(|w| *w -= 1.0);
                }
                floats(x)
            }
            Content::Dense(t) | Content::Codes(t) => {
                let m = matrix(file, t)?;
                let m = if is_interleaved(t) { gather(&m, order(m.rows()))? } else { m };
                let bytes: Cow<'_, [u8]> = match (&self.out.content, self.out.dtype) {
                    (Content::Codes(_), _) => Cow::Owned(bitlinear::pack(&t.name, &m)?),
                    (_, Dtype::F16 | Dtype::BF16) => Cow::Owned(m.bytes().to_vec()),
                    _ => floats(m.dequantize()),
                };
                file.release(t);
                bytes
            }
        })
    }
}

/// What the file has of a tokenizer.
fn tokenizer(
    file: &File,
    roles: &Roles,
    save: &impl Fn(&str, &[u8]) -> Result<()>,
) -> Result<bool> {
    let metadata = file.gguf.metadata();
    let whole = metadata.optional::<Cow<'_, str>>("tokenizer.huggingface.json")?;
    let Ok(tokenizer) = file.tokenizer() else {
        if *roles != Roles::default() {
            save("generation_config.json", &pretty(&config_json::ids(roles)))?;
        }
        return Ok(false);
    };
    let mut saved = true;
    if let Some(json) = whole {
        save("tokenizer.json", json.as_bytes())?;
    } else if let Some(json) = json_of_tables(&file.gguf, &tokenizer)? {
        save("tokenizer.json", &pretty(&json))?;
    } else {
        saved = false;
    }
    let text = |id: Option<u32>| {
        id.and_then(|id| tokenizer.token(id)).filter(|text| !text.is_empty()).map(str::to_owned)
    };
    let config = json!({
        "bos_token": text(tokenizer.bos()),
        "eos_token": text(tokenizer.eos()),
        "pad_token": text(roles.pad),
        "add_bos_token": tokenizer.adds_bos(),
        "add_eos_token": tokenizer.adds_eos(),
        "chat_template": tokenizer.chat_template(),
    });
    save("tokenizer_config.json", &pretty(&config))?;
    // As stated: those that end a text by their names are found again.
    let (bos, eos) = (tokenizer.bos(), tokenizer.eos());
    let others = roles.ends.iter().copied().filter(|id| Some(*id) != eos);
    let ends = eos.into_iter().chain(others).collect();
    let generation = config_json::ids(&Roles { bos, ends, pad: roles.pad });
    save("generation_config.json", &pretty(&generation))?;
    Ok(saved)
}

/// The file's tables as `tokenizer.json`, if that has a form for them.
fn json_of_tables(gguf: &Gguf, tokenizer: &Tokenizer) -> Result<Option<Value>> {
    match super::tokenizer::from_tables(gguf, tokenizer)? {
        None => super::sentencepiece::from_tables(gguf, tokenizer),
        found => Ok(found),
    }
}

fn pretty(json: &Value) -> Vec<u8> {
    let mut text = serde_json::to_vec_pretty(json).unwrap_or_default();
    text.push(b'\n');
    text
}
