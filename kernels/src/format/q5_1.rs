//! Q5_1: 32 weights in 24 bytes, 6 bits per weight.
//!
//! ```text
//! byte    0  1 | 2  3 | 4 ........... 7      | 8          9          ...  23
//!         d f16| m f16| high bits, u32:      | w16 ‖ w0   w17 ‖ w1   ...  w31 ‖ w15   (low 4 bits)
//!                     | bit i belongs to w_i |
//!
//! w[i] = d * q[i] + m            q in 0..=31
//! ```
//!
//! In the normal form the minimum is subtracted, so its sign is the other one. Encoding: as Q4_1, with
//! `d = (max - min) / 31`. With importances: 37 candidates for scale and minimum, errors weighed by
//! `importance * sqrt(mean(row^2) + w^2)`. Source: ggml `quantize_row_q5_1_ref` and `_impl`.

use super::field::layout;
use super::q4_1::above_min;
use super::q5_0::{five_bits, put_five_bits};
use super::{Codes, Field, Grouping, Holds, Info, Input, Kind, Plain, Scales};
use super::{f16_at, put_f16};

/// The codec.
#[allow(non_camel_case_types, reason = "the field's name")]
pub struct Q5_1;

impl Q5_1 {
    pub(super) const INFO: Info = Info {
        name: "Q5_1",
        block: 32,
        bytes: 24,
        activation: Grouping::Group32,
        scales: Scales::Block,
        summary: "5-bit codes above a minimum, f16 scale and minimum per 32",
        fields: &layout([
            Field::D,
            Field::f16("m", Holds::Lowest, "lowest level"),
            Field::new("qh", 4, Holds::HighBits, "high bit of each code, bit i is w[i]'s"),
            Field::codes(16, "low 4 bits of codes"),
        ]),
        kind: Kind::Coded(Codes { min: true, ..Codes::simple(5, 0, 31, decode, encode) }),
    };
}

fn decode(bytes: &[u8], out: &mut Plain) {
    out.d = f16_at(bytes, 0);
    out.m = -f16_at(bytes, 2);
    five_bits(&bytes[4..24], 0, out);
}

fn encode(input: &Input<'_>, out: &mut [u8]) {
    let (d, min, codes) = above_min(input, 31.0);
    put_f16(out, 0, d);
    put_f16(out, 2, min);
    put_five_bits(&mut out[4..24], &codes);
}
