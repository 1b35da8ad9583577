//! Q6_K: 256 weights in 210 bytes, 6.5625 bits per weight.
//!
//! ```text
//! byte    0 ................ 127 | 128 ........... 191 | 192 ...... 207 | 208 209
//!         low 4 bits             | high 2 bits,        | 16 signed      | d f16
//!         byte 64n + l:          | as pairs            | byte scales    |
//!         w[128n+64+l] ‖ w[128n+l] | (kquant.rs)
//!
//! w[i] = (d * scale[k]) * (q[i] - 32)                q in 0..=63, k = i / 16
//! ```
//!
//! Encoding: each sub-block tries 19 scales, errors weighed by `w^2`, or by the importance alone; `d` is
//! the scale of largest magnitude over -128. Where all scales are below 1e-15 the block is all zero bytes.
//! Source: ggml `quantize_row_q6_K_ref` and `quantize_row_q6_K_impl`.

use super::field::layout;
use super::kquant::{pair, put_pairs, recode};
use super::search::{TINY, code, largest, signed, squares};
use super::{Codes, Field, Grouping, Holds, Info, Input, Kind, Plain, Scales};
use super::{f16_at, put_f16};

/// The codec.
#[allow(non_camel_case_types, reason = "the field's name")]
pub struct Q6_K;

impl Q6_K {
    pub(super) const INFO: Info = Info {
        name: "Q6_K",
        block: 256,
        bytes: 210,
        activation: Grouping::Group256,
        scales: Scales::Block,
        summary: "6-bit codes around zero, 8-bit scale per 16, f16 scale of scales per 256",
        fields: &layout([
            Field::new("ql", 128, Holds::Codes, "low 4 bits of codes + 32, two to a byte"),
            Field::new("qh", 64, Holds::HighBits, "high 2 bits of codes, four to a byte"),
            Field::new("scales", 16, Holds::SubScales, "sixteen scales, signed bytes"),
            Field::D_OF_SCALES,
        ]),
        kind: Kind::Coded(Codes {
            sub_len: Some(16),
            sub_range: [-128, 127],
            ..Codes::simple(6, 32, 63, decode, encode)
        }),
    };
}

fn decode(bytes: &[u8], out: &mut Plain) {
    out.d = f16_at(bytes, 208);
    out.sub_len = 16;
    for (k, b) in bytes[192..208].iter().enumerate() {
        out.sub[k] = i16::from(*b as i8);
    }
    for (i, q) in out.q.iter_mut().enumerate() {
        let low = bytes[i / 128 * 64 + i % 64] >> (i / 64 % 2 * 4) & 15;
        *q = i16::from(low | pair(&bytes[128..192], i) << 4) - 32;
    }
}

fn encode(input: &Input<'_>, out: &mut [u8]) {
    let blocks = input.x.as_chunks::<16>().0;
    let mut codes = [[0; 16]; 16];
    let mut scales = [0.0; 16];
    for (j, x) in blocks.iter().enumerate() {
        let w = match input.importance {
            Some(importance) => importance.as_chunks().0[j],
            None => squares(x),
        };
        scales[j] = signed(x, &w, 32.0, &mut codes[j]);
    }
    let top = largest(&scales);
    if top.abs() < TINY {
        out.fill(0);
        return;
    }
    let inverse = -128.0 / top;
    put_f16(out, 208, 1.0 / inverse);
    let d = f16_at(out, 208);
    for ((b, s), (x, codes)) in
        out[192..208].iter_mut().zip(scales).zip(blocks.iter().zip(&mut codes))
    {
        let sub = code(inverse * s, -128.0, 127.0);
        *b = sub as i8 as u8;
        recode(x, d * sub, 32.0, codes);
    }
    let codes = codes.as_flattened();
    for (b, byte) in out[..128].iter_mut().enumerate() {
        let i = b / 64 * 128 + b % 64;
        *byte = codes[i] & 15 | codes[i + 64] << 4;
    }
    put_pairs(&mut out[128..192], |i| codes[i] >> 4);
}
