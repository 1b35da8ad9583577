//! From Hugging Face folders to GGUF files and back.
//!
//! Weights keep their bits wherever the other side can hold them: F32, F16 and BF16 on both; BitLinear
//! layers as packed codes with a scale in a folder, and as TQ2_0 with block scales of 1 and a `.scale`
//! tensor in GGUF, which llama.cpp's BitNet graph multiplies with. Other quantised types become F32 in a
//! folder, which holds every one of their weights exactly. Names, shapes, the order of query and key rows
//! and the keys are those of llama.cpp's converter.

mod config_json;
mod keys;
mod to_folder;
mod to_gguf;
mod tokenizer;

use std::path::Path;

pub use keys::{Table, write as write_config};

use tritlab_kernels::Packing;

use crate::error::Result;
use crate::gguf::Gguf;
use crate::model::Progress;
use crate::tensors::{File, located};

/// What [`convert`] did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Tensors written.
    pub tensors: usize,
    /// Names of tensors that the destination holds with a rounding: scales that no inverse of an f32 equals.
    pub rounded: Vec<String>,
    /// Bytes written.
    pub bytes_out: u64,
}

/// Writes the Hugging Face folder `source` as the GGUF file `destination`, or the GGUF file `source` as the
/// new folder `destination`, whichever `source` is; `i2_s` is the order of a file's I2_S codes, if it has
/// any. The destination appears whole or not at all. `progress` is called with (tensors done, tensors, name
/// of the next) and returns `false` to cancel.
///
/// # Errors
/// Whatever is wrong with the source, and what the other side has no word for.
pub fn convert(
    source: impl AsRef<Path>,
    destination: impl AsRef<Path>,
    i2_s: Packing,
    progress: &mut Progress<'_>,
) -> Result<Summary> {
    let (source, destination) = (source.as_ref(), destination.as_ref());
    if source.is_dir() {
        to_gguf::write(source, destination, progress)
    } else {
        let file = File { gguf: Gguf::open(source)?, i2_s };
        to_folder::write(&file, destination, progress).map_err(|e| located(&file, e))
    }
}
