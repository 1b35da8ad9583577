//! Q4_K: 256 weights in 144 bytes, 4.5 bits per weight.
//!
//! ```text
//! byte    0  1  | 2  3     | 4 ............ 15  | 16 ........... 143
//!         d f16 | dmin f16 | 6-bit scales and   | nibbles (kquant.rs)
//!                            minima (kquant.rs)
//!
//! w[i] = (d * scale[k]) * q[i] - (dmin * min[k])     q in 0..=15, k = i / 32
//! ```
//!
//! Encoding: each sub-block searches scale and minimum, errors squared and weighed by
//! `rms(sub-block) + |w|`, 21 candidates from 15 - 1 in steps of 0.1; scales and minima go to 6 bits
//! relative to their largest. With importances: weighed by `importance * sqrt(2 mean(w^2) + w^2)`.
//! Source: ggml `quantize_row_q4_K_ref` and `quantize_row_q4_K_impl`.

use super::field::layout;
use super::kquant::{Recipe, nibble, put_nibbles, put_scales_and_mins, scales_and_mins};
use super::min_search::MinSearch;
use super::{Codes, Field, Grouping, Holds, Info, Input, Kind, Plain, Scales};
use super::{f16_at, put_f16};

/// The codec.
#[allow(non_camel_case_types, reason = "the field's name")]
pub struct Q4_K;

impl Q4_K {
    pub(super) const INFO: Info = Info {
        name: "Q4_K",
        block: 256,
        bytes: 144,
        activation: Grouping::Group256,
        scales: Scales::Block,
        summary: "4-bit codes above a minimum, 6-bit scale and minimum per 32, f16 scales of both per 256",
        fields: &layout([
            Field::D_OF_SCALES,
            Field::DMIN,
            Field::new("scales", 12, Holds::SubScales, "eight 6-bit scales and minima"),
            Field::codes(128, "4-bit codes, two to a byte"),
        ]),
        kind: Kind::Coded(Codes {
            min: true,
            sub_len: Some(32),
            sub_range: [0, 63],
            ..Codes::simple(4, 0, 15, decode, encode)
        }),
    };
}

const RECIPE: Recipe = Recipe {
    search: MinSearch { top: 15.0, start: -1.0, step: 0.1, steps: 20, absolute: false },
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
        *q = i16::from(nibble(&bytes[16..144], i));
    }
}

fn encode(input: &Input<'_>, out: &mut [u8]) {
    let block = RECIPE.run::<32>(input);
    put_f16(out, 0, block.d);
    put_f16(out, 2, block.m);
    put_scales_and_mins(&mut out[4..16], &block);
    put_nibbles(&mut out[16..144], |i| block.codes[i]);
}
