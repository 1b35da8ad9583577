//! Hugging Face folders: `config.json`, safetensors, `tokenizer.json`.
//!
//! A [`Folder`] answers to GGUF's names ([`crate::tensors`]). Query and key rows are already in the order
//! of halves here, Gemma's norms lack the 1 that GGUF has added, and BitLinear layers are master weights,
//! or four rows of codes in one of bytes.

mod bitlinear;
mod config;
mod damage;
pub(crate) mod ids;
pub(crate) mod keys;
pub(crate) mod names;
mod ropes;
mod safetensors;
mod skipped;

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use ::safetensors::Dtype;
use tritlab_kernels::{Format, Matrix, Weights};

use config::Description;
pub use config::MODEL_TYPES;
use names::{Names, Style};
use safetensors::{Entry, Tensors};

use crate::bitlinear::{factor, from_codes, from_masters, unpack};
use crate::config::Config;
use crate::error::{Error, Result};
use crate::tensors::{Assumed, Roles, Source, Stored, dense, finite, fitting, located};
use crate::tokenizer::Tokenizer;

/// Four codes of 0 in a byte ([`unpack`]).
const PACKED_ZEROS: u8 = 0b0101_0101;
/// The file that says what the tensors are.
const CONFIG: &str = "config.json";

/// A Hugging Face folder.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    description: Description,
    tensors: Tensors,
    names: Names,
    roles: Roles,
}

impl Folder {
    /// Reads `config.json`, the ids of `generation_config.json` and the headers of the weights.
    ///
    /// # Errors
    /// [`Error::NotAModel`], [`Error::MissingShard`], and [`Error::InFile`] around whatever is wrong in a
    /// file.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let file = path.join(CONFIG);
        if !file.is_file() {
            return Err(Error::NotAModel { folder: path.to_owned(), expected: CONFIG });
        }
        let json = std::fs::read(&file).map_err(Error::io(&file))?;
        let description = Description::parse(&json).map_err(Error::in_file(&file))?;
        let roles = ids::roles(path, description.config.vocab)?;
        let tensors = Tensors::open(path)?;
        let names = Self::names(&description.config, &tensors);
        let folder = Folder { path: path.to_owned(), description, tensors, names, roles };
        folder.check_promises().map_err(|e| located(&folder, e))?;
        Ok(folder)
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The tensors, by name: element type, shape and bytes of each.
    pub fn tensors(&self) -> impl Iterator<Item = (&str, &'static str, &[usize], usize)> {
        self.tensors.iter().map(|(name, entry)| {
            let nbytes = self.tensors.bytes(entry).len();
            (name.as_str(), type_name(entry.dtype), entry.shape.as_slice(), nbytes)
        })
    }

    fn names(config: &Config, tensors: &Tensors) -> Names {
        let has = |name: &str| tensors.get(name).is_some();
        let prefixes = ["model.", "language_model.model.", "model.language_model."];
        let prefix = prefixes
            .into_iter()
            .find(|p| has(&format!("{p}embed_tokens.weight")))
            .unwrap_or("model.");
        let head = ["lm_head", "language_model.lm_head"]
            .into_iter()
            .find(|h| has(&format!("{h}.weight")))
            .unwrap_or("lm_head");
        let old = format!("{prefix}layers.0.self_attn.inner_attn_ln.weight");
        let style = if has(&old) { Style::OldBitnet } else { Style::of(&config.architecture) };
        let norm = format!("{prefix}layers.0.self_attn.q_proj.rms_norm.weight");
        let input_norm = if has(&norm) { "rms_norm" } else { "norm" };
        Names { style, prefix: prefix.to_owned(), head: head.to_owned(), input_norm }
    }

