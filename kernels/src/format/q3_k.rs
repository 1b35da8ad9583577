//! Q3_K: 256 weights in 110 bytes, 3.4375 bits per weight.
//!
//! ```text
//! byte    0 ............ 31 | 32 ............ 95 | 96 ....... 107 | 108 109
//!         high bits         | low bits, as pairs | 6-bit scales   | d f16
//!         bit b of byte l:  | (kquant.rs)        | (below)        |
//!         w[32b + l]        |                    |                |
//!
//! byte 96 + k   (k < 8)   low 4 bits of scale[k+8] ‖ low 4 bits of scale[k]
//! byte 104 + k  (k < 4)   high 2 bits of scale[k+12] ‖ scale[k+8] ‖ scale[k+4] ‖ scale[k]
//!
//! w[i] = (d * (scale[k] - 32)) * (q[i] - 4)          q in 0..=7, k = i / 16
//! ```
//!
//! Encoding: each sub-block moves single codes, errors weighed by `w^2`; `d` is the scale of largest
//! magnitude over -32. With importances: 19 candidate scales, weighed by
//! `importance * sqrt(2 mean(w^2) + w^2)`, and the same search for `d` over the sub-blocks' scales.
//! Source: ggml `quantize_row_q3_K_ref` and `quantize_row_q3_K_impl`.

use super::field::layout;
use super::kquant::{pair, put_pairs, recode};
use super::search::{code, largest, signed, signed_by_steps, sum_squares, weigh};
use super::{Codes, Field, Grouping, Holds, Info, Input, Kind, Plain, Scales};
use super::{f16_at, put_f16};

/// The codec.
#[allow(non_camel_case_types, reason = "the field's name")]
pub struct Q3_K;

impl Q3_K {
    pub(super) const INFO: Info = Info {
        name: "Q3_K",
        block: 256,
        bytes: 110,
        activation: Grouping::Group256,
        scales: Scales::Block,
        summary: "3-bit codes around zero, 6-bit scale per 16, f16 scale of scales per 256",
        fields: &layout([
            Field::new("hmask", 32, Holds::HighBits, "high bit of each code"),
            Field::codes(64, "low 2 bits of codes + 4, four to a byte"),
            Field::new("scales", 12, Holds::SubScales, "sixteen 6-bit scales, each + 32"),
            Field::D_OF_SCALES,
        ]),
        kind: Kind::Coded(Codes {
            sub_len: Some(16),
            sub_range: [-32, 31],
            ..Codes::simple(3, 4, 7, decode, encode)
        }),
    };
}

fn decode(bytes: &[u8], out: &mut Plain) {
    out.d = f16_at(bytes, 108);
    out.sub_len = 16;
    for k in 0..16 {
        let low = bytes[96 + k % 8] >> (k / 8 * 4) & 15;
        let high = bytes[104 + k % 4] >> (k / 4 * 2) & 3;
        out.sub[k] = i16::from(low | high << 4) - 32;
    }
    for (i, q) in out.q.iter_mut().enumerate() {
        let high = bytes[i % 32] >> (i / 32) & 1;
        *q = i16::from(pair(&bytes[32..96], i) | high << 2) - 4;
    }
}

fn encode(input: &Input<'_>, out: &mut [u8]) {
    let blocks = input.x.as_chunks::<16>().0;
    let mut codes = [[0; 16]; 16];
    let (mut scales, mut weights, mut sub) = ([0.0; 16], [0.0; 16], [32; 16]);
    let d = if let Some(importance) = input.importance {
        let spread = 2.0 * sum_squares(input.x) / 256.0;
        for (j, (x, importance)) in blocks.iter().zip(importance.as_chunks().0).enumerate() {
            let w = weigh(x, importance, spread);
            weights[j] = w.iter().fold(0.0, |sum, w| sum + w);
            scales[j] = signed(x, &w, 4.0, &mut codes[j]);
        }
        signed(&scales, &weights, 32.0, &mut sub)
    } else {
        for (j, x) in blocks.iter().enumerate() {
            scales[j] = signed_by_steps(x, 4.0, &mut codes[j]);
        }
        let inverse = -32.0 / largest(&scales);
        if inverse.is_infinite() {
            sub = [0; 16];
            0.0
        } else {
            sub = scales.map(|s| (code(inverse * s, -32.0, 31.0) + 32.0) as u8);
            1.0 / inverse
        }
    };
    put_f16(out, 108, d);
    let d = f16_at(out, 108);
    for ((x, sub), codes) in blocks.iter().zip(sub).zip(&mut codes) {
        recode(x, d * (f32::from(sub) - 32.0), 4.0, codes);
    }
    let codes = codes.as_flattened();
    out[..32].fill(0);
    for (i, code) in codes.iter().enumerate() {
        out[i % 32] |= code >> 2 << (i / 32);
    }
    put_pairs(&mut out[32..96], |i| codes[i]);
    for k in 0..8 {
        out[96 + k] = sub[k] & 15 | sub[k + 8] << 4;
    }
    for k in 0..4 {
        out[104 + k] = (0..4).fold(0, |byte, part| byte | sub[4 * part + k] >> 4 << (2 * part));
    }
}
