//! Products of coded weights with int8 activations: the inner loop of gemv and gemm.
//!
//! For one panel (64 rows, see [`crate::panel`]) and some tokens:
//!
//! ```text
//! for each group of k:                       the contract's order
//!     sum[v][t] = 0                          exact i32, v = 16 rows, t = token
//!     for each 4 k:  u[v] = codes            one load per line, shift and mask per field
//!                    sum[v][t] += u[v] . a[t]
//!     I = sum - zero * (sum of a)            what the codes' offset added
//!     acc[v][t] = fma(d[v] * dx[t], I, acc[v][t])
//!     acc[v][t] = fma(b[v] * dx[t], S, acc[v][t])        formats with a minimum; b = -m
//! ```
//!
//! With sub-blocks (k-quants) each sub-block's sum is multiplied by its integer scale on the way:
//! `sum += sub[v] * (u[v] . a[t])`, `I = sum - zero * (sub . sums of a)`, `S = sub_min . sums of a`.
//!
//! A tile keeps V vectors and N tokens in registers, so each decoded vector of codes meets N activations
//! and each activation V vectors. The integer sums may be formed in any order: they are exact.

#![allow(clippy::needless_range_loop, reason = "v and t name a place in several arrays at once")]

use crate::activation::{Acts, CHUNK};
use crate::format::{CodedFormat, Codes, Scales};
use crate::isa::{Isa, Op, run_length};
use crate::panel::{Line, ROWS, chunk_lines, mask, plane_lines, plane_place, planes};

use super::product::Panel;

/// Steps of four columns in a chunk.
const STEPS: usize = CHUNK / 4;

/// One panel times tokens `t0..t0 + out.len() / 64`; `out` is [tokens][64].
pub struct Integer<'a, C> {
    pub panel: Panel<'a>,
    pub acts: &'a Acts,
    pub t0: usize,
    pub out: &'a mut [f32],
    pub codec: std::marker::PhantomData<C>,
}

impl<C: CodedFormat> Op for Integer<'_, C> {
    type Out = ();
    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        let Integer { panel, acts, t0, out, .. } = self;
        let n = out.len() / ROWS;
        if n == 1 {
            // One token: all four vectors of the panel, so that its lines are read once.
            return tile::<I, C, 4, 1>(isa, &panel, 0, acts, t0, out);
        }
        let mut v = 0;
        while v < 4 {
            let mut t = 0;
            while t < n {
                let (left, out) = (n - t, &mut out[t * ROWS..]);
                t += match I::VECTORS {
                    4 => tokens::<I, C, 4>(isa, &panel, v, acts, t0 + t, left, out),
                    _ => tokens::<I, C, 1>(isa, &panel, v, acts, t0 + t, left, out),
                };
            }
            v += I::VECTORS;
        }
    }
}

/// Runs the largest tile that fits into `left` tokens; returns how many it did.
#[inline(always)]
fn tokens<I: Isa, C: CodedFormat, const V: usize>(
    isa: I,
    panel: &Panel<'_>,
    v0: usize,
    acts: &Acts,
    t: usize,
    left: usize,
    out: &mut [f32],
) -> usize {
    if I::TOKENS >= 6 && left >= 6 {
        tile::<I, C, V, 6>(isa, panel, v0, acts, t, out);
        6
    } else if I::TOKENS >= 4 && left >= 4 {
        tile::<I, C, V, 4>(isa, panel, v0, acts, t, out);
        4
    } else if left >= 2 {
        tile::<I, C, V, 2>(isa, panel, v0, acts, t, out);
        2
    } else {
        tile::<I, C, V, 1>(isa, panel, v0, acts, t, out);
        1
    }
}

