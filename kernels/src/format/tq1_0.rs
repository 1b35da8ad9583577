//! TQ1_0: 256 ternary weights in 54 bytes, 1.6875 bits per weight.
//!
//! ```text
//! byte    0 .............. 31 | 32 ............ 47   | 48 ........... 51    | 52 53
//!         byte l: w[l], +32,  | byte l: w[160 + l],  | byte l: w[240 + l],  | d f16
//!         +64, +96, +128      | +16, +32, +48, +64   | +4, +8, +12          |
//!
//! A byte holds digits 0..=2 in base 3, the first weight's digit most significant (the last four bytes
//! have a fifth digit, 0), as a fraction of 256: value v in 0..=242 is stored as ceil(v * 256 / 243).
//! Digit t is then the integer part of 3 * fraction(byte * 3^t / 256): a multiplication, no division.
//!
//! w[i] = d * (digit[i] - 1)
//! ```
//!
//! The 13 other bytes, which no encoder writes, are not refused: the rule gives each of them the digits of
//! the byte before it, as in ggml. Packed again they become that byte, with the same weights.
//!
//! Encoding: as TQ2_0, `d = max|w|`, `digit = round(w / d) + 1`, half away from zero; it expects weights
//! that are ternary already.
//! Source: ggml `quantize_row_tq1_0_ref`.

use super::field::layout;
use super::search::largest;
use super::ternary_base3::pack;
use super::{Codes, Field, Grouping, Holds, Info, Input, Kind, Plain, Scales};
use super::{f16_at, first_digit, inverse, nearest_trit, put_f16};

/// The codec.
#[allow(non_camel_case_types, reason = "the field's name")]
pub struct TQ1_0;

impl TQ1_0 {
    pub(super) const INFO: Info = Info {
        name: "TQ1_0",
        block: 256,
        bytes: 54,
        activation: Grouping::Group256,
        scales: Scales::Block,
        summary: "ternary, five weights per byte in base 3, one f16 scale (the maximum) per 256",
        fields: &layout([
            Field::codes(48, "codes + 1 as digits in base 3, five to a byte"),
            Field::new("qh", 4, Holds::Codes, "the same, four to a byte"),
            Field::D,
        ]),
        kind: Kind::Coded(Codes { base3: true, ..Codes::simple(2, 1, 2, decode, encode) }),
    };
}

/// The three parts of a block: first byte, bytes (also the distance between a byte's weights), first
/// weight, digits per byte.
const PARTS: [(usize, usize, usize, usize); 3] = [(0, 32, 0, 5), (32, 16, 160, 5), (48, 4, 240, 4)];

fn decode(bytes: &[u8], out: &mut Plain) {
    out.d = f16_at(bytes, 52);
    for (byte, n, weight, digits) in PARTS {
        for l in 0..n {
            let mut rest = bytes[byte + l];
            for t in 0..digits {
                out.q[weight + t * n + l] = i16::from(first_digit(rest)) - 1;
                rest = rest.wrapping_mul(3);
            }
        }
    }
}

fn encode(input: &Input<'_>, out: &mut [u8]) {
    let x = input.x;
    let d = largest(x).abs();
    let id = inverse(d);
    for (byte, n, weight, digits) in PARTS {
        for l in 0..n {
            // Where there is no fifth weight the digit is 0, which is the code -1.
            let code = |t| if t < digits { nearest_trit(x[weight + t * n + l] * id) } else { -1 };
            out[byte + l] = pack(std::array::from_fn(code));
        }
    }
    put_f16(out, 52, d);
}
