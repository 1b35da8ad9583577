//! Q5_K: 256 weights in 176 bytes, 5.5 bits per weight.
//!
//! ```text
//! byte    0  1  | 2  3     | 4 ............ 15  | 16 .......... 47 | 48 ........... 175
//!         d f16 | dmin f16 | 6-bit scales and   | high bits        | low bits, as
//!                            minima (kquant.rs) | bit k of byte l: | nibbles (kquant.rs)
//!                                                 w[32k + l]
//!
//! w[i] = (d * scale[k]) * q[i] - (dmin * min[k])     q in 0..=31, k = i / 32
//! ```
//!
//! Encoding: as Q4_K, with 16 candidates from 31 - 0.5 in steps of 0.1.
//! Source: ggml `quantize_row_q5_K_ref` and `quantize_row_q5_K_impl`.

use super::field::layout;
use super::kquant::{Recipe, nibble, put_nibbles, put_scales_and_mins, scales_and_mins};
use super::min_search::MinSearch;
use super::{Codes, Field, Grouping, Holds, Info, Input, Kind, Plain, Scales};
use super::{f16_at, put_f16};

/// The codec.
#[allow(non_camel_case_types, reason = "the field's name")]
pub struct Q5_K;

impl Q5_K {
    pub(super) const INFO: Info = Info {
        name: "Q5_K",
        block: 256,
        bytes: 176,
        activation: Grouping::Group256,
        scales: Scales::Block,
        summary: "5-bit codes above a minimum, 6-bit scale and minimum per 32, f16 scales of both per 256",
        fields: &layout([
            Field::D_OF_SCALES,
            Field::DMIN,
            Field::new("scales", 12, Holds::SubScales, "eight 6-bit scales and minima"),
            Field::new("qh", 32, Holds::HighBits, "high bit of each code"),
            Field::codes(128, "low 4 bits of codes, two to a byte"),
        ]),
        kind: Kind::Coded(Codes {
            min: true,
            sub_len: Some(32),
            sub_range: [0, 63],
            ..Codes::simple(5, 0, 31, decode, encode)
        }),
    };
}

const RECIPE: Recipe = Recipe {
    search: MinSearch { top: 31.0, start: -0.5, step: 0.1, steps: 15, absolute: false },
    sub_top: 63.0,
    add_rms: true,
    spread: 2.0,
};

fn decode(bytes: &[u8], out: &mut Plain) {
    out.d = f16_at(bytes, 0);
    out.m = f16_at(bytes, 2);
    out.sub_len = 32;
    scales_and_mins(&bytes[4..16], out);
    for (i, q) in out.q.iter_mut().enumerate() {
        let high = bytes[16 + i % 32] >> (i / 32) & 1;
        *q = i16::from(nibble(&bytes[48..176], i) | high << 4);
    }
}

fn encode(input: &Input<'_>, out: &mut [u8]) {
    let block = RECIPE.run::<32>(input);
    put_f16(out, 0, block.d);
    put_f16(out, 2, block.m);
    put_scales_and_mins(&mut out[4..16], &block);
    out[16..48].fill(0);
    for (i, code) in block.codes.iter().enumerate() {
        out[16 + i % 32] |= code >> 4 << (i / 32);
    }
    put_nibbles(&mut out[48..176], |i| block.codes[i]);
}