/// Vectors `v0..v0+V` of the panel times tokens `t0..t0+N`.
#[inline(always)]
fn tile<I: Isa, C: CodedFormat, const V: usize, const N: usize>(
    isa: I,
    panel: &Panel<'_>,
    v0: usize,
    acts: &Acts,
    t0: usize,
    out: &mut [f32],
) {
    let codes = C::CODES;
    let geometry = panel.geometry;
    let in_block = geometry.scale_lines > 0;
    let chunks = geometry.code_lines / chunk_lines(&codes);
    let a: [&[[[i8; 4]; STEPS]]; N] =
        std::array::from_fn(|t| acts.codes(t0 + t).as_chunks().0.as_chunks().0);
    let dx: [&[f32]; N] = std::array::from_fn(|t| &acts.scales(t0 + t)[..geometry.groups]);
    let sums: [&[i32]; N] = std::array::from_fn(|t| &acts.sums(t0 + t)[..geometry.groups]);

    let mut acc = [[isa.splat(0.0); N]; V];
    let mut chunk = 0;
    for (g, group) in panel.lines.chunks_exact(geometry.group_lines().max(1)).enumerate() {
        let (header, lines) = group.split_at(geometry.header_lines());
        let (halves, subs) = header.split_at(geometry.scale_lines + geometry.min_lines);
        let (subs, sub_mins) = subs.split_at(geometry.sub_lines);
        let mut sum = [[isa.splat_i32(0); N]; V];
        for (c, lines) in lines.chunks_exact(chunk_lines(&codes)).take(chunks).enumerate() {
            let a: [&[[i8; 4]; STEPS]; N] = std::array::from_fn(|t| &a[t][chunk]);
            match codes.sub_len {
                None => steps::<I, C, V, N>(isa, lines, v0, 0..STEPS, a, &mut sum),
                Some(len) => {
                    for part in 0..CHUNK / len {
                        let at = part * len / 4..(part + 1) * len / 4;
                        let mut own = [[isa.splat_i32(0); N]; V];
                        steps::<I, C, V, N>(isa, lines, v0, at, a, &mut own);
                        let s = c * (CHUNK / len) + part;
                        for v in 0..V {
                            let scale = isa.byte(isa.bytes(&subs[s / 4 * 4 + v0 + v].0), s % 4);
                            for t in 0..N {
                                let scaled = isa.mul_i32(own[v][t], scale);
                                sum[v][t] = isa.add_i32(sum[v][t], scaled);
                            }
                        }
                    }
                }
            }
            chunk += 1;
        }
        for t in 0..N {
            let scale = isa.splat(dx[t][g]);
            // What the unsigned codes added: (zero - bias) times the sum of a.
            let offset = zero::<I>(&codes) * sums[t][g];
            let sub_sums = SubSums::of(acts, &codes, t0 + t, g);
            for v in 0..V {
                let mut exact = sum[v][t];
                if codes.sub_len.is_some() {
                    if zero::<I>(&codes) != 0 {
                        let weighted = sub_sums.dot(isa, subs, v0 + v);
                        let offset = isa.mul_i32(weighted, isa.splat_i32(-zero::<I>(&codes)));
                        exact = isa.add_i32(exact, offset);
                    }
                } else {
                    exact = isa.add_i32(exact, isa.splat_i32(-offset));
                }
                let exact = isa.to_f32(exact);
                let mut x = acc[v][t];
                if in_block {
                    x = isa.fma(isa.mul(half_line(isa, halves, 0, v0 + v), scale), exact, x);
                } else {
                    x = isa.fma(scale, exact, x);
                }
                if codes.min {
                    let b = half_line(isa, halves, geometry.scale_lines, v0 + v);
                    let total = if codes.sub_len.is_some() {
                        isa.to_f32(sub_sums.dot(isa, sub_mins, v0 + v))
                    } else {
                        isa.splat(sums[t][g] as f32)
                    };
                    x = isa.fma(isa.mul(b, scale), total, x);
                }
                acc[v][t] = x;
            }
        }
    }
    store_rows::<I, C, V, N>(isa, panel, v0, acc, out);
}

/// Multiplies with the row scales, if the format has them, and stores.
#[inline(always)]
pub(super) fn store_rows<I: Isa, C: CodedFormat, const V: usize, const N: usize>(
    isa: I,
    panel: &Panel<'_>,
    v0: usize,
    acc: [[I::F32; N]; V],
    out: &mut [f32],
) {
    for v in 0..V {
        let rows = (v0 + v) * 16;
        for t in 0..N {
            let mut y = acc[v][t];
            if let Some(scales) = panel.row_scales
                && matches!(C::INFO.scales, Scales::Row | Scales::Tensor)
            {
                y = isa.mul(y, isa.load(&scales.as_chunks().0[v0 + v]));
            }
            if let Some(to) = out[t * ROWS + rows..].first_chunk_mut() {
                isa.store(y, to);
            }
        }
    }
}

/// 16 f16 numbers of a header: vector `v` of the 64 that start at line `line`.
#[inline(always)]
pub(super) fn half_line<I: Isa>(isa: I, header: &[Line], line: usize, v: usize) -> I::F32 {
    isa.load_f16(&header[line + v / 2].0.as_chunks().0[v % 2])
}

