//! Products of ternary and 1-bit weights by looking sums up ([`Lookup`]): gemm of many tokens, past what dot products of
//! bytes can do where a core permutes as often as it multiplies.
//!
//! Three trits have 27 values and five signs 32, so the sum of their products with three or five activations is one of 32
//! words. For each token these are tables, found by five bits:
//!
//! ```text
//! indices = codes of the matrix                once: a word of each row holds three indices
//! for each 5 tokens:
//!     for each 256 columns:
//!         tables = sums of the activations     32 words for every three (five) columns, in the first-level cache
//!         for each 128 rows:
//!             acc[v][t] += tables[t][index[v]] i16; one permutation and one addition for 32 rows
//!             sums[v][t] += acc[v][t]          i32, or the contract's f32 where groups are of 256
//! ```
//!
//! Nothing is rounded: 256 products of at most 127 fit a word (32,512), and sums on the way may wrap. The indices take 1.8
//! bits per weight beside the panels while the product runs.
//!
//! Related: T-MAC (Wei et al., 2024, arXiv:2407.00088) and TL2 of bitnet.cpp (Wang et al., 2025, arXiv:2502.11880) look up
//! bytes of shared tables; here a table has the full 16 bits, so that no sum loses any.

#![allow(clippy::needless_range_loop, reason = "v and t name a place in several arrays at once")]

use std::cell::Cell;
use std::marker::PhantomData;

use crate::activation::Acts;
use crate::format::{CodedFormat, Codes, Grouping, Info, Scales};
use crate::isa::{Isa, Lookup, Op, Words};
use crate::matrix::Weights;
use crate::panel::{Line, Panels, ROWS};

use super::integer::{half_line, step_code};

/// All panels of a matrix times tokens `t0..t0 + out.len() / rows`; `out` is [tokens][rows]. False, and `out` anything,
/// if a weight is not -1, 0 or 1 (two bits can say 2) or there are no columns.
pub(crate) type Whole = fn(&Panels, &Acts, usize, &mut [f32]) -> bool;

/// Columns whose sums are formed in words.
const STRETCH: usize = 256;
/// Vectors of 32 rows beside each other, and their rows: two panels.
const VECTORS: usize = 4;
const BLOCK: usize = 2 * ROWS;
/// Sums of 16 rows in a block.
const HALVES: usize = 2 * VECTORS;
/// Tokens of a tile: 20 sums, four vectors of indices and a table are registers, and the tables leave two fifths
/// of the first-level cache. Four and six are slower.
const TOKENS: usize = 5;
/// Indices in a word.
const INDICES: usize = 3;
/// Bytes of indices that are made at a time: rows of a larger matrix take turns. Tables are made again for each turn, so
/// it should have thousands of rows; every tile of tokens reads it, so it should stay in a cache.
const BAND: usize = 8 << 20;

/// Whether a format's products can be looked up: three or two values around zero, and no groups so short that sums
/// would be taken out of words all the time.
pub(crate) const fn has(info: &Info, codes: &Codes) -> bool {
    codes.zero == 1
        && codes.sub_len.is_none()
        && codes.table.is_none()
        && !codes.min
        && (codes.base3 || codes.bits <= 2)
        && matches!(info.activation, Grouping::Token | Grouping::Group256)
}

/// Whether `n` tokens are enough to make the indices for, and the matrix's rows to make tables for, as measured on Zen 5
/// (benches/LOG.md).
pub(crate) fn pays(w: &Panels, n: usize) -> bool {
    n >= 96 && w.rows() >= 1024
}

/// Weights of an index.
const fn digits(codes: &Codes) -> usize {
    if codes.bits == 1 { 5 } else { 3 }
}

/// Values of a weight.
const fn base(codes: &Codes) -> usize {
    if codes.bits == 1 { 2 } else { 3 }
}

/// Words of a row for a stretch.
const fn words(codes: &Codes) -> usize {
    STRETCH.div_ceil(digits(codes) * INDICES)
}

/// See [`Whole`].
pub(crate) fn product<L: Lookup, C: CodedFormat>(
    w: &Panels,
    acts: &Acts,
    t0: usize,
    out: &mut [f32],
) -> bool {
    let look = L::new().expect("a kernel is only reached through a backend that the CPU has");
    look.vectors().vectorize(Call::<L, C> { look, w, acts, t0, out, format: PhantomData })
}

