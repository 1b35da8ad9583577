//! A GGUF file in another format.

use std::path::Path;

use tritlab_kernels::{Format, Matrix, Packing, Weights};

use crate::error::{Error, Result};
use crate::gguf::{Gguf, TensorInfo, TensorType, Writer};
use crate::imatrix::Imatrix;
use crate::requantize::requantize;
use crate::source::{matrix, storable_types, type_of};

/// Which tensors [`quantize_gguf`] puts into which format.
#[derive(Clone, Copy, Debug)]
pub struct Recipe<'a> {
    /// Format of the linear layers.
    pub format: Format,
    /// Format of the embedding and the head; `None` leaves them as they are.
    pub head: Option<Format>,
    /// What happens to a tensor whose rows the format cannot hold.
    pub fallback: Fallback,
    /// The order of the source's I2_S codes, if it has any.
    pub i2_s: Packing,
    /// Which columns of the linear layers matter; `None`: all the same.
    pub imatrix: Option<&'a Imatrix>,
}

impl Recipe<'_> {
    /// Linear layers in `format`, everything else as it is, and no replacement for a row that does not fit.
    pub fn new(format: Format) -> Self {
        Recipe {
            format,
            head: None,
            fallback: Fallback::Refuse,
            i2_s: Packing::default(),
            imatrix: None,
        }
    }
}

/// What happens to a tensor whose rows do not have whole blocks of the wanted format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fallback {
    /// It is an error that names the tensor.
    Refuse,
    /// This format takes its place.
    To(Format),
    /// What llama.cpp's `llama-quantize` puts in its place (`tensor_type_fallback`): Q2_K, Q3_K, TQ1_0 and
    /// TQ2_0 become Q4_0, Q4_K becomes Q5_0, Q5_K becomes Q5_1, Q6_K becomes Q8_0; what does not fit even
    /// then becomes F16.
    LlamaCpp,
}

impl Fallback {
    /// The format for rows of `cols` weights that were to be in `format`.
    fn choose(self, format: Format, cols: usize) -> tritlab_kernels::Result<Format> {
        let Err(misfit) = format.row_bytes(cols) else { return Ok(format) };
        let other = match self {
            Fallback::Refuse => return Err(misfit),
            Fallback::To(other) => other,
            Fallback::LlamaCpp => {
                let other = match format {
                    Format::Q2_K | Format::Q3_K | Format::TQ1_0 | Format::TQ2_0 => Format::Q4_0,
                    Format::Q4_K => Format::Q5_0,
                    Format::Q5_K => Format::Q5_1,
                    Format::Q6_K => Format::Q8_0,
                    _ => Format::F16,
                };
                if other.row_bytes(cols).is_ok() { other } else { Format::F16 }
            }
        };
        other.row_bytes(cols).map(|_| other)
    }
}

/// What [`quantize_gguf`] did.
#[derive(Clone, Debug, PartialEq)]
pub struct Summary {
    /// Tensors in the file.
    pub tensors: usize,
    /// Those that were put into another type.
    pub quantized: usize,
    /// Those of them whose rows did not fit, so that the fallback took the format's place.
    pub fallbacks: usize,
    /// Relative error of the changed weights, `|w - q| / |w|` over all of them, against the source's.
    pub weight_error: f64,
    /// Tensors, weights and bytes of each tensor type in the result, in order of first appearance.
    pub types: Vec<TypeShare>,
    /// Size of the source.
    pub bytes_in: u64,
    /// Size of the result.
    pub bytes_out: u64,
}

/// What of a file is in one tensor type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TypeShare {
    /// The type's name.
    pub name: &'static str,
    /// Number of tensors.
    pub tensors: usize,
    /// Number of weights.
    pub weights: u64,
    /// Bytes of their data.
    pub bytes: u64,
}

