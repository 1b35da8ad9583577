//! Q5_0: 32 weights in 22 bytes, 5.5 bits per weight.
//!
//! ```text
//! byte    0  1 | 2 ........... 5      | 6          7          ...  21
//!         d f16| high bits, u32:      | w16 ‖ w0   w17 ‖ w1   ...  w31 ‖ w15     (low 4 bits of each)
//!              | bit i belongs to w_i |
//!
//! w[i] = d * (q[i] - 16)         q in 0..=31
//! ```
//!
//! Encoding: as Q4_0, with `d = M / -16`. With importances: 19 candidate scales, errors weighed by
//! `importance * sqrt(mean(row^2) + w^2)`. Source: ggml `quantize_row_q5_0_ref` and `_impl`.

use super::field::layout;
use super::q4_0::{around_zero, put_nibbles};
use super::{Codes, Field, Grouping, Holds, Info, Input, Kind, Plain, Scales};
use super::{f16_at, put_f16};

/// The codec.
#[allow(non_camel_case_types, reason = "the field's name")]
pub struct Q5_0;

impl Q5_0 {
    pub(super) const INFO: Info = Info {
        name: "Q5_0",
        block: 32,
        bytes: 22,
        activation: Grouping::Group32,
        scales: Scales::Block,
        summary: "5-bit codes around zero, one f16 scale per 32",
        fields: &layout([
            Field::D,
            Field::new("qh", 4, Holds::HighBits, "high bit of each code, bit i is w[i]'s"),
            Field::codes(16, "low 4 bits of codes + 16"),
        ]),
        kind: Kind::Coded(Codes::simple(5, 16, 31, decode, encode)),
    };
}

fn decode(bytes: &[u8], out: &mut Plain) {
    out.d = f16_at(bytes, 0);
    five_bits(&bytes[2..22], 16, out);
}

fn encode(input: &Input<'_>, out: &mut [u8]) {
    let (d, codes) = around_zero(input, 16.0);
    put_f16(out, 0, d);
    put_five_bits(&mut out[2..22], &codes);
}

/// Reads 32 codes: their high bits, then their nibbles as in Q4_0.
pub(super) fn five_bits(bytes: &[u8], zero: i16, out: &mut Plain) {
    let high = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
    for (i, q) in out.q[..32].iter_mut().enumerate() {
        let low = bytes[4 + i % 16] >> (i / 16 * 4) & 15;
        *q = i16::from(low | ((high >> i & 1) as u8) << 4) - zero;
    }
}

/// Writes them.
pub(super) fn put_five_bits(bytes: &mut [u8], codes: &[u8; 32]) {
    let high = (0..32).fold(0, |high, i| high | u32::from(codes[i] >> 4) << i);
    bytes[..4].copy_from_slice(&high.to_le_bytes());
    put_nibbles(&mut bytes[4..], |i| codes[i] & 15);
}