struct Call<'a, L, C> {
    look: L,
    w: &'a Panels,
    acts: &'a Acts,
    t0: usize,
    out: &'a mut [f32],
    format: PhantomData<C>,
}

impl<L: Lookup, C: CodedFormat> Op for Call<'_, L, C> {
    type Out = bool;
    #[inline(always)]
    fn run<I: Isa>(self, _: I) -> bool {
        // The look-up's own vector token, which is the one that was entered.
        run::<L, C>(self.look, self.w, self.acts, self.t0, BAND, self.out)
    }
}

/// Indices, tables and sums, kept by their thread.
#[derive(Default)]
struct Scratch {
    /// [stretch][block][word][vector]
    indices: Vec<[Words; VECTORS]>,
    /// [token][word][index of the word]
    tables: Vec<[Words; INDICES]>,
    /// Where a stretch is a group, its scales: [stretch][block][16 rows]
    scales: Vec<Row16<f32>>,
    /// [block][16 rows][token]
    sums: Vec<Row16<i32>>,
    /// The same, where a stretch is a group.
    acc: Vec<Row16<f32>>,
}

/// Numbers of 16 rows, aligned: otherwise loads and stores would cross lines of the cache.
#[derive(Clone, Copy)]
#[repr(align(64))]
struct Row16<T>([T; 16]);

thread_local! {
    static KEPT: Cell<Scratch> = Cell::default();
}

/// Blocks `first..first + blocks`, whose indices are there.
#[derive(Clone, Copy)]
struct Band {
    first: usize,
    blocks: usize,
}

/// [`product`], with `band` bytes of indices at a time, or those of a block.
#[inline(always)]
fn run<L: Lookup, C: CodedFormat>(
    look: L,
    w: &Panels,
    acts: &Acts,
    t0: usize,
    band: usize,
    out: &mut [f32],
) -> bool {
    if out.is_empty() || w.cols() == 0 || !ternary::<C>(w) {
        return out.is_empty();
    }
    let (words, stretches) = (const { words(&C::CODES) }, w.cols().div_ceil(STRETCH));
    let (n, blocks) = (out.len() / w.rows(), w.panels().div_ceil(2));
    let block_bytes = stretches * words * size_of::<[Words; VECTORS]>();
    let most = (band / block_bytes).clamp(1, blocks);
    let mut scratch = KEPT.take();
    let zeros = [Words([0; 32]); VECTORS];
    scratch.indices.resize((stretches * words * most).max(scratch.indices.len()), zeros);
    scratch.tables.resize(TOKENS * words, [Words([0; 32]); INDICES]);
    scratch.scales.resize((stretches * HALVES * most).max(scratch.scales.len()), Row16([0.0; 16]));
    scratch.sums.resize((most * HALVES * TOKENS).max(scratch.sums.len()), Row16([0; 16]));
    scratch.acc.resize(scratch.sums.len(), Row16([0.0; 16]));
    for first in (0..blocks).step_by(most) {
        let band = Band { first, blocks: most.min(blocks - first) };
        let blocks =
            scratch.indices.chunks_exact_mut(words).zip(scratch.scales.as_chunks_mut::<HALVES>().0);
        for (i, (indices, scales)) in blocks.take(stretches * band.blocks).enumerate() {
            let (c, b) = (i / band.blocks, i % band.blocks);
            for q in 0..2 {
                let p = 2 * (first + b) + q;
                if p < w.panels() {
                    expand::<L, C>(look, w, p, c, q, indices);
                    copy_scales::<L, C>(look, w, p, c, &mut scales.as_chunks_mut().0[q]);
                }
            }
        }
        let mut t = 0;
        while t < n {
            let out = &mut out[t * w.rows()..];
            t += match n - t {
                5.. => tokens::<L, C, 5>(look, w, acts, t0 + t, band, &mut scratch, out),
                4.. => tokens::<L, C, 4>(look, w, acts, t0 + t, band, &mut scratch, out),
                2.. => tokens::<L, C, 2>(look, w, acts, t0 + t, band, &mut scratch, out),
                _ => tokens::<L, C, 1>(look, w, acts, t0 + t, band, &mut scratch, out),
            };
        }
    }
    KEPT.set(scratch);
    true
}

