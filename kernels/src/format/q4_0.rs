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
//! unrounded d. Source: ggml `quantize_row_q4_0_ref` (ggml-quants.c).

use super::{Codes, Grouping, Info, Input, Kind, Plain, Scales};
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
        kind: Kind::Coded(Codes::simple(4, 8, 15, decode, encode)),
    };
}

fn decode(bytes: &[u8], out: &mut Plain) {
    out.d = f16_at(bytes, 0);
    nibbles(&bytes[2..18], 8, out);
}

fn encode(input: &Input<'_>, out: &mut [u8]) {
    let x = input.x;
    let mut largest = 0.0f32;
    for &v in x {
        if v.abs() > largest.abs() {
            largest = v;
        }
    }
    let d = largest / -8.0;
    let id = inverse(d);
    put_f16(out, 0, d);
    put_nibbles(&mut out[2..18], |i| ((x[i] * id + 8.5) as u8).min(15));
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
