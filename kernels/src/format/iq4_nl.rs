//! IQ4_NL: 32 weights in 18 bytes, 4.5 bits per weight, with 16 levels that are not evenly spaced.
//!
//! ```text
//! byte    0  1 | 2          3          ...  17
//!         d f16| w16 ‖ w0   w17 ‖ w1   ...  w31 ‖ w15        (high nibble ‖ low nibble)
//!
//! w[i] = d * CODEBOOK[q[i]]      q in 0..=15
//! ```
//!
//! In the normal form the codes are the codebook's values, not the indices.
//!
//! Encoding: 16 candidate scales around the one that puts the weight of largest magnitude on an end of
//! the codebook, each weight going to the nearest level (the upper one half-way); keeps the largest
//! `(sum e*w*c)^2 / sum e*c^2`, where errors weigh `e = w^2`, or `importance * sqrt(2 mean(w^2) + w^2)`.
//! Source: ggml `quantize_iq4_nl`.

use super::field::layout;
use super::q4_0::put_nibbles;
use super::search::{TINY, largest, squares, sum_squares, weigh};
use super::{Codes, Field, Grouping, Info, Input, Kind, Plain, Scales};
use super::{f16_at, inverse, put_f16};

/// The codec.
#[allow(non_camel_case_types, reason = "the field's name")]
pub struct IQ4_NL;

/// The levels, in ascending order (ggml `kvalues_iq4nl`).
pub(super) const CODEBOOK: [i8; 16] =
    [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

/// Added to a level where the format's description wants a code that is not negative.
const ZERO: i32 = 128;

/// Candidate scales on each side of the first (ggml's choice).
const TRIES: i16 = 7;

impl IQ4_NL {
    pub(super) const INFO: Info = Info {
        name: "IQ4_NL",
        block: 32,
        bytes: 18,
        activation: Grouping::Group32,
        scales: Scales::Block,
        summary: "4-bit indices into 16 uneven levels, one f16 scale per 32",
        fields: &layout([
            Field::D,
            Field::codes(16, "4-bit indices of levels, w[i] low, w[i+16] high"),
        ]),
        kind: Kind::Coded(Codes {
            table: Some(CODEBOOK),
            ..Codes::simple(4, ZERO, ZERO + 113, decode, encode)
        }),
    };
}

fn decode(bytes: &[u8], out: &mut Plain) {
    out.d = f16_at(bytes, 0);
    for (i, q) in out.q[..32].iter_mut().enumerate() {
        *q = i16::from(CODEBOOK[usize::from(bytes[2 + i % 16] >> (i / 16 * 4) & 15)]);
    }
}

/// Index of the level nearest to `x`: how many of the 15 midpoints are not above it.
fn nearest_level(x: f32) -> usize {
    let double = x + x;
    let reached = |at: usize| double >= f32::from(CODEBOOK[at - 1]) + f32::from(CODEBOOK[at]);
    let mut level = 0;
    for step in [8, 4, 2, 1] {
        level += if reached(level + step) { step } else { 0 };
    }
    level
}

fn encode(input: &Input<'_>, out: &mut [u8]) {
    let x: &[f32; 32] = input.x.as_array().expect("a block");
    let d = scale(x, input.importance);
    let id = inverse(d);
    put_f16(out, 0, d);
    put_nibbles(&mut out[2..18], |i| nearest_level(id * x[i]) as u8);
}

fn scale(x: &[f32; 32], importance: Option<&[f32]>) -> f32 {
    let w = match importance {
        Some(importance) => {
            let spread = sum_squares(x) * (2.0 / 32.0);
            weigh(x, importance.as_array().expect("a block"), spread)
        }
        None => squares(x),
    };
    let top = largest(x);
    if top.abs() < TINY {
        return 0.0;
    }
    let sums = |inverse: f32| {
        let (mut xq, mut qq) = (0.0f32, 0.0f32);
        for (x, w) in x.iter().zip(w) {
            let q = f32::from(CODEBOOK[nearest_level(inverse * x)]);
            xq += w * q * x;
            qq += w * q * q;
        }
        (xq, qq)
    };
    let end = f32::from(CODEBOOK[0]);
    let (xq, qq) = sums(1.0 / (-top / end));
    let mut d = if qq == 0.0 { 0.0 } else { xq / qq };
    let mut best = d * xq;
    for step in -TRIES..=TRIES {
        let (xq, qq) = sums((f32::from(step) + end) / top);
        if qq > 0.0 && xq * xq > best * qq {
            d = xq / qq;
            best = d * xq;
        }
    }
    d
}
