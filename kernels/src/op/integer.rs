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
//!
//! Beside this file: the scales and minima of sub-blocks ([`super::sub_blocks`]), asking for lines before one token reads
//! them ([`super::ahead`]), codes unpacked once for many tokens ([`super::unpacked`]).

#![allow(clippy::needless_range_loop, reason = "v and t name a place in several arrays at once")]

use std::marker::PhantomData;

use crate::activation::{Acts, BASE3_COLS, CHUNK};
use crate::format::{CodedFormat, Codes, Grouping, Scales};
use crate::isa::{Isa, run_length};
use crate::panel::{
    Line, chunk_lines, mask, plane_place, planes, span_chunks, span_lines, span_sub_lines,
};

use super::ahead::{Next, distance, slow};
use super::outputs::Outputs;
use super::product::{Kernel, Panel};
use super::sub_blocks::{scale_lines, scales, short, sub_offsets, weigh};
use super::unpacked;

/// Whether one token's products are summed in two sets, half a chunk each: with one, each waits for the one before,
/// as long as two others take. Groups of 32 and sub-blocks have sums of their own anyway.
const fn alternate<I: Isa, C: CodedFormat, const N: usize>() -> bool {
    N == 1 && I::VECTORS == 4 && slow(&C::CODES) && !matches!(C::INFO.activation, Grouping::Group32)
}

/// Whether the steps of a chunk are written out: single tokens where registers are many, or codes are of 3 to 6 bits or have
/// sub-blocks, as measured on x86-64 (benches/LOG.md), and full tiles but for debug builds, where they would take minutes to
/// compile.
const fn written_out<I: Isa, C: CodedFormat, const N: usize>() -> bool {
    match N {
        1 => I::VECTORS == 4 || !slow(&C::CODES) && C::CODES.bits < 8,
        FULL => I::VECTORS == 4 && !cfg!(debug_assertions),
        _ => false,
    }
}

/// Steps of four columns in a chunk.
pub(super) const STEPS: usize = CHUNK / 4;
/// Tokens of a full tile where vectors are wide.
const FULL: usize = 6;

/// Integer products of a format whose panels are planes of bits.
pub struct Integer<C>(PhantomData<C>);

impl<C: CodedFormat> Kernel for Integer<C> {
    const ONCE: bool = true;

    fn full<I: Isa>() -> usize {
        unpacked::fewest::<I, C>().unwrap_or(2 * I::TOKENS)
    }

    #[inline(always)]
    fn run<I: Isa>(isa: I, panel: &Panel<'_>, acts: &Acts, t0: usize, out: &mut Outputs<'_>) {
        if out.tokens() == 1 {
            // One token: all four vectors of the panel, so that its lines are read once.
            return match distance(isa, &C::CODES) {
                0 => tile::<I, C, 4, 1, false>(isa, panel, 0, acts, t0, out),
                _ => tile::<I, C, 4, 1, true>(isa, panel, 0, acts, t0, out),
            };
        }
        if unpacked::run::<I, C>(isa, panel, acts, t0, out) {
            return;
        }
        several::<I, C>(isa, panel, acts, t0, out);
    }
}

/// Vectors and tokens of a tile, as measured (benches/LOG.md): what a product keeps in registers besides its
/// sums decides. With sub-blocks that is a second set of integer sums, so tiles are small; with groups of 32 the f32
/// sums are in use every 8 steps.
const fn shape<I: Isa, C: CodedFormat>() -> (usize, usize) {
    match (I::VECTORS, I::TOKENS) {
        (4, 6..) if C::CODES.sub_len.is_some() => (2, 6),
        (4, 6..) if matches!(C::INFO.activation, Grouping::Group32) => (2, 6),
        (4, 6..) => (4, 6),
        (_, 4..) => (1, 4),
        _ => (1, 2),
    }
}

