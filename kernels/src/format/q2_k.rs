//! Q2_K: 256 weights in 84 bytes, 2.625 bits per weight.
//!
//! ```text
//! byte    0 ........... 15 | 16 ........... 79 | 80 81 | 82 83
//!         min k ‖ scale k  | pairs (kquant.rs) | d f16 | dmin f16       k: sub-block of 16 weights
//!         (4 bits each)
//!
//! w[i] = (d * scale[k]) * q[i] - (dmin * min[k])     q in 0..=3, k = i / 16
//! ```
//!
//! Encoding: each sub-block searches scale and minimum, errors weighed by `|w|` and absolute, 16
//! candidates from 3 - 0.5 in steps of 0.1; scales and minima go to 4 bits relative to their largest.
//! With importances: errors squared, weighed by `importance * sqrt(mean(w^2) + w^2)`.
//! Source: ggml `quantize_row_q2_K_ref` and `quantize_row_q2_K_impl`.

use super::field::layout;
use super::kquant::{Recipe, pair, put_pairs};
use super::min_search::MinSearch;
use super::{Codes, Field, Grouping, Holds, Info, Input, Kind, Plain, Scales};
use super::{f16_at, put_f16};

/// The codec.
#[allow(non_camel_case_types, reason = "the field's name")]
pub struct Q2_K;

impl Q2_K {
    pub(super) const INFO: Info = Info {
        name: "Q2_K",
        block: 256,
        bytes: 84,
        activation: Grouping::Group256,
        scales: Scales::Block,
        summary: "2-bit codes above a minimum, 4-bit scale and minimum per 16, f16 scales of both per 256",
        fields: &layout([
            Field::new("scales", 16, Holds::SubScales, "4-bit scales (low) and minima (high)"),
            Field::codes(64, "2-bit codes, four to a byte"),
            Field::D_OF_SCALES,
            Field::DMIN,
        ]),
        kind: Kind::Coded(Codes {
            min: true,
            sub_len: Some(16),
            sub_range: [0, 15],
            ..Codes::simple(2, 0, 3, decode, encode)
        }),
    };
}

const RECIPE: Recipe = Recipe {
    search: MinSearch { top: 3.0, start: -0.5, step: 0.1, steps: 15, absolute: true },
    sub_top: 15.0,
    add_rms: false,
    spread: 1.0,
};

fn decode(bytes: &[u8], out: &mut Plain) {
    out.d = f16_at(bytes, 80);
    out.m = f16_at(bytes, 82);
    out.sub_len = 16;
    for (k, b) in bytes[..16].iter().enumerate() {
        out.sub[k] = i16::from(b & 15);
        out.sub_min[k] = i16::from(b >> 4);
    }
    for (i, q) in out.q.iter_mut().enumerate() {
        *q = i16::from(pair(&bytes[16..80], i));
    }
}

fn encode(input: &Input<'_>, out: &mut [u8]) {
    let block = RECIPE.run::<16>(input);
    for (k, b) in out[..16].iter_mut().enumerate() {
        *b = block.sub[k] | block.sub_min[k] << 4;
    }
    put_pairs(&mut out[16..80], |i| block.codes[i]);
    put_f16(out, 80, block.d);
    put_f16(out, 82, block.m);
}
