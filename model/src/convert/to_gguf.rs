//! A folder as a GGUF file.

use std::cell::Cell;
use std::io::Write;
use std::path::{Path, PathBuf};

use tritlab_kernels::{Format, Matrix, Weights};

use super::{CLASSES, LINEAR_CLASS, PHI3_WINDOW, Summary, WEIGHT_SCALE, keys};
use crate::config::Config;
use crate::error::{Error, Result};
use crate::gguf::{Array, TensorInfo, TensorType, Value, WriteError, Writer};
use crate::hugging_face::ids::file_of;
use crate::hugging_face::{Folder, names};
use crate::model::Progress;
use crate::quantize::Origin;
use crate::source::{gather, interleaved};
use crate::tensors::{Roles, Source, Stored, check_all_used, located};
use crate::tokenizer::Tokenizer;

/// GGUF's keys for ids that end a text or a turn.
const ENDS: [&str; 3] = ["eos", "eot", "eom"];
/// Weights that are converted together where a matrix is not copied as it is.
const ROWS: usize = 64;

/// What a tensor of the file is made from.
enum Content {
    /// A norm or bias.
    Vector(Stored),
    /// A matrix in its own type.
    Dense(Stored),
    /// The codes of a BitLinear layer, with block scales of 1.
    Codes(Stored),
    /// The scale of the codes before it.
    Scale,
    /// A table of the configuration.
    Table(Vec<f32>),
}

/// A folder as the contents of a GGUF file.
pub(crate) struct Contents {
    folder: Folder,
    config: Config,
    path: PathBuf,
    tensors: Vec<Planned>,
    /// The scale of the codes that were read last.
    scale: Cell<f32>,
}

struct Planned {
    name: String,
    ty: TensorType,
    dims: Vec<u64>,
    content: Content,
}

impl Contents {
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let folder = Folder::open(path)?;
        let config = folder.config()?;
        let tensors = plan(&folder, &config).map_err(|e| located(&folder, e))?;
        Ok(Contents { folder, config, path: path.to_owned(), tensors, scale: Cell::new(0.0) })
    }

    /// Sets the keys and returns what tensors there are.
    fn describe(&self, writer: &mut Writer<'_>) -> Result<()> {
        writer.set("general.architecture", self.config.architecture.clone())?;
        if let Some(name) = self.path.canonicalize().ok().as_deref().and_then(Path::file_name) {
            writer.set("general.name", name.to_string_lossy().into_owned())?;
        }
        keys::write(writer, &self.config).map_err(|e| self.folder.in_own_words(e))?;
        if let Some(window) = self.folder.phi3_window() {
            writer.set(PHI3_WINDOW, keys::number(window))?;
        }
        self.scales(writer)?;
        let linear = self.tensors.iter().find(|t| names::is_linear_weight(&t.name)).map(|t| t.ty);
        writer.set("general.file_type", file_type(linear))?;
        writer.set("general.quantization_version", 2u32)?;
        tokenizer(writer, &self.folder, &self.path, self.config.vocab)
    }

    /// Sets the scales of BitLinear layers, if the folder has one of each that takes its way through inverses.
    fn scales(&self, writer: &mut Writer<'_>) -> Result<()> {
        let codes = self.tensors.iter().filter_map(|t| match &t.content {
            Content::Codes(t) => Some(self.folder.weight_scale(t)),
            _ => None,
        });
        let scales: Option<Vec<f32>> = codes.collect::<Result<_>>()?;
        let class = self.folder.multiplies();
        let class = CLASSES.into_iter().find(|(_, multiply)| Some(*multiply) == class);
        if let (Some(scales), Some((class, _))) = (scales.filter(|s| !s.is_empty()), class) {
            writer.set(LINEAR_CLASS, class.to_owned())?;
            writer.set(WEIGHT_SCALE, Array::from_f32(&scales))?;
        }
        Ok(())
    }
}

