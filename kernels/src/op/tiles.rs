//! Products of coded weights with int8 activations on a matrix unit ([`Unit`]): the inner loop of gemm where there is
//! one.
//!
//! The unit multiplies bytes, so the codes of a panel are written out, a stretch of columns at a time, as the tiles that
//! it reads; then all tokens pass, 16 at a time, while the tiles are in the first-level cache:
//!
//! ```text
//! for each stretch of k:               256 or 512 columns
//!     tiles = codes of the panel       for each group, part and 4 k: a line of 16 rows x 4 k
//!     for each 16 tokens:
//!         sums = a . tiles             i32, exact; one set for each group and part
//!         acc  = fma(..., sums, acc)   the contract's order
//! ```
//!
//! Codes lose their zero on the way and are signed. Sub-blocks have no sums of their own: their scales are multiplied into
//! the codes. What does not fit a byte is two parts, `w = low + 256 high`, and the minima of sub-blocks are a third; each
//! part is one more product.

#![allow(clippy::needless_range_loop, reason = "v and t name a place in several arrays at once")]

use std::cell::Cell;
use std::marker::PhantomData;

use crate::activation::Acts;
use crate::format::{CodedFormat, Codes, Grouping, Scales};
use crate::isa::{Isa, Op, Sums, TileLine, Unit};
use crate::panel::{Line, Panels, span_lines};

use super::integer::{code_zero, half_line, step_code};
use super::outputs::Outputs;
use super::product::{Kernel, Panel};
use super::sub_blocks::{self, weigh};

/// Tokens of a tile.
pub(crate) const TOKENS: usize = 16;
/// Columns whose tiles are made at a time. With their sums they should stay in the first-level cache, beside which sums
/// are many where groups are short, and one for all stretches where a row is one group.
const SHORT_STRETCH: usize = 128;
const STRETCH: usize = 256;
const LONG_STRETCH: usize = 512;
/// Fewer tokens than this are left to the vector instructions: a tile costs the same however many it has.
const FEW: usize = 12;

/// One panel on the unit; a [`super::product::Product`]. `K` is the kernel of the same format on vectors, for the tokens
/// that do not fill a tile.
pub(crate) fn product<U: Unit, C: CodedFormat, K: Kernel>(
    w: &Panels,
    p: usize,
    acts: &Acts,
    t0: usize,
    out: Outputs<'_>,
) {
    let n = out.tokens();
    let tiled = if n % TOKENS < FEW { n / TOKENS * TOKENS } else { n };
    let (out, rest) = out.split(tiled);
    if tiled > 0 {
        let unit = U::new().expect("a kernel is only reached through a backend that the CPU has");
        let panel = Panel::of(w, p);
        let call = Call::<U, C> { unit, panel, acts, t0, out, format: PhantomData };
        unit.vectors().vectorize(call);
    }
    if tiled < n {
        super::product::product::<U::Vectors, K>(w, p, acts, t0 + tiled, rest);
    }
}

struct Call<'a, U, C> {
    unit: U,
    panel: Panel<'a>,
    acts: &'a Acts,
    t0: usize,
    out: Outputs<'a>,
    format: PhantomData<C>,
}

impl<U: Unit, C: CodedFormat> Op for Call<'_, U, C> {
    type Out = ();
    #[inline(always)]
    fn run<I: Isa>(mut self, _: I) {
        // The unit's own vector token, which is the one that was entered.
        run::<U, C>(self.unit, &self.panel, self.acts, self.t0, &mut self.out);
    }
}

/// What a format's weights are to the unit.
struct Parts;

impl Parts {
    /// Columns of a tile: a group must be whole tiles.
    const fn cols<C: CodedFormat>() -> usize {
        if matches!(C::INFO.activation, Grouping::Group32) { 32 } else { 64 }
    }

    /// Whether scale times code needs two bytes.
    const fn two(codes: &Codes) -> bool {
        codes.sub_len.is_some() && !sub_blocks::one_byte(codes)
    }

    /// What is taken off scale times code so that it fits an unsigned byte.
    const fn less(codes: &Codes) -> i32 {
        if Parts::two(codes) { 0 } else { sub_blocks::range(codes)[0] }
    }