/// Writes `source` to `destination` with every linear layer in the wanted format. Norms, biases and tables are
/// copied. The file appears whole or not at all. `progress` is called with (tensors done, tensors, name of the
/// next) and returns `false` to cancel.
///
/// # Errors
/// A format that GGUF has no type for, a tensor whose row length the format (and the fallback) cannot hold (it
/// is named), and whatever is wrong with the source.
pub fn quantize_gguf(
    source: impl AsRef<Path>,
    destination: impl AsRef<Path>,
    recipe: &Recipe<'_>,
    progress: &mut dyn FnMut(usize, usize, &str) -> bool,
) -> Result<Summary> {
    let destination = destination.as_ref();
    let Recipe { format, head, fallback, i2_s, imatrix } = *recipe;
    let to = if let Fallback::To(other) = fallback { Some(other) } else { None };
    for format in [Some(format), head, to].into_iter().flatten() {
        storable(format)?;
    }
    let gguf = Gguf::open(&source)?;
    let mut writer = Writer::new();
    writer.copy_metadata(gguf.metadata())?;
    if let Some(number) = file_type(format) {
        writer.set("general.file_type", number)?;
    }
    writer.set("general.quantization_version", 2u32)?;
    if let Some(imatrix) = imatrix {
        writer.set("quantize.imatrix.dataset", imatrix.datasets.join(", "))?;
        writer.set("quantize.imatrix.entries_count", imatrix.sums.len() as u32)?;
        writer.set("quantize.imatrix.chunks_count", imatrix.chunks)?;
    }
    let total = gguf.tensors().len();
    let mut summary = Summary {
        tensors: total,
        quantized: 0,
        fallbacks: 0,
        weight_error: 0.0,
        types: Vec::new(),
        bytes_in: gguf.file_size(),
        bytes_out: 0,
    };
    let mut plan = Vec::with_capacity(total);
    for info in gguf.tensors() {
        let wanted = match role(info) {
            Role::Linear => Some(format),
            Role::Head => head,
            Role::Copied => None,
        };
        let chosen = wanted
            .map(|format| fallback.choose(format, info.cols() as usize))
            .transpose()
            .map_err(|source| Error::Tensor { tensor: info.name().to_owned(), source })
            .map_err(gguf.blame())?;
        summary.fallbacks += usize::from(chosen != wanted);
        let ty = chosen.map_or(Ok(info.tensor_type()), storable)?;
        let chosen = chosen.filter(|_| ty != info.tensor_type());
        summary.quantized += usize::from(chosen.is_some());
        plan.push(chosen);
        writer.tensor(info.name(), ty, info.dims())?;
    }
    let (mut done, mut error, mut norm) = (0, 0.0, 0.0);
    writer.write(destination, |out_info, out| -> Result<()> {
        let at = done;
        if !progress(at, total, out_info.name()) {
            return Err(Error::Cancelled);
        }
        done += 1;
        share(&mut summary.types, out_info);
        let write = |out: &mut dyn std::io::Write, bytes: &[u8]| {
            out.write_all(bytes).map_err(Error::io(destination))
        };
        // The writer asks for the tensors in the order in which they were announced.
        let info = &gguf.tensors()[at];
        debug_assert_eq!(info.name(), out_info.name(), "one order");
        match plan[at] {
            Some(format) => {
                let m: Matrix<'_> = matrix(&gguf, info, i2_s)?;
                debug_assert_eq!(m.rows() as u64, info.rows(), "a matrix of the whole tensor");
                let importance = imatrix
                    .filter(|_| matches!(role(info), Role::Linear))
                    .map(|i| i.importance(info.name(), m.cols()))
                    .transpose()?;
                let (q, cost) = requantize(info.name(), &m, format, importance.as_deref())
                    .map_err(gguf.blame())?;
                error += cost.error;
                norm += cost.norm;
                write(out, q.bytes())
            }
            None => write(out, gguf.data(info)),
        }
    })?;
    summary.weight_error = if norm > 0.0 { (error / norm).sqrt() } else { 0.0 };
    summary.bytes_out = std::fs::metadata(destination).map_err(Error::io(destination))?.len();
    Ok(summary)
}

/// What a tensor is to a quantiser.
enum Role {
    /// A weight matrix of a block.
    Linear,
    /// The embedding or the output head.
    Head,
    /// Norms, biases and tables.
    Copied,
}

fn role(info: &TensorInfo) -> Role {
    let name = info.name();
    let two_dims = info.rows() > 1 && info.dims().len() == 2;
    match name {
        _ if !two_dims || !name.ends_with(".weight") || name.contains("norm") => Role::Copied,
        "token_embd.weight" | "output.weight" => Role::Head,
        _ => Role::Linear,
    }
}

/// Counts a tensor under its type.
fn share(types: &mut Vec<TypeShare>, info: &TensorInfo) {
    let name = info.tensor_type().name();
    let i = types.iter().position(|t| t.name == name).unwrap_or_else(|| {
        types.push(TypeShare { name, tensors: 0, weights: 0, bytes: 0 });
        types.len() - 1
    });
    types[i].tensors += 1;
    types[i].weights += info.rows() * info.cols();
    types[i].bytes += info.nbytes();
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
