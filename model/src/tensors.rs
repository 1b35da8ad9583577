//! Where tensors come from: the seam between files and the decoder.
//!
//! A [`Source`] answers to GGUF's names (`blk.0.attn_q.weight`), whatever its file calls them, with the
//! shapes and contents that GGUF's converter would have stored: the "1 +" of Gemma's norms is added, packed
//! ternary bytes are a ternary matrix. What only the file's own names can say (which tensor is missing or
//! of no use) is said in those.

mod sizes;

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use tritlab_kernels::{Format, Matrix, Packing};

pub use sizes::{Assumed, Size};

use crate::config::Config;
use crate::error::{Error, Result};
use crate::gguf::Gguf;
use crate::hugging_face::names::is_linear_weight;
use crate::source;
use crate::tokenizer::Tokenizer;

/// A tensor of a [`Source`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// GGUF's name for it.
    pub name: String,
    /// Its name in the file.
    pub own_name: String,
    /// Its type in the file.
    pub file_type: &'static str,
    /// Rows (outputs) of weights; 1 for a vector.
    pub rows: usize,
    /// Columns (inputs) of weights.
    pub cols: usize,
    /// Its shape in the file, columns last: what a message calls it by.
    pub shape: Vec<usize>,
}

/// The tensors of a model. A loaded model keeps it, to read tensors again.
pub trait Source: std::fmt::Debug + Send + Sync {
    /// The model's configuration.
    ///
    /// # Errors
    /// Keys that are missing, of another type or impossible.
    fn config(&self) -> Result<Config>;

    /// The model's tokenizer.
    ///
    /// # Errors
    /// There is none, or it cannot be used.
    fn tokenizer(&self) -> Result<Tokenizer>;

    /// The ids with a role that are stated beside the tokenizer, or without one.
    ///
    /// # Errors
    /// Ids that are none, or that have no row in the embedding.
    fn roles(&self) -> Result<Roles>;

    /// Tensors in the file.
    fn count(&self) -> usize;

    /// GGUF's names of its tensors, in its own order.
    fn names(&self) -> Vec<String>;

    /// What the file calls, or would call, the tensor `name`.
    fn own_name(&self, name: &str) -> String;

    /// The tensor that GGUF calls `name`.
    fn find(&self, name: &str) -> Option<Stored>;

    /// The shape in the file that weights of the shape `wanted`, columns last, would have in place of `tensor`.
    fn shape_in_file(&self, tensor: &Stored, wanted: &[usize]) -> Vec<usize>;

    /// The tensor as a matrix, over the file's own bytes where it can be. Where a linear layer is BitLinear,
    /// this is its ternary matrix.
    ///
    /// # Errors
    /// A type that no kernel reads; contents that cannot be; a row that is too long for exact sums.
    fn matrix(&self, tensor: &Stored) -> Result<Matrix<'_>>;

    /// The tensor as f32, all finite.
    ///
    /// # Errors
    /// As [`Self::matrix`]; numbers that are not finite.
    fn vector(&self, tensor: &Stored) -> Result<Vec<f32>>;

    /// The file that holds, or should hold, the tensor with this name of the file's own; without a name, or
    /// where only its place in the model is known, the file or folder itself.
    fn file(&self, tensor: Option<&str>) -> PathBuf;

    /// The file that the configuration stands in.
    fn config_file(&self) -> PathBuf;

    /// Sizes that the configuration does not state, though a tensor may contradict what was taken instead: for
    /// messages.
    fn assumed(&self) -> Vec<Assumed>;

    /// GGUF's name for a tensor, from the file's own.
    fn name_of(&self, own_name: &str) -> Option<String>;

    /// A tensor of the file that is not in `used` (names of the file) and that the model should not do
    /// without.
    fn leftover(&self, used: &HashSet<String>) -> Option<String>;

    /// Says that the tensor's bytes will not be read soon: the memory that caches them may go.
    fn release(&self, tensor: &Stored);
}

