//! What the k-quants share: 256 weights, cut into sub-blocks with small integer scales.
//!
//! Codes of 2, 4 and 6 bits are stored as bit planes that one 32-byte load serves whole:
//!
//! ```text
//! pairs    byte 32n + l holds two bits of w[128n + l], +32, +64, +96       at bits 0, 2, 4, 6
//! nibbles  byte 32n + l holds four bits of w[64n + l], +32                 at bits 0, 4
//! ```
//!
//! Scales and minima of eight sub-blocks, 6 bits each, in the 12 bytes of Q4_K and Q5_K:
//!
//! ```text
//! byte k      (k < 4)    high 2 bits of scale[k+4] ‖ scale[k]
//! byte k + 4  (k < 4)    high 2 bits of min[k+4]   ‖ min[k]
//! byte k + 8  (k < 4)    low 4 bits of min[k+4]    ‖ low 4 bits of scale[k+4]
//! ```
//!
//! Source: ggml `quantize_row_q{2,4,5}_K_ref` and `_impl`, for [`Recipe`].

use super::min_search::MinSearch;
use super::search::{self, code, largest};
use super::{Input, Plain};

/// Weights per super-block.
pub(super) const WEIGHTS: usize = 256;

/// Byte and first bit of weight `i`'s pair.
fn pair_place(i: usize) -> (usize, usize) {
    (i / 128 * 32 + i % 32, i / 32 % 4 * 2)
}

/// Byte and first bit of weight `i`'s nibble.
fn nibble_place(i: usize) -> (usize, usize) {
    (i / 64 * 32 + i % 32, i / 32 % 2 * 4)
}

/// The two bits of weight `i`.
pub(super) fn pair(bytes: &[u8], i: usize) -> u8 {
    let (byte, bit) = pair_place(i);
    bytes[byte] >> bit & 3
}

/// The four bits of weight `i`.
pub(super) fn nibble(bytes: &[u8], i: usize) -> u8 {
    let (byte, bit) = nibble_place(i);
    bytes[byte] >> bit & 15
}

/// Writes the low two bits of `value(i)` for all weights.
pub(super) fn put_pairs(bytes: &mut [u8], value: impl Fn(usize) -> u8) {
    bytes.fill(0);
    for i in 0..WEIGHTS {
        let (byte, bit) = pair_place(i);
        bytes[byte] |= (value(i) & 3) << bit;
    }
}

/// Writes the low four bits of `value(i)` for all weights.
pub(super) fn put_nibbles(bytes: &mut [u8], value: impl Fn(usize) -> u8) {
    bytes.fill(0);
    for i in 0..WEIGHTS {
        let (byte, bit) = nibble_place(i);
        bytes[byte] |= (value(i) & 15) << bit;
    }
}

/// Reads the eight 6-bit scales and minima of Q4_K and Q5_K.
pub(super) fn scales_and_mins(bytes: &[u8], out: &mut Plain) {
    for k in 0..4 {
        let (s, m, both) = (bytes[k], bytes[k + 4], bytes[k + 8]);
        out.sub[k] = i16::from(s & 63);
        out.sub_min[k] = i16::from(m & 63);
        out.sub[k + 4] = i16::from(both & 15 | s >> 6 << 4);
        out.sub_min[k + 4] = i16::from(both >> 4 | m >> 6 << 4);
    }
}

/// Writes them.
pub(super) fn put_scales_and_mins(bytes: &mut [u8], block: &WithMin) {
    let (s, m) = (&block.sub, &block.sub_min);
    for k in 0..4 {
        bytes[k] = s[k] | s[k + 4] >> 4 << 6;
        bytes[k + 4] = m[k] | m[k + 4] >> 4 << 6;
        bytes[k + 8] = s[k + 4] & 15 | m[k + 4] << 4;
    }
}

