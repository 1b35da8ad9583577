//! How much each column matters to the encoders that search.
//!
//! Only the ratios of importances mean something, and only within a block. The searches form products of up to
//! three of them with weights and codes, in f32: where the largest of a block is outside 2^-20 to 2^20, those of the
//! block are multiplied by the power of two that brings it to the nearer end, which rounds nothing but ratios beyond
//! f32's range. Importances that are all 0 tell no column from another, so each counts as 1; llama.cpp does the same
//! for tensors whose collection saw no input. In a vector that is not all 0, columns of importance 0 do not count:
//! whatever becomes of their weights is no error.

use std::borrow::Cow;

use crate::error::{Error, Result, check_len};

/// Binary exponents that the largest importance of a block may have.
const EXPONENT: i32 = 20;

/// Importances of `cols` columns, in blocks of `block`, as the searches take them.
///
/// # Errors
/// A wrong length, [`Error::Importance`].
pub(crate) fn usable(importance: &[f32], cols: usize, block: usize) -> Result<Cow<'_, [f32]>> {
    check_len("importance", cols, importance.len())?;
    // NaN is not in the range.
    if let Some(column) = importance.iter().position(|w| !(0.0..=f32::MAX).contains(w)) {
        return Err(Error::Importance { column, value: importance[column].to_string() });
    }
    if importance.iter().all(|w| *w == 0.0) {
        return Ok(Cow::Owned(vec![1.0; cols]));
    }
    let mut usable = Cow::Borrowed(importance);
    for (i, w) in importance.chunks(block).enumerate() {
        if let Some(factor) = factor(w) {
            for w in usable.to_mut()[i * block..].iter_mut().take(block) {
                *w = (f64::from(*w) * factor) as f32;
            }
        }
    }
    Ok(usable)
}

/// What brings the largest into the range, if it is outside.
fn factor(w: &[f32]) -> Option<f64> {
    let largest = f64::from(w.iter().fold(0.0f32, |a, w| a.max(*w)));
    if largest == 0.0 {
        return None;
    }
    // Every f32 is a normal f64, so this is the exponent.
    let exponent = (largest.to_bits() >> 52) as i32 - 1023;
    let shift = exponent.clamp(-EXPONENT, EXPONENT) - exponent;
    (shift != 0).then(|| f64::from_bits(((1023 + shift) as u64) << 52))
}
