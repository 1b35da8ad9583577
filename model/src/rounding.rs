//! Which format weights are rounded to, and by which rule.

use std::fmt;
use std::str::FromStr;

use tritlab_kernels::{Error, Format, Granularity, Matrix, Projection, Result, Scales};

/// A format, and a projection that takes the place of the format's own rule: `Q4_K`, `TERNARY_G256+optimal`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rounding {
    /// What the weights are stored in.
    pub format: Format,
    /// How they are made ternary; `None`: as the format's quantiser does.
    pub projection: Option<Projection>,
}

impl From<Format> for Rounding {
    fn from(format: Format) -> Self {
        Rounding { format, projection: None }
    }
}

impl FromStr for Rounding {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let (format, projection) = match text.split_once('+') {
            Some((format, projection)) => (format, Some(Projection::from_name(projection)?)),
            None => (text, None),
        };
        Ok(Rounding { format: Format::from_name(format)?, projection })
    }
}

impl fmt::Display for Rounding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.format.name())?;
        self.projection.map_or(Ok(()), |p| write!(f, "+{}", p.name()))
    }
}

/// `weights`, row-major, made ternary by `projection` with scales as `format` has them, in that format.
///
/// # Errors
/// Weights that are not finite; a format that is not ternary or dense.
pub(crate) fn project(
    projection: Projection,
    format: Format,
    (rows, cols): (usize, usize),
    weights: &[f32],
) -> Result<Matrix<'static>> {
    let info = format.info();
    let granularity = match info.scales {
        Scales::Block => Granularity::Group(info.block),
        Scales::Row => Granularity::Row,
        Scales::None | Scales::Tensor => Granularity::Tensor,
    };
    let ternary = projection.apply(weights, rows, cols, granularity, false)?;
    // Blocks hold their scales as f16, and F16 its weights, which are scales or 0.
    match info.scales == Scales::Block || format == Format::F16 {
        true => Matrix::from_ternary(format, &ternary.with_f16_scales()?),
        false => Matrix::from_ternary(format, &ternary),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_they_are_written() {
        for text in ["Q4_K", "TERNARY_G256+optimal", "SIGN+sign"] {
            assert_eq!(text.parse::<Rounding>().unwrap().to_string(), text);
        }
        assert_eq!("tq2_0+TWN".parse::<Rounding>().unwrap().to_string(), "TQ2_0+twn");
        for text in ["Q4_K+", "Q4_K+best", "+twn", "TQ2_0+twn+twn", "Q4_9+twn"] {
            text.parse::<Rounding>().unwrap_err();
        }
    }
}
