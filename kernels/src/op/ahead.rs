//! Asking for lines before they are read, which a product of one token does where the hardware's own prefetch falls behind
//! ([`Isa::ahead`]).
//!
//! Every line of the stream is asked for, not only codes: those left out would each be waited for. And a few at a time,
//! because a CPU waits for so many misses at once and no more: asked for the 24 lines of a chunk of six-bit codes together
//! Zen 5 read at 84 % of the rate of F16, and at 98 % asked step by step (benches/LOG.md).

use std::ops::Range;

use crate::activation::CHUNK;
use crate::format::{CodedFormat, Codes};
use crate::isa::Isa;
use crate::panel::{Geometry, Line, chunk_lines};

use super::integer::STEPS;

/// Codes of one or two bits without sub-blocks, whose lines are used up slowly.
pub(super) const fn slow(codes: &Codes) -> bool {
    codes.bits <= 2 && codes.sub_len.is_none()
}

/// How far ahead a format's lines are asked for, in bytes; 0: not at all.
#[inline(always)]
pub(super) fn distance<I: Isa>(isa: I, codes: &Codes) -> usize {
    let ahead = isa.ahead();
    match codes.sub_len {
        Some(_) => ahead.sub_blocks,
        None if slow(codes) => ahead.few_bits,
        None => ahead.other,
    }
}

/// What the steps of a chunk ask for, if ASK: their part of the lines of the group.
#[derive(Clone, Copy)]
pub(super) struct Next<'a, const ASK: bool> {
    /// The group's lines.
    pub group: &'a [Line],
    /// How many bytes after them.
    pub ahead: usize,
    /// Index of the chunk in the group.
    pub chunk: usize,
}

impl<const ASK: bool> Next<'_, ASK> {
    /// Asks for the part of `steps`.
    #[inline(always)]
    pub fn ask<I: Isa, C: CodedFormat>(self, isa: I, steps: Range<usize>) {
        // Where groups are not rows, what is beside their codes is shared out among the chunks.
        let lines = const { lines_per_chunk::<C>() };
        if ASK {
            for line in steps.start * lines / STEPS..steps.end * lines / STEPS {
                let ahead = self.ahead + (self.chunk * lines + line) * size_of::<Line>();
                isa.prefetch(&self.group[0].0, ahead);
            }
        }
    }
}

/// Lines of a group for each of its chunks, rounded up.
const fn lines_per_chunk<C: CodedFormat>() -> usize {
    match C::INFO.activation.len() {
        Some(len) => Geometry::of(&C::INFO, len).group_lines().div_ceil(len / CHUNK),
        None => chunk_lines(&C::CODES),
    }
}

/// Asks for the lines `ahead` bytes after these; 0: for none.
#[inline(always)]
pub(super) fn ask<I: Isa>(isa: I, lines: &[Line], ahead: usize) {
    if ahead > 0 {
        for line in lines {
            isa.prefetch(&line.0, ahead);
        }
    }
}