impl Origin for Contents {
    fn keys<'a>(&'a self, writer: &mut Writer<'a>) -> Result<()> {
        self.describe(writer).map_err(|e| located(&self.folder, e))
    }

    fn tensors(&self) -> Result<Vec<TensorInfo>> {
        self.tensors.iter().map(|t| TensorInfo::new(&t.name, t.ty, &t.dims)).collect()
    }

    fn matrix(&self, i: usize) -> Result<Matrix<'_>> {
        match &self.tensors[i].content {
            Content::Dense(t) => ordered(&self.folder, &self.config, t),
            Content::Codes(t) => {
                let m = ordered(&self.folder, &self.config, t)?;
                self.scale.set(m.scales()[0]);
                let blame = |source| Error::Tensor { tensor: t.own_name.clone(), source };
                Matrix::new(m.format(), m.rows(), m.cols(), m.bytes().to_vec(), vec![1.0])
                    .map_err(blame)
            }
            Content::Vector(_) | Content::Scale | Content::Table(_) => {
                let tensor = self.tensors[i].name.clone();
                Err(Error::BadTensor { tensor, reason: "it is no matrix".to_owned() })
            }
        }
        .map_err(|e| located(&self.folder, e))
    }

    fn write(&self, i: usize, out: &mut dyn Write) -> Result<(), WriteError> {
        match &self.tensors[i].content {
            Content::Vector(t) => floats(out, &ordered_vector(&self.folder, &self.config, t)?)?,
            Content::Table(x) => floats(out, x)?,
            Content::Scale => floats(out, &[self.scale.get()])?,
            Content::Dense(_) => out.write_all(self.matrix(i)?.bytes())?,
            Content::Codes(t) => codes(out, t, &self.matrix(i)?)?,
        }
        Ok(())
    }

    fn release(&self, i: usize) {
        if let Content::Dense(t) | Content::Codes(t) = &self.tensors[i].content {
            self.folder.release(t);
        }
    }

    fn blame(&self, error: Error) -> Error {
        located(&self.folder, error)
    }

    fn size(&self) -> u64 {
        self.folder.tensors().map(|(.., nbytes)| nbytes as u64).sum()
    }
}

pub(super) fn write(
    source: &Path,
    destination: &Path,
    progress: &mut Progress<'_>,
) -> Result<Summary> {
    let contents = Contents::open(source)?;
    let mut writer = Writer::new();
    contents.keys(&mut writer)?;
    for t in &contents.tensors {
        writer.tensor(&t.name, t.ty, &t.dims)?;
    }
    let total = contents.tensors.len();
    let mut done = 0;
    writer.write(destination, |info, out| -> Result<(), WriteError> {
        if !progress(done, total, info.name()) {
            return Err(Error::Cancelled.into());
        }
        contents.write(done, out)?;
        contents.release(done);
        done += 1;
        Ok(())
    })?;
    let bytes_out = std::fs::metadata(destination).map_err(Error::io(destination))?.len();
    let tokenizer = contents.path.join("tokenizer.json").is_file();
    Ok(Summary { tensors: total, bytes_out, tokenizer })
}

/// Every tensor of the file.
fn plan(folder: &Folder, config: &Config) -> Result<Vec<Planned>> {
    let mut plan = Vec::new();
    let mut add = |name: &str, ty, dims, content| {
        plan.push(Planned { name: name.to_owned(), ty, dims, content });
    };
    let tables = keys::write(&mut Writer::new(), config).map_err(|e| folder.in_own_words(e))?;
    for (name, table) in tables {
        let dims = vec![table.len() as u64];
        add(name, TensorType::F32, dims, Content::Table(table.to_vec()));
    }
    let mut used = std::collections::HashSet::new();
    for name in names::all(config) {
        let Some(tensor) = folder.find(&name) else { continue };
        used.insert(tensor.own_name.clone());
        let dims = vec![tensor.cols as u64, tensor.rows as u64];
        if folder.is_vector(&tensor) {
            add(&name, TensorType::F32, vec![tensor.cols as u64], Content::Vector(tensor));
        } else if folder.is_ternary(&tensor) {
            let stem = name.trim_end_matches(".weight").to_owned();
            Format::TQ2_0
                .row_bytes(tensor.cols)
                .map_err(|source| Error::Tensor { tensor: tensor.own_name.clone(), source })?;
            add(&name, TensorType::TQ2_0, dims, Content::Codes(tensor));
            add(&format!("{stem}.scale"), TensorType::F32, vec![1], Content::Scale);
        } else {
            let ty = TensorType::ALL.iter().find(|t| t.name() == tensor.file_type);
            let dense = [TensorType::F32, TensorType::F16, TensorType::BF16];
            let Some(&ty) = ty.filter(|t| dense.contains(t)) else {
                // Says which type it has and where.
                folder.matrix(&tensor)?;
                continue;
            };
            add(&name, ty, dims, Content::Dense(tensor));
        }
    }
    check_all_used(folder, &used, &config.architecture)?;
    Ok(plan)
}

/// Whether GGUF keeps the rows of this tensor interleaved.
fn is_interleaved(config: &Config, name: &str) -> bool {
    config.architecture == "llama" && (name.contains(".attn_q.") || name.contains(".attn_k."))
}

/// The matrix with its rows in GGUF's order.
fn ordered<'a>(folder: &'a Folder, config: &Config, tensor: &Stored) -> Result<Matrix<'a>> {
    let m = folder.matrix(tensor)?;
    match is_interleaved(config, &tensor.name) {
        true => gather(&m, interleaved(m.rows(), config.head_dim, config.rope.dims)),
        false => Ok(m),
    }
}

