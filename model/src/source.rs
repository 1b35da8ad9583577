//! Tensors of a GGUF file as kernel matrices.

use std::borrow::Cow;

use tritlab_kernels::{Format, Granularity, Matrix, Packing, Scales, Ternary, Weights};

use crate::error::{Error, Result};
use crate::gguf::{Gguf, TensorInfo, TensorType};

/// The kernel format of a tensor type; `None` for types that no kernel reads.
pub fn format_of(ty: TensorType) -> Option<Format> {
    Format::ALL.iter().copied().find(|f| f.name() == ty.name())
}

/// The tensor type that stores a format; `None` for formats that GGUF cannot hold.
pub fn type_of(format: Format) -> Option<TensorType> {
    TensorType::ALL.iter().copied().find(|t| t.name() == format.name())
}

/// The types that [`type_of`] knows, comma-separated: for messages.
pub(crate) fn storable_types() -> String {
    let types: Vec<_> =
        Format::ALL.iter().filter_map(|f| type_of(*f)).map(TensorType::name).collect();
    types.join(", ")
}

/// The packing of a tensor type whose weights are ternary and in another project's layout; `i2_s` is the
/// order of I2_S codes, which a file does not tell.
pub fn packing_of(ty: TensorType, i2_s: Packing) -> Option<Packing> {
    match ty {
        TensorType::I2_S => Some(i2_s),
        TensorType::IQ1_BN => Some(Packing::IQ1_BN),
        TensorType::IQ2_BN => Some(Packing::IQ2_BN),
        TensorType::IQ2_BN_R4 => Some(Packing::IQ2_BN_R4),
        _ => None,
    }
}

/// The order of I2_S codes with this name.
///
/// # Errors
/// A name that is none of I2_S, I2_S_64 and I2_S_ROWS4.
pub fn i2_s_order(name: &str) -> Result<Packing> {
    const ORDERS: [Packing; 3] = [Packing::I2_S, Packing::I2_S_64, Packing::I2_S_ROWS4];
    ORDERS.into_iter().find(|p| p.name().eq_ignore_ascii_case(name)).ok_or_else(|| {
        let known = ORDERS.map(Packing::name).join(", ");
        tritlab_kernels::Error::UnknownPacking { name: name.to_owned(), known }.into()
    })
}

/// A tensor as a matrix over the file's own bytes. The types of [`packing_of`], which no kernel reads as they
/// are, become TERNARY or, with a scale per row, TERNARY_ROW (base 3: TERNARY_B3_ROW): the same weights.
///
/// # Errors
/// A type that no kernel reads; a row that is too long for exact sums; codes that stand for nothing.
pub fn matrix<'a>(gguf: &'a Gguf, info: &TensorInfo, i2_s: Packing) -> Result<Matrix<'a>> {
    read(gguf, info, i2_s).map_err(gguf.blame())
}

fn read<'a>(gguf: &'a Gguf, info: &TensorInfo, i2_s: Packing) -> Result<Matrix<'a>> {
    let ty = info.tensor_type();
    let (rows, cols) = (info.rows() as usize, info.cols() as usize);
    let blame = |source| Error::Tensor { tensor: info.name().to_owned(), source };
    if let Some(packing) = packing_of(ty, i2_s) {
        let format = match packing.granularity() {
            _ if packing == Packing::IQ1_BN => Format::TERNARY_B3_ROW,
            Granularity::Row => Format::TERNARY_ROW,
            _ => Format::TERNARY,
        };
        let unpacked = packing.unpack(gguf.data(info), rows, cols, None);
        return unpacked.and_then(|t| Matrix::from_ternary(format, &t)).map_err(blame);
    }
    let format = format_of(ty).ok_or_else(|| Error::UnsupportedTensorType {
        tensor: info.name().to_owned(),
        found: ty.name(),
        note: note(ty),
        known: storable_types(),
    })?;
    Matrix::new(format, rows, cols, Cow::Borrowed(gguf.data(info)), Vec::new()).map_err(blame)
}

/// What else there is to say about a type that no kernel reads.
pub(crate) fn note(ty: TensorType) -> &'static str {
    match ty {
        TensorType::MXFP4 => {
            " (number 39, which is MXFP4 in ggml and TL2 in bitnet.cpp; neither is supported: \
             convert the original model to I2_S, TQ1_0 or TQ2_0)"
        }
        _ => "",
    }
}

/// A vector (a norm, a bias, RoPE factors) as f32.
///
/// # Errors
/// As [`matrix`]; numbers that are not finite.
pub fn vector(gguf: &Gguf, info: &TensorInfo) -> Result<Vec<f32>> {
    let x = matrix(gguf, info, Packing::I2_S)?.dequantize();
    crate::tensors::finite(info.name(), x).map_err(gguf.blame())
}

/// The rows `pick` of a matrix, in that order. Whole rows move, so nothing is quantised again.
///
/// # Errors
/// More rows than a matrix can have.
pub fn gather(
    m: &Matrix<'_>,
    pick: impl ExactSizeIterator<Item = usize>,
) -> Result<Matrix<'static>> {
    let rows = pick.len();
    let mut bytes = Vec::with_capacity(m.bytes().len());
    let mut scales = Vec::new();
    if m.format().info().scales == Scales::Tensor {
        scales = m.scales().to_vec();
    }
    for r in pick {
        bytes.extend_from_slice(m.row(r));
        if m.format().info().scales == Scales::Row {
            scales.push(m.scales()[r]);
        }
    }
    Ok(Matrix::new(m.format(), rows, m.cols(), bytes, scales)?)
}

/// Rows of a query or key matrix from GGUF's interleaved order to the halves that [`crate::rope`] rotates:
/// within a head of `dim` rows, of which the first `rotated` (an even number) are rotated, row
/// `s*rotated/2 + j` is GGUF's row `2j + s`.
pub fn halves(rows: usize, dim: usize, rotated: usize) -> impl ExactSizeIterator<Item = usize> {
    (0..rows).map(move |r| {
        let (i, half) = (r % dim, rotated / 2);
        if i < rotated { r - i + i % half * 2 + i / half } else { r }
    })
}

/// The order that [`halves`] undoes: row `2j + s` of a head is its row `s*rotated/2 + j`.
pub fn interleaved(
    rows: usize,
    dim: usize,
    rotated: usize,
) -> impl ExactSizeIterator<Item = usize> {
    (0..rows).map(move |r| {
        let (i, half) = (r % dim, rotated / 2);
        if i < rotated { r - i + i % 2 * half + i / 2 } else { r }
    })
}

/// TQ2_0 or TQ1_0 with one scale throughout is BitNet's own ternary form: the same weights with the scale
/// outside, as many bits, so that activations are quantised per token, as the model was trained. Exact, or
/// `None`.
pub fn one_scale_ternary(m: &Matrix<'_>) -> Option<Matrix<'static>> {
    let format = match m.format() {
        Format::TQ2_0 => Format::TERNARY,
        Format::TQ1_0 => Format::TERNARY_B3,
        _ => return None,
    };
    exact_ternary(format, m)
}

/// Weights that are ternary already in a ternary format, exactly; `None` for others and where that format
/// cannot hold them.
pub fn exact_ternary(format: Format, m: &Matrix<'_>) -> Option<Matrix<'static>> {
    if !format.is_ternary() {
        return None;
    }
    Matrix::from_ternary(format, &Ternary::from_weights(m).ok()?).ok()
}
