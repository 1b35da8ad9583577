//! Q8_0: 32 weights in 34 bytes, 8.5 bits per weight.
//!
//! ```text
//! byte    0  1 | 2   3   ...  33
//!         d f16| q0  q1  ...  q31          signed bytes
//!
//! w[i] = d * q[i]                q in -128..=127 (encoders write -127..=127)
//! ```
//!
//! Encoding: `d = max|w| / 127`, `q = round(w / d)`, half away from zero.
//! Source: ggml `quantize_row_q8_0_ref`.

use super::field::layout;
use super::{Codes, Field, Grouping, Info, Input, Kind, Plain, Scales};
use super::{f16_at, inverse, put_f16, round_half_away};

/// The codec.
#[allow(non_camel_case_types, reason = "the field's name")]
pub struct Q8_0;

impl Q8_0 {
    pub(super) const INFO: Info = Info {
        name: "Q8_0",
        block: 32,
        bytes: 34,
        activation: Grouping::Group32,
        scales: Scales::Block,
        summary: "8-bit codes, one f16 scale per 32",
        fields: &layout([Field::D, Field::codes(32, "codes, signed bytes")]),
        kind: Kind::Coded(Codes::simple(8, 128, 255, decode, encode)),
    };
}

fn decode(bytes: &[u8], out: &mut Plain) {
    out.d = f16_at(bytes, 0);
    for (q, &b) in out.q.iter_mut().zip(&bytes[2..34]) {
        *q = i16::from(b as i8);
    }
}

fn encode(input: &Input<'_>, out: &mut [u8]) {
    let x = input.x;
    let d = x.iter().fold(0.0f32, |a, v| a.max(v.abs())) / 127.0;
    let id = inverse(d);
    put_f16(out, 0, d);
    for (b, v) in out[2..].iter_mut().zip(x) {
        *b = round_half_away(v * id) as i8 as u8;
    }
}