/// Whether all weights are -1, 0 or 1: no field of two bits is 3.
#[inline(always)]
fn ternary<C: CodedFormat>(w: &Panels) -> bool {
    if C::CODES.base3 || C::CODES.bits < 2 {
        return true;
    }
    let geometry = w.geometry();
    (0..w.panels()).all(|p| {
        w.panel(p).chunks_exact(geometry.group_lines().max(1)).all(|group| {
            let both = |line: &Line| line.0.iter().fold(0, |any, b| any | (b & b >> 1));
            group[..geometry.code_lines].iter().fold(0, |any, line| any | both(line)) & 0x55 == 0
        })
    })
}

/// The lines of codes of panel `p` in which stretch `c` begins, and its first step there.
#[inline(always)]
fn stretch<C: CodedFormat>(w: &Panels, p: usize, c: usize) -> (&[Line], usize) {
    let geometry = w.geometry();
    match C::INFO.activation {
        Grouping::Group256 => {
            let group = &w.panel(p)[c * geometry.group_lines()..];
            (&group[..geometry.code_lines], 0)
        }
        _ => (w.panel(p), c * STRETCH / 4),
    }
}

/// Factors of the four columns of a step, and of the step after it, in an index whose first weight is column `at` of
/// the first step.
const fn factors(codes: &Codes, at: usize) -> [[i8; 4]; 2] {
    let (mut out, mut power, mut i) = ([[0; 4]; 2], 1, 0);
    while i < digits(codes) {
        out[(at + i) / 4][(at + i) % 4] = power as i8;
        power *= base(codes);
        i += 1;
    }
    out
}

/// Writes the indices of stretch `c` of panel `p` as the panel `q` of its block.
#[inline(always)]
fn expand<L: Lookup, C: CodedFormat>(
    look: L,
    w: &Panels,
    p: usize,
    c: usize,
    q: usize,
    indices: &mut [[Words; VECTORS]],
) {
    let (lines, first) = stretch::<C>(w, p, c);
    for v in [0, 2] {
        for (i, to) in indices.iter_mut().enumerate() {
            let to = &mut to[2 * q + v / 2];
            let at = i * INDICES * const { digits(&C::CODES) };
            let (step, left) = (first + at / 4, STRETCH / 4 - at / 4);
            let word = match at % 4 {
                0 => word::<L, C, 0>(look, lines, step, left, v),
                1 => word::<L, C, 1>(look, lines, step, left, v),
                2 => word::<L, C, 2>(look, lines, step, left, v),
                _ => word::<L, C, 3>(look, lines, step, left, v),
            };
            look.store(word, to);
        }
    }
}

/// Writes the scales of the group that is stretch `c` of panel `p`: beside each other, since lines of the panel so far
/// apart would be waited for.
#[inline(always)]
fn copy_scales<L: Lookup, C: CodedFormat>(
    look: L,
    w: &Panels,
    p: usize,
    c: usize,
    to: &mut [Row16<f32>; 4],
) {
    if C::INFO.scales == Scales::Block {
        let (isa, geometry) = (look.vectors(), w.geometry());
        let halves = &w.panel(p)[c * geometry.group_lines() + geometry.scales_at()..];
        for v in 0..4 {
            isa.store(half_line(isa, halves, 0, v), &mut to[v].0);
        }
    }
}

/// The indices of 32 rows from column `AT` of step `first` on, in the `left` steps of a stretch.
#[inline(always)]
fn word<L: Lookup, C: CodedFormat, const AT: usize>(
    look: L,
    lines: &[Line],
    first: usize,
    left: usize,
    v: usize,
) -> L::Lanes {
    let isa = look.vectors();
    let digits = digits(&C::CODES);
    let steps = (AT + INDICES * digits).div_ceil(4);
    let mut rows = [isa.splat_i32(0); 2];
    for h in 0..2 {
        let mut codes = [isa.bytes(&[0; 64]); 5];
        for s in 0..steps.min(left) {
            codes[s] = step_code::<L::Vectors, C>(isa, lines, first + s, v + h);
            if C::CODES.bits == 1 {
                // The codes are 0 and 2.
                codes[s] = isa.field(codes[s], 1, 1);
            }
        }
        for j in (0..INDICES).rev() {
            let at = AT + j * digits;
            let sum = isa.mul_add_i16(isa.splat_i32(0), rows[h], isa.splat_i32(32));
            let [a, b] = factors(&C::CODES, at % 4);
            let mut run = isa.dot(isa.begin(sum), codes[at / 4], a);
            if at % 4 + digits > 4 {
                run = isa.dot(run, codes[at / 4 + 1], b);
            }
            rows[h] = isa.finish(run, sum);
        }
    }
    look.pair(rows[0], rows[1])
}