/// What distinguishes the encoders of Q2_K, Q4_K and Q5_K.
pub(super) struct Recipe {
    /// The search without importances.
    pub search: MinSearch,
    /// Largest integer scale and minimum of a sub-block.
    pub sub_top: f32,
    /// Without importances an error weighs `|x|`, and with this also the sub-block's root mean square.
    pub add_rms: bool,
    /// With importances an error weighs `importance * sqrt(spread * mean(x^2) + x^2)`.
    pub spread: f32,
}

/// A quantised super-block with minima.
pub(super) struct WithMin {
    /// Scale of the scales, as f16 holds it.
    pub d: f32,
    /// Scale of the minima, as f16 holds it.
    pub m: f32,
    /// Integer scales.
    pub sub: [u8; 16],
    /// Integer minima.
    pub sub_min: [u8; 16],
    /// Codes.
    pub codes: [u8; WEIGHTS],
}

impl Recipe {
    /// Quantises a super-block with sub-blocks of `N` weights.
    ///
    /// Scale and minimum of each sub-block are searched alone, then all scales and all minima are
    /// quantised, and the codes are taken again with the scales that a reader will see. Where that scale
    /// is 0 the codes mean nothing; they stay as the search left them, as in ggml.
    pub fn run<const N: usize>(&self, input: &Input<'_>) -> WithMin {
        let blocks = input.x.as_chunks::<N>().0;
        let mut codes = [[0.0; N]; 16];
        let (mut scales, mut mins, mut weights) = ([0.0; 16], [0.0; 16], [0.0; 16]);
        let spread = match input.importance {
            Some(_) => self.spread * search::sum_squares(input.x) / WEIGHTS as f32,
            None => 0.0,
        };
        let weighted = MinSearch::weighted(self.search.top);
        for (j, x) in blocks.iter().enumerate() {
            let (search, w) = match input.importance {
                Some(importance) => {
                    (&weighted, search::weigh(x, &importance.as_chunks::<N>().0[j], spread))
                }
                None => {
                    let squares = if self.add_rms { search::sum_squares(x) } else { 0.0 };
                    let rms = (squares / N as f32).sqrt();
                    (&self.search, x.map(|v| rms + v.abs()))
                }
            };
            weights[j] = w.iter().fold(0.0, |sum, w| sum + w);
            (scales[j], mins[j]) = search.run(x, &w, &mut codes[j]);
        }
        let n = blocks.len();
        let quantise = |values: &[f32; 16]| {
            let mut sub = [0; 16];
            let d = match input.importance {
                Some(_) => {
                    search::positive(&values[..n], &weights[..n], self.sub_top, &mut sub[..n])
                }
                None => {
                    let top = largest(values);
                    let inverse = if top == 0.0 { 0.0 } else { self.sub_top / top };
                    sub = values.map(|v| code(inverse * v, 0.0, self.sub_top) as u8);
                    top / self.sub_top
                }
            };
            (half::f16::from_f32(d).to_f32(), sub)
        };
        let ((d, sub), (m, sub_min)) = (quantise(&scales), quantise(&mins));
        let mut out = WithMin { d, m, sub, sub_min, codes: [0; WEIGHTS] };
        for (j, (x, to)) in blocks.iter().zip(out.codes.as_chunks_mut::<N>().0).enumerate() {
            let (d, m) = (d * f32::from(sub[j]), m * f32::from(sub_min[j]));
            if d != 0.0 {
                codes[j] = x.map(|v| code((v + m) / d, 0.0, self.search.top));
            }
            *to = codes[j].map(|q| q as u8);
        }
        out
    }
}

/// Takes codes `0..2*half` again with the scale `d` that a reader will see; leaves them where it is 0.
pub(super) fn recode<const N: usize>(x: &[f32; N], d: f32, half: f32, codes: &mut [u8; N]) {
    if d != 0.0 {
        *codes = x.map(|v| (code(v / d, -half, half - 1.0) + half) as u8);
    }
}