    /// What the configuration says must be there.
    fn check_promises(&self) -> Result<()> {
        let d = &self.description;
        let need = |name: &str| match self.find(name) {
            Some(_) => Ok(()),
            None => Err(Error::MissingTensor { name: self.names.own(name) }),
        };
        if d.tied == Some(false) {
            need("output.weight")?;
        }
        if let Some(q) = &d.quantization {
            let names = self.tensors.names();
            let modules: Vec<_> = names.filter_map(|name| Some(name.rsplit_once('.')?.0)).collect();
            q.skipped.check(&modules, &self.names.head)?;
        }
        self.check_types()?;
        self.check_tied_head()?;
        let attention =
            ["attn_q", "attn_k", "attn_v", "attn_output"].map(|p| (p, d.attention_bias));
        let mlp = ["ffn_gate", "ffn_up", "ffn_down"].map(|p| (p, d.mlp_bias));
        let fused = self.names.style == Style::Phi;
        for i in 0..d.config.layers {
            for (part, biased) in attention.iter().chain(&mlp) {
                if *biased && !fused {
                    need(&format!("blk.{i}.{part}.bias"))?;
                }
                if d.quantization.as_ref().is_some_and(|q| q.norm_eps.is_some()) {
                    need(&format!("blk.{i}.{part}_norm_in.weight"))?;
                }
            }
        }
        Ok(())
    }

    /// Element types, before shapes: codes that the configuration does not speak of have another shape too, and
    /// that is not what is wrong with them.
    fn check_types(&self) -> Result<()> {
        let all = names::all(&self.description.config);
        let offline = self.description.quantization.as_ref().is_some_and(|q| !q.online);
        all.filter_map(|name| self.find(&name)).try_for_each(|tensor| {
            let entry = self.entry(&tensor)?;
            match self.dense_format(&tensor, entry)? {
                Some(_) if offline && self.is_bitlinear(&tensor.name) => {
                    let reason = format!(
                        "it is offline, stated or by default, which promises codes (U8 or I8), but {} is {}: \
                         master weights are online, layers that are not BitLinear stand in \
                         modules_to_not_convert",
                        tensor.own_name, tensor.file_type
                    );
                    let key = "quantization_config.quantization_mode".to_owned();
                    Err(Error::BadConfig { key, reason })
                }
                _ => Ok(()),
            }
        })
    }

    /// A head beside an embedding that stands for it. Of the versions of `transformers`, some take the one and some
    /// the other; equal ones are no question.
    fn check_tied_head(&self) -> Result<()> {
        let head = format!("{}.weight", self.names.head);
        let embedding = self.names.own("token_embd.weight");
        let (true, Some(h), Some(e)) = (
            self.description.tied == Some(true),
            self.tensors.get(&head),
            self.tensors.get(&embedding),
        ) else {
            return Ok(());
        };
        let bytes = |e| self.tensors.bytes(e);
        let same = (h.dtype, &h.shape) == (e.dtype, &e.shape) && bytes(h) == bytes(e);
        for entry in [h, e] {
            self.tensors.release(entry);
        }
        match same {
            true => Ok(()),
            false => {
                let reason = format!(
                    "the model is tied (tie_word_embeddings), but {head} is not {embedding}: without the one \
                     or the other there is one model"
                );
                Err(Error::BadTensor { tensor: head, reason })
            }
        }
    }

    /// Whether a tensor is a vector: a norm or a bias.
    pub(crate) fn is_vector(&self, tensor: &Stored) -> bool {
        self.tensors.get(&tensor.own_name).is_some_and(|e| e.shape.len() <= 1)
    }

    /// Whether a tensor is, or becomes, the ternary matrix of a BitLinear layer.
    pub(crate) fn is_ternary(&self, tensor: &Stored) -> bool {
        let coded = |e: &Entry| matches!(e.dtype, Dtype::U8 | Dtype::I8);
        let online = self.description.quantization.as_ref().is_some_and(|q| q.online);
        self.is_bitlinear(&tensor.name)
            && (online || self.tensors.get(&tensor.own_name).is_some_and(coded))
    }

