//! A GGUF file, or the folder that would become one, in another format.

use std::path::Path;

use tritlab_kernels::{Format, Matrix, Packing, Projection, Weights};

use crate::convert::Contents;
use crate::error::{Error, Result};
use crate::gguf::{Gguf, TensorInfo, TensorType, WriteError, Writer};
use crate::imatrix::Imatrix;
use crate::overrides::{Overrides, is_matrix};
use crate::requantize::{Rule, check_rules, requantize};
use crate::rounding::Rounding;
use crate::source::{matrix, storable_types, type_of};
use crate::tensors::File;

/// Which tensors [`quantize_gguf`] puts into which format.
#[derive(Clone, Debug)]
pub struct Recipe<'a> {
    /// Format of the linear layers; `None` leaves them as they are.
    pub format: Option<Format>,
    /// Format of the embedding and the head; `None` leaves them as they are.
    pub head: Option<Format>,
    /// Formats of single tensors, which go before both.
    pub overrides: Overrides,
    /// What happens to a tensor whose rows the format cannot hold.
    pub fallback: Fallback,
    /// The order of the source's I2_S codes, if it has any.
    pub i2_s: Packing,
    /// Which columns of the linear layers matter; `None`: all the same.
    pub imatrix: Option<&'a Imatrix>,
    /// What makes the linear layers ternary, where `format` is and has another rule of its own.
    pub projection: Option<Projection>,
}

impl Recipe<'_> {
    /// Linear layers in `format`, everything else as it is, and no replacement for a row that does not fit.
    pub fn new(format: impl Into<Option<Format>>) -> Self {
        Recipe {
            format: format.into(),
            head: None,
            overrides: Overrides::default(),
            fallback: Fallback::Refuse,
            i2_s: Packing::default(),
            imatrix: None,
            projection: None,
        }
    }
}

/// What happens to a tensor whose rows do not have whole blocks of the wanted format.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fallback {
    /// It is an error that names the tensor.
    #[default]
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
    pub(crate) fn choose(self, format: Format, cols: usize) -> tritlab_kernels::Result<Format> {
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
    /// The types that took its place, with what is in them.
    pub replaced: Vec<TypeShare>,
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

/// What is quantised: tensors as a GGUF file has them, wherever they come from.
pub(crate) trait Origin {
    /// Sets the keys of the file.
    fn keys<'a>(&'a self, writer: &mut Writer<'a>) -> Result<()>;
    /// What tensors there are, in the order of the file.
    fn tensors(&self) -> Result<Vec<TensorInfo>>;
    /// The weights of tensor `i`.
    fn matrix(&self, i: usize) -> Result<Matrix<'_>>;
    /// Writes the data of tensor `i` as it is.
    fn write(&self, i: usize, out: &mut dyn std::io::Write) -> Result<(), WriteError>;
    /// Says that tensor `i` will not be read again.
    fn release(&self, i: usize);
    /// Says in which file something is wrong.
    fn blame(&self, error: Error) -> Error;
    /// Bytes of the source.
    fn size(&self) -> u64;
}

impl Origin for File {
    fn keys<'a>(&'a self, writer: &mut Writer<'a>) -> Result<()> {
        writer.copy_metadata(self.gguf.metadata())?;
        Ok(())
    }

    fn tensors(&self) -> Result<Vec<TensorInfo>> {
        Ok(self.gguf.tensors().to_vec())
    }

    fn matrix(&self, i: usize) -> Result<Matrix<'_>> {
        matrix(&self.gguf, &self.gguf.tensors()[i], self.i2_s)
    }

    fn write(&self, i: usize, out: &mut dyn std::io::Write) -> Result<(), WriteError> {
        Ok(out.write_all(self.gguf.data(&self.gguf.tensors()[i]))?)
    }

    fn release(&self, i: usize) {
        self.gguf.release_data(&self.gguf.tensors()[i]);
    }

    fn blame(&self, error: Error) -> Error {
        self.gguf.blame()(error)
    }

    fn size(&self) -> u64 {
        self.gguf.file_size()
    }
}

