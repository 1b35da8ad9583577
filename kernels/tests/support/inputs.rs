//! Inputs and comparisons that the tests share: painted and hostile numbers, blocks of raw bytes, shapes
//! with a reason each, and an equality of bits that names what differs.

#![allow(dead_code, reason = "every test crate uses its own part of this file")]

use std::io::Write;

use tritlab_kernels::backend::Ops;
use tritlab_kernels::{Backend, Format, Matrix, Scales};

/// Rows to try: a panel is 64 rows, a vector 16.
pub const ROWS: &[usize] = &[
    0,   // nothing to do
    1,   // one lane of one vector
    15,  // one short of a vector
    16,  // a vector
    17,  // a vector and one lane of the next
    63,  // one short of a panel
    64,  // a panel
    65,  // a panel and one lane of the next
    127, // one short of two panels
    128, // two panels
    129, // three panels, the last nearly empty
];

/// Tokens to try: tiles of every backend have 6, 4, 2 or 1 of them.
pub const TOKENS: &[usize] = &[
    0,  // nothing to do
    2,  // the smallest gemm tile
    3,  // 2 + 1
    5,  // 4 + 1
    6,  // the largest tile
    7,  // 6 + 1, 4 + 2 + 1
    8,  // 6 + 2, 4 + 4
    13, // 6 + 6 + 1, 4 + 4 + 4 + 1
];

/// Columns to try for formats that hold any row length.
pub const COLS_ANY: &[usize] = &[
    0,   // an empty sum
    1,   // one code of a byte
    3,   // three codes of a byte
    5,   // one code of the second byte
    31,  // one short of a chunk of 32
    32,  // a chunk
    33,  // a chunk and one
    127, // odd, near a power of two
    130, // not a multiple of four
    576, // SmolLM2-135M's width: not a multiple of 256
];

/// Columns to try for formats in blocks of 32.
pub const COLS_32: &[usize] = &[
    0,   // an empty sum
    32,  // one block
    64,  // two blocks
    96,  // an odd number of blocks
    160, // not a multiple of 64
    576, // SmolLM2-135M's width: not a multiple of 256
    640, // Gemma 3 270M's width
];

/// Columns to try for formats in blocks of 256.
pub const COLS_256: &[usize] = &[
    0,   // an empty sum
    256, // one block
    512, // two blocks
    768, // an odd number of blocks
];

/// Columns to try for formats in blocks of 64 and 128.
pub const COLS_128: &[usize] = &[
    0,   // an empty sum
    128, // one block, or two
    384, // an odd number of blocks
    640, // Gemma 3 270M's width
];

/// The columns of the lists above that a format can hold.
pub fn columns(format: Format) -> &'static [usize] {
    let info = format.info();
    match (info.scales == Scales::Block, info.block) {
        (true, 32) => COLS_32,
        (true, 64 | 128) => COLS_128,
        (true, 256) => COLS_256,
        (true, block) => panic!("{format}: add columns for blocks of {block} to these lists"),
        (false, _) => COLS_ANY,
    }
}

/// What differs, where, and the bits of both: two f32 slices must be equal bit for bit, except that any
/// NaN equals any NaN (its sign and payload are the CPU's, not ours).
///
/// # Panics
/// With the first difference.
#[track_caller]
pub fn assert_bits(what: &str, got: &[f32], expected: &[f32]) {
    assert_eq!(got.len(), expected.len(), "{what}: lengths");
    for (i, (g, e)) in got.iter().zip(expected).enumerate() {
        assert!(
            g.to_bits() == e.to_bits() || (g.is_nan() && e.is_nan()),
            "{what}: first difference at {i}: got {:#010x} ({g:e}), expected {:#010x} ({e:e})",
            g.to_bits(),
            e.to_bits(),
        );
    }
}

/// The backends that this run must have, from `EXPECT_BACKENDS`; `None` if it says nothing.
pub fn expected_backends() -> Option<Vec<String>> {
    let names = std::env::var("EXPECT_BACKENDS").ok()?;
    let names: Vec<_> = names.split(',').map(str::trim).filter(|n| !n.is_empty()).collect();
    (!names.is_empty()).then(|| names.into_iter().map(str::to_owned).collect())
}

