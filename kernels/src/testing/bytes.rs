//! Matrices of raw bytes: every code, every byte at every place, hostile scales. A quantiser writes few of
//! the patterns that a file can hold.

use super::values::{Random, paint};
use crate::format::{Field, Format, Holds, Scales};
use crate::matrix::Matrix;

/// Where a block keeps its f16 scales and minima, so that raw bytes can get finite ones.
pub fn f16_places(format: Format) -> impl Iterator<Item = usize> {
    let f16 = |f: &&Field| matches!(f.holds, Holds::Scale | Holds::Min | Holds::Lowest);
    format.info().fields.iter().filter(f16).map(|f| f.at)
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

/// Makes raw blocks finite: where an f16 scale or minimum, or a dense element, is infinite or NaN, one bit
/// of its exponent is cleared. All other bytes stay.
pub fn make_finite(format: Format, bytes: &mut [u8]) {
    // The upper byte of each number has the sign and the first bits of the exponent.
    let tame_f16 = |upper: &mut u8| {
        if *upper & 0x7c == 0x7c {
            *upper &= 0xbf;
        }
    };
    for block in bytes.chunks_exact_mut(format.info().bytes) {
        for at in f16_places(format) {
            tame_f16(&mut block[at + 1]);
        }
        match format {
            Format::F16 => tame_f16(&mut block[1]),
            Format::BF16 if block[1] & 0x7f == 0x7f && block[0] & 0x80 != 0 => block[1] &= 0xbf,
            Format::F32 if block[3] & 0x7f == 0x7f && block[2] & 0x80 != 0 => block[3] &= 0xbf,
            _ => {}
        }
    }
}

/// Scales outside the blocks, as many as the format wants; [`Matrix::new`] checks that.
fn outer_scales(format: Format, rows: usize) -> Vec<f32> {
    match format.info().scales {
        Scales::None | Scales::Block => Vec::new(),
        Scales::Row => (0..rows).map(|r| paint(r) + 0.5).collect(),
        Scales::Tensor => vec![-0.712_5],
    }
}

/// A matrix around bytes that were made for its shape.
pub(super) fn wrap(format: Format, rows: usize, cols: usize, bytes: Vec<u8>) -> Matrix<'static> {
    let scales = outer_scales(format, rows);
    Matrix::new(format, rows, cols, bytes, scales).expect("bytes of this shape")
}

/// Bytes of a matrix of this shape.
pub(super) fn byte_count(format: Format, rows: usize, cols: usize) -> usize {
    rows * format.row_bytes(cols).expect("columns that the format can hold")
}

/// A matrix of any code bytes with given f16 scales: `code` makes the byte at an index, `scale` the bits
/// of the scale of a block. Dense formats get finite elements from the same bytes.
///
/// # Panics
/// If the format cannot hold such a shape.
pub fn raw_matrix(
    format: Format,
    rows: usize,
    cols: usize,
    mut code: impl FnMut(usize) -> u8,
    mut scale: impl FnMut(usize) -> u16,
) -> Matrix<'static> {
    let mut bytes: Vec<u8> = (0..byte_count(format, rows, cols)).map(&mut code).collect();
    for (i, block) in bytes.chunks_exact_mut(format.info().bytes).enumerate() {
        for at in f16_places(format) {
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
    wrap(format, rows, cols, bytes)
}

/// A matrix by the format's own quantiser, painted.
///
/// # Panics
/// If the format cannot hold such a shape.
pub fn painted_matrix(format: Format, rows: usize, cols: usize) -> Matrix<'static> {
    let weights: Vec<f32> = (0..rows * cols).map(|i| paint(i * 3 + 1)).collect();
    Matrix::quantize(format, rows, cols, &weights).expect("a shape that the format can hold")
}

/// A matrix of random bytes with scales from [`F16_SCALES`].
///
/// # Panics
/// If the format cannot hold such a shape.
pub fn random_matrix(format: Format, rows: usize, cols: usize, seed: u64) -> Matrix<'static> {
    let (mut codes, mut scales) = (Random(seed), Random(!seed));
    raw_matrix(format, rows, cols, |_| codes.next() as u8, |_| F16_SCALES[scales.below(8)])
}

/// Rows after which [`every_byte`] has had every byte value at every place once.
pub const EVERY_BYTE_ROWS: usize = 256;

/// A matrix in which every byte of a row takes every value once in 256 rows, each in an order of its own,
/// so that codes whose bits lie in several bytes meet in many ways. Block scales are 1. Dense elements:
/// in 256 rows, both bytes of column `k` take every value against `k`, so that 256 columns hold all 2^16 elements of
/// two bytes, NaN among them.
///
/// # Panics
/// If the format cannot hold such a shape.
pub fn every_byte(format: Format, rows: usize, cols: usize, seed: u64) -> Matrix<'static> {
    let row_bytes = format.row_bytes(cols).expect("columns that the format can hold");
    let mut bytes = vec![0; byte_count(format, rows, cols)];
    let size = format.info().bytes;
    let dense = format.codes().is_none();
    for place in 0..row_bytes {
        let mut random = Random(seed ^ (place as u64) << 32);
        let mut order: Vec<u8> = Vec::new();
        for (r, row) in bytes.chunks_exact_mut(row_bytes).enumerate() {
            if r % EVERY_BYTE_ROWS == 0 {
                order = (0..=255).collect();
                for i in (1..order.len()).rev() {
                    order.swap(i, random.below(i + 1));
                }
            }
            row[place] = match dense {
                true if place % size == size - 1 => r as u8,
                true if place % size == size - 2 => (place / size) as u8,
                _ => order[r % EVERY_BYTE_ROWS],
            };
        }
    }
    for block in bytes.chunks_exact_mut(size) {
        for at in f16_places(format) {
            block[at..at + 2].copy_from_slice(&F16_SCALES[0].to_le_bytes());
        }
    }
    wrap(format, rows, cols, bytes)
}

/// A matrix of any bytes at all: scales may be infinite or NaN. For decoders only; products refuse it.
///
/// # Panics
/// If the format cannot hold such a shape.
pub fn any_matrix(format: Format, rows: usize, cols: usize, seed: u64) -> Matrix<'static> {
    wrap(format, rows, cols, Random(seed).bytes(byte_count(format, rows, cols)))
}
