//! TERNARY and TERNARY_ROW: BitNet b1.58's own form, 2 bits per weight and one f32 scale for the
//! whole matrix or for each row, kept outside the bytes.
//!
//! ```text
//! byte    0                      1
//!         w3 ‖ w2 ‖ w1 ‖ w0      w7 ‖ w6 ‖ w5 ‖ w4   ...     two bits each, first weight lowest
//!
//! w[i] = alpha * (q[i] - 1)      q in 0..=2
//! ```
//!
//! Rows start on a byte; a row whose length is not a multiple of four is padded with zero weights.
//!
//! Encoding is absmean (BitNet b1.58, arXiv 2402.17764, eq. 1-3): `alpha = max(mean|w|, 1e-5)` over
//! the whole matrix (TERNARY) or the row (TERNARY_ROW), `q = clamp(round_half_even(w / alpha), -1, 1)`,
//! where `w / alpha` is `w * (1 / alpha)` in f32 as in the published training code. The mean is summed
//! in f64, in order, so it has one value everywhere. Activations are quantised per token, as trained.

use super::field::{Field, layout};
use super::sign::mean_magnitude;
use super::{Codes, Grouping, Info, Input, Kind, Plain, Scales};

/// One scale per matrix.
pub struct PerTensor;
/// One scale per row.
pub struct PerRow;

const CODES: Codes = Codes { outer_scale: absmean, ..Codes::simple(2, 1, 3, decode, encode) };

const fn info(name: &'static str, scales: Scales, summary: &'static str) -> Info {
    Info {
        name,
        block: 4,
        bytes: 1,
        activation: Grouping::Token,
        scales,
        summary,
        fields: const { &layout([Field::codes(1, "2-bit codes + 1, first weight lowest")]) },
        kind: Kind::Coded(CODES),
    }
}

impl PerTensor {
    pub(super) const INFO: Info = info(
        "TERNARY",
        Scales::Tensor,
        "ternary by absmean, 2-bit codes, one f32 scale per matrix (BitNet b1.58)",
    );
}

impl PerRow {
    pub(super) const INFO: Info =
        info("TERNARY_ROW", Scales::Row, "ternary by absmean, 2-bit codes, one f32 scale per row");
}

/// BitNet's smallest scale.
const SMALLEST: f32 = 1e-5;

/// BitNet's scale: the mean magnitude, at least 1e-5.
pub(crate) fn absmean(x: &[f32]) -> f32 {
    mean_magnitude(x).max(SMALLEST)
}

fn decode(bytes: &[u8], out: &mut Plain) {
    out.d = 1.0;
    unpack(bytes, &mut out.q);
}

/// The codes of bytes of four.
pub(super) fn unpack(bytes: &[u8], codes: &mut [i16]) {
    for (q, byte) in codes.as_chunks_mut::<4>().0.iter_mut().zip(bytes) {
        *q = CODES_OF[usize::from(*byte)];
    }
}

/// The four codes of each byte: one look-up, where shifts and masks were a sixth of the time of loading a file.
static CODES_OF: [[i16; 4]; 256] = {
    let mut table = [[0; 4]; 256];
    let mut i = 0;
    while i < 4 * 256 {
        let (byte, code) = (i / 4, i % 4);
        table[byte][code] = (byte >> (2 * code) & 3) as i16 - 1;
        i += 1;
    }
    table
};

fn encode(input: &Input<'_>, out: &mut [u8]) {
    out[0] = pack(std::array::from_fn(|i| ternary(input.x[i], input.scale)));
}

/// The byte of four codes -1, 0 and 1.
pub(super) fn pack([a, b, c, d]: [i8; 4]) -> u8 {
    // All four in one word, so that the compiler makes vectors of neighbouring bytes.
    let codes = u32::from_le_bytes([a, b, c, d].map(|q| (q + 1) as u8));
    (codes | codes >> 6 | codes >> 12 | codes >> 18) as u8
}

/// The nearest of -1, 0 and 1 to `w / alpha`, half to even.
pub(crate) fn ternary(w: f32, alpha: f32) -> i8 {
    (w * (1.0 / alpha)).round_ties_even().clamp(-1.0, 1.0) as i8
}