/// Token ids with a role.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Roles {
    /// The one that begins a text.
    pub bos: Option<u32>,
    /// Those that end a text or a turn, the first of them first.
    pub ends: Vec<u32>,
    /// Padding.
    pub pad: Option<u32>,
}

/// A GGUF file with what it does not say itself.
#[derive(Debug)]
pub struct File {
    /// The file.
    pub gguf: Gguf,
    /// The order of the codes of I2_S tensors.
    pub i2_s: Packing,
}

impl File {
    /// Rows of the embedding.
    fn vocab(&self) -> usize {
        self.gguf.tensor("token_embd.weight").map_or(0, |t| t.rows() as usize)
    }
}

impl Source for File {
    fn config(&self) -> Result<Config> {
        Config::from_gguf(&self.gguf)
    }

    fn tokenizer(&self) -> Result<Tokenizer> {
        let tokenizer = Tokenizer::from_gguf(&self.gguf)?;
        fitting(tokenizer, self.vocab()).map_err(self.gguf.blame())
    }

    fn roles(&self) -> Result<Roles> {
        crate::tokenizer::roles(self.gguf.metadata(), self.vocab()).map_err(self.gguf.blame())
    }

    fn count(&self) -> usize {
        self.gguf.tensors().len()
    }

    fn names(&self) -> Vec<String> {
        self.gguf.tensors().iter().map(|t| t.name().to_owned()).collect()
    }

    fn own_name(&self, name: &str) -> String {
        name.to_owned()
    }

    fn find(&self, name: &str) -> Option<Stored> {
        self.gguf.tensor(name).map(|info| Stored {
            name: name.to_owned(),
            own_name: name.to_owned(),
            file_type: info.tensor_type().name(),
            rows: info.rows() as usize,
            cols: info.cols() as usize,
            shape: squeezed(info.dims().iter().rev().map(|n| *n as usize)),
        })
    }

    fn shape_in_file(&self, _: &Stored, wanted: &[usize]) -> Vec<usize> {
        squeezed(wanted.iter().copied())
    }

    fn matrix(&self, tensor: &Stored) -> Result<Matrix<'_>> {
        let info = self.gguf.tensor(&tensor.name).ok_or_else(|| missing(self, &tensor.name))?;
        let m = source::matrix(&self.gguf, info, self.i2_s)?;
        let is_linear = is_linear_weight(&tensor.name);
        let ternary = if is_linear { source::one_scale_ternary(&m) } else { None };
        Ok(ternary.unwrap_or(m))
    }

    fn vector(&self, tensor: &Stored) -> Result<Vec<f32>> {
        let info = self.gguf.tensor(&tensor.name).ok_or_else(|| missing(self, &tensor.name))?;
        source::vector(&self.gguf, info)
    }

    fn file(&self, _: Option<&str>) -> PathBuf {
        self.gguf.path().unwrap_or(Path::new("")).to_owned()
    }

    fn config_file(&self) -> PathBuf {
        self.file(None)
    }

    fn assumed(&self) -> Vec<Assumed> {
        let Ok(config) = self.config() else { return Vec::new() };
        let sizes = [(Size::KvHeads, config.kv_heads), (Size::HeadDim, config.head_dim)];
        let key = |size: Size| format!("{}.{}", config.architecture, size.key());
        let all = sizes.into_iter().map(|(size, value)| Assumed { size, key: key(size), value });
        all.filter(|a| self.gguf.metadata().get(&a.key).is_none()).collect()
    }

    fn name_of(&self, own_name: &str) -> Option<String> {
        Some(own_name.to_owned())
    }

    fn leftover(&self, used: &HashSet<String>) -> Option<String> {
        // Read with the configuration; the last is a table of angles in files of 2023.
        let known =
            |name: &str| name.starts_with("rope_f") || name.ends_with(".attn_rot_embd.weight");
        let mut names = self.gguf.tensors().iter().map(|t| t.name());
        names.find(|name| !used.contains(*name) && !known(name)).map(str::to_owned)
    }

    fn release(&self, tensor: &Stored) {
        if let Some(info) = self.gguf.tensor(&tensor.name) {
            self.gguf.release_data(info);
        }
    }
}

