//! What a kernel should compute, and the cases that show whether it does.

use std::fmt;

use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::TestRunner;

use super::bytes::EVERY_BYTE_ROWS;
use super::case::{Bytes, Case};
use super::shapes::{LENGTHS, ROWS, TOKENS, columns};
use super::strategies;
use super::values::Values;
use crate::format::{Format, Grouping, Scales};
use crate::matrix::matrix_bytes;

/// What a kernel should compute.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Check {
    /// `y = W x` for one vector: [`crate::oracle::matmul`].
    Gemv(Format),
    /// `Y = W X` for several vectors: [`crate::oracle::matmul`].
    Gemm(Format),
    /// Bytes to f32: [`crate::Weights::dequantize_row`].
    Decode(Format),
    /// f32 to bytes: [`crate::Matrix::quantize`].
    Encode(Format),
    /// f32 to int8 activations: [`crate::oracle::quantize_row`].
    QuantizeRow(Grouping),
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Check::Gemv(format) => write!(f, "gemv of {format}"),
            Check::Gemm(format) => write!(f, "gemm of {format}"),
            Check::Decode(format) => write!(f, "the decoder of {format}"),
            Check::Encode(format) => write!(f, "the encoder of {format}"),
            Check::QuantizeRow(Grouping::Token) => f.write_str("int8 activations per token"),
            Check::QuantizeRow(g) => write!(f, "int8 activations per {}", g.name()),
        }
    }
}

/// The largest and smallest codes.
const PAIRS: [[u8; 2]; 6] = [
    [0xff, 0xff], // the largest code of 1, 2 and 4 bits; -1 of 8
    [0x00, 0x00], // the smallest code of 1, 2 and 4 bits; 0 of 8
    [0x7f, 0x7f], // 127, the largest code of 8 bits
    [0x80, 0x80], // -128, the smallest code of 8 bits, which no encoder writes
    [0x7f, 0x80], // both in turn
    [0xff, 0x00], // both in turn
];

/// Weights that a format's encoder can hold: f16 scales end at 65504 times the largest code.
pub(super) fn encodable(format: Format) -> impl Iterator<Item = Values> {
    let small = matches!(format, Format::F16) || format.info().scales == Scales::Block;
    let large = move |v: &Values| small && matches!(v, Values::Huge | Values::Wide);
    let all = Values::ALL.iter().copied().filter(|v| *v != Values::AnyBits);
    all.filter(move |v| !large(v))
}

impl Check {
    /// Every shape with painted numbers, extremes, every byte, hostile scales: small ones first.
    pub fn cases(self) -> Vec<Case> {
        match self {
            Check::Gemv(format) => products(format, &[1]),
            Check::Gemm(format) => products(format, TOKENS),
            Check::Decode(format) => decodes(format),
            Check::Encode(format) => encodes(format),
            Check::QuantizeRow(_) => activations(),
        }
    }

    /// `count` cases drawn from [`strategies::cases`], the same ones for every run with a seed.
    pub fn random_cases(self, count: u32, seed: u64) -> Vec<Case> {
        self.draw(count, &mut strategies::seeded(seed))
    }

    /// `count` cases drawn by `runner`.
    pub(super) fn draw(self, count: u32, runner: &mut TestRunner) -> Vec<Case> {
        let strategy = strategies::cases(self);
        // Only filters can refuse to draw, and these strategies have none.
        (0..count).filter_map(|_| Some(strategy.new_tree(runner).ok()?.current())).collect()
    }

    /// Why `case` is none of this check; `None` if it is one.
    pub fn refuses(self, case: &Case) -> Option<String> {
        let (bytes, values, format) = match self {
            Check::Gemv(format) | Check::Gemm(format) => (true, true, Some(format)),
            Check::Decode(format) => (true, false, Some(format)),
            Check::Encode(format) => (false, true, Some(format)),
            Check::QuantizeRow(_) => (false, true, None),
        };
        if (case.bytes.is_some(), case.values.is_some()) != (bytes, values) {
            let wanted = match (bytes, values) {
                (true, true) => "WEIGHTS*NUMBERS/ROWSxCOLUMNSxTOKENS",
                (true, false) => "WEIGHTS/ROWSxCOLUMNS",
                _ => "NUMBERS/ROWSxCOLUMNS",
            };
            return Some(format!("it wants {wanted}/seed=SEED"));
        }
        if matches!(self, Check::Gemv(_)) && case.n != 1 {
            return Some("gemv has 1 token".to_owned());
        }
        if matches!(self, Check::QuantizeRow(_)) && case.rows != 1 {
            return Some("it has 1 row".to_owned());
        }
        if case.values == Some(Values::AnyBits) {
            return Some("NaN and infinity are refused before any kernel".to_owned());
        }
        if matches!(self, Check::Gemv(_) | Check::Gemm(_)) && case.bytes == Some(Bytes::Any) {
            return Some("NaN and infinite scales are refused before any kernel".to_owned());
        }
        format
            .and_then(|format| matrix_bytes(format, case.rows, case.cols).err())
            .map(|e| e.to_string())
    }