    /// Phi-3's window as it is stated.
    pub(crate) fn phi3_window(&self) -> Option<usize> {
        self.description.window.filter(|_| self.description.config.architecture == "phi3")
    }

    /// Whether stored scales multiply or divide, where they take their way through inverses.
    pub(crate) fn multiplies(&self) -> Option<bool> {
        self.description.quantization.as_ref().filter(|q| !q.exact).map(|q| q.multiply)
    }

    /// The stored scale of a BitLinear layer's codes; `None` for masters, which have none.
    pub(crate) fn weight_scale(&self, tensor: &Stored) -> Result<Option<f32>> {
        match self.entry(tensor)?.dtype {
            Dtype::U8 | Dtype::I8 => self.scale(&tensor.own_name).map(|(_, value)| Some(value)),
            _ => Ok(None),
        }
    }

    /// An error of a key of the language model, as this folder's file has it.
    pub(crate) fn in_own_words(&self, error: Error) -> Error {
        let d = &self.description;
        match error {
            Error::BadConfig { key, reason } if !key.starts_with("quantization_config") => {
                let key = if key == "hidden_act" { d.activation_key } else { &key };
                Error::BadConfig { key: format!("{}{key}", d.prefix), reason }
            }
            error => error,
        }
    }

    fn entry(&self, tensor: &Stored) -> Result<&Entry> {
        let name = &tensor.own_name;
        self.tensors.get(name).ok_or_else(|| Error::MissingTensor { name: name.clone() })
    }

    /// Whether GGUF's `name` is the weight of a BitLinear layer.
    fn is_bitlinear(&self, name: &str) -> bool {
        let Some(q) = &self.description.quantization else { return false };
        name.starts_with("blk.")
            && names::is_linear_weight(name)
            && self.names.own(name).strip_suffix(".weight").is_some_and(|m| q.applies_to(m))
    }

    /// Packed codes: four rows of them in one of bytes.
    fn is_packed(&self, name: &str, entry: &Entry) -> bool {
        entry.dtype == Dtype::U8 && self.is_bitlinear(name)
    }

    fn tensor_matrix(&self, tensor: &Stored) -> Result<Matrix<'_>> {
        let entry = self.entry(tensor)?;
        let bytes = self.tensors.bytes(entry);
        let bitlinear = self.is_bitlinear(&tensor.name);
        let Some(format) = self.dense_format(tensor, entry)? else {
            return self.codes(tensor, entry);
        };
        let m = dense(tensor, format, bytes)?;
        let online = self.description.quantization.as_ref().is_some_and(|q| q.online);
        match bitlinear && online {
            true => from_masters(&tensor.own_name, &m),
            false => Ok(m),
        }
    }

    /// The format of a tensor's elements; `None` for codes of a BitLinear layer.
    fn dense_format(&self, tensor: &Stored, entry: &Entry) -> Result<Option<Format>> {
        Ok(match entry.dtype {
            Dtype::F32 => Some(Format::F32),
            Dtype::F16 => Some(Format::F16),
            Dtype::BF16 => Some(Format::BF16),
            Dtype::U8 | Dtype::I8 if self.is_bitlinear(&tensor.name) => None,
            _ => {
                return Err(Error::UnsupportedTensorType {
                    tensor: tensor.own_name.clone(),
                    found: type_name(entry.dtype),
                    note: "",
                    known: "F32, F16, BF16, and U8 and I8 for layers that quantization_config in config.json \
                            makes BitLinear"
                        .to_owned(),
                });
            }
        })
    }

    /// A BitLinear layer's codes with their scale.
    fn codes(&self, tensor: &Stored, entry: &Entry) -> Result<Matrix<'static>> {
        let name = &tensor.own_name;
        let (scale_name, value) = self.scale(name)?;
        let factor = match &self.description.quantization {
            Some(q) if q.exact => value,
            q => factor(value, q.as_ref().is_some_and(|q| q.multiply)),
        };
        let (bytes, shape) = (self.tensors.bytes(entry), (tensor.rows, tensor.cols));
        // A matrix of zeros has any scale; a GGUF file's may say 0.
        let zero = if entry.dtype == Dtype::U8 { PACKED_ZEROS } else { 0 };
        let zeros = value == 0.0 && factor == 0.0 && bytes.iter().all(|b| *b == zero);
        if !(factor.is_finite() && factor > 0.0 || zeros) {
            let reason = match value {
                v if v > 0.0 && v.is_finite() => {
                    format!(
                        "the scale {value:e} is too near to 0 or infinity: its inverse is no f32 number"
                    )
                }
                0.0 => "the scale is 0, but not all codes are".to_owned(),
                _ => format!("the scale {value} is not a positive number"),
            };
            return Err(Error::BadTensor { tensor: scale_name, reason });
        }
        match entry.dtype {
            Dtype::U8 => unpack(name, bytes, shape, factor),
            _ => from_codes(name, bytes, shape, factor),
        }
    }

    /// The scale of the codes that the file calls `name`, as it is stored, with its name.
    fn scale(&self, name: &str) -> Result<(String, f32)> {
        let scale_name = format!("{name}_scale");
        let missing = || Error::MissingTensor { name: scale_name.clone() };
        let scale = self.tensors.get(&scale_name).ok_or_else(missing)?;
        let stored = Stored {
            name: scale_name.clone(),
            own_name: scale_name.clone(),
            file_type: type_name(scale.dtype),
            rows: scale.rows_cols().0,
            cols: scale.rows_cols().1,
            shape: scale.shape.clone(),
        };
        if (stored.rows, stored.cols) != (1, 1) {
            let found = scale.shape.iter().map(|n| *n as u64).collect();
            return Err(Error::ShapeMismatch { tensor: scale_name, expected: vec![1], found });
        }
        Ok((scale_name, self.vector(&stored)?[0]))
    }
}

