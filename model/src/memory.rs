//! Memory whose amount follows from a call: there may not be enough, which is an error and no end of the process.

use crate::error::{Error, Result};

/// An empty vector with room for `n` elements of `what`.
///
/// # Errors
/// [`Error::Memory`].
pub(crate) fn room<T>(what: &'static str, n: usize) -> Result<Vec<T>> {
    let mut x = Vec::new();
    x.try_reserve_exact(n)
        .map_err(|_| Error::Memory { what, bytes: n as u128 * size_of::<T>() as u128 })?;
    Ok(x)
}

/// A copy of `x`.
///
/// # Errors
/// [`Error::Memory`].
pub(crate) fn copy(what: &'static str, x: &[f32]) -> Result<Vec<f32>> {
    let mut out = room(what, x.len())?;
    out.extend_from_slice(x);
    Ok(out)
}

/// `Ok` if so much could be had now: for what is allocated later, piece by piece.
///
/// # Errors
/// [`Error::Memory`].
pub(crate) fn check(what: &'static str, bytes: u128) -> Result<()> {
    let n = usize::try_from(bytes).map_err(|_| Error::Memory { what, bytes })?;
    room::<u8>(what, n).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// More than any address space has, and more than any number of bytes: errors, where `Vec` ends the process.
    #[test]
    fn what_cannot_be_had_is_an_error_with_its_size() {
        let size = 1u128 << 61;
        for refused in [
            room::<f32>("logits", 1 << 59).map(drop),
            room::<f32>("logits", usize::MAX).map(drop),
            check("logits", size),
            check("logits", u128::MAX),
        ] {
            assert!(matches!(refused, Err(Error::Memory { what: "logits", .. })), "{refused:?}");
        }
        let text = check("logits", size).unwrap_err().to_string();
        assert_eq!(
            text,
            "logits would need 2305843009213693952 bytes of memory, which cannot be had"
        );
        assert_eq!(copy("x", &[1.0, 2.0]).unwrap(), [1.0, 2.0]);
        check("x", 1 << 20).unwrap();
    }
}
