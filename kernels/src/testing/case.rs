//! A case: which numbers, which shape, which seed. Its name says all of it, so that a name is enough to run
//! it again, anywhere.

use std::fmt;
use std::str::FromStr;

use super::bytes::{any_matrix, every_byte, painted_matrix, random_matrix, raw_matrix};
use super::values::Values;
use crate::error::{Error, Result};
use crate::format::Format;
use crate::matrix::{Matrix, matrix_bytes};

/// More weights, activations or outputs than this are no test case.
const LIMIT: usize = 1 << 26;

/// Kinds of packed weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Bytes {
    /// Painted numbers, quantised by the format's own quantiser.
    Painted,
    /// Random bytes; block scales are 1, not exact, negative, zero, subnormal or the largest.
    Random,
    /// Two bytes in turn, scale 1: the largest and smallest codes.
    Pair([u8; 2]),
    /// Every byte value at every place within 256 rows; see [`super::every_byte`].
    Every,
    /// Any bytes at all, infinite and NaN scales among them; decoders only.
    Any,
}

impl Bytes {
    /// What they are, in a sentence.
    pub fn describe(self) -> String {
        match self {
            Bytes::Painted => "painted numbers, quantised by the format's own quantiser".to_owned(),
            Bytes::Random => {
                "random bytes; scales 1, inexact, negative, zero, subnormal, largest".to_owned()
            }
            Bytes::Pair([a, b]) => format!("bytes {a:#04x} and {b:#04x} in turn, scale 1"),
            Bytes::Every => "every byte value at every place of a row, scale 1".to_owned(),
            Bytes::Any => "any bytes at all, infinite and NaN scales too".to_owned(),
        }
    }
}

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Bytes::Painted => f.write_str("quantized"),
            Bytes::Random => f.write_str("random-bytes"),
            Bytes::Pair([a, b]) => write!(f, "bytes-{a:02x}-{b:02x}"),
            Bytes::Every => f.write_str("every-byte"),
            Bytes::Any => f.write_str("any-bytes"),
        }
    }
}

impl FromStr for Bytes {
    type Err = ();
    fn from_str(s: &str) -> std::result::Result<Self, ()> {
        let byte = |s: &str| (s.len() == 2).then(|| u8::from_str_radix(s, 16).ok()).flatten();
        match s {
            "quantized" => Ok(Bytes::Painted),
            "random-bytes" => Ok(Bytes::Random),
            "every-byte" => Ok(Bytes::Every),
            "any-bytes" => Ok(Bytes::Any),
            _ => s
                .strip_prefix("bytes-")
                .and_then(|s| s.split_once('-'))
                .and_then(|(a, b)| Some(Bytes::Pair([byte(a)?, byte(b)?])))
                .ok_or(()),
        }
    }
}

/// One run of a kernel. Its name has the weights (if bytes go in), the numbers (if numbers go in), the
/// shape and the seed: `random-bytes*wide/33x576x3/seed=3`, `every-byte/1024x32/seed=0`,
/// `bell/1x577/seed=1`.
///
/// ```
/// use tritlab_kernels::testing::Case;
/// let case: Case = "random-bytes*wide/33x576x3/seed=3".parse().unwrap();
/// assert_eq!((case.rows, case.cols, case.n, case.seed), (33, 576, 3, 3));
/// assert_eq!(case.to_string(), "random-bytes*wide/33x576x3/seed=3");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Case {
    /// The packed weights that go in, if any do.
    pub bytes: Option<Bytes>,
    /// The f32 numbers that go in, if any do: activations, or weights to quantise.
    pub values: Option<Values>,
    /// Rows of the matrix.
    pub rows: usize,
    /// Columns of the matrix, elements of a vector.
    pub cols: usize,
    /// Activation vectors; 1 where there are none.
    pub n: usize,
    /// What the random numbers begin with.
    pub seed: u64,
}

impl Case {
    /// A product: weights times `n` vectors of activations.
    pub fn product(bytes: Bytes, values: Values, shape: (usize, usize, usize), seed: u64) -> Self {
        let (rows, cols, n) = shape;
        Case { bytes: Some(bytes), values: Some(values), rows, cols, n, seed }
    }

    /// Packed weights to decode.
    pub fn packed(bytes: Bytes, rows: usize, cols: usize, seed: u64) -> Self {
        Case { bytes: Some(bytes), values: None, rows, cols, n: 1, seed }
    }