/// Whether codes take the dot product for all 256 values: bytes, and indices of a table of signed values.
const fn wide(codes: &Codes) -> bool {
    codes.max > 127 || codes.table.is_some()
}

/// What a code of weight 0 is to the dot product that is used.
const fn zero<I: Isa>(codes: &Codes) -> i32 {
    let zero = if codes.table.is_some() { TABLE_ZERO } else { codes.zero };
    if wide(codes) { zero - I::WIDE_BIAS } else { zero }
}

/// Table entries are signed; the kernels add this to them.
const TABLE_ZERO: i32 = 128;

/// Sums of the activations of each sub-block of a group.
struct SubSums([[i16; 4]; 4], usize);

impl SubSums {
    #[inline(always)]
    fn of(acts: &Acts, codes: &Codes, t: usize, g: usize) -> Self {
        let mut out = SubSums([[0; 4]; 4], 0);
        let Some(len) = codes.sub_len else { return out };
        let sixteens: &[i16] = &acts.sub_sums(t)[g * 16..(g + 1) * 16];
        out.1 = 64 / len;
        for s in 0..256 / len {
            out.0[s / 4][s % 4] =
                if len == 16 { sixteens[s] } else { sixteens[2 * s] + sixteens[2 * s + 1] };
        }
        out
    }

    /// Sum over the sub-blocks of `x[s] * sums[s]`, where `lines` holds 16 rows x 4 sub-blocks each.
    #[inline(always)]
    fn dot<I: Isa>(&self, isa: I, lines: &[Line], v: usize) -> I::I32 {
        let mut total = isa.splat_i32(0);
        for q in 0..self.1 {
            total = isa.dot_sub(total, isa.bytes(&lines[q * 4 + v].0), self.0[q]);
        }
        total
    }
}

/// The codes of vector `v` in step `s`. A function and not a closure: closures are not reliably inlined,
/// and outside the function that enables the instructions every intrinsic is a call.
#[inline(always)]
fn unpack<I: Isa, C: CodedFormat>(isa: I, lines: &[Line], s: usize, v: usize) -> I::Bytes {
    let codes = C::CODES;
    let [low, high] = planes(&codes);
    let (line, bit) = plane_place(low.bits, s, v);
    let mut u = isa.bytes(&lines[line].0);
    if codes.bits < 8 {
        u = isa.field(u, bit as i32 - low.at as i32, mask(low.bits) << low.at);
    }
    if high.bits > 0 {
        let (line, bit) = plane_place(high.bits, s, v);
        let upper = isa.bytes(&lines[plane_lines(low.bits) + line].0);
        u = isa.or(u, isa.field(upper, bit as i32 - high.at as i32, mask(high.bits) << high.at));
    }
    match codes.table {
        Some(table) => isa.lookup(u, &table.map(|q| (i32::from(q) + TABLE_ZERO) as u8)),
        None => u,
    }
}

/// Adds the steps `at` of a chunk to the integer sums.
#[inline(always)]
fn steps<I: Isa, C: CodedFormat, const V: usize, const N: usize>(
    isa: I,
    lines: &[Line],
    v0: usize,
    at: std::ops::Range<usize>,
    a: [&[[i8; 4]; STEPS]; N],
    sum: &mut [[I::I32; N]; V],
) {
    let codes = C::CODES;
    let lines = &lines[..chunk_lines(&codes)];
    if wide(&codes) {
        for s in at {
            for v in 0..V {
                let u = unpack::<I, C>(isa, lines, s, v0 + v);
                for t in 0..N {
                    sum[v][t] = isa.dot_wide(sum[v][t], u, a[t][s]);
                }
            }
        }
        return;
    }
    let length = const { run_length::<I>(C::CODES.max) };
    let mut from = at.start;
    while from < at.end {
        let to = at.end.min(from + length);
        let mut run = [[isa.begin(sum[0][0]); N]; V];
        for v in 0..V {
            for t in 0..N {
                run[v][t] = isa.begin(sum[v][t]);
            }
        }
        for s in from..to {
            for v in 0..V {
                let u = unpack::<I, C>(isa, lines, s, v0 + v);
                for t in 0..N {
                    run[v][t] = isa.dot(run[v][t], u, a[t][s]);
                }
            }
        }
        for v in 0..V {
            for t in 0..N {
                sum[v][t] = isa.finish(run[v][t], sum[v][t]);
            }
        }
        from = to;
    }
}
