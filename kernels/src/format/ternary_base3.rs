//! TERNARY_B3 and TERNARY_B3_ROW: as TERNARY, five weights to a byte: 1.6 bits per weight.
//!
//! ```text
//! byte    0                          1
//!         w0 w1 w2 w3 w4             w5 w6 w7 w8 w9   ...
//!
//! v = 81 (w0+1) + 27 (w1+1) + 9 (w2+1) + 3 (w3+1) + (w4+1)        0..=242, stored as ceil(256 v / 243)
//! w[i] = alpha * (digit[i] - 1)
//! ```
//!
//! The byte is a fraction of 256 in base 3, as in ggml's TQ1_0: digit i is the integer part of
//! `3 * fraction(byte * 3^i / 256)`. Rows start on a byte; the last is padded with zero weights.
//!
//! The 13 other bytes, which no encoder writes, are not refused: the rule gives each of them the digits of
//! the byte before it. Packed again they become that byte, with the same weights.
//!
//! Encoding is that of TERNARY: absmean (BitNet b1.58, arXiv 2402.17764).

use super::field::{Field, layout};
use super::ternary::{absmean, ternary};
use super::{Codes, Grouping, Info, Input, Kind, Plain, Scales, first_digit, fraction};

/// One scale per matrix.
pub struct PerTensor;
/// One scale per row.
pub struct PerRow;

const CODES: Codes =
    Codes { base3: true, outer_scale: absmean, ..Codes::simple(2, 1, 2, decode, encode) };

const fn info(name: &'static str, scales: Scales, summary: &'static str) -> Info {
    Info {
        name,
        block: 5,
        bytes: 1,
        activation: Grouping::Token,
        scales,
        summary,
        fields: const { &layout([Field::codes(1, "codes + 1 as five digits in base 3")]) },
        kind: Kind::Coded(CODES),
    }
}

impl PerTensor {
    pub(super) const INFO: Info = info(
        "TERNARY_B3",
        Scales::Tensor,
        "ternary by absmean, five weights per byte, one f32 scale per matrix",
    );
}

impl PerRow {
    pub(super) const INFO: Info = info(
        "TERNARY_B3_ROW",
        Scales::Row,
        "ternary by absmean, five weights per byte, one f32 scale per row",
    );
}

fn decode(bytes: &[u8], out: &mut Plain) {
    out.d = 1.0;
    for (q, byte) in out.q.as_chunks_mut::<5>().0.iter_mut().zip(bytes) {
        *q = [1, 3, 9, 27, 81].map(|place| i16::from(first_digit(byte.wrapping_mul(place))) - 1);
    }
}

fn encode(input: &Input<'_>, out: &mut [u8]) {
    out[0] = pack(std::array::from_fn(|i| ternary(input.x[i], input.scale)));
}

/// The byte of five codes -1, 0 and 1.
pub(super) fn pack(codes: [i8; 5]) -> u8 {
    fraction(codes.iter().fold(0, |value, q| 3 * value + (q + 1) as u8))
}