/// What activations `2 pair` and `2 pair + 1` of a table are multiplied with in each of its words: a digit of the index,
/// twice that of a sign. That is one more than the weight: see [`build`].
const fn weights(codes: &Codes, pair: usize) -> [u8; 64] {
    let (mut out, mut i) = ([0; 64], 0);
    while i < 64 {
        let (index, j) = (i / 2, 2 * pair + i % 2);
        if j < digits(codes) {
            let digit = index / base(codes).pow(j as u32) % base(codes);
            out[i] = if codes.bits == 1 { 2 * digit as u8 } else { digit as u8 };
        }
        i += 1;
    }
    out
}

/// The tables of up to 256 activations, and what their sums begin with: because every weight in the tables is one too
/// large, that is the sum of the activations, negative. Sums wrap, and end within 16 bits.
#[inline(always)]
fn build<L: Lookup, C: CodedFormat>(look: L, a: &[i8], tables: &mut [[Words; INDICES]]) -> i16 {
    let (digits, pairs) = const { (digits(&C::CODES), digits(&C::CODES).div_ceil(2)) };
    let weights = const { [weights(&C::CODES, 0), weights(&C::CODES, 1), weights(&C::CODES, 2)] };
    // Zeros after the last.
    let mut x = [0; STRETCH + 5 * INDICES + 1];
    x[..a.len()].copy_from_slice(a);
    for (i, table) in tables.as_flattened_mut().iter_mut().enumerate() {
        let x = &x[i * digits..][..2 * pairs];
        let mut sum = look.pairs(&weights[0], [x[0], x[1]]);
        for pair in 1..pairs {
            let next = look.pairs(&weights[pair], [x[2 * pair], x[2 * pair + 1]]);
            sum = look.add(sum, next);
        }
        look.store(sum, table);
    }
    -a.iter().map(|a| i16::from(*a)).sum::<i16>()
}