    /// Whether a part is signed bytes: codes less their zero, and the upper bytes of two.
    const fn signed(codes: &Codes) -> [bool; 3] {
        [codes.sub_len.is_none(), Parts::two(codes), false]
    }

    /// Whether the minima are products too: where there are more of them than vectors multiply in the same time. Those
    /// of whole groups are a sum of activations.
    const fn mins(codes: &Codes) -> bool {
        codes.min && matches!(codes.sub_len, Some(16))
    }

    /// Whether the sums of a group's activations are needed.
    const fn totals(codes: &Codes) -> bool {
        Parts::less(codes) != 0 || codes.min && codes.sub_len.is_none()
    }

    const fn count(codes: &Codes) -> usize {
        1 + Parts::two(codes) as usize + Parts::mins(codes) as usize
    }
}

/// Tiles and sums, kept by their thread.
#[derive(Default)]
struct Scratch {
    tiles: Vec<TileLine>,
    sums: Vec<Sums>,
}

thread_local! {
    static KEPT: Cell<Scratch> = Cell::default();
}

#[inline(always)]
fn run<U: Unit, C: CodedFormat>(
    unit: U,
    panel: &Panel<'_>,
    acts: &Acts,
    t0: usize,
    out: &mut Outputs<'_>,
) {
    let (n, geometry) = (out.tokens(), panel.geometry);
    let cols = const { Parts::cols::<C>() };
    let parts = const { Parts::count(&C::CODES) };
    // A group's own columns, in whole tiles; groups and columns of a stretch.
    let group_cols = match C::INFO.activation.len() {
        Some(len) => len,
        None => acts.cols().next_multiple_of(cols),
    };
    let whole = C::INFO.activation == Grouping::Token;
    let stretch = match C::INFO.activation.len() {
        None => LONG_STRETCH,
        Some(..=64) => SHORT_STRETCH,
        Some(_) => STRETCH,
    };
    let at_once = if whole { 1 } else { stretch / group_cols };
    let tokens = n.min(TOKENS);
    // Where tokens are not whole tiles, the last tile reads some of the one before again.
    let starts = (0..n.div_ceil(TOKENS)).map(|i| (i * TOKENS).min(n - tokens));

    let mut scratch = KEPT.take();
    scratch.tiles.resize(at_once * parts * stretch.min(group_cols), TileLine([0; 64]));
    let sets = if whole { n.div_ceil(TOKENS) } else { at_once * parts };
    scratch.sums.resize(scratch.sums.len().max(sets), Sums([[[0; 16]; 16]; 4]));
    out.each_token().for_each(|row| row.fill(0.0));
    let tiles = unit.tiles(tokens, cols);
    let group_lines = geometry.group_lines().max(1);
    for (first, groups) in panel.lines.chunks(group_lines * at_once).enumerate() {
        let first = first * at_once;
        let count = groups.len() / group_lines;
        for from in (0..group_cols).step_by(stretch) {
            let to = group_cols.min(from + stretch);
            let each = parts * (to - from);
            for (group, lines) in
                groups.chunks_exact(group_lines).zip(scratch.tiles.chunks_exact_mut(each))
            {
                expand::<U, C>(unit, group, geometry.sub_min_lines, from / 4..to / 4, lines);
            }
            for (i, t) in starts.clone().enumerate() {
                let k = first * group_cols + from;
                if let (false, Some(next)) = (whole, starts.clone().nth(i + 1)) {
                    // Rows far apart, each a few lines long: the hardware does not see them coming.
                    let a = &acts.codes_from(t0 + next)[k..];
                    unit.prefetch(a, acts.padded(), tokens, stretch);
                }
                for j in 0..count {
                    let a = &acts.codes_from(t0 + t)[k + j * group_cols..];
                    for part in 0..parts {
                        let b = &scratch.tiles[j * each + part * (to - from)..][..to - from];
                        let sums = &mut scratch.sums[if whole { i } else { j * parts + part }];
                        let signed = const { Parts::signed(&C::CODES) }[part];
                        unit.multiply(&tiles, a, acts.padded(), b, signed, sums, from > 0);
                    }
                }
                if to == group_cols {
                    let sums =
                        if whole { &scratch.sums[i..=i] } else { &scratch.sums[..count * parts] };
                    let (first_token, done) = (t0 + t, i * TOKENS - t);
                    let ready = Ready { panel, acts, groups, first, t: first_token, done, sums };
                    combine::<U, C>(unit, ready, &mut out.from(t));
                }
            }
        }
    }
    drop(tiles);
    KEPT.set(scratch);
    if matches!(C::INFO.scales, Scales::Row | Scales::Tensor) {
        scale_rows::<U>(unit, panel, out);
    }
}