    /// Numbers to quantise.
    pub fn numbers(values: Values, rows: usize, cols: usize, seed: u64) -> Self {
        Case { bytes: None, values: Some(values), rows, cols, n: 1, seed }
    }

    /// The packed weights.
    ///
    /// # Errors
    /// A shape that the format cannot hold, or one with more than 2^26 weights, activations or outputs.
    pub fn matrix(&self, format: Format) -> Result<Matrix<'static>> {
        self.check_size(format.name())?;
        matrix_bytes(format, self.rows, self.cols)?;
        let Case { rows, cols, seed, .. } = *self;
        Ok(match self.bytes.unwrap_or(Bytes::Painted) {
            Bytes::Painted => painted_matrix(format, rows, cols),
            Bytes::Random => random_matrix(format, rows, cols, seed),
            Bytes::Pair(pair) => raw_matrix(format, rows, cols, |i| pair[i % 2], |_| 0x3c00),
            Bytes::Every => every_byte(format, rows, cols, seed),
            Bytes::Any => any_matrix(format, rows, cols, seed),
        })
    }

    /// The activations, `[n][cols]`.
    ///
    /// # Errors
    /// As [`Case::matrix`].
    pub fn activations(&self) -> Result<Vec<f32>> {
        self.check_size("activations")?;
        // Another seed than the weights', so that codes and numbers do not come from one stream.
        let values = self.values.unwrap_or(Values::Painted);
        Ok(values.make(self.n * self.cols, self.seed.wrapping_add(1)))
    }

    /// The weights to quantise, `[rows][cols]`.
    ///
    /// # Errors
    /// As [`Case::matrix`].
    pub fn weights(&self) -> Result<Vec<f32>> {
        self.check_size("weights")?;
        Ok(self.values.unwrap_or(Values::Painted).make(self.rows * self.cols, self.seed))
    }

    fn check_size(&self, format: &'static str) -> Result<()> {
        let Case { rows, cols, n, .. } = *self;
        let fits = |a: usize, b: usize| a.checked_mul(b).is_some_and(|n| n <= LIMIT);
        if fits(rows.max(1), cols.max(1)) && fits(n, cols.max(1)) && fits(n, rows.max(1)) {
            return Ok(());
        }
        Err(Error::TooLarge { format, rows, cols, why: "a test case has at most 2^26 numbers" })
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.bytes, self.values) {
            (Some(bytes), Some(values)) => write!(f, "{bytes}*{}", values.name())?,
            (Some(bytes), None) => write!(f, "{bytes}")?,
            (None, values) => f.write_str(values.map_or("", Values::name))?,
        }
        write!(f, "/{}x{}", self.rows, self.cols)?;
        if self.bytes.is_some() && self.values.is_some() {
            write!(f, "x{}", self.n)?;
        }
        write!(f, "/seed={}", self.seed)
    }
}

impl FromStr for Case {
    type Err = String;

    fn from_str(s: &str) -> std::result::Result<Self, String> {
        parse(s).ok_or_else(|| {
            format!(
                "{s:?} is no case; its form is WEIGHTS*NUMBERS/ROWSxCOLUMNSxTOKENS/seed=SEED, as in \
                 random-bytes*wide/33x576x3/seed=3 (what decodes has no NUMBERS, what quantises no WEIGHTS, \
                 and both no TOKENS)"
            )
        })
    }
}

fn parse(s: &str) -> Option<Case> {
    let mut parts = s.split('/');
    let (inputs, shape, seed) = (parts.next()?, parts.next()?, parts.next()?);
    if parts.next().is_some() {
        return None;
    }
    let values = |s: &str| Values::ALL.iter().copied().find(|v| v.name() == s);
    let (bytes, values) = match inputs.split_once('*') {
        Some((b, v)) => (Some(b.parse().ok()?), Some(values(v)?)),
        // `any-bytes` are bytes; numbers of any bits have the name `any-bits`.
        None => match inputs.parse() {
            Ok(bytes) => (Some(bytes), None),
            Err(()) => (None, Some(values(inputs)?)),
        },
    };
    let shape: Vec<usize> = shape.split('x').map(|n| n.parse().ok()).collect::<Option<_>>()?;
    let (rows, cols, n) = match (&shape[..], bytes.is_some() && values.is_some()) {
        ([rows, cols, n], true) => (*rows, *cols, *n),
        ([rows, cols], false) => (*rows, *cols, 1),
        _ => return None,
    };
    Some(Case { bytes, values, rows, cols, n, seed: seed.strip_prefix("seed=")?.parse().ok()? })
}