fn ordered_vector(folder: &Folder, config: &Config, tensor: &Stored) -> Result<Vec<f32>> {
    let x = folder.vector(tensor)?;
    Ok(match is_interleaved(config, &tensor.name) && tensor.name.ends_with(".bias") {
        true => interleaved(x.len(), config.head_dim, config.rope.dims).map(|r| x[r]).collect(),
        false => x,
    })
}

/// The codes of `m`, whose scale is 1, in TQ2_0, some rows at a time.
fn codes(out: &mut dyn Write, tensor: &Stored, m: &Matrix<'_>) -> Result<(), WriteError> {
    let blame = |source| Error::Tensor { tensor: tensor.own_name.clone(), source };
    let (rows, cols) = (m.rows(), m.cols());
    let mut w = vec![0.0; ROWS * cols];
    for first in (0..rows).step_by(ROWS) {
        let n = ROWS.min(rows - first);
        for (i, row) in w.chunks_exact_mut(cols).take(n).enumerate() {
            m.dequantize_row(first + i, row);
        }
        let part = Matrix::quantize(Format::TQ2_0, n, cols, &w[..n * cols]).map_err(blame)?;
        out.write_all(part.bytes())?;
    }
    Ok(())
}

fn floats(out: &mut dyn Write, x: &[f32]) -> std::io::Result<()> {
    x.iter().try_for_each(|v| out.write_all(&v.to_le_bytes()))
}

/// llama.cpp's `llama_ftype`.
fn file_type(linear: Option<TensorType>) -> u32 {
    match linear {
        Some(TensorType::F16) => 1,
        Some(TensorType::BF16) => 32,
        Some(TensorType::TQ2_0) => 37,
        _ => 0,
    }
}

/// `tokenizer.json` goes into the file whole, under the key that ggml has for it, with the ids and the chat template
/// of the files beside it; and as tables, for programs that read nothing else, where it is byte-level BPE.
fn tokenizer(writer: &mut Writer<'_>, folder: &Folder, path: &Path, vocab: usize) -> Result<()> {
    let file = path.join("tokenizer.json");
    let stated = folder.roles()?;
    if !file.is_file() {
        writer.set("tokenizer.ggml.model", "no_vocab".to_owned())?;
        return ids(writer, &stated, path);
    }
    let tokenizer: Tokenizer = folder.tokenizer()?;
    let json = std::fs::read_to_string(&file).map_err(Error::io(&file))?;
    let parsed: serde_json::Value = serde_json::from_str(&json)
        .map_err(|e| Error::in_file(&file)(Error::BadJson { reason: e.to_string() }))?;
    if !super::tokenizer::write_tables(writer, &parsed, vocab)? {
        writer.set("tokenizer.ggml.model", "no_vocab".to_owned())?;
    }
    writer.set("tokenizer.huggingface.json", json)?;
    let others = stated.ends.into_iter().filter(|id| Some(*id) != tokenizer.eos());
    let (named, others): (Vec<_>, Vec<_>) = others.partition(|id| tokenizer.ends_by_name(*id));
    let mut ends: Vec<u32> = tokenizer.eos().into_iter().chain(others).collect();
    // Those that end a text by their names are found without a key, and get one where there is room.
    ends.extend(named.into_iter().take(ENDS.len().saturating_sub(ends.len())));
    let pad = tokenizer.pad().or(stated.pad);
    ids(writer, &Roles { bos: tokenizer.bos(), ends, pad }, path)?;
    writer.set("tokenizer.ggml.add_bos_token", tokenizer.adds_bos())?;
    if tokenizer.adds_eos() {
        writer.set("tokenizer.ggml.add_eos_token", true)?;
    }
    if let Some(template) = tokenizer.chat_template() {
        writer.set("tokenizer.chat_template", template.to_owned())?;
    }
    Ok(())
}

/// Sets the ids with a role. GGUF has three keys for ids that end a text or a turn.
fn ids(writer: &mut Writer<'_>, roles: &Roles, folder: &Path) -> Result<()> {
    const KEY: &str = "eos_token_id";
    if let Some(id) = roles.ends.get(ENDS.len()) {
        let reason =
            format!("GGUF has keys for three ids that end a text, and none for the fourth, {id}");
        let error = Error::BadConfig { key: KEY.to_owned(), reason };
        return Err(Error::in_file(file_of(folder, KEY)?)(error));
    }
    let ends = ENDS.into_iter().zip(roles.ends.iter().copied());
    let bos = roles.bos.map(|id| ("bos", id));
    let pad = roles.pad.map(|id| ("padding", id));
    for (key, id) in bos.into_iter().chain(ends).chain(pad) {
        writer.set(&format!("tokenizer.ggml.{key}_token_id"), Value::U32(id))?;
    }
    Ok(())
}
