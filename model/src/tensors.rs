//! Where tensors come from: the seam between files and the decoder.
//!
//! A [`Source`] answers to GGUF's names (`blk.0.attn_q.weight`), whatever its file calls them, with the
//! shapes and contents that GGUF's converter would have stored: the "1 +" of Gemma's norms is added, packed
//! ternary bytes are a ternary matrix. What only the file's own names can say (which tensor is missing or
//! of no use) is said in those.

use std::collections::HashSet;

use tritlab_kernels::{Format, Matrix, Packing};

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
}

/// The tensors of a model.
pub trait Source {
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

    /// Tensors in the file.
    fn count(&self) -> usize;

    /// GGUF's names of its tensors, in its own order.
    fn names(&self) -> Vec<String>;

    /// What the file calls, or would call, the tensor `name`.
    fn own_name(&self, name: &str) -> String;

    /// The tensor that GGUF calls `name`.
    fn find(&self, name: &str) -> Option<Stored>;

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

    /// A tensor of the file that is not in `used` (names of the file) and that the model should not do
    /// without.
    fn leftover(&self, used: &HashSet<String>) -> Option<String>;

    /// Says that the tensor's bytes will not be read soon: the memory that caches them may go.
    fn release(&self, tensor: &Stored);
}

/// A GGUF file with what it does not say itself.
#[derive(Debug)]
pub struct File {
    /// The file.
    pub gguf: Gguf,
    /// The order of the codes of I2_S tensors.
    pub i2_s: Packing,
}

impl Source for File {
    fn config(&self) -> Result<Config> {
        Config::from_gguf(&self.gguf)
    }

    fn tokenizer(&self) -> Result<Tokenizer> {
        let tokenizer = Tokenizer::from_gguf(&self.gguf)?;
        let vocab = self.gguf.tensor("token_embd.weight").map_or(0, |t| t.rows() as usize);
        fitting(tokenizer, vocab)
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
        })
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

/// The tokenizer, if the embedding has a row for each of its tokens. Control tokens may go without: Gemma 3's
/// text models have none for the image token of their tokenizer.
pub(crate) fn fitting(tokenizer: Tokenizer, vocab: usize) -> Result<Tokenizer> {
    let beyond = |id: &u32| {
        let text = tokenizer.token(*id).unwrap_or_default();
        let role = tokenizer.bos() == Some(*id) || tokenizer.eos() == Some(*id);
        role || !(text.is_empty() || tokenizer.is_control(*id))
    };
    match (vocab as u32..tokenizer.vocab_size() as u32).find(beyond) {
        None => Ok(tokenizer),
        Some(id) => {
            let token = tokenizer.token(id).unwrap_or_default().to_owned();
            Err(Error::VocabularyMismatch { id, token, vocab })
        }
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