    /// Smaller cases to try when `case` fails, the smallest first: fewer tokens, rows, columns, seed 0.
    pub fn simpler(self, case: &Case) -> Vec<Case> {
        // 1, a half, three quarters, ... and one less: halving the step finds a border in few tries.
        let smaller = |n: usize| {
            let steps = (1..).map(|i| n >> i).take_while(|&step| step > 0);
            let mut sizes: Vec<usize> = std::iter::once(1).chain(steps.map(|s| n - s)).collect();
            sizes.retain(|&size| size < n);
            sizes.dedup();
            sizes
        };
        let mut out: Vec<Case> = smaller(case.n).into_iter().map(|n| Case { n, ..*case }).collect();
        if !matches!(self, Check::QuantizeRow(_)) {
            out.extend(smaller(case.rows).into_iter().map(|rows| Case { rows, ..*case }));
        }
        let block = match self {
            Check::QuantizeRow(_) => 1,
            Check::Gemv(f) | Check::Gemm(f) | Check::Decode(f) | Check::Encode(f) => whole_block(f),
        };
        let cols = smaller(case.cols.div_ceil(block)).into_iter().map(|n| n * block);
        out.extend(cols.map(|cols| Case { cols, ..*case }));
        if case.seed != 0 {
            out.push(Case { seed: 0, ..*case });
        }
        out
    }
}

/// Row lengths that a format can hold are multiples of this.
fn whole_block(format: Format) -> usize {
    if format.info().scales == Scales::Block { format.info().block } else { 1 }
}

/// Every number of rows, every number of columns, every number of tokens, each against a few others; every
/// kind of activations; every byte; saturation.
fn products(format: Format, tokens: &[usize]) -> Vec<Case> {
    let columns = columns(format);
    let (narrow, wide) = (columns[columns.len() / 2], columns[columns.len() - 1]);
    let mut cases = Vec::new();
    let mut add =
        |bytes, values, shape, seed| cases.push(Case::product(bytes, values, shape, seed));
    for &rows in ROWS {
        let n = tokens[rows % tokens.len()];
        add(Bytes::Painted, Values::Painted, (rows, narrow, n), 1);
    }
    for &cols in columns {
        let n = tokens[cols % tokens.len()];
        add(Bytes::Painted, Values::Painted, (17, cols, n), 2);
        add(Bytes::Random, Values::Wide, (33, cols, n), 3);
    }
    for &n in tokens {
        add(Bytes::Random, Values::Painted, (65, narrow, n), n as u64);
    }
    // Tiles of six and one, and of four, two and one.
    let n = if tokens.contains(&7) { 7 } else { 1 };
    for values in Values::FINITE {
        add(Bytes::Random, values, (18, wide, n), 6);
    }
    // The largest and smallest codes of every format against the largest and smallest activations.
    for pair in PAIRS {
        for values in [Values::Highest, Values::Lowest, Values::Alternating] {
            add(Bytes::Pair(pair), values, (17, wide, n), 0);
        }
    }
    // The same where codes are unpacked for all tokens: the largest bytes of both signs.
    for pair in [[0xff, 0xff], [0x00, 0x00], [0xff, 0x00]] {
        add(Bytes::Pair(pair), Values::Highest, (17, wide, tokens[tokens.len() - 1]), 0);
    }
    if format.codes().is_some() {
        let cols = columns.iter().copied().find(|&cols| cols > 1).unwrap_or(wide);
        add(Bytes::Every, Values::Painted, (4 * EVERY_BYTE_ROWS, cols, n), 0);
    }
    // Rows so long that the exact sum of all-largest codes needs more than the 24 bits of an f32 (ternary:
    // 3 * 127 * 70,003), and nearly the longest that Q8_0 and base 3 accept.
    let short = format.codes().is_some_and(|c| c.max > 15 || c.base3);
    let long = if short { 33_020 } else { 70_003 };
    let cols = long / whole_block(format) * whole_block(format);
    add(Bytes::Pair([0xff; 2]), Values::Highest, (2, cols, 1), 0);
    if format.info().activation == Grouping::Token && !short {
        // The largest sum is even until one code in eight or sixteen is smaller.
        add(Bytes::Pair([0xff, 0xfe]), Values::Highest, (2, 200_003, 1), 0);
    }
    cases
}

fn decodes(format: Format) -> Vec<Case> {
    let columns = columns(format);
    let mut cases = Vec::new();
    let mut add = |bytes, rows, cols, seed| cases.push(Case::packed(bytes, rows, cols, seed));
    for &cols in columns {
        add(Bytes::Painted, 17, cols, 0);
        add(Bytes::Random, 33, cols, 1);
        add(Bytes::Any, 33, cols, 2);
    }
    add(Bytes::Every, 4 * EVERY_BYTE_ROWS, columns[columns.len() / 2], 0);
    if format.codes().is_none() {
        add(Bytes::Every, EVERY_BYTE_ROWS, 256, 0); // every element of two bytes
    }
    cases
}

fn encodes(format: Format) -> Vec<Case> {
    let columns = columns(format);
    let wide = columns[columns.len() - 1];
    let painted = columns.iter().map(|&cols| Case::numbers(Values::Painted, 3, cols, 1));
    let kinds = encodable(format).map(|values| Case::numbers(values, 5, wide, 2));
    painted.chain(kinds).collect()
}

fn activations() -> Vec<Case> {
    let row = |&n: &usize| Values::FINITE.map(|values| Case::numbers(values, 1, n, 1));
    // 254 halves, three numbers each, 31 in a group of 32.
    let halves = Case::numbers(Values::Halves, 1, (254 * 3usize).div_ceil(31) * 32, 0);
    LENGTHS.iter().flat_map(row).chain([halves]).collect()
}
