//! BitLinear's weights, as its training code makes them (BitNet b1.58, arXiv 2402.17764; `transformers`
//! `integrations/bitnet.py`): `T / s`, with `T` in {-1, 0, 1} and one f32 number `s` per matrix.
//!
//! Three kinds of checkpoint hold the same thing: master weights, of which `s = 1 / max(mean|W|, 1e-5)`;
//! packed codes with `s` to divide by; packed codes with the mean to multiply by. All of them become one
//! matrix here, whose factor is always `1 / s`: a stored mean takes the same way through its inverse that
//! it took in training. So the three give the same bits.

use tritlab_kernels::{Format, Granularity, Matrix, Packing, Ternary, Weights};

use crate::error::{Error, Result};

/// The ternary matrix of master weights, by absmean over the whole matrix. Masters that are ternary already
/// are what they are: absmean would count their zeros and shrink the rest.
///
/// # Errors
/// Weights that are not finite; the tensor is called `name`.
pub fn from_masters(name: &str, masters: &Matrix<'_>) -> Result<Matrix<'static>> {
    let blame = |source| Error::Tensor { tensor: name.to_owned(), source };
    match Ternary::from_weights(masters) {
        Ok(t) if t.granularity() == Granularity::Tensor => {
            return Matrix::from_ternary(Format::TERNARY, &t).map_err(blame);
        }
        _ => {}
    }
    let (rows, cols) = (masters.rows(), masters.cols());
    let w = masters.dequantize();
    let m = Matrix::quantize(Format::TERNARY, rows, cols, &w).map_err(blame)?;
    drop(w);
    let factor = factor(m.scales()[0], true);
    Matrix::new(Format::TERNARY, rows, cols, m.bytes().to_vec(), vec![factor]).map_err(blame)
}

/// The factor `1 / s` of a stored `weight_scale`, which multiplies (`autobitlinear`) or divides
/// (`bitlinear`).
pub fn factor(weight_scale: f32, multiply: bool) -> f32 {
    if multiply { 1.0 / (1.0 / weight_scale) } else { 1.0 / weight_scale }
}

/// The ternary matrix of packed codes, `[rows / 4][cols]` bytes, with the factor of [`factor`].
///
/// # Errors
/// A code of 3; a shape that a matrix cannot have.
pub fn unpack(
    name: &str,
    bytes: &[u8],
    (rows, cols): (usize, usize),
    factor: f32,
) -> Result<Matrix<'static>> {
    let unpacked = Packing::HF_PACKED.unpack(bytes, rows, cols, Some(factor));
    unpacked
        .and_then(|t| Matrix::from_ternary(Format::TERNARY, &t))
        .map_err(|source| Error::Tensor { tensor: name.to_owned(), source })
}

/// The packed codes of a ternary matrix with one scale: what [`unpack`] reads.
///
/// # Errors
/// Weights that are not ternary.
pub fn pack(name: &str, m: &Matrix<'_>) -> Result<Vec<u8>> {
    let packed = Ternary::from_weights(m).and_then(|t| Packing::HF_PACKED.pack(&t));
    packed.map(|p| p.bytes).map_err(|source| Error::Tensor { tensor: name.to_owned(), source })
}

/// The ternary matrix of one code (-1, 0 or 1) to a byte.
///
/// # Errors
/// Other codes; a shape that a matrix cannot have.
pub fn from_codes(
    name: &str,
    codes: &[u8],
    (rows, cols): (usize, usize),
    factor: f32,
) -> Result<Matrix<'static>> {
    let codes = codes.iter().map(|c| *c as i8).collect();
    Ternary::new(rows, cols, codes, vec![factor], Granularity::Tensor)
        .and_then(|t| Matrix::from_ternary(Format::TERNARY, &t))
        .map_err(|source| Error::Tensor { tensor: name.to_owned(), source })
}
