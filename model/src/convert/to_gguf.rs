//! A folder as a GGUF file.

use std::io::Write;
use std::path::Path;

use tritlab_kernels::{Format, Matrix, Scales, Weights};

use super::{Summary, keys};
use crate::config::Config;
use crate::error::{Error, Result};
use crate::gguf::{TensorType, Value, WriteError, Writer};
use crate::hugging_face::{Folder, names};
use crate::model::Progress;
use crate::source::{gather, interleaved};
use crate::tensors::{Source, Stored, check_all_used};
use crate::tokenizer::Tokenizer;

/// Weights that are converted together where a matrix is not copied as it is.
const ROWS: usize = 64;

/// What a tensor of the file is made from.
enum Content<'a> {
    /// A norm or bias.
    Vector(Stored),
    /// A matrix in its own type.
    Dense(Stored),
    /// The codes of a BitLinear layer, with block scales of 1.
    Codes(Stored),
    /// The scale of the codes before it.
    Scale,
    /// A table of the configuration.
    Table(&'a [f32]),
}

pub(super) fn write(
    source: &Path,
    destination: &Path,
    progress: &mut Progress<'_>,
) -> Result<Summary> {
    let folder = Folder::open(source)?;
    let config = folder.config()?;
    let mut writer = Writer::new();
    writer.set("general.architecture", config.architecture.clone())?;
    if let Some(name) = source.canonicalize().ok().as_deref().and_then(Path::file_name) {
        writer.set("general.name", name.to_string_lossy().into_owned())?;
    }
    let tables = keys::write(&mut writer, &config)?;
    let plan = plan(&folder, &config, &tables)?;
    let linear = plan.iter().find(|(name, ..)| names::is_linear_weight(name)).map(|p| p.1);
    writer.set("general.file_type", file_type(linear))?;
    writer.set("general.quantization_version", 2u32)?;
    tokenizer(&mut writer, &folder, source, config.vocab)?;
    for (name, ty, dims, _) in &plan {
        writer.tensor(name, *ty, dims)?;
    }
    let total = plan.len();
    let mut todo = plan.iter().enumerate();
    let mut scale = 0.0;
    writer.write(destination, |info, out| -> Result<(), WriteError> {
        let Some((done, (.., content))) = todo.next() else { return Ok(()) };
        if !progress(done, total, info.name()) {
            return Err(Error::Cancelled.into());
        }
        match content {
            Content::Vector(t) => floats(out, &ordered_vector(&folder, &config, t)?)?,
            Content::Table(x) => floats(out, x)?,
            Content::Scale => floats(out, &[scale])?,
            Content::Dense(t) => {
                let m = ordered(&folder, &config, t)?;
                out.write_all(m.bytes())?;
                folder.release(t);
            }
            Content::Codes(t) => {
                let m = ordered(&folder, &config, t)?;
                scale = m.scales()[0];
                codes(out, t, &m)?;
                folder.release(t);
            }
        }
        Ok(())
    })?;
    let bytes_out = std::fs::metadata(destination).map_err(Error::io(destination))?.len();
    Ok(Summary { tensors: total, rounded: Vec::new(), bytes_out })
}

/// Every tensor of the file: name, type, dimensions, content.
#[allow(clippy::type_complexity, reason = "one use")]
fn plan<'a>(
    folder: &Folder,
    config: &Config,
    tables: &[keys::Table<'a>],
) -> Result<Vec<(String, TensorType, Vec<u64>, Content<'a>)>> {
    let mut plan = Vec::new();
    for (name, table) in tables {
        let dims = vec![table.len() as u64];
        plan.push(((*name).to_owned(), TensorType::F32, dims, Content::Table(table)));
    }
    let mut used = std::collections::HashSet::new();
    for name in names::all(config.layers) {
        let Some(tensor) = folder.find(&name) else { continue };
        used.insert(tensor.own_name.clone());
        let dims = vec![tensor.cols as u64, tensor.rows as u64];
        if folder.is_vector(&tensor) {
            plan.push((name, TensorType::F32, vec![tensor.cols as u64], Content::Vector(tensor)));
        } else if folder.is_ternary(&tensor) {
            let stem = name.trim_end_matches(".weight").to_owned();
            Format::TQ2_0
                .row_bytes(tensor.cols)
                .map_err(|source| Error::Tensor { tensor: tensor.own_name.clone(), source })?;
            plan.push((name, TensorType::TQ2_0, dims, Content::Codes(tensor)));
            plan.push((format!("{stem}.scale"), TensorType::F32, vec![1], Content::Scale));
        } else {
            let ty = TensorType::ALL.iter().find(|t| t.name() == tensor.file_type);
            let dense = [TensorType::F32, TensorType::F16, TensorType::BF16];
            let Some(&ty) = ty.filter(|t| dense.contains(t)) else {
                // Says which type it has and where.
                folder.matrix(&tensor)?;
                continue;
            };
            plan.push((name, ty, dims, Content::Dense(tensor)));
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

/// The codes of `m` in TQ2_0, some rows at a time.
fn codes(out: &mut dyn Write, tensor: &Stored, m: &Matrix<'_>) -> Result<(), WriteError> {
    debug_assert_eq!(m.format().info().scales, Scales::Tensor, "one scale");
    let blame = |source| Error::Tensor { tensor: tensor.own_name.clone(), source };
    let (rows, cols) = (m.rows(), m.cols());
    let ones = Matrix::new(m.format(), rows, cols, m.bytes(), vec![1.0]).map_err(blame)?;
    let mut w = vec![0.0; ROWS * cols];
    for first in (0..rows).step_by(ROWS) {
        let n = ROWS.min(rows - first);
        for (i, row) in w.chunks_exact_mut(cols).take(n).enumerate() {
            ones.dequantize_row(first + i, row);
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
    if !file.is_file() {
        writer.set("tokenizer.ggml.model", "no_vocab".to_owned())?;
        return Ok(());
    }
    let tokenizer: Tokenizer = folder.tokenizer()?;
    let json = std::fs::read_to_string(&file).map_err(Error::io(&file))?;
    let parsed: serde_json::Value = serde_json::from_str(&json)
        .map_err(|e| Error::in_file(&file)(Error::BadJson { reason: e.to_string() }))?;
    if !super::tokenizer::write_tables(writer, &parsed, vocab)? {
        writer.set("tokenizer.ggml.model", "no_vocab".to_owned())?;
    }
    writer.set("tokenizer.huggingface.json", json)?;
    for (key, id) in [("bos", tokenizer.bos()), ("eos", tokenizer.eos())] {
        if let Some(id) = id {
            writer.set(&format!("tokenizer.ggml.{key}_token_id"), Value::U32(id))?;
        }
    }
    writer.set("tokenizer.ggml.add_bos_token", tokenizer.adds_bos())?;
    if let Some(template) = tokenizer.chat_template() {
        writer.set("tokenizer.chat_template", template.to_owned())?;
    }
    Ok(())
}
