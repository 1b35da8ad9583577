//! Several tokens: the codes of a panel taken out of their bits once for all tokens, as bytes.
//!
//! The tiles of [`super::integer`] take codes apart again for every few tokens, beside their products; where a tile is small
//! that is as much work as the products. Here it is done once, and tiles read bytes. Where the integer scale of a sub-block
//! times the code fits a byte (Q2_K, Q3_K), that is the byte, and a group is one sum.

use std::cell::Cell;
use std::marker::PhantomData;

use crate::activation::{Acts, CHUNK};
use crate::format::{Codec, CodedFormat, Codes, Format, Info, Kind};
use crate::isa::Isa;
use crate::panel::{
    Geometry, Line, chunk_lines, planes, span_chunks, span_lines, span_sub_lines, sub_scale,
};

use super::integer::{several, unpack as codes_at};
use super::outputs::Outputs;
use super::product::Panel;
use super::sub_blocks::{one_byte, range, scale_lines};

/// The format `C` with a byte for each code, or for scale times code.
pub struct Bytes<I, C>(PhantomData<(I, C)>);

/// Whether bytes are scale times code: where a dot product takes every byte in one instruction.
const fn scaled<I: Isa>(codes: &Codes) -> bool {
    codes.sub_len.is_some() && one_byte(codes) && I::WIDE_BIAS == 0
}

/// Whether codes are unpacked for all tokens, as measured (benches/LOG.md): those in two planes, and where scales can be
/// multiplied into them. Not in plain Rust, whose products cost more than unpacking.
const fn pays<I: Isa>(codes: &Codes) -> bool {
    let planes = planes(codes)[1].bits > 0 && codes.table.is_none();
    I::TOKENS >= 4 && (planes || scaled::<I>(codes))
}

/// Its panels have the lines that [`run`] gives them: those of the minima are not in what INFO says.
impl<I: Isa, C: CodedFormat> Codec for Bytes<I, C> {
    const INFO: Info = Info { kind: Kind::Coded(Self::CODES), ..C::INFO };
    const FORMAT: Format = C::FORMAT;
}

impl<I: Isa, C: CodedFormat> CodedFormat for Bytes<I, C> {
    const CODES: Codes = {
        let own = Codes { bits: 8, ..C::CODES };
        let [min, max] = range(&C::CODES);
        if scaled::<I>(&C::CODES) {
            Codes { zero: -min, max: max - min, sub_len: None, ..own }
        } else {
            own
        }
    };
    const MINIMA: Codes = C::CODES;
}

/// Bytes; panels that would be longer are not unpacked. Every tile reads one, so it should stay in the second-level cache:
/// of 1 MiB, where this was measured (12,000 columns).
const MOST: usize = 768 << 10;

thread_local! {
    static KEPT: Cell<Vec<Line>> = const { Cell::new(Vec::new()) };
}

/// Tokens from which on unpacking pays, if it does for this format: whole tiles of every backend.
pub(super) const fn fewest<I: Isa, C: CodedFormat>() -> Option<usize> {
    match (pays::<I>(&C::CODES), I::VECTORS) {
        (false, _) => None,
        // Large tiles, which take codes apart seldom: six bits are the most work.
        (true, 4) if C::CODES.bits < 6 => Some(96),
        (true, _) => Some(36),
    }
}

/// The tokens from `t0` on, if unpacking pays for this format and so many; false if not.
#[inline(always)]
pub(super) fn run<I: Isa, C: CodedFormat>(
    isa: I,
    panel: &Panel<'_>,
    acts: &Acts,
    t0: usize,
    out: &mut Outputs<'_>,
) -> bool {
    // A condition that the compiler knows before it makes code for what follows.
    if const { !pays::<I>(&C::CODES) } {
        return false;
    }
    let Some(fewest) = (const { fewest::<I, C>() }) else { return false };
    let bytes = Bytes::<I, C>::CODES;
    let chunks = panel.geometry.code_lines / chunk_lines(&C::CODES);
    let geometry = Geometry {
        code_lines: chunks * chunk_lines(&bytes),
        sub_lines: chunks / span_chunks(&bytes) * span_sub_lines(&bytes),
        ..panel.geometry
    };
    let len = geometry.panel_lines();
    if out.tokens() < fewest || len > MOST / size_of::<Line>() {
        return false;
    }
    let mut lines = KEPT.take();
    if lines.len() < len {
        lines = vec![Line([0; 64]); len];
    }
    unpack::<I, C>(isa, panel, geometry, &mut lines[..len]);
    let unpacked = Panel { lines: &lines[..len], geometry, row_scales: panel.row_scales };
    several::<I, Bytes<I, C>>(isa, &unpacked, acts, t0, out);
    KEPT.set(lines);
    true
}