/// Writes the parts of the steps `steps` (four columns each) of a group, [part][tile][v][step of the tile].
#[inline(always)]
fn expand<U: Unit, C: CodedFormat>(
    unit: U,
    group: &[Line],
    sub_min_lines: usize,
    steps: std::ops::Range<usize>,
    lines: &mut [TileLine],
) {
    let (isa, codes) = (unit.vectors(), C::CODES);
    let per_tile = const { Parts::cols::<C>() / 4 };
    let part = steps.len() * 4;
    let (first, last) = (steps.start, lines.len() - part);
    let (sub_mins, spans) = group.split_at(sub_min_lines);
    for s in steps {
        let i = s - first;
        for v in 0..4 {
            let at = (i / per_tile * 4 + v) * per_tile + i % per_tile;
            let u = step_code::<U::Vectors, C>(isa, spans, s, v);
            let Some(len) = codes.sub_len else {
                unit.store(unit.signed(u, code_zero(&codes)), &mut lines[at]);
                continue;
            };
            let (four, sub) = (s * 4 / len / 4, s * 4 / len % 4);
            let own = &spans[four * span_lines(&codes)..];
            let scales = sub_blocks::scale_lines(&codes, sub_mins, own, four);
            let scale = isa.byte(sub_blocks::scales(isa, &codes, &scales[v]), sub);
            let [low, high] = unit.scaled(u, codes.zero, scale, Parts::less(&codes));
            unit.store(low, &mut lines[at]);
            if Parts::two(&codes) {
                unit.store(high, &mut lines[part + at]);
            }
            if Parts::mins(&codes) {
                let min = isa.byte(sub_blocks::minima(isa, &codes, &sub_mins[four * 4 + v]), sub);
                let [min, _] = unit.scaled(isa.bytes(&[1; 64]), 0, min, 0);
                unit.store(min, &mut lines[last + at]);
            }
        }
    }
}

/// A tile of tokens beside a stretch of groups, when all of their sums are there.
#[derive(Clone, Copy)]
struct Ready<'a> {
    panel: &'a Panel<'a>,
    acts: &'a Acts,
    /// Lines of the groups, and the index of the first.
    groups: &'a [Line],
    first: usize,
    /// The first token, and how many tokens were finished with the tile before.
    t: usize,
    done: usize,
    /// [group][part]
    sums: &'a [Sums],
}

/// Adds the groups to the tokens' outputs, as many at once as a whole stretch has.
#[inline(always)]
fn combine<U: Unit, C: CodedFormat>(unit: U, ready: Ready<'_>, out: &mut Outputs<'_>) {
    let parts = const { Parts::count(&C::CODES) };
    let groups = ready.sums.len() / parts;
    match const { C::INFO.activation.len() } {
        Some(32) if groups == SHORT_STRETCH / 32 => {
            add_groups::<U, C, { SHORT_STRETCH / 32 }>(unit, ready, out);
        }
        Some(32) if groups == SHORT_STRETCH / 64 => {
            add_groups::<U, C, { SHORT_STRETCH / 64 }>(unit, ready, out);
        }
        Some(64) if groups == SHORT_STRETCH / 64 => {
            add_groups::<U, C, { SHORT_STRETCH / 64 }>(unit, ready, out);
        }
        Some(128) if groups == STRETCH / 128 => {
            add_groups::<U, C, { STRETCH / 128 }>(unit, ready, out);
        }
        _ => {
            let lines = ready.groups.chunks_exact(ready.panel.geometry.group_lines());
            for (j, (groups, sums)) in lines.zip(ready.sums.chunks_exact(parts)).enumerate() {
                let one = Ready { groups, sums, first: ready.first + j, ..ready };
                add_groups::<U, C, 1>(unit, one, out);
            }
        }
    }
}