/// The backend's operations. `None`, said on the terminal past the test harness, where the CPU lacks it.
///
/// # Panics
/// If `EXPECT_BACKENDS` lists it.
pub fn ops(backend: Backend) -> Option<&'static Ops> {
    match backend.ops() {
        Ok(ops) => Some(ops),
        Err(e) => {
            let expected =
                expected_backends().is_some_and(|n| n.iter().any(|n| n == backend.name()));
            assert!(!expected, "EXPECT_BACKENDS lists {backend}: {e}");
            say(&format!("**** {backend} WAS NOT CHECKED: {e} ****"));
            None
        }
    }
}

/// Writes a line that the test harness does not capture.
pub fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// A stream of numbers from a seed (SplitMix64: one line, every seed is good).
pub struct Random(pub u64);

impl Random {
    /// The next 64 bits.
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number in 0..n.
    pub fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    /// `n` bytes.
    pub fn bytes(&mut self, n: usize) -> Vec<u8> {
        (0..n).map(|_| self.next() as u8).collect()
    }

    /// A finite number: any sign and mantissa, an exponent within `range` of that of 1.
    pub fn number(&mut self, range: i32) -> f32 {
        let r = self.next();
        let exponent = 127 - range + self.below(2 * range as usize + 1) as i32;
        f32::from_bits((r as u32 & 0x807f_ffff) | ((exponent as u32) << 23))
    }
}

/// Kinds of f32 vectors.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Values {
    /// Period 251, the largest prime below 256: swapped blocks or rows change the answer.
    Painted,
    /// All +0.
    Zeros,
    /// -0 and +0 in turn.
    SignedZeros,
    /// All 1: codes of +127 everywhere.
    Highest,
    /// All -1: codes of -127 everywhere.
    Lowest,
    /// +1 and -1 in turn: sums that cancel.
    Alternating,
    /// Subnormal numbers of both signs, some zeros among them.
    Subnormal,
    /// Up to 1e25: with scales of 65504 a product still is a finite number.
    Huge,
    /// Finite numbers over 80 binary orders of magnitude.
    Wide,
    /// Any bits at all: infinities and NaN too.
    AnyBits,
}

impl Values {
    /// Those that quantisation and products accept.
    pub const FINITE: [Values; 9] = [
        Values::Painted,
        Values::Zeros,
        Values::SignedZeros,
        Values::Highest,
        Values::Lowest,
        Values::Alternating,
        Values::Subnormal,
        Values::Huge,
        Values::Wide,
    ];

    /// `n` numbers.
    pub fn make(self, n: usize, seed: u64) -> Vec<f32> {
        let mut random = Random(seed);
        let mut one = |i: usize| match self {
            Values::Painted => paint(i + seed as usize % 251),
            Values::Zeros => 0.0,
            Values::SignedZeros => [-0.0, 0.0][i % 2],
            Values::Highest => 1.0,
            Values::Lowest => -1.0,
            Values::Alternating => [1.0, -1.0][i % 2],
            Values::Subnormal => match i % 5 {
                0 => 0.0,
                _ => f32::from_bits(random.next() as u32 & 0x807f_ffff),
            },
            Values::Huge => paint(i) * 1e25,
            Values::Wide => random.number(40),
            Values::AnyBits => match i % 7 {
                0 => [f32::INFINITY, f32::NEG_INFINITY, f32::NAN, -0.0][random.below(4)],
                _ => f32::from_bits(random.next() as u32),
            },
        };
        (0..n).map(&mut one).collect()
    }
}

/// Element `i` of a painted vector, between -2 and 2.
pub fn paint(i: usize) -> f32 {
    ((i * 37 % 251) as f32 - 125.0) / 62.5
}

