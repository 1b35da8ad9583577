//! TQ2_0: 256 ternary weights in 66 bytes, 2.0625 bits per weight.
//!
//! ```text
//! byte    0 ............................ 31 | 32 .......... 63 | 64 65
//!         byte l holds w[l], w[l+32],        | the same for     | d f16
//!         w[l+64], w[l+96] at bits 0,2,4,6   | w[128..256]      |
//!
//! w[i] = d * (q[i] - 1)          q in 0..=2 (3 decodes as +2d)
//! ```
//!
//! Encoding: `d = max|w|`, `q = round(w / d) + 1`, half away from zero. It expects weights that are
//! ternary already, times a constant per block; applied to others it rounds everything below half
//! the block's maximum to zero. Source: ggml `quantize_row_tq2_0_ref`.

use super::field::layout;
use super::{Codes, Field, Grouping, Info, Input, Kind, Plain, Scales};
use super::{f16_at, inverse, nearest_trit, put_f16};
use bitvec::{field::BitField, order::Lsb0, view::BitView};

/// The codec.
#[allow(non_camel_case_types, reason = "the field's name")]
pub struct TQ2_0;

impl TQ2_0 {
    pub(super) const INFO: Info = Info {
        name: "TQ2_0",
        block: 256,
        bytes: 66,
        activation: Grouping::Group256,
        scales: Scales::Block,
        summary: "ternary, 2-bit codes, one f16 scale (the maximum) per 256",
        fields: &layout([Field::codes(64, "2-bit codes + 1, four to a byte"), Field::D]),
        kind: Kind::Coded(Codes::simple(2, 1, 3, decode, encode)),
    };
}

/// Byte and first bit of weight `i`.
fn place(i: usize) -> (usize, usize) {
    (i / 128 * 32 + i % 32, i / 32 % 4 * 2)
}

fn decode(bytes: &[u8], out: &mut Plain) {
    out.d = f16_at(bytes, 64);
    // A field of 32 bytes at a time, which is vectors: one code at a time was most of the time of loading a file.
    for (codes, bytes) in out.q.as_chunks_mut::<128>().0.iter_mut().zip(bytes.as_chunks::<32>().0) {
        for (field, codes) in codes.as_chunks_mut::<32>().0.iter_mut().enumerate() {
            for (q, b) in codes.iter_mut().zip(bytes) {
                *q = i16::from(b >> (2 * field) & 3) - 1;
            }
        }
    }
}

fn encode(input: &Input<'_>, out: &mut [u8]) {
    let x = input.x;
    let d = x.iter().fold(0.0f32, |a, v| a.max(v.abs()));
    let id = inverse(d);
    for (i, v) in x.iter().enumerate() {
        let (byte, bit) = place(i);
        let field = &mut out[byte].view_bits_mut::<Lsb0>()[bit..bit + 2];
        field.store_le((nearest_trit(v * id) + 1) as u8);
    }
    put_f16(out, 64, d);
}
