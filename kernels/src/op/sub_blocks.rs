//! Scales and minima of sub-blocks: what k-quants have beside codes.

use crate::format::Codes;
use crate::isa::Isa;
use crate::panel::{Line, nibbles};

use super::integer::zero;

/// Smallest and largest scale times code.
pub(super) const fn range(codes: &Codes) -> [i32; 2] {
    let ([low, high], [from, to]) = ([-codes.zero, codes.max - codes.zero], codes.sub_range);
    let corners = [low * from, low * to, high * from, high * to];
    let (mut min, mut max, mut i) = (corners[0], corners[0], 1);
    while i < 4 {
        min = if corners[i] < min { corners[i] } else { min };
        max = if corners[i] > max { corners[i] } else { max };
        i += 1;
    }
    [min, max]
}

/// Whether scale times code, less the smallest, fits a byte.
pub(super) const fn one_byte(codes: &Codes) -> bool {
    let [min, max] = range(codes);
    max - min <= 255
}

/// The four lines of the scales of span `p`: its own, or those of its minima.
#[inline(always)]
pub(super) fn scale_lines<'a>(
    codes: &Codes,
    minima: &'a [Line],
    own: &'a [Line],
    p: usize,
) -> &'a [Line] {
    if nibbles(codes) { &minima[p * 4..][..4] } else { own }
}

/// The scales of 16 rows x 4 sub-blocks.
#[inline(always)]
pub(super) fn scales<I: Isa>(isa: I, codes: &Codes, line: &Line) -> I::Bytes {
    let x = isa.bytes(&line.0);
    if nibbles(codes) { isa.field(x, 0, 15) } else { x }
}

/// The minima of 16 rows x 4 sub-blocks.
#[inline(always)]
pub(super) fn minima<I: Isa>(isa: I, codes: &Codes, line: &Line) -> I::Bytes {
    let x = isa.bytes(&line.0);
    if nibbles(codes) { isa.field(x, 4, 15) } else { x }
}

/// Sums over the sub-blocks of minimum times `pairs[s]`; `lines` as in [`minima`].
#[inline(always)]
pub(super) fn weigh<I: Isa, const V: usize, const N: usize>(
    isa: I,
    codes: &Codes,
    lines: &[Line],
    v0: usize,
    pairs: [&[[i16; 4]]; N],
) -> [[I::I32; N]; V] {
    match codes.sub_len {
        Some(32) => weigh_fours::<I, V, N, 2>(isa, codes, lines, v0, pairs),
        _ => weigh_fours::<I, V, N, 4>(isa, codes, lines, v0, pairs),
    }
}

/// [`weigh`] of four times `FOURS` sub-blocks.
#[inline(always)]
fn weigh_fours<I: Isa, const V: usize, const N: usize, const FOURS: usize>(
    isa: I,
    codes: &Codes,
    lines: &[Line],
    v0: usize,
    pairs: [&[[i16; 4]]; N],
) -> [[I::I32; N]; V] {
    let mut total = [[isa.splat_i32(0); N]; V];
    let lines: &[[Line; 4]] = &lines.as_chunks().0[..FOURS];
    let pairs = pairs.map(|p| &p[..FOURS]);
    for i in 0..FOURS {
        for v in 0..V {
            let x = minima(isa, codes, &lines[i][v0 + v]);
            for t in 0..N {
                total[v][t] = isa.dot_sub(total[v][t], x, pairs[t][i]);
            }
        }
    }
    total
}

/// What makes up for the unsigned codes in each sub-block; `pairs` as in [`crate::activation::Acts::sub_pairs`].
#[inline(always)]
pub(super) fn sub_offsets<I: Isa>(pairs: &[[i16; 4]], codes: &Codes, out: &mut [i32; 16]) {
    let zero = zero::<I>(codes);
    if zero == 0 {
        return;
    }
    // Of known length, so that it is a few vector instructions.
    match pairs.first_chunk::<4>() {
        Some(fours) => {
            *out = std::array::from_fn(|s| -zero * i32::from(fours[s / 4][PLACE[s % 4]]))
        }
        None => {
            for (out, four) in out.as_chunks_mut().0.iter_mut().zip(pairs) {
                *out = PLACE.map(|p| -zero * i32::from(four[p]));
            }
        }
    }
}

/// Where the sum of each of four sub-blocks is among the pairs.
const PLACE: [usize; 4] = [0, 2, 1, 3];

/// Whether a sub-block's sum of centred codes times activations fits 16 bits.
pub(super) const fn short(codes: &Codes) -> bool {
    let Some(len) = codes.sub_len else { return false };
    let (low, high) = (codes.zero, codes.max - codes.zero);
    len as i32 * if low > high { low } else { high } * 127 <= 32_767
}