/// Writes `source`, a GGUF file or a Hugging Face folder, to the GGUF file `destination` with every linear layer
/// in the wanted format, and every tensor that has an override in its own. Norms, biases and tables are copied.
/// The file appears whole or not at all. `progress` is called with (tensors done, tensors, name of the next) and
/// returns `false` to cancel.
///
/// # Errors
/// [`Error::BadDestination`] for a destination that is the source. A format that GGUF has no type for, a tensor
/// whose row length the format (and the fallback) cannot hold (it is named), an override that means no tensor, and
/// whatever is wrong with the source.
pub fn quantize_gguf(
    source: impl AsRef<Path>,
    destination: impl AsRef<Path>,
    recipe: &Recipe<'_>,
    progress: &mut dyn FnMut(usize, usize, &str) -> bool,
) -> Result<Summary> {
    let destination = destination.as_ref();
    let Recipe { format, head, ref overrides, fallback, i2_s, imatrix, projection } = *recipe;
    check_rules(projection, overrides, imatrix)?;
    let to = if let Fallback::To(other) = fallback { Some(other) } else { None };
    for format in [format, head, to].into_iter().flatten().chain(overrides.formats()) {
        storable(format)?;
    }
    let source = source.as_ref();
    let real = |path: &Path| path.canonicalize().ok();
    if real(source).is_some_and(|s| real(destination) == Some(s)) {
        let path = destination.to_owned();
        return Err(Error::BadDestination {
            path,
            reason: "it is the model that is to be quantised",
        });
    }
    let origin: Box<dyn Origin> = match source.is_dir() {
        true => Box::new(Contents::open(source)?),
        false => Box::new(File { gguf: Gguf::open(source)?, i2_s }),
    };
    let tensors = origin.tensors()?;
    let matrices: Vec<_> =
        tensors.iter().filter(|t| is_matrix(t.name(), t.rows())).map(TensorInfo::name).collect();
    let named = overrides.resolve(&matrices).map_err(|e| origin.blame(e))?;
    let mut writer = Writer::new();
    origin.keys(&mut writer)?;
    let total = tensors.len();
    let mut summary = Summary {
        tensors: total,
        quantized: 0,
        fallbacks: 0,
        replaced: Vec::new(),
        weight_error: 0.0,
        types: Vec::new(),
        bytes_in: origin.size(),
        bytes_out: 0,
    };
    let linear_rounding = format.map(|format| Rounding { format, projection });
    let (mut plan, mut linear) = (Vec::with_capacity(total), Vec::new());
    for info in &tensors {
        let role = role(info);
        let wanted = match role {
            Role::Linear => named.rounding(info.name(), linear_rounding),
            Role::Head => named.rounding(info.name(), head.map(Rounding::from)),
            Role::Copied => None,
        };
        let chosen = wanted
            .map(|w| fallback.choose(w.format, info.cols() as usize))
            .transpose()
            .map_err(|source| Error::Tensor { tensor: info.name().to_owned(), source })
            .map_err(|e| origin.blame(e))?;
        let ty = chosen.map_or(Ok(info.tensor_type()), storable)?;
        if chosen != wanted.map(|w| w.format) {
            summary.fallbacks += 1;
            share(&mut summary.replaced, ty, info);
        }
        let projection = wanted.and_then(|w| w.projection);
        let chosen = chosen
            .filter(|_| ty != info.tensor_type() || projection.is_some())
            .map(|format| Rounding { format, projection });
        summary.quantized += usize::from(chosen.is_some());
        plan.push((chosen, ty));
        if matches!(role, Role::Linear) {
            share(&mut linear, ty, info);
        }
    }
    // What was asked for says what the file is, unless it says that the tensors differ.
    let kind = match format {
        Some(format) if overrides.is_empty() => Some(format),
        None if overrides.is_empty() => None,
        _ => linear
            .iter()
            .max_by_key(|t| t.weights)
            .and_then(|t| Format::ALL.iter().copied().find(|f| f.name() == t.name)),
    };
    if let Some(number) = kind.and_then(file_type) {
        writer.set("general.file_type", number)?;
    }
    writer.set("general.quantization_version", 2u32)?;
    if let Some(imatrix) = imatrix {
        imatrix.check_layers(|name| tensors.iter().any(|t| t.name() == name))?;
        writer.set("quantize.imatrix.dataset", imatrix.datasets.join(", "))?;
        writer.set("quantize.imatrix.entries_count", imatrix.sums.len() as u32)?;
        writer.set("quantize.imatrix.chunks_count", imatrix.chunks)?;
    }
    for (info, (_, ty)) in tensors.iter().zip(&plan) {
        writer.tensor(info.name(), *ty, info.dims())?;
    }
    let (mut done, mut error, mut norm) = (0, 0.0, 0.0);
    writer.write(destination, |out_info, out| -> Result<(), WriteError> {
        let at = done;
        if !progress(at, total, out_info.name()) {
            return Err(Error::Cancelled.into());
        }
        done += 1;
        share(&mut summary.types, out_info.tensor_type(), out_info);
        // The writer asks for the tensors in the order in which they were announced.
        let info = &tensors[at];
        debug_assert_eq!(info.name(), out_info.name(), "one order");
        match plan[at].0 {
            Some(Rounding { format, projection }) => {
                let m = origin.matrix(at)?;
                debug_assert_eq!(m.rows() as u64, info.rows(), "a matrix of the whole tensor");
                let importance = imatrix
                    .filter(|_| matches!(role(info), Role::Linear))
                    .map(|i| i.importance(info.name(), m.cols()))
                    .transpose()?;
                let rule = Rule::new(projection, importance.as_deref());
                let (q, cost) =
                    requantize(info.name(), &m, format, rule).map_err(|e| origin.blame(e))?;
                error += cost.error;
                norm += cost.norm;
                out.write_all(q.bytes())?;
            }
            None => origin.write(at, out)?,
        }
        origin.release(at);
        Ok(())
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
    match name {
        _ if info.dims().len() != 2 || !is_matrix(name, info.rows()) => Role::Copied,
        "token_embd.weight" | "output.weight" => Role::Head,
        _ => Role::Linear,
    }
}

/// Counts a tensor under a type.
fn share(types: &mut Vec<TypeShare>, ty: TensorType, info: &TensorInfo) {
    let name = ty.name();
    let i = types.iter().position(|t| t.name == name).unwrap_or_else(|| {
        types.push(TypeShare { name, tensors: 0, weights: 0, bytes: 0 });
        types.len() - 1
    });
    types[i].tensors += 1;
    types[i].weights += info.rows() * info.cols();
    types[i].bytes += ty.bytes(info.rows(), info.cols());
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