impl Source for Folder {
    fn config(&self) -> Result<Config> {
        Ok(self.description.config.clone())
    }

    fn tokenizer(&self) -> Result<Tokenizer> {
        let tokenizer = Tokenizer::from_folder(&self.path)?;
        fitting(tokenizer, self.description.config.vocab)
            .map_err(Error::in_file(self.path.join("tokenizer.json")))
    }

    fn roles(&self) -> Result<Roles> {
        Ok(self.roles.clone())
    }

    fn count(&self) -> usize {
        self.tensors.names().len()
    }

    fn names(&self) -> Vec<String> {
        names::all(&self.description.config).filter(|name| self.find(name).is_some()).collect()
    }

    fn own_name(&self, name: &str) -> String {
        self.names.own(name)
    }

    fn find(&self, name: &str) -> Option<Stored> {
        if name == "output.weight" && self.description.tied == Some(true) {
            return None;
        }
        // Biases that the configuration denies are not read by the class either.
        let d = &self.description;
        let biased = if name.contains(".attn_") { d.attention_bias } else { d.mlp_bias };
        if name.ends_with(".bias") && !biased {
            return None;
        }
        let own_name = self.names.own(name);
        let entry = self.tensors.get(&own_name)?;
        let (mut rows, cols) = entry.rows_cols();
        if self.is_packed(name, entry) {
            rows = rows.saturating_mul(4);
        }
        let (name, file_type) = (name.to_owned(), type_name(entry.dtype));
        Some(Stored { name, own_name, file_type, rows, cols, shape: entry.shape.clone() })
    }

    fn shape_in_file(&self, tensor: &Stored, wanted: &[usize]) -> Vec<usize> {
        let entry = self.tensors.get(&tensor.own_name);
        match wanted {
            [rows, cols]
                if rows.is_multiple_of(4)
                    && entry.is_some_and(|e| self.is_packed(&tensor.name, e)) =>
            {
                vec![rows / 4, *cols]
            }
            wanted => wanted.to_vec(),
        }
    }