/// `G` groups of [`combine`], their scales in registers.
#[inline(always)]
fn add_groups<U: Unit, C: CodedFormat, const G: usize>(
    unit: U,
    ready: Ready<'_>,
    out: &mut Outputs<'_>,
) {
    let Ready { panel, acts, groups, first, t, done, sums } = ready;
    let (isa, codes, geometry) = (unit.vectors(), C::CODES, panel.geometry);
    let parts = const { Parts::count(&C::CODES) };
    let in_block = C::INFO.scales == Scales::Block;
    let sums = &sums[..G * parts];
    for v in 0..4 {
        let mut d = [isa.splat(1.0); G];
        let mut b = [isa.splat(1.0); G];
        for j in 0..G {
            let halves = &groups[j * geometry.group_lines() + geometry.scales_at()..];
            if in_block {
                d[j] = half_line(isa, halves, 0, v);
            }
            if codes.min {
                b[j] = half_line(isa, halves, geometry.scale_lines, v);
            }
        }
        // Places are found once and not once per token: with groups of 32 there is little else to do. Where totals are
        // read too this would take more registers than there are, as measured.
        let mut from = [[&[[0; 16]; TOKENS]; 3]; G];
        for j in 0..G {
            for part in 0..parts {
                from[j][part] = &sums[j * parts + part].0[v];
            }
        }
        let mut scales = &acts.scale[(t + done) * acts.groups()..];
        let outs = out.each_token().take(TOKENS).enumerate().skip(done);
        for (i, out) in outs {
            let mut total = &[0; G];
            if Parts::totals(&codes) {
                scales = acts.scales(t + i);
                total = acts.sums(t + i)[first..].first_chunk().expect("every group has one");
            }
            let dx: &[f32; G] = scales[first..].first_chunk().expect("every group has one");
            scales = &scales[acts.groups()..];
            let out = &mut out.as_chunks_mut::<16>().0[v];
            let mut acc = isa.load(out);
            for j in 0..G {
                let low = if Parts::totals(&codes) { &sums[j * parts].0[v] } else { from[j][0] };
                let mut sum = unit.load(&low[i]);
                if Parts::two(&codes) {
                    let high = unit.load(&from[j][1][i]);
                    sum = isa.mul_add_i32(sum, high, isa.splat_i32(256));
                }
                if Parts::less(&codes) != 0 {
                    sum = isa.add_i32(sum, isa.splat_i32(Parts::less(&codes) * total[j]));
                }
                let scale = isa.splat(dx[j]);
                let d = if in_block { isa.mul(d[j], scale) } else { scale };
                acc = isa.fma(d, isa.to_f32(sum), acc);
                if codes.min {
                    let total = match codes.sub_len {
                        Some(_) if Parts::mins(&codes) => unit.load(&from[j][parts - 1][i]),
                        Some(len) => {
                            let mins =
                                &groups[j * geometry.group_lines()..][..geometry.sub_min_lines];
                            let pairs = [acts.sub_pairs(t + i, first + j, len)];
                            let [[total]] = weigh(isa, &codes, mins, v, pairs);
                            total
                        }
                        None => isa.splat_i32(total[j]),
                    };
                    acc = isa.fma(isa.mul(b[j], scale), isa.to_f32(total), acc);
                }
            }
            isa.store(acc, out);
        }
    }
}