/// Several tokens, in the tiles of the format.
#[inline(always)]
pub(super) fn several<I: Isa, C: CodedFormat>(
    isa: I,
    panel: &Panel<'_>,
    acts: &Acts,
    t0: usize,
    out: &mut Outputs<'_>,
) {
    match const { shape::<I, C>() } {
        (4, 6) => many::<I, C, 4, 6>(isa, panel, acts, t0, out),
        (2, 6) => many::<I, C, 2, 6>(isa, panel, acts, t0, out),
        (1, 4) => many::<I, C, 1, 4>(isa, panel, acts, t0, out),
        _ => many::<I, C, 1, 2>(isa, panel, acts, t0, out),
    }
}

/// Several tokens in tiles of V vectors and at most N tokens. The tokens' activations stay in cache for the
/// vectors of the panel.
#[inline(always)]
fn many<I: Isa, C: CodedFormat, const V: usize, const N: usize>(
    isa: I,
    panel: &Panel<'_>,
    acts: &Acts,
    t0: usize,
    out: &mut Outputs<'_>,
) {
    let n = out.tokens();
    let mut t = 0;
    while t < n {
        let out = &mut out.from(t);
        t += match n - t {
            left if left >= N => vectors::<I, C, V, N>(isa, panel, acts, t0 + t, out),
            left if N > 4 && left >= 4 => vectors::<I, C, V, 4>(isa, panel, acts, t0 + t, out),
            left if N > 2 && left >= 2 => vectors::<I, C, V, 2>(isa, panel, acts, t0 + t, out),
            _ => vectors::<I, C, V, 1>(isa, panel, acts, t0 + t, out),
        };
    }
}

/// All vectors of the panel times N tokens; returns N.
#[inline(always)]
fn vectors<I: Isa, C: CodedFormat, const V: usize, const N: usize>(
    isa: I,
    panel: &Panel<'_>,
    acts: &Acts,
    t: usize,
    out: &mut Outputs<'_>,
) -> usize {
    if const { N == FULL && V == 2 && !cfg!(debug_assertions) && matches!(C::CODES.bits, 2 | 3 | 5 | 6) }
    {
        // Where these codes' bits are depends on the vector: known when compiled, or shifts and branches at each step.
        tile::<I, C, V, N, false>(isa, panel, 0, acts, t, out);
        tile::<I, C, V, N, false>(isa, panel, 2, acts, t, out);
        return N;
    }
    for v in (0..4).step_by(V) {
        tile::<I, C, V, N, false>(isa, panel, v, acts, t, out);
    }
    N
}