/// Where a block keeps its f16 scales and minima, so that raw bytes can get finite ones.
pub fn f16_places(format: Format) -> &'static [usize] {
    use Format as F;
    match format {
        F::Q4_0 | F::Q5_0 | F::Q8_0 | F::IQ4_NL => &[0],
        F::TERNARY_G32 | F::TERNARY_G64 | F::TERNARY_G128 | F::TERNARY_G256 => &[0],
        F::Q4_1 | F::Q5_1 | F::Q4_K | F::Q5_K => &[0, 2],
        F::Q2_K => &[80, 82],
        F::Q3_K => &[108],
        F::Q6_K => &[208],
        F::TQ1_0 => &[52],
        F::TQ2_0 => &[64],
        F::F32 | F::F16 | F::BF16 => &[],
        F::TERNARY | F::TERNARY_ROW | F::TERNARY_B3 | F::TERNARY_B3_ROW => &[],
        F::SIGN | F::SIGN_ROW => &[],
    }
}

/// A matrix of any code bytes with given f16 scales: `code` makes the byte at an index, `scale` the bits
/// of the scale at an index. Dense formats get finite elements from the same bytes.
pub fn raw_matrix(
    format: Format,
    rows: usize,
    cols: usize,
    mut code: impl FnMut(usize) -> u8,
    mut scale: impl FnMut(usize) -> u16,
) -> Matrix<'static> {
    let info = format.info();
    let mut bytes: Vec<u8> = (0..rows * format.row_bytes(cols).unwrap()).map(&mut code).collect();
    for (i, block) in bytes.chunks_exact_mut(info.bytes).enumerate() {
        for &at in f16_places(format) {
            block[at..at + 2].copy_from_slice(&scale(i).to_le_bytes());
        }
        // The upper byte holds sign and exponent. Clearing one exponent bit keeps elements finite, and
        // (f32, bf16: two bits) small enough for products to stay finite.
        match format {
            Format::F16 => block[1] &= 0xbf,
            Format::BF16 => block[1] &= 0xcf,
            Format::F32 => block[3] &= 0xcf,
            _ => {}
        }
    }
    let scales = match info.scales {
        Scales::None | Scales::Block => Vec::new(),
        Scales::Row => (0..rows).map(|r| paint(r) + 0.5).collect(),
        Scales::Tensor => vec![-0.712_5],
    };
    Matrix::new(format, rows, cols, bytes, scales).unwrap()
}

/// f16 bits that scales can have: normal, negative, zero, subnormal, largest.
pub const F16_SCALES: [u16; 8] = [
    0x3c00, // 1
    0x2e66, // 0.1, not exact
    0xb155, // -0.1666
    0x0000, // 0
    0x8000, // -0
    0x0001, // the smallest subnormal
    0x83ff, // the largest negative subnormal
    0x7bff, // 65504, the largest
];

/// A matrix by the format's own quantiser, painted.
pub fn painted_matrix(format: Format, rows: usize, cols: usize) -> Matrix<'static> {
    let weights: Vec<f32> = (0..rows * cols).map(|i| paint(i * 3 + 1)).collect();
    Matrix::quantize(format, rows, cols, &weights).unwrap()
}

/// A matrix of random bytes with scales from [`F16_SCALES`].
pub fn random_matrix(format: Format, rows: usize, cols: usize, seed: u64) -> Matrix<'static> {
    let (mut codes, mut scales) = (Random(seed), Random(!seed));
    raw_matrix(format, rows, cols, |_| codes.next() as u8, |_| F16_SCALES[scales.below(8)])
}

/// proptest's settings: `PROPTEST_CASES` if set, else few, because the oracle is slow.
pub fn cases(few: u32) -> proptest::test_runner::Config {
    use proptest::test_runner::{Config, FileFailurePersistence};
    let cases = std::env::var("PROPTEST_CASES").ok().and_then(|s| s.parse().ok()).unwrap_or(few);
    Config {
        cases,
        failure_persistence: Some(Box::new(FileFailurePersistence::WithSource("regressions"))),
        ..Config::default()
    }
}
