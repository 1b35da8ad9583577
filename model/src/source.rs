//! Tensors of a GGUF file as kernel matrices.

use std::borrow::Cow;

use tritlab_kernels::format::Plain;
use tritlab_kernels::{Format, Matrix, Scales, Weights};

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

/// A tensor as a matrix over the file's own bytes.
///
/// # Errors
/// A type that no kernel reads; a row that is too long for exact sums.
pub fn matrix<'a>(gguf: &'a Gguf, info: &TensorInfo) -> Result<Matrix<'a>> {
    let format = format_of(info.tensor_type()).ok_or_else(|| Error::UnsupportedTensorType {
        tensor: info.name().to_owned(),
        found: info.tensor_type().name(),
        known: storable_types(),
    })?;
    let (rows, cols) = (info.rows() as usize, info.cols() as usize);
    Matrix::new(format, rows, cols, Cow::Borrowed(gguf.data(info)), Vec::new())
        .map_err(|source| Error::Tensor { tensor: info.name().to_owned(), source })
}

/// A vector (a norm, a bias, RoPE factors) as f32.
///
/// # Errors
/// As [`matrix`]; numbers that are not finite.
pub fn vector(gguf: &Gguf, info: &TensorInfo) -> Result<Vec<f32>> {
    let x = matrix(gguf, info)?.dequantize();
    match x.iter().position(|v| !v.is_finite()) {
        None => Ok(x),
        Some(i) => Err(Error::BadTensor {
            tensor: info.name().to_owned(),
            reason: format!("element {i} is {}", x[i]),
        }),
    }
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

/// TQ2_0 or TQ1_0 with one scale throughout is BitNet's own ternary form: the same weights with the scale
/// outside, as many bits, so that activations are quantised per token, as the model was trained. Exact, or
/// `None`.
pub fn one_scale_ternary(m: &Matrix<'_>) -> Option<Matrix<'static>> {
    let format = match m.format() {
        Format::TQ2_0 => Format::TERNARY,
        Format::TQ1_0 => Format::TERNARY_B3,
        _ => return None,
    };
    let mut plain = Plain::new();
    let mut scale = None;
    let mut row = Vec::with_capacity(m.cols());
    let mut bytes = Vec::with_capacity(m.rows() * format.row_bytes(m.cols()).ok()?);
    for r in 0..m.rows() {
        row.clear();
        for b in 0..m.cols() / 256 {
            m.block(r, b, &mut plain);
            let zero = plain.q.iter().all(|&q| q == 0);
            if plain.q.iter().any(|&q| q > 1) || !(plain.d.is_finite() && plain.d >= 0.0) {
                return None;
            }
            if !zero && *scale.get_or_insert(plain.d) != plain.d {
                return None;
            }
            row.extend(plain.q.map(|q| q as i8));
        }
        bytes.extend(format.pack_ternary(&row)?);
    }
    Matrix::new(format, m.rows(), m.cols(), bytes, vec![scale.unwrap_or(0.0)]).ok()
}
