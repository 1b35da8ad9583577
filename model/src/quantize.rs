//! A GGUF file in another format.

use std::path::Path;

use tritlab_kernels::{Format, Matrix, Weights};

use crate::error::{Error, Result};
use crate::gguf::{Gguf, TensorInfo, TensorType, Writer};
use crate::model::requantize;
use crate::source::{matrix, storable_types, type_of};

/// What [`quantize_gguf`] did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    /// Tensors in the file.
    pub tensors: usize,
    /// Those that were put into another type.
    pub quantized: usize,
    /// Size of the source.
    pub bytes_in: u64,
    /// Size of the result.
    pub bytes_out: u64,
}

/// Writes `source` to `destination` with every linear layer in `format`; the embedding and the head in
/// `head`, or as they are. Norms, biases and tables are copied. The file appears whole or not at all.
/// `progress` is called with (tensors done, tensors, name of the next) and returns `false` to cancel.
///
/// # Errors
/// A format that GGUF has no type for, a tensor whose row length the format cannot hold (it is named), and
/// whatever is wrong with the source.
pub fn quantize_gguf(
    source: impl AsRef<Path>,
    destination: impl AsRef<Path>,
    format: Format,
    head: Option<Format>,
    progress: &mut dyn FnMut(usize, usize, &str) -> bool,
) -> Result<Summary> {
    let destination = destination.as_ref();
    let linear_type = storable(format)?;
    let head_type = head.map(storable).transpose()?;
    let gguf = Gguf::open(&source)?;
    let wanted = |info: &TensorInfo| -> Option<(Format, TensorType)> {
        let name = info.name();
        let two_dims = info.rows() > 1 && info.dims().len() == 2;
        match name {
            _ if !two_dims || !name.ends_with(".weight") || name.contains("norm") => None,
            "token_embd.weight" | "output.weight" => Some((head?, head_type?)),
            _ => Some((format, linear_type)),
        }
        .filter(|(_, ty)| *ty != info.tensor_type())
    };
    let mut writer = Writer::new();
    writer.copy_metadata(gguf.metadata())?;
    if let Some(number) = file_type(format) {
        writer.set("general.file_type", number)?;
    }
    writer.set("general.quantization_version", 2u32)?;
    let mut quantized = 0;
    for info in gguf.tensors() {
        let ty = match wanted(info) {
            Some((format, ty)) => {
                format
                    .row_bytes(info.cols() as usize)
                    .map_err(|source| Error::Tensor { tensor: info.name().to_owned(), source })?;
                quantized += 1;
                ty
            }
            None => info.tensor_type(),
        };
        writer.tensor(info.name(), ty, info.dims())?;
    }
    let total = gguf.tensors().len();
    let mut done = 0;
    writer.write(destination, |out_info, out| -> Result<()> {
        if !progress(done, total, out_info.name()) {
            return Err(Error::Cancelled);
        }
        done += 1;
        let write = |out: &mut dyn std::io::Write, bytes: &[u8]| {
            out.write_all(bytes).map_err(Error::io(destination))
        };
        let Some(info) = gguf.tensor(out_info.name()) else {
            return Err(Error::MissingTensor { name: out_info.name().to_owned() });
        };
        match wanted(info) {
            Some((format, _)) => {
                let m: Matrix<'_> = matrix(&gguf, info)?;
                debug_assert_eq!(m.rows() as u64, info.rows(), "a matrix of the whole tensor");
                write(out, requantize(info.name(), &m, format)?.0.bytes())
            }
            None => write(out, gguf.data(info)),
        }
    })?;
    let bytes_out = std::fs::metadata(destination).map_err(Error::io(destination))?.len();
    Ok(Summary { tensors: total, quantized, bytes_in: gguf.file_size(), bytes_out })
}

/// The tensor type of a format.
fn storable(format: Format) -> Result<TensorType> {
    type_of(format)
        .ok_or_else(|| Error::NotInGguf { format: format.name(), known: storable_types() })
}

/// llama.cpp's `llama_ftype` of a file whose linear layers are in `format`. Of the mixed recipes of
/// k-quants, the S form is the nearest to one type throughout.
fn file_type(format: Format) -> Option<u32> {
    Some(match format {
        Format::F32 => 0,
        Format::F16 => 1,
        Format::Q4_0 => 2,
        Format::Q4_1 => 3,
        Format::Q8_0 => 7,
        Format::Q5_0 => 8,
        Format::Q5_1 => 9,
        Format::Q2_K => 10,
        Format::Q3_K => 11,
        Format::Q4_K => 14,
        Format::Q5_K => 16,
        Format::Q6_K => 18,
        Format::IQ4_NL => 25,
        Format::BF16 => 32,
        Format::TQ1_0 => 36,
        Format::TQ2_0 => 37,
        _ => return None,
    })
}
