//! What is measured for a format's page: the error of its encoder on four kinds of weights, and the range of
//! its codes and scales. Seeds are fixed and every function is computed in software (`libm`), so the numbers
//! are the same on every machine.

use tritlab_kernels::format::Plain;
use tritlab_kernels::{Format, Matrix, Weights};

/// Shape of the weights that errors are measured on.
pub const SHAPE: (usize, usize) = (8, 4096);

/// The kinds of weights: name, and what it is.
pub const KINDS: [(&str, &str); 4] = [
    ("Gaussian", "N(0, 1)"),
    ("uniform", "between -1 and 1"),
    ("Student", "Student's t with 4 degrees of freedom"),
    ("outliers", "N(0, 1), one weight in 100 ten times as large"),
];

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// In (0, 1), never an end.
    fn uniform(&mut self) -> f64 {
        ((self.next() >> 11) as f64 + 0.5) / (1u64 << 53) as f64
    }

    /// Box and Muller's.
    fn normal(&mut self) -> f64 {
        let r = (-2.0 * libm::log(self.uniform())).sqrt();
        r * libm::cos(std::f64::consts::TAU * self.uniform())
    }

    /// Normal over the root of a mean of four squares: a chi-square of 4 is `-2 ln(u v)`.
    fn student4(&mut self) -> f64 {
        let chi2 = -2.0 * (libm::log(self.uniform()) + libm::log(self.uniform()));
        self.normal() / (chi2 / 4.0).sqrt()
    }
}

/// Weights of a kind, an index of [`KINDS`].
pub fn weights(kind: usize) -> Vec<f32> {
    let mut random = Random(kind as u64);
    let one = |_| match kind {
        0 => random.normal(),
        1 => 2.0 * random.uniform() - 1.0,
        2 => random.student4(),
        _ => random.normal() * if random.uniform() < 0.01 { 10.0 } else { 1.0 },
    };
    (0..SHAPE.0 * SHAPE.1).map(one).map(|w| w as f32).collect()
}

/// How far decoded weights are from the weights.
#[derive(Clone, Copy)]
pub struct Loss {
    /// Root of (sum of squared errors over sum of squares).
    pub relative: f64,
    /// `-20 log10` of it.
    pub sqnr: f64,
}

/// The loss of a format on weights.
pub fn loss(matrix: &Matrix<'_>, weights: &[f32]) -> Loss {
    let (mut error, mut power) = (0.0, 0.0);
    for (w, x) in matrix.dequantize().iter().zip(weights) {
        let e = f64::from(*w) - f64::from(*x);
        error += e * e;
        power += f64::from(*x) * f64::from(*x);
    }
    let relative = (error / power).sqrt();
    Loss { relative, sqnr: -20.0 * libm::log10(relative) }
}

/// Smallest and largest of some integers, and how many different ones there are.
#[derive(Clone, Default)]
pub struct Range(std::collections::BTreeSet<i16>);

impl Range {
    pub fn low(&self) -> i16 {
        self.0.first().copied().unwrap_or(0)
    }

    pub fn high(&self) -> i16 {
        self.0.last().copied().unwrap_or(0)
    }

    pub fn levels(&self) -> usize {
        self.0.len()
    }

    /// Largest magnitude.
    pub fn magnitude(&self) -> f32 {
        f32::from(self.high().max(-self.low()))
    }

    /// Smallest magnitude above 0.
    pub fn smallest(&self) -> f32 {
        let above = self.0.iter().filter(|v| **v != 0).map(|v| v.abs()).min();
        f32::from(above.unwrap_or(0))
    }
}

/// What any bytes can mean.
#[derive(Default)]
pub struct Ranges {
    pub codes: Range,
    pub sub: Range,
    pub sub_min: Range,
}

/// The codes and integer scales that a format's bytes can hold: each byte repeated, and random blocks.
pub fn ranges(format: Format) -> Ranges {
    let info = format.info();
    let mut random = Random(99);
    let blocks = (0..=255u8).map(|byte| vec![byte; info.bytes]);
    let random = (0..500).map(|_| (0..info.bytes).map(|_| random.next() as u8).collect());
    let mut out = Ranges::default();
    for block in blocks.chain(random) {
        let plain = decode(format, &block);
        out.codes.0.extend(&plain.q[..info.block]);
        out.sub.0.extend(&plain.sub[..info.block.div_ceil(plain.sub_len)]);
        out.sub_min.0.extend(&plain.sub_min[..info.block.div_ceil(plain.sub_len)]);
    }
    out
}

/// The codes in the blocks of a matrix.
pub fn codes_written(matrix: &Matrix<'_>) -> Range {
    let info = matrix.format().info();
    let mut out = Range::default();
    for block in matrix.bytes().chunks_exact(info.bytes) {
        out.0.extend(&decode(matrix.format(), block).q[..info.block]);
    }
    out
}

fn decode(format: Format, block: &[u8]) -> Plain {
    let mut plain = Plain::new();
    if let Some(codes) = format.codes() {
        (codes.decode)(block, &mut plain);
    }
    plain
}

/// The five ternary codes of each byte value, in base-3 formats: those of weights that share byte 0.
pub fn base3_bytes(format: Format) -> Vec<Vec<i16>> {
    let info = format.info();
    let zero = decode(format, &vec![0; info.bytes]);
    let mut full = vec![0; info.bytes];
    full[0] = 255;
    let full = decode(format, &full);
    let places: Vec<_> = (0..info.block).filter(|i| zero.q[*i] != full.q[*i]).collect();
    let codes = |byte: u8| {
        let mut block = vec![0; info.bytes];
        block[0] = byte;
        let plain = decode(format, &block);
        places.iter().map(|i| plain.q[*i]).collect()
    };
    (0..=255).map(codes).collect()
}
