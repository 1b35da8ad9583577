//! TERNARY_G32, _G64, _G128, _G256: ternary with one f16 scale per group of that many weights, 2.5,
//! 2.25, 2.125 and 2.0625 bits per weight.
//!
//! ```text
//! byte    0  1 | 2                      3                      ...  1 + G/4
//!         d f16| w3 ‖ w2 ‖ w1 ‖ w0      w7 ‖ w6 ‖ w5 ‖ w4           two bits each, first weight lowest
//!
//! w[i] = d * (q[i] - 1)          q in 0..=2 (3 decodes as +2d)
//! ```
//!
//! Encoding is TERNARY's absmean within each group: `alpha = max(mean|w|, 1e-5)`,
//! `q = clamp(round_half_even(w / alpha), -1, 1)` with the f32 inverse of the unrounded alpha, so one group
//! has the codes that TERNARY gives it alone; `d` is alpha as f16. Our own layout (BitNet b1.58's rule,
//! arXiv 2402.17764, per group).

use super::field::{Field, layout};
use super::search::code;
use super::ternary::{absmean, pack, unpack};
use super::{Codes, Grouping, Info, Input, Kind, Plain, Scales};
use super::{f16_at, put_f16};

/// Groups of 32.
pub struct G32;
/// Groups of 64.
pub struct G64;
/// Groups of 128.
pub struct G128;
/// Groups of 256.
pub struct G256;

const fn info<const BLOCK: usize>(
    name: &'static str,
    activation: Grouping,
    summary: &'static str,
) -> Info {
    Info {
        name,
        block: BLOCK,
        bytes: 2 + BLOCK / 4,
        activation,
        scales: Scales::Block,
        summary,
        fields: const {
            &layout([Field::D, Field::codes(BLOCK / 4, "2-bit codes + 1, first weight lowest")])
        },
        kind: Kind::Coded(Codes::simple(2, 1, 3, decode, encode)),
    }
}

impl G32 {
    pub(super) const INFO: Info = info::<32>(
        "TERNARY_G32",
        Grouping::Group32,
        "ternary by absmean, 2-bit codes, one f16 scale per 32",
    );
}

impl G64 {
    pub(super) const INFO: Info = info::<64>(
        "TERNARY_G64",
        Grouping::Group64,
        "ternary by absmean, 2-bit codes, one f16 scale per 64",
    );
}

impl G128 {
    pub(super) const INFO: Info = info::<128>(
        "TERNARY_G128",
        Grouping::Group128,
        "ternary by absmean, 2-bit codes, one f16 scale per 128",
    );
}

impl G256 {
    pub(super) const INFO: Info = info::<256>(
        "TERNARY_G256",
        Grouping::Group256,
        "ternary by absmean, 2-bit codes, one f16 scale per 256",
    );
}

fn decode(bytes: &[u8], out: &mut Plain) {
    out.d = f16_at(bytes, 0);
    unpack(&bytes[2..], &mut out.q);
}

fn encode(input: &Input<'_>, out: &mut [u8]) {
    let scale = absmean(input.x);
    let inverse = 1.0 / scale;
    put_f16(out, 0, scale);
    for (byte, x) in out[2..].iter_mut().zip(input.x.as_chunks::<4>().0) {
        *byte = pack(x.map(|v| code(v * inverse, -1.0, 1.0) as i8));
    }
}
