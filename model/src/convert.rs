//! From Hugging Face folders to GGUF files and back.
//!
//! Weights keep their bits wherever the other side can hold them: F32, F16 and BF16 on both; BitLinear
//! layers as packed codes with a scale in a folder, and as TQ2_0 with block scales of 1 and a `.scale`
//! tensor in GGUF, which llama.cpp's BitNet graph multiplies with. Other quantised types become F32 in a
//! folder, which holds every one of their weights exactly. A scale that no `weight_scale` of BitLinear's own
//! convention gives (it goes through two inverses, which not every f32 comes out of) is stored as it is, and
//! `exact_weight_scale` in `quantization_config` says so; `transformers` multiplies by it either way. What
//! GGUF has no key for and a folder should get back stands in keys of this project's own: `tritlab.linear_class`
//! and `tritlab.weight_scale`, the scales of BitLinear layers before their inverses were taken. Names,
//! shapes, the order of query and key rows and the other keys are those of llama.cpp's converter.

mod config_json;
mod keys;
mod sentencepiece;
mod to_folder;
mod to_gguf;
mod tokenizer;

use std::io::ErrorKind;
use std::path::Path;

pub use keys::{Table, write as write_config};
pub(crate) use to_gguf::Contents;

use tritlab_kernels::Packing;

use crate::error::{Error, Result};
use crate::gguf::Gguf;
use crate::model::Progress;
use crate::tensors::{File, located};

/// How the scales of BitLinear layers are meant, by the word of `quantization_config`, and whether they multiply.
const CLASSES: [(&str, bool); 2] = [("autobitlinear", true), ("bitlinear", false)];
/// The word, in a file made of a folder.
const LINEAR_CLASS: &str = "tritlab.linear_class";
/// The scales that it is said of, in the order of [`crate::hugging_face::names::all`].
const WEIGHT_SCALE: &str = "tritlab.weight_scale";
const PHI3_WINDOW: &str = "phi3.attention.sliding_window";

/// What [`convert`] did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Tensors written.
    pub tensors: usize,
    /// Bytes written.
    pub bytes_out: u64,
    /// Whether the destination has a tokenizer: not where the source has none, or one that the other side has
    /// no form for.
    pub tokenizer: bool,
}

/// Writes the Hugging Face folder `source` as the GGUF file `destination`, or the GGUF file `source` as the
/// new folder `destination`, whichever `source` is; `i2_s` is the order of a file's I2_S codes, if it has
/// any. The destination appears whole or not at all; a file that is there is replaced only if `force` says so, a
/// folder never. `progress` is called with (tensors done, tensors, name
/// of the next) and returns `false` to cancel.
///
/// # Errors
/// Whatever is wrong with the source, and what the other side has no word for; [`Error::BadDestination`] for a
/// destination that is the source, or that is named as a GGUF file where the source is one already, and
/// [`Error::Io`] for one that exists.
pub fn convert(
    source: impl AsRef<Path>,
    destination: impl AsRef<Path>,
    i2_s: Packing,
    force: bool,
    progress: &mut Progress<'_>,
) -> Result<Summary> {
    let (source, destination) = (source.as_ref(), destination.as_ref());
    let refuse = |reason: &'static str| {
        let path = destination.to_owned();
        Err(Error::BadDestination { path, reason })
    };
    let real = |path: &Path| path.canonicalize().ok();
    if real(source).is_some_and(|s| real(destination) == Some(s)) {
        return refuse("it is the model that is to be converted");
    }
    let is_gguf = |path: &Path| path.extension().is_some_and(|e| e.eq_ignore_ascii_case("gguf"));
    if source.is_file() && (is_gguf(destination) || destination.is_file()) {
        return refuse(
            "a GGUF file becomes a folder, and this is the name of a file (quantize writes a GGUF file in another \
             format)",
        );
    }
    let replaced = force && source.is_dir() && destination.is_file();
    if destination.exists() && !replaced {
        let hint =
            if source.is_dir() && destination.is_file() { " (force replaces it)" } else { "" };
        let why = std::io::Error::new(ErrorKind::AlreadyExists, format!("it exists already{hint}"));
        return Err(Error::io(destination)(why));
    }
    if source.is_dir() {
        to_gguf::write(source, destination, progress)
    } else {
        let file = File { gguf: Gguf::open(source)?, i2_s };
        to_folder::write(&file, destination, progress).map_err(|e| located(&file, e))
    }
}
