//! SIGN and SIGN_ROW: 1 bit per weight and one f32 scale for the whole matrix or for each row, kept
//! outside the bytes: the weights of the first BitNet paper without its mean-centring.
//!
//! ```text
//! byte    0                                        bit i belongs to w[i], first weight lowest
//!         w7 w6 w5 w4 w3 w2 w1 w0       ...        set: +beta, clear: -beta
//!
//! w[i] = beta * q[i]             q is -1 or +1
//! ```
//!
//! Rows start on a byte. A row whose length is not a multiple of eight is padded with clear bits; they
//! mean -beta, so whatever meets the padding must be zero.
//!
//! Encoding (BitNet, arXiv 2310.11453, eq. 1-3 with alpha = 0): `beta = mean|w|`, `q = +1` where `w > 0`,
//! otherwise -1, zero of either sign included. The mean is summed in f64, in order, so it has one value
//! everywhere. Activations are quantised per token, as trained.

use super::field::{Field, layout};
use super::{Codes, Grouping, Info, Input, Kind, Plain, Scales};

/// One scale per matrix.
pub struct PerTensor;
/// One scale per row.
pub struct PerRow;

const CODES: Codes =
    Codes { outer_scale: mean_magnitude, ..Codes::simple(1, 1, 2, decode, encode) };

const fn info(name: &'static str, scales: Scales, summary: &'static str) -> Info {
    Info {
        name,
        block: 8,
        bytes: 1,
        activation: Grouping::Token,
        scales,
        summary,
        fields: const { &layout([Field::codes(1, "signs, first weight lowest, set: +1")]) },
        kind: Kind::Coded(CODES),
    }
}

impl PerTensor {
    pub(super) const INFO: Info =
        info("SIGN", Scales::Tensor, "signs, one bit each, one f32 scale per matrix (BitNet)");
}

impl PerRow {
    pub(super) const INFO: Info =
        info("SIGN_ROW", Scales::Row, "signs, one bit each, one f32 scale per row");
}

/// The mean of `|x|`; 0 for no values.
pub(super) fn mean_magnitude(x: &[f32]) -> f32 {
    let sum: f64 = x.iter().map(|v| f64::from(v.abs())).sum();
    (sum / x.len().max(1) as f64) as f32
}

fn decode(bytes: &[u8], out: &mut Plain) {
    out.d = 1.0;
    for (q, byte) in out.q.as_chunks_mut::<8>().0.iter_mut().zip(bytes) {
        *q = std::array::from_fn(|i| i16::from(byte >> i & 1) * 2 - 1);
    }
}

fn encode(input: &Input<'_>, out: &mut [u8]) {
    out[0] = pack(std::array::from_fn(|i| i8::from(input.x[i] > 0.0)));
}

/// The byte of eight codes; those above 0 are set.
pub(super) fn pack(codes: [i8; 8]) -> u8 {
    (0..8).fold(0, |byte, i| byte | u8::from(codes[i] > 0) << i)
}