/// Multiplies the outputs with the scales of their rows.
#[inline(always)]
fn scale_rows<U: Unit>(unit: U, panel: &Panel<'_>, out: &mut Outputs<'_>) {
    let (isa, Some(scales)) = (unit.vectors(), panel.row_scales) else { return };
    for out in out.each_token() {
        for (out, scales) in out.as_chunks_mut().0.iter_mut().zip(scales.as_chunks().0) {
            isa.store(isa.mul(isa.load(out), isa.load(scales)), out);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::{DenseFormat, Visit, for_each};
    use crate::isa::{portable::Portable, tile_count};
    use crate::matrix::Matrix;
    use crate::op::{base3::Base3, integer::Integer};
    use crate::oracle;
    use crate::panel::ROWS;

    /// A unit in plain Rust: what surrounds the hardware's own is tested on every machine.
    #[derive(Clone, Copy)]
    struct Software;

    impl Unit for Software {
        type Vectors = Portable;
        type Tiles = (usize, usize);

        fn new() -> Option<Self> {
            Some(Software)
        }

        fn vectors(self) -> Portable {
            Portable::new().expect("runs everywhere")
        }

        fn tiles(self, tokens: usize, cols: usize) -> Self::Tiles {
            (tokens, cols)
        }

        fn multiply(
            self,
            &(tokens, cols): &Self::Tiles,
            a: &[i8],
            stride: usize,
            b: &[TileLine],
            signed: bool,
            sums: &mut Sums,
            keep: bool,
        ) {
            if tile_count(tokens, cols, a, stride, b) == 0 {
                return;
            }
            let weight = |u: u8| if signed { i32::from(u as i8) } else { i32::from(u) };
            let steps = cols / 4;
            for (v, sums) in sums.0.iter_mut().enumerate() {
                for (t, sums) in sums.iter_mut().enumerate().take(tokens) {
                    for (lane, sum) in sums.iter_mut().enumerate() {
                        let term = |k: usize| {
                            let line = &b[(k / cols * 4 + v) * steps + k % cols / 4];
                            weight(line.0[lane * 4 + k % 4]) * i32::from(a[t * stride + k])
                        };
                        let products: i32 = (0..b.len()).map(term).sum();
                        *sum = products + if keep { *sum } else { 0 };
                    }
                }
            }
        }

        fn spin(self, _: &Self::Tiles, _: usize) {}

        fn store(self, x: [u8; 64], to: &mut TileLine) {
            to.0 = x;
        }

        fn load(self, x: &[i32; 16]) -> [i32; 16] {
            *x
        }

        fn signed(self, u: [u8; 64], zero: i32) -> [u8; 64] {
            u.map(|u| u.wrapping_sub(zero as u8))
        }

        fn scaled(self, u: [u8; 64], zero: i32, scale: [i32; 16], less: i32) -> [[u8; 64]; 2] {
            let word = |i: usize| ((i32::from(u[i]) - zero) * scale[i / 4] - less) as u16;
            [0, 8].map(|shift| std::array::from_fn(|i| (word(i) >> shift) as u8))
        }
    }

    struct EveryFormat;

    impl Visit for EveryFormat {
        fn dense<C: DenseFormat>(&mut self) {}

        fn coded<C: CodedFormat>(&mut self) {
            equals_oracle::<C, Integer<C>>();
        }

        fn base3<C: CodedFormat>(&mut self) {
            equals_oracle::<C, Base3<C>>();
        }
    }

    fn equals_oracle<C: CodedFormat, K: Kernel>() {
        let paint = |i: usize| ((i * 37 % 251) as f32 - 125.0) / 64.0;
        // Rows that are one group: more than a stretch, and not whole tiles.
        let any = C::INFO.scales != Scales::Block;
        let (rows, cols) = (65, if any { 603 } else { 2 * C::INFO.block.max(192) });
        let weights: Vec<f32> = (0..rows * cols).map(paint).collect();
        let matrix = Matrix::quantize(C::FORMAT, rows, cols, &weights).unwrap();
        let panels = Panels::pack(&matrix).unwrap();
        for n in [FEW, TOKENS + 1, 2 * TOKENS - 1] {
            let x: Vec<f32> = (0..n * cols).map(|i| paint(i * 3 + 1)).collect();
            let grouping = C::INFO.activation;
            let acts = Acts::quantize_with(grouping, &x, n, cols, oracle::quantize_row).unwrap();
            for p in 0..panels.panels() {
                let mut got = vec![f32::NAN; n * ROWS];
                product::<Software, C, K>(&panels, p, &acts, 0, Outputs::block(&mut got));
                for (t, got) in got.chunks_exact(ROWS).enumerate() {
                    for (r, got) in got.iter().take(rows - p * ROWS).enumerate() {
                        let expected = oracle::dot(&panels, p * ROWS + r, &acts, t);
                        assert_eq!(
                            got.to_bits(),
                            expected.to_bits(),
                            "{}: row {}, token {t} of {n}: {got} is not {expected}",
                            C::FORMAT,
                            p * ROWS + r,
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn a_unit_in_software_equals_the_oracle() {
        for_each(&mut EveryFormat);
    }
}