/// Unpacks the codes of a panel; the rest is copied.
#[inline(always)]
fn unpack<I: Isa, C: CodedFormat>(isa: I, panel: &Panel<'_>, to: Geometry, lines: &mut [Line]) {
    let (codes, bytes, from) = (C::CODES, Bytes::<I, C>::CODES, panel.geometry);
    let groups = panel.lines.chunks_exact(from.group_lines().max(1));
    for (group, lines) in groups.zip(lines.chunks_exact_mut(to.group_lines().max(1))) {
        let (mins, group) = group.split_at(from.sub_min_lines);
        let (spans, halves) = group.split_at(from.sub_lines + from.code_lines);
        let (to_mins, lines) = lines.split_at_mut(to.sub_min_lines);
        let (to_spans, to_halves) = lines.split_at_mut(to.sub_lines + to.code_lines);
        to_mins.copy_from_slice(mins);
        to_halves.copy_from_slice(halves);
        let to_span = span_chunks(&codes) * chunk_lines(&bytes) + span_sub_lines(&bytes);
        let spans = spans.chunks_exact(span_lines(&codes)).zip(to_spans.chunks_exact_mut(to_span));
        for (p, (span, to_span)) in spans.enumerate() {
            let (subs, from) = span.split_at(span_sub_lines(&codes));
            let (to_subs, to) = to_span.split_at_mut(span_sub_lines(&bytes));
            let subs = scale_lines(&codes, mins, subs, p);
            if !to_subs.is_empty() {
                to_subs.copy_from_slice(subs);
            }
            let chunks = from.chunks_exact(chunk_lines(&codes));
            for (c, (from, to)) in chunks.zip(to.as_chunks_mut::<CHUNK>().0).enumerate() {
                chunk::<I, C>(isa, from, to);
                if let (true, Some(len)) = (scaled::<I>(&codes), codes.sub_len) {
                    for (part, to) in to.chunks_exact_mut(len).enumerate() {
                        scale(&codes, subs, c * (CHUNK / len) + part, to);
                    }
                }
            }
        }
    }
}

/// A chunk, step by step in the source: places of codes are known when compiled.
#[inline(always)]
fn chunk<I: Isa, C: CodedFormat>(isa: I, from: &[Line], to: &mut [Line; CHUNK]) {
    step::<I, C>(isa, from, to, 0);
    step::<I, C>(isa, from, to, 1);
    step::<I, C>(isa, from, to, 2);
    step::<I, C>(isa, from, to, 3);
    step::<I, C>(isa, from, to, 4);
    step::<I, C>(isa, from, to, 5);
    step::<I, C>(isa, from, to, 6);
    step::<I, C>(isa, from, to, 7);
}

#[inline(always)]
fn step<I: Isa, C: CodedFormat>(isa: I, from: &[Line], to: &mut [Line; CHUNK], s: usize) {
    isa.store_bytes(codes_at::<I, C>(isa, from, s, 0), &mut to[s * 4].0);
    isa.store_bytes(codes_at::<I, C>(isa, from, s, 1), &mut to[s * 4 + 1].0);
    isa.store_bytes(codes_at::<I, C>(isa, from, s, 2), &mut to[s * 4 + 2].0);
    isa.store_bytes(codes_at::<I, C>(isa, from, s, 3), &mut to[s * 4 + 3].0);
}

/// Multiplies the codes of a sub-block, which is number `sub` of its span, with its scales, less the smallest product. Four
/// codes are in one word all the while, so that this is vectors without shuffles.
#[inline(always)]
fn scale(codes: &Codes, subs: &[Line], sub: usize, lines: &mut [Line]) {
    let [less, _] = range(codes);
    for (v, line) in subs.iter().enumerate() {
        let mut scales = [0; 16];
        for (scale, four) in scales.iter_mut().zip(line.0.as_chunks().0) {
            let byte = (u32::from_le_bytes(*four) >> (8 * sub)) as u8;
            *scale = i32::from(sub_scale(codes, byte));
        }
        for four in lines.as_chunks_mut::<4>().0 {
            let codes_of = four[v].0.as_chunks_mut().0;
            for (four, scale) in codes_of.iter_mut().zip(scales) {
                let word = u32::from_le_bytes(*four);
                let product = |j: u32| {
                    let code = (word >> (8 * j) & 255) as i32 - codes.zero;
                    ((code * scale - less) as u32 & 255) << (8 * j)
                };
                *four = (product(0) | product(1) | product(2) | product(3)).to_le_bytes();
            }
        }
    }
}
