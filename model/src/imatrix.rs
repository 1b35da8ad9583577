//! Importance matrices: how large the inputs of each linear layer are, column by column, on a text.
//!
//! Formats that search for their scales weigh the error of a weight with the mean squared input that it is
//! multiplied by ([`tritlab_kernels::Matrix::quantize_weighted`]). The file is llama.cpp's
//! (`tools/imatrix/imatrix.cpp`): GGUF with `general.type` = `imatrix`, `imatrix.datasets`,
//! `imatrix.chunk_count`, `imatrix.chunk_size`, and per matrix `NAME.in_sum2`, F32 `[1][columns]`, the sums of
//! squares, and `NAME.counts`, F32 `[1][1]`, the number of tokens summed over.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::eval::windows;
use crate::gguf::{Array, Gguf, TensorType, WriteError, Writer};
use crate::model::Model;
use crate::observe::Observer;

/// The sums of one matrix.
#[derive(Clone, Debug, PartialEq)]
pub struct Sums {
    /// Sum of squares of each column's input.
    pub squares: Vec<f32>,
    /// Tokens that were summed over.
    pub count: f32,
}

/// An importance matrix for every linear layer of a model.
#[derive(Clone, Debug, Default)]
pub struct Imatrix {
    /// By the name of the weight: `blk.0.attn_q.weight`.
    pub sums: BTreeMap<String, Sums>,
    /// The texts, by name.
    pub datasets: Vec<String>,
    /// Windows of text.
    pub chunks: u32,
    /// Tokens per window.
    pub chunk_size: u32,
    /// The file it was read from, which messages name.
    path: Option<PathBuf>,
}

/// The same numbers of the same texts, wherever they are from.
impl PartialEq for Imatrix {
    fn eq(&self, other: &Self) -> bool {
        let about = |i: &Self| (i.chunks, i.chunk_size);
        about(self) == about(other) && self.datasets == other.datasets && self.sums == other.sums
    }
}

fn bad(reason: impl Into<String>) -> Error {
    Error::Imatrix { reason: reason.into() }
}

/// The error of an importance matrix with its file, which is not the model's.
fn in_file(path: &Path, error: Error) -> Error {
    match error {
        Error::Imatrix { .. } => Error::InFile { path: path.to_owned(), source: Box::new(error) },
        error => Error::in_file(path)(error),
    }
}

impl Imatrix {
    /// Runs `ids` in windows of `context` tokens, without overlap; a rest is not used. A model that begins texts
    /// with BOS gets it in place of each window's first token, as in llama.cpp. `progress` is called with
    /// (windows done, windows) and returns `false` to stop.
    ///
    /// # Errors
    /// A text shorter than one window, ids outside the vocabulary, [`Error::Cancelled`].
    pub fn collect(
        model: &Model,
        ids: &[u32],
        context: usize,
        dataset: &str,
        progress: &mut dyn FnMut(usize, usize) -> bool,
    ) -> Result<Self> {
        let n = windows(ids.len(), context)?;
        let bos = model.tokenizer().ok().filter(|t| t.adds_bos()).and_then(|t| t.bos());
        let mut collector = Collector { tokens: context, sums: BTreeMap::new() };
        for (i, window) in ids.chunks_exact(context).enumerate() {
            if !progress(i, n) {
                return Err(Error::Cancelled);
            }
            let mut window = window.to_vec();
            window[0] = bos.unwrap_or(window[0]);
            model.decoder.observe(&window, &mut collector)?;
        }
        progress(n, n);
        let count = (n * context) as f32;
        let mut sums = BTreeMap::new();
        for ((layer, part), squares) in collector.sums {
            let name = name_in_file(model, layer, part);
            let squares = squares.into_iter().map(|x| x as f32).collect();
            // The parts of a fused matrix have one input.
            sums.insert(name, Sums { squares, count });
        }
        let small = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let (chunks, chunk_size) = (small(n), small(context));
        let datasets = vec![dataset.to_owned()];
        Ok(Imatrix { sums, datasets, chunks, chunk_size, path: None })
    }

    /// Reads a file.
    ///
    /// # Errors
    /// A file that is not GGUF or holds something else; numbers that cannot be.
    pub fn read(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        Self::of_file(path).map_err(|e| in_file(path, e))
    }