/// N tokens times the rows of a band; returns N.
#[inline(always)]
fn tokens<L: Lookup, C: CodedFormat, const N: usize>(
    look: L,
    w: &Panels,
    acts: &Acts,
    t0: usize,
    band: Band,
    scratch: &mut Scratch,
    out: &mut [f32],
) -> usize {
    let isa = look.vectors();
    let words = const { words(&C::CODES) };
    let Scratch { indices, tables, scales, sums, acc } = scratch;
    let stretches = w.cols().div_ceil(STRETCH);
    let dx: [&[f32]; N] = std::array::from_fn(|t| acts.scales(t0 + t));
    for (c, indices) in indices.chunks_exact(band.blocks * words).take(stretches).enumerate() {
        let mut begin = [0; N];
        for (t, tables) in tables.chunks_exact_mut(words).enumerate().take(N) {
            let codes = &acts.codes(t0 + t)[c * STRETCH..];
            begin[t] = build::<L, C>(look, &codes[..codes.len().min(STRETCH)], tables);
            // The codes of the next stretch are far from those of the next token.
            for line in 0..STRETCH / 64 {
                look.prefetch(codes, STRETCH + line * 64);
            }
        }
        let tables: [&[[Words; INDICES]]; N] =
            std::array::from_fn(|t| &tables[t * words..(t + 1) * words]);
        for (b, indices) in indices.chunks_exact(words).enumerate() {
            let found = look_up::<L, N>(look, indices, tables, begin);
            let scales: &[_; HALVES] = &scales.as_chunks().0[c * band.blocks + b];
            let sums = &mut sums.as_chunks_mut::<N>().0[b * HALVES..(b + 1) * HALVES];
            let acc = &mut acc.as_chunks_mut::<N>().0[b * HALVES..(b + 1) * HALVES];
            for i in 0..HALVES {
                let add = |sum, t: usize| {
                    if i % 2 == 0 {
                        look.even(sum, found[i / 2][t])
                    } else {
                        look.odd(sum, found[i / 2][t])
                    }
                };
                if C::INFO.scales != Scales::Block {
                    for t in 0..N {
                        let old = if c > 0 { look.sums(&sums[i][t].0) } else { isa.splat_i32(0) };
                        look.keep(add(old, t), &mut sums[i][t].0);
                    }
                    continue;
                }
                let d = isa.load(&scales[i].0);
                for t in 0..N {
                    let old = if c > 0 { isa.load(&acc[i][t].0) } else { isa.splat(0.0) };
                    let d = isa.mul(d, isa.splat(dx[t][c]));
                    let sum = isa.to_f32(add(isa.splat_i32(0), t));
                    isa.store(isa.fma(d, sum, old), &mut acc[i][t].0);
                }
            }
        }
    }
    for i in 0..band.blocks * HALVES {
        let row = band.first * BLOCK + i * 16;
        if row >= w.rows() {
            break;
        }
        for t in 0..N {
            let mut y = if C::INFO.scales == Scales::Block {
                isa.load(&acc.as_chunks::<N>().0[i][t].0)
            } else {
                let sum = look.sums(&sums.as_chunks::<N>().0[i][t].0);
                isa.fma(isa.splat(dx[t][0]), isa.to_f32(sum), isa.splat(0.0))
            };
            if let Some(scales) = w.panel_scales(row / ROWS) {
                y = isa.mul(y, isa.load(&scales.as_chunks().0[row % ROWS / 16]));
            }
            let to = &mut out[t * w.rows() + row..(t + 1) * w.rows()];
            match to.first_chunk_mut() {
                Some(to) => isa.store(y, to),
                None => {
                    let mut last = [0.0; 16];
                    isa.store(y, &mut last);
                    to.copy_from_slice(&last[..to.len()]);
                }
            }
        }
    }
    N
}

/// The sums of a stretch: 128 rows, N tokens. Those of each token begin with `begin`.
#[inline(always)]
fn look_up<L: Lookup, const N: usize>(
    look: L,
    indices: &[[Words; VECTORS]],
    tables: [&[[Words; INDICES]]; N],
    begin: [i16; N],
) -> [[L::Lanes; N]; VECTORS] {
    let mut tables = tables;
    for tables in &mut tables {
        *tables = &tables[..indices.len()];
    }
    let mut acc = [[look.splat(0); N]; VECTORS];
    for t in 0..N {
        for v in 0..VECTORS {
            acc[v][t] = look.splat(begin[t]);
        }
    }
    for (i, words) in indices.iter().enumerate() {
        let mut index = [look.splat(0); VECTORS];
        for v in 0..VECTORS {
            index[v] = look.load(&words[v]);
        }
        // Not a loop: sums that it reads by index would be kept in memory.
        step::<L, N>(look, &index, i, 0, tables, &mut acc);
        next(look, &mut index);
        step::<L, N>(look, &index, i, 1, tables, &mut acc);
        next(look, &mut index);
        step::<L, N>(look, &index, i, 2, tables, &mut acc);
    }
    acc
}

/// Adds what the tables `j` of word `i` say to the sums.
#[inline(always)]
fn step<L: Lookup, const N: usize>(
    look: L,
    index: &[L::Lanes; VECTORS],
    i: usize,
    j: usize,
    tables: [&[[Words; INDICES]]; N],
    acc: &mut [[L::Lanes; N]; VECTORS],
) {
    for t in 0..N {
        let table = look.load(&tables[t][i][j]);
        for v in 0..VECTORS {
            acc[v][t] = look.pin(look.add(acc[v][t], look.look(table, index[v])));
        }
    }
}

/// Goes on to the next index of each word. Pinned, as the sums are: with the indices of two steps in registers there
/// would be no room for the sums.
#[inline(always)]
fn next<L: Lookup>(look: L, index: &mut [L::Lanes; VECTORS]) {
    for v in 0..VECTORS {
        index[v] = look.pin(look.next(index[v]));
    }
}

#[cfg(test)]
mod tests;