    fn matrix(&self, tensor: &Stored) -> Result<Matrix<'_>> {
        self.tensor_matrix(tensor).map_err(|e| located(self, e))
    }

    fn vector(&self, tensor: &Stored) -> Result<Vec<f32>> {
        let mut x = self.matrix(tensor)?.dequantize();
        // Gemma keeps the distance from 1; norms of single layers are no part of Gemma.
        let norm = tensor.name.ends_with("_norm.weight");
        if norm && self.names.style == Style::Gemma {
            x.iter_mut().for_each(|w| *w += 1.0);
        }
        finite(&tensor.own_name, x).map_err(|e| located(self, e))
    }

    fn file(&self, tensor: Option<&str>) -> PathBuf {
        match tensor {
            // A part of a fused tensor, or the scale that belongs beside codes.
            Some(name) => {
                let whole = name.split('[').next().unwrap_or(name);
                let beside = name.strip_suffix("_scale").unwrap_or(name);
                let entry = [name, whole, beside].iter().find_map(|n| self.tensors.get(n));
                entry.map_or(self.tensors.list(&self.path), |e| self.tensors.file(e).to_owned())
            }
            None => self.path.clone(),
        }
    }

    fn config_file(&self) -> PathBuf {
        self.path.join(CONFIG)
    }

    fn assumed(&self) -> Vec<Assumed> {
        let d = &self.description;
        let key = |key: &str| format!("{}{key}", d.prefix);
        let all = d.assumed.iter();
        all.map(|(size, value)| Assumed { size: *size, key: key(size.word()), value: *value })
            .collect()
    }

    fn name_of(&self, own_name: &str) -> Option<String> {
        // A part of a fused tensor has the whole one's sizes.
        let whole = own_name.split('[').next().unwrap_or(own_name);
        names::all(&self.description.config).find(|name| self.names.own(name) == whole)
    }

    fn leftover(&self, used: &HashSet<String>) -> Option<String> {
        let tied = self.description.tied == Some(true);
        let known = |name: &str| {
            name.contains("vision_tower.")
                || name.contains("multi_modal_projector.")
                || name.ends_with("rotary_emb.inv_freq")
                || (tied && name == format!("{}.weight", self.names.head))
                // Read with the codes.
                || name.strip_suffix("_scale").is_some_and(|weight| {
                    used.contains(weight)
                        && self.tensors.get(weight).is_some_and(|e| matches!(e.dtype, Dtype::U8 | Dtype::I8))
                })
        };
        self.tensors.names().find(|name| !used.contains(*name) && !known(name)).cloned()
    }

    fn release(&self, tensor: &Stored) {
        if let Some(entry) = self.tensors.get(&tensor.own_name) {
            self.tensors.release(entry);
        }
    }
}

/// The name of an element type, as safetensors writes it.
fn type_name(dtype: Dtype) -> &'static str {
    match dtype {
        Dtype::F32 => "F32",
        Dtype::F16 => "F16",
        Dtype::BF16 => "BF16",
        Dtype::F64 => "F64",
        Dtype::F8_E4M3 => "F8_E4M3",
        Dtype::F8_E5M2 => "F8_E5M2",
        Dtype::F8_E8M0 => "F8_E8M0",
        Dtype::F8_E4M3FNUZ => "F8_E4M3FNUZ",
        Dtype::F8_E5M2FNUZ => "F8_E5M2FNUZ",
        Dtype::F6_E2M3 => "F6_E2M3",
        Dtype::F6_E3M2 => "F6_E3M2",
        Dtype::F4 => "F4",
        Dtype::C64 => "C64",
        Dtype::U8 => "U8",
        Dtype::I8 => "I8",
        Dtype::I16 => "I16",
        Dtype::U16 => "U16",
        Dtype::I32 => "I32",
        Dtype::U32 => "U32",
        Dtype::I64 => "I64",
        Dtype::U64 => "U64",
        Dtype::BOOL => "BOOL",
        _ => "another type",
    }
}
