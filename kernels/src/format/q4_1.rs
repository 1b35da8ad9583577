//! Q4_1: 32 weights in 20 bytes, 5 bits per weight.
//!
//! ```text
//! byte    0  1 | 2  3 | 4          5          ...  19
//!         d f16| m f16| w16 ‖ w0   w17 ‖ w1   ...  w31 ‖ w15      (high nibble ‖ low nibble)
//!
//! w[i] = d * q[i] + m            q in 0..=15
//! ```
//!
//! In the normal form the minimum is subtracted, so its sign is the other one. Encoding: `m = min`,
//! `d = (max - min) / 15`, `q = trunc((w - min) / d + 0.5)`. With importances: 37 candidates for scale
//! and minimum, errors weighed by `importance * sqrt(mean(row^2) + w^2)`. Source: ggml
//! `quantize_row_q4_1_ref` and `_impl`.

use super::field::layout;
use super::min_search::MinSearch;
use super::q4_0::{nibbles, put_nibbles};
use super::search::weigh;
use super::{Codes, Field, Grouping, Holds, Info, Input, Kind, Plain, Scales};
use super::{f16_at, inverse, put_f16};

/// The codec.
#[allow(non_camel_case_types, reason = "the field's name")]
pub struct Q4_1;

impl Q4_1 {
    pub(super) const INFO: Info = Info {
        name: "Q4_1",
        block: 32,
        bytes: 20,
        activation: Grouping::Group32,
        scales: Scales::Block,
        summary: "4-bit codes above a minimum, f16 scale and minimum per 32",
        fields: &layout([
            Field::D,
            Field::f16("m", Holds::Lowest, "lowest level"),
            Field::codes(16, "4-bit codes, w[i] low, w[i+16] high"),
        ]),
        kind: Kind::Coded(Codes { min: true, ..Codes::simple(4, 0, 15, decode, encode) }),
    };
}

fn decode(bytes: &[u8], out: &mut Plain) {
    out.d = f16_at(bytes, 0);
    out.m = -f16_at(bytes, 2);
    nibbles(&bytes[4..20], 0, out);
}

fn encode(input: &Input<'_>, out: &mut [u8]) {
    let (d, min, codes) = above_min(input, 15.0);
    put_f16(out, 0, d);
    put_f16(out, 2, min);
    put_nibbles(&mut out[4..20], |i| codes[i]);
}

/// Scale, minimum and codes `0..=top` of a block of 32, by range or, with importances, by search: the
/// encoding of Q4_1 and Q5_1.
pub(super) fn above_min(input: &Input<'_>, top: f32) -> (f32, f32, [u8; 32]) {
    let x: &[f32; 32] = input.x.as_array().expect("a block");
    if let Some(importance) = input.importance {
        let w = weigh(x, importance.as_array().expect("a block"), input.row_mean_square);
        let mut codes = [0.0; 32];
        let (d, minus_min) = MinSearch::weighted(top).run(x, &w, &mut codes);
        return (d, -minus_min, codes.map(|q| q as u8));
    }
    // Comparisons and not `f32::min`, which may return a zero of either sign: bytes are the same everywhere.
    let (mut min, mut max) = (x[0], x[0]);
    for &v in &x[1..] {
        min = if v < min { v } else { min };
        max = if v > max { v } else { max };
    }
    let d = (max - min) / top;
    let id = inverse(d);
    (d, min, x.map(|v| ((v - min) * id + 0.5).min(top) as u8))
}