/// A shape without leading ones, which ggml does not tell from none.
fn squeezed(shape: impl Iterator<Item = usize>) -> Vec<usize> {
    let shape: Vec<usize> = shape.skip_while(|n| *n == 1).collect();
    if shape.is_empty() { vec![1] } else { shape }
}

/// The one token that published models have and no row for: text models of Gemma 3 share the tokenizer of those
/// that see.
const NO_ROW: &str = "<image_soft_token>";

/// The tokenizer, if the embedding has a row for each of its tokens.
pub(crate) fn fitting(tokenizer: Tokenizer, vocab: usize) -> Result<Tokenizer> {
    let beyond = |id: &u32| {
        let text = tokenizer.token(*id).unwrap_or_default();
        let role = tokenizer.bos() == Some(*id) || tokenizer.eog().contains(id);
        role || !(text.is_empty() || text == NO_ROW)
    };
    match (vocab as u32..tokenizer.vocab_size() as u32).find(beyond) {
        None => Ok(tokenizer),
        Some(id) => {
            let token = tokenizer.token(id).unwrap_or_default().to_owned();
            Err(Error::VocabularyMismatch { id, token, vocab })
        }
    }
}

/// Says in which of the source's files something is wrong, and what was assumed about it.
pub(crate) fn located(source: &dyn Source, error: Error) -> Error {
    let file = match error {
        Error::BadConfig { .. } | Error::MissingKey { .. } | Error::WrongType { .. } => {
            source.config_file()
        }
        _ => source.file(error.tensor()),
    };
    let name = error.tensor().and_then(|own| source.name_of(own));
    let deciding = sizes::deciding(&error, name.as_deref());
    let error = match deciding.is_empty() {
        true => error,
        false => {
            let absent = source.assumed().into_iter().filter(|a| deciding.contains(&a.size));
            assuming(error, absent.map(|a| (a.key, a.value)))
        }
    };
    Error::in_file(file)(error)
}

/// The error with the keys that are absent and what was taken instead, if there are any.
pub(crate) fn assuming(error: Error, absent: impl Iterator<Item = (String, usize)>) -> Error {
    let all: Vec<_> = absent.map(|(key, size)| format!("`{key}` = {size}")).collect();
    if all.is_empty() {
        return error;
    }
    let assumed = format!("the configuration does not state {}", all.join(", "));
    Error::Assumed { source: Box::new(error), assumed }
}

/// Refuses a tensor that the model does without (biases of norms, gates of experts, an adapter): it would change
/// the model's answers silently, and no model is better than another one.
pub(crate) fn check_all_used(
    source: &dyn Source,
    used: &HashSet<String>,
    architecture: &str,
) -> Result<()> {
    match source.leftover(used) {
        None => Ok(()),
        Some(tensor) => Err(Error::UnusedTensor { tensor, architecture: architecture.to_owned() }),
    }
}

/// The error of a tensor that is not there.
pub(crate) fn missing(source: &dyn Source, name: &str) -> Error {
    Error::MissingTensor { name: source.own_name(name) }
}

/// Bytes as a matrix, the tensor named where they cannot be one.
pub(crate) fn dense<'a>(tensor: &Stored, format: Format, bytes: &'a [u8]) -> Result<Matrix<'a>> {
    Matrix::new(format, tensor.rows, tensor.cols, bytes, Vec::new())
        .map_err(|source| Error::Tensor { tensor: tensor.own_name.clone(), source })
}

/// Refuses numbers that are not finite.
pub(crate) fn finite(name: &str, x: Vec<f32>) -> Result<Vec<f32>> {
    match x.iter().position(|v| !v.is_finite()) {
        None => Ok(x),
        Some(i) => Err(Error::BadTensor {
            tensor: name.to_owned(),
            reason: format!("element {i} is {}", x[i]),
        }),
    }
}
