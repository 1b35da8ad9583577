//! Q4_0: 32 weights in 18 bytes, 4.5 bits per weight.
//!
//! ```text
//! byte    0  1 | 2          3          ...  17
//!         d f16| w16 ‖ w0   w17 ‖ w1   ...  w31 ‖ w15        (high nibble ‖ low nibble)
//!
//! w[i] = d * (q[i] - 8)          q in 0..=15
//! ```
//!
//! Encoding: `d = M / -8` where M is the element of largest magnitude, sign kept (the first one on
//! ties), so M itself is exact and the other side clips at +7. Codes use the f32 inverse of the
//! unrounded d. With importances: 19 candidate scales, errors weighed by
//! `importance * sqrt(mean(row^2) + w^2)`. Source: ggml `quantize_row_q4_0_ref` and `_impl`
//! (ggml-quants.c).

use super::field::layout;
use super::search::{largest, signed, weigh};
use super::{Codes, Field, Grouping, Info, Input, Kind, Plain, Scales};
use super::{f16_at, inverse, put_f16};

/// The codec.
#[allow(non_camel_case_types, reason = "the field's name")]
pub struct Q4_0;

impl Q4_0 {
    pub(super) const INFO: Info = Info {
        name: "Q4_0",
        block: 32,
        bytes: 18,
        activation: Grouping::Group32,
        scales: Scales::Block,
        summary: "4-bit codes around zero, one f16 scale per 32",
        fields: &layout([Field::D, Field::codes(16, "4-bit codes + 8, w[i] low, w[i+16] high")]),
        kind: Kind::Coded(Codes::simple(4, 8, 15, decode, encode)),
    };
}

fn decode(bytes: &[u8], out: &mut Plain) {
    out.d = f16_at(bytes, 0);
    nibbles(&bytes[2..18], 8, out);
}

fn encode(input: &Input<'_>, out: &mut [u8]) {
    let (d, codes) = around_zero(input, 8.0);
    put_f16(out, 0, d);
    put_nibbles(&mut out[2..18], |i| codes[i]);
}

/// Scale and codes `0..2*half` of a block of 32, by its largest magnitude or, with importances, by
/// search: the encoding of Q4_0 and Q5_0.
pub(super) fn around_zero(input: &Input<'_>, half: f32) -> (f32, [u8; 32]) {
    let x: &[f32; 32] = input.x.as_array().expect("a block");
    let Some(importance) = input.importance else {
        let d = largest(x) / -half;
        let id = inverse(d);
        let top = 2.0 * half - 1.0;
        return (d, x.map(|v| (v * id + (half + 0.5)).min(top) as u8));
    };
    let w = weigh(x, importance.as_array().expect("a block"), input.row_mean_square);
    let mut codes = [0; 32];
    (signed(x, &w, half, &mut codes), codes)
}

/// Reads the 32 nibbles of a legacy block: low nibbles are elements 0..16, high ones 16..32.
pub(super) fn nibbles(bytes: &[u8], zero: i16, out: &mut Plain) {
    for (i, &b) in bytes.iter().enumerate() {
        out.q[i] = i16::from(b & 15) - zero;
        out.q[i + 16] = i16::from(b >> 4) - zero;
    }
}

/// Writes them.
pub(super) fn put_nibbles(bytes: &mut [u8], code: impl Fn(usize) -> u8) {
    for (i, b) in bytes.iter_mut().enumerate() {
        *b = code(i) | (code(i + 16) << 4);
    }
}