/// Vectors `v0..v0+V` of the panel times tokens `t0..t0+N`; ASK: asking for lines ahead.
#[inline(always)]
fn tile<I: Isa, C: CodedFormat, const V: usize, const N: usize, const ASK: bool>(
    isa: I,
    panel: &Panel<'_>,
    v0: usize,
    acts: &Acts,
    t0: usize,
    out: &mut Outputs<'_>,
) {
    let codes = C::CODES;
    let geometry = panel.geometry;
    let in_block = geometry.scale_lines > 0;
    let a: [&[[[i8; 4]; STEPS]]; N] =
        std::array::from_fn(|t| acts.codes(t0 + t).as_chunks().0.as_chunks().0);
    let dx: [&[f32]; N] = std::array::from_fn(|t| &acts.scales(t0 + t)[..geometry.groups]);
    let sums: [&[i32]; N] = std::array::from_fn(|t| &acts.sums(t0 + t)[..geometry.groups]);

    let ahead = if ASK { distance(isa, &codes) } else { 0 };
    let mut acc = [[isa.splat(0.0); N]; V];
    let mut chunk = 0;
    for (g, group) in panel.lines.chunks_exact(geometry.group_lines().max(1)).enumerate() {
        let (sub_mins, spans) = group.split_at(geometry.sub_min_lines);
        let (spans, halves) = spans.split_at(geometry.sub_lines + geometry.code_lines);
        if N == 1 && !ASK {
            // The hardware's prefetcher follows once these have been asked for.
            for line in sub_mins {
                isa.prefetch(&line.0, 0);
            }
        }
        // What the minima are multiplied with: first, because they come first in memory.
        let mut total = [[isa.splat_i32(0); N]; V];
        if codes.min {
            match C::MINIMA.sub_len {
                None => {
                    for v in 0..V {
                        for t in 0..N {
                            total[v][t] = isa.splat_i32(sums[t][g]);
                        }
                    }
                }
                Some(len) => {
                    let pairs: [_; N] = std::array::from_fn(|t| acts.sub_pairs(t0 + t, g, len));
                    total = weigh(isa, &C::MINIMA, sub_mins, v0, pairs);
                }
            }
        }
        // Begin with what makes up for the unsigned codes: (bias - zero) times the sum of a.
        let mut sum = [[isa.splat_i32(0); N]; V];
        let mut other = [[isa.splat_i32(0); N]; V];
        let mut offsets = [[0; 16]; N];
        for t in 0..N {
            match codes.sub_len {
                None => {
                    let offset = isa.splat_i32(-zero::<I>(&codes) * sums[t][g]);
                    for v in 0..V {
                        sum[v][t] = offset;
                    }
                }
                Some(len) => {
                    let pairs = acts.sub_pairs(t0 + t, g, len);
                    sub_offsets::<I>(pairs, &codes, &mut offsets[t]);
                }
            }
        }
        for (p, span) in spans.chunks_exact(span_lines(&codes)).enumerate() {
            let (subs, lines) = span.split_at(span_sub_lines(&codes));
            let subs = scale_lines(&codes, sub_mins, subs, p);
            for (c, lines) in lines.chunks_exact(chunk_lines(&codes)).enumerate() {
                let a: [&[[i8; 4]; STEPS]; N] = std::array::from_fn(|t| &a[t][chunk]);
                chunk += 1;
                let next = Next::<ASK> { group, ahead, chunk: p * span_chunks(&codes) + c };
                let Some(len) = codes.sub_len else {
                    if const { alternate::<I, C, N>() } {
                        steps::<I, C, V, N, 0, 4, ASK>(isa, lines, v0, a, &mut sum, next);
                        steps::<I, C, V, N, 4, 4, ASK>(isa, lines, v0, a, &mut other, next);
                    } else {
                        steps::<I, C, V, N, 0, 8, ASK>(isa, lines, v0, a, &mut sum, next);
                    }
                    continue;
                };
                for part in 0..CHUNK / len {
                    // Index in the span.
                    let s = c * (CHUNK / len) + part;
                    let mut own = [[isa.splat_i32(0); N]; V];
                    if zero::<I>(&codes) != 0 {
                        for t in 0..N {
                            let offset = isa.splat_i32(offsets[t][p * 4 + s]);
                            for v in 0..V {
                                own[v][t] = offset;
                            }
                        }
                    }
                    match (len, part) {
                        (32, _) => {
                            steps::<I, C, V, N, 0, 8, ASK>(isa, lines, v0, a, &mut own, next)
                        }
                        (_, 0) => steps::<I, C, V, N, 0, 4, ASK>(isa, lines, v0, a, &mut own, next),
                        _ => steps::<I, C, V, N, 4, 4, ASK>(isa, lines, v0, a, &mut own, next),
                    }
                    for v in 0..V {
                        let scale = isa.byte(scales(isa, &codes, &subs[v0 + v]), s);
                        for t in 0..N {
                            sum[v][t] = if short(&codes) {
                                isa.mul_add_i16(sum[v][t], own[v][t], scale)
                            } else {
                                isa.mul_add_i32(sum[v][t], own[v][t], scale)
                            };
                        }
                    }
                }
            }
        }
        if const { alternate::<I, C, N>() } {
            for v in 0..V {
                for t in 0..N {
                    sum[v][t] = isa.add_i32(sum[v][t], other[v][t]);
                }
            }
        }
        // In a loop of its own, so short that it is unrolled: the longer one below is not, and sums that it reads by
        // index would be stored after every sub-block.
        let mut exact = [[isa.splat(0.0); N]; V];
        for v in 0..V {
            for t in 0..N {
                exact[v][t] = isa.to_f32(sum[v][t]);
            }
        }
        for v in 0..V {
            for t in 0..N {
                let scale = isa.splat(dx[t][g]);
                let mut x = acc[v][t];
                if in_block {
                    x = isa.fma(isa.mul(half_line(isa, halves, 0, v0 + v), scale), exact[v][t], x);
                } else {
                    x = isa.fma(scale, exact[v][t], x);
                }
                if codes.min {
                    let b = half_line(isa, halves, geometry.scale_lines, v0 + v);
                    x = isa.fma(isa.mul(b, scale), isa.to_f32(total[v][t]), x);
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
    out: &mut Outputs<'_>,
) {
    for v in 0..V {
        for t in 0..N {
            let mut y = acc[v][t];
            if let Some(scales) = panel.row_scales
                && matches!(C::INFO.scales, Scales::Row | Scales::Tensor)
            {
                y = isa.mul(y, isa.load(&scales.as_chunks().0[v0 + v]));
            }
            if let Some(to) = out.vector(t, v0 + v) {
                isa.store(y, to);
            }
        }
    }
}

/// 16 f16 numbers: vector `v` of the 64 that start at line `line`.
#[inline(always)]
pub(super) fn half_line<I: Isa>(isa: I, halves: &[Line], line: usize, v: usize) -> I::F32 {
    isa.load_f16(&halves[line + v / 2].0.as_chunks().0[v % 2])
}

/// Whether codes take the dot product for all 256 values: bytes, and indices of a table of signed values.
const fn wide(codes: &Codes) -> bool {
    codes.max > 127 || codes.table.is_some()
}

/// What [`unpack`] makes of a code of weight 0.
pub(super) const fn code_zero(codes: &Codes) -> i32 {
    if codes.table.is_some() { TABLE_ZERO } else { codes.zero }
}

/// The same for the dot product that is used.
pub(super) const fn zero<I: Isa>(codes: &Codes) -> i32 {
    if wide(codes) { code_zero(codes) - I::WIDE_BIAS } else { code_zero(codes) }
}

/// Table entries are signed; the kernels add this to them.
const TABLE_ZERO: i32 = 128;

/// The codes of vector `v` in step `s`. A function and not a closure: closures are not reliably inlined,
/// and outside the function that enables the instructions every intrinsic is a call.
#[inline(always)]
pub(super) fn unpack<I: Isa, C: CodedFormat>(
    isa: I,
    lines: &[Line],
    s: usize,
    v: usize,
) -> I::Bytes {
    let codes = C::CODES;
    let [low, high] = planes(&codes);
    let (line, bit) = plane_place(&codes, low, s, v);
    let mut u = isa.bytes(&lines[line].0);
    if codes.bits < 8 {
        u = isa.field(u, bit as i32 - low.at as i32, mask(low.bits) << low.at);
    }
    if high.bits > 0 {
        let (line, bit) = plane_place(&codes, high, s, v);
        let upper = isa.bytes(&lines[line].0);
        u = isa.or(u, isa.field(upper, bit as i32 - high.at as i32, mask(high.bits) << high.at));
    }
    match codes.table {
        Some(table) => isa.lookup(u, &table.map(|q| (i32::from(q) + TABLE_ZERO) as u8)),
        None => u,
    }
}

/// The codes of vector `v` in step `s` of a group; zeros after its last.
#[inline(always)]
pub(super) fn step_code<I: Isa, C: CodedFormat>(
    isa: I,
    spans: &[Line],
    s: usize,
    v: usize,
) -> I::Bytes {
    let codes = C::CODES;
    if codes.base3 {
        let digits = BASE3_COLS / 4;
        let Some(line) = spans.get(s / digits * 4 + v) else { return isa.bytes(&[0; 64]) };
        let mut u = isa.bytes(&line.0);
        for _ in 0..s % digits {
            u = isa.triple(u);
        }
        return isa.trit(u);
    }
    let (chunk, s) = (s / (CHUNK / 4), s % (CHUNK / 4));
    let (span, chunk) = (chunk / span_chunks(&codes), chunk % span_chunks(&codes));
    let at = span * span_lines(&codes) + span_sub_lines(&codes) + chunk * chunk_lines(&codes);
    match spans.get(at..at + chunk_lines(&codes)) {
        Some(lines) => unpack::<I, C>(isa, lines, s, v),
        None => isa.bytes(&[0; 64]),
    }
}

/// [`unpack`] of V vectors. All before the first product: V vectors of codes and one token's activations stay in
/// registers beside the sums, where one vector of codes and all tokens' activations would not fit (4 x 6 sums).
#[inline(always)]
fn codes_of<I: Isa, C: CodedFormat, const V: usize>(
    isa: I,
    lines: &[Line],
    s: usize,
    v0: usize,
) -> [I::Bytes; V] {
    let mut u = [unpack::<I, C>(isa, lines, s, v0); V];
    for v in 1..V {
        u[v] = unpack::<I, C>(isa, lines, s, v0 + v);
    }
    u
}

/// Adds `LEN` steps of a chunk, from step `FROM` on, to the integer sums: 4 or 8.
///
/// Where they are [`written_out`], step by step in the source: a loop whose body is long is not unrolled, and its shifts
/// and places, constants here, would be found anew at each step.
#[inline(always)]
fn steps<
    I: Isa,
    C: CodedFormat,
    const V: usize,
    const N: usize,
    const FROM: usize,
    const LEN: usize,
    const ASK: bool,
>(
    isa: I,
    lines: &[Line],
    v0: usize,
    a: [&[[i8; 4]; STEPS]; N],
    sum: &mut [[I::I32; N]; V],
    next: Next<'_, ASK>,
) {
    const { assert!(FROM + LEN <= STEPS && (LEN == 4 || LEN == 8)) };
    let lines = &lines[..chunk_lines(&C::CODES)];
    let mut run = [[isa.begin(sum[0][0]); N]; V];
    macro_rules! ask_and_step {
        ($i:expr) => {
            next.ask::<I, C>(isa, FROM + $i..FROM + $i + 1);
            step::<I, C, V, N, LEN>(isa, lines, v0, FROM, $i, a, &mut run, sum);
        };
    }
    if const { !written_out::<I, C, N>() } {
        if slow(&C::CODES) {
            // So few lines may be asked for at once, which is less work in a loop.
            next.ask::<I, C>(isa, FROM..FROM + LEN);
            for i in 0..LEN {
                step::<I, C, V, N, LEN>(isa, lines, v0, FROM, i, a, &mut run, sum);
            }
            return;
        }
        for i in 0..LEN {
            ask_and_step!(i);
        }
        return;
    }
    ask_and_step!(0);
    ask_and_step!(1);
    ask_and_step!(2);
    ask_and_step!(3);
    if LEN == 8 {
        ask_and_step!(4);
        ask_and_step!(5);
        ask_and_step!(6);
        ask_and_step!(7);
    }
}

/// Step `i` of the `LEN` from step `from` on. `run` are the sums that [`Isa::dot`] adds to, of as many steps as it can.
#[inline(always)]
#[allow(clippy::too_many_arguments, reason = "a step of a loop, not a function of its own")]
fn step<I: Isa, C: CodedFormat, const V: usize, const N: usize, const LEN: usize>(
    isa: I,
    lines: &[Line],
    v0: usize,
    from: usize,
    i: usize,
    a: [&[[i8; 4]; STEPS]; N],
    run: &mut [[I::Acc; N]; V],
    sum: &mut [[I::I32; N]; V],
) {
    let length = const { run_length::<I>(C::CODES.max) };
    let wide = const { wide(&C::CODES) };
    if !wide && i.is_multiple_of(length) {
        for v in 0..V {
            for t in 0..N {
                run[v][t] = isa.begin(sum[v][t]);
            }
        }
    }
    let u = codes_of::<I, C, V>(isa, lines, from + i, v0);
    for t in 0..N {
        for v in 0..V {
            let a = a[t][from + i];
            if wide {
                sum[v][t] = isa.dot_wide(sum[v][t], u[v], a);
            } else {
                run[v][t] = isa.dot(run[v][t], u[v], a);
            }
        }
    }
    if !wide && N > 1 {
        // Otherwise the compiler mixes steps, or goes token by token, each dot product waiting for the one before.
        for v in 0..V {
            for t in 0..N {
                run[v][t] = isa.pin(run[v][t]);
            }
        }
    }
    if !wide && (i % length == length - 1 || i == LEN - 1) {
        for v in 0..V {
            for t in 0..N {
                sum[v][t] = isa.finish(run[v][t], sum[v][t]);
            }
        }
    }
}
