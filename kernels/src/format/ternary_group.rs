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

use super::search::code;
use super::sign::mean_magnitude;
use super::{Codes, Grouping, Info, Input, Kind, Plain, Scales};
use super::{f16_at, no_outer_scale, put_f16};

/// Groups of 32.
pub struct G32;
/// Groups of 64.
pub struct G64;
/// Groups of 128.
pub struct G128;
/// Groups of 256.
pub struct G256;

/// BitNet's smallest scale.
const SMALLEST: f32 = 1e-5;

const fn info(
    name: &'static str,
    block: usize,
    activation: Grouping,
    summary: &'static str,
    decode: fn(&[u8], &mut Plain),
) -> Info {
    let kind = Kind::Coded(Codes {
        bits: 2,
        zero: 1,
        max: 3,
        min: false,
        decode,
        encode,
        outer_scale: no_outer_scale,
    });
    Info { name, block, bytes: 2 + block / 4, activation, scales: Scales::Block, summary, kind }
}
