//! Vectors of f32 numbers: painted, extreme, hostile, and like real weights.

/// A stream of numbers from a seed (SplitMix64: one line, every seed is good).
#[derive(Clone, Debug)]
pub struct Random(pub u64);

impl Random {
    /// The next 64 bits.
    #[allow(clippy::should_implement_trait, reason = "a stream without an end is no iterator")]
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

    /// Bell-shaped, mean 0, variance 1, at most 6 in magnitude: the sum of twelve uniform numbers.
    pub fn bell(&mut self) -> f32 {
        (0..12).map(|_| (self.next() >> 40) as f32 / (1 << 24) as f32 - 0.5).sum()
    }
}

/// Element `i` of a painted vector, between -2 and 2.
pub fn paint(i: usize) -> f32 {
    ((i * 37 % 251) as f32 - 125.0) / 62.5
}

macro_rules! values {
    ($($(#[doc = $doc:literal])+ $name:literal $variant:ident,)*) => {
        /// Kinds of f32 vectors.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Values { $($(#[doc = $doc])+ $variant),* }

        impl Values {
            /// All of them.
            pub const ALL: &'static [Values] = &[$(Values::$variant),*];

            /// The name in a [`Case`](super::Case).
            pub const fn name(self) -> &'static str {
                match self { $(Values::$variant => $name),* }
            }

            /// What they are, in a sentence.
            pub const fn describe(self) -> &'static str {
                match self { $(Values::$variant => concat!($($doc),+).trim_ascii()),* }
            }
        }
    };
}

values! {
    /// Period 251, the largest prime below 256: swapped blocks or rows change the answer.
    "painted" Painted,
    /// All +0.
    "zeros" Zeros,
    /// -0 and +0 in turn.
    "signed-zeros" SignedZeros,
    /// All 1: codes of +127 everywhere.
    "highest" Highest,
    /// All -1: codes of -127 everywhere.
    "lowest" Lowest,
    /// +1 and -1 in turn: sums that cancel.
    "alternating" Alternating,
    /// Subnormal numbers of both signs, some zeros among them.
    "subnormal" Subnormal,
    /// Up to 1.2e-36, where int8 quantisation just begins: its scales are subnormal.
    "tiny" Tiny,
    /// Up to 2e25: with scales of 65504 a product still is a finite number.
    "huge" Huge,
    /// Finite numbers over 80 binary orders of magnitude.
    "wide" Wide,
    /// Bell-shaped, as weights are.
    "bell" Bell,
    /// Bell-shaped, every 97th a hundred times as large.
    "outliers" Outliers,
    /// 127 in every group, and every quotient at and beside a half: what rounds the wrong way shows.
    "halves" Halves,
    /// Any bits at all: infinities and NaN too.
    "any-bits" AnyBits,
}

impl Values {
    /// Those that quantisation and products accept, and that show the most.
    pub const FINITE: [Values; 10] = [
        Values::Painted,
        Values::Zeros,
        Values::SignedZeros,
        Values::Highest,
        Values::Lowest,
        Values::Alternating,
        Values::Subnormal,
        Values::Tiny,
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
            Values::Tiny => paint(i + seed as usize % 251) * 6e-37,
            Values::Huge => paint(i) * 1e25,
            Values::Wide => random.number(40),
            Values::Bell => random.bell(),
            Values::Outliers => random.bell() * if i % 97 == 96 { 100.0 } else { 1.0 },
            Values::Halves => match i % 32 {
                // 127 is the largest, so x * (127 / 127) is x itself.
                0 => 127.0,
                k => {
                    let k = i / 32 * 31 + k - 1;
                    let half = (k / 3 % 254) as f32 - 126.5;
                    [half, half.next_up(), half.next_down()][k % 3]
                }
            },
            Values::AnyBits => match i % 7 {
                0 => [f32::INFINITY, f32::NEG_INFINITY, f32::NAN, -0.0][random.below(4)],
                _ => f32::from_bits(random.next() as u32),
            },
        };
        (0..n).map(&mut one).collect()
    }
}