    fn of_file(path: &Path) -> Result<Self> {
        let gguf = Gguf::open(path)?;
        let meta = gguf.metadata();
        let kind: String = meta.optional("general.type")?.unwrap_or_default();
        if kind != "imatrix" {
            return Err(bad(format!("general.type of the file is {kind:?}, not \"imatrix\"")));
        }
        let mut sums = BTreeMap::new();
        for info in gguf.tensors() {
            let Some(name) = info.name().strip_suffix(".in_sum2") else { continue };
            let counts = gguf
                .tensor(&format!("{name}.counts"))
                .ok_or_else(|| bad(format!("{name} has sums but no counts")))?;
            let squares = crate::source::vector(&gguf, info)?;
            let count = match crate::source::vector(&gguf, counts)?[..] {
                [count] if info.rows() == 1 => count,
                _ => {
                    return Err(bad(format!(
                        "{name} is of several experts, which no model here has"
                    )));
                }
            };
            let valid = |x: &f32| x.is_finite() && *x >= 0.0;
            if !(count > 0.0 && count.is_finite() && squares.iter().all(valid)) {
                return Err(bad(format!(
                    "{name}: sums of squares over {count} tokens are damaged"
                )));
            }
            sums.insert(name.to_owned(), Sums { squares, count });
        }
        if sums.is_empty() {
            return Err(bad("the file holds no sums (NAME.in_sum2)"));
        }
        Ok(Imatrix {
            sums,
            datasets: meta
                .optional::<Array<'_>>("imatrix.datasets")?
                .as_ref()
                .and_then(|names| Some(names.strings()?.map(str::to_owned).collect()))
                .unwrap_or_default(),
            chunks: meta.optional("imatrix.chunk_count")?.unwrap_or(0),
            chunk_size: meta.optional("imatrix.chunk_size")?.unwrap_or(0),
            path: Some(path.to_owned()),
        })
    }

    /// Writes a file, whole or not at all.
    ///
    /// # Errors
    /// A path that cannot be written.
    pub fn write(&self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        let mut writer = Writer::new();
        writer.set("general.type", "imatrix")?;
        writer.set("imatrix.datasets", Array::from_strings(self.datasets.clone()))?;
        writer.set("imatrix.chunk_count", self.chunks)?;
        writer.set("imatrix.chunk_size", self.chunk_size)?;
        let mut data: Vec<Vec<u8>> = Vec::new();
        let bytes = |x: &[f32]| x.iter().flat_map(|x| x.to_le_bytes()).collect();
        for (name, sums) in &self.sums {
            let columns = sums.squares.len() as u64;
            writer.tensor(&format!("{name}.in_sum2"), TensorType::F32, &[columns, 1])?;
            data.push(bytes(&sums.squares));
            writer.tensor(&format!("{name}.counts"), TensorType::F32, &[1, 1])?;
            data.push(bytes(&[sums.count]));
        }
        let mut data = data.into_iter();
        writer.write(path, |_, out| -> Result<(), WriteError> {
            Ok(out.write_all(&data.next().unwrap_or_default())?)
        })?;
        Ok(())
    }

    fn blame(&self, reason: String) -> Error {
        match &self.path {
            Some(path) => in_file(path, bad(reason)),
            None => bad(reason),
        }
    }

    /// Refuses what is of a layer that the model does not have, `is_there` says by GGUF's names: it is of another
    /// model, whose first layers may have the same widths.
    pub(crate) fn check_layers(&self, is_there: impl Fn(&str) -> bool) -> Result<()> {
        match self.sums.keys().find(|name| name.starts_with("blk.") && !is_there(name)) {
            None => Ok(()),
            Some(name) => {
                Err(self
                    .blame(format!("it has {name}, and the model has not: it is of another model")))
            }
        }
    }

    /// Mean squared input of each column of the matrix `name`; a part of a fused matrix has the whole one's.
    ///
    /// # Errors
    /// [`Error::Imatrix`] if it is not there, or has another number of columns.
    pub fn importance(&self, name: &str, columns: usize) -> Result<Vec<f32>> {
        let name = name.split('[').next().unwrap_or(name);
        let bad = |reason: String| self.blame(reason);
        let sums = self
            .sums
            .get(name)
            .ok_or_else(|| bad(format!("it has nothing for {name}: is it of another model?")))?;
        let found = sums.squares.len();
        if found != columns {
            return Err(bad(format!("{name} has {columns} columns, but {found} importances")));
        }
        if sums.squares.iter().all(|x| *x == 0.0) {
            return Err(bad(format!("all {found} sums of squares of {name} are 0")));
        }
        Ok(sums.squares.iter().map(|x| x / sums.count).collect())
    }
}

/// The weight in the model's file that a linear layer's matrix, or a part of it, comes from.
fn name_in_file(model: &Model, layer: usize, part: &str) -> String {
    let own = format!("blk.{layer}.{part}.weight");
    let fused = match part {
        "attn_q" | "attn_k" | "attn_v" => format!("blk.{layer}.attn_qkv.weight"),
        _ => format!("blk.{layer}.ffn_up.weight"),
    };
    let is_there = |name: &str| model.tensors.iter().any(|t| t.gguf_name == name);
    if !is_there(&own) && is_there(&fused) { fused } else { own }
}

/// Sums of squares in f64, by layer and linear layer.
struct Collector {
    tokens: usize,
    sums: BTreeMap<(usize, &'static str), Vec<f64>>,
}

impl Observer for Collector {
    fn input(&mut self, layer: usize, names: &[&'static str], x: &[f32]) {
        let columns = x.len() / self.tokens;
        for name in names {
            let sums = self.sums.entry((layer, name)).or_default();
            sums.resize(columns, 0.0);
            for row in x.chunks_exact(columns) {
                for (sum, x) in sums.iter_mut().zip(row) {
                    *sum += f64::from(*x) * f64::from(*x);
                }
            }
        }
    }
}
