//! Which bits of a block's bytes each number of the normal form comes from, found by trying: flip a bit,
//! decode, see what changed. Nothing here knows a layout, so nothing here can contradict `decode`.

use crate::format::{Codes, Info, MAX_BLOCK, Plain};

/// One bit of a block.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Bit {
    /// The byte.
    pub byte: usize,
    /// The bit in it, 0 to 7, 0 the lowest.
    pub bit: u8,
}

impl Bit {
    /// Whether it is set.
    pub fn of(self, bytes: &[u8]) -> bool {
        bytes[self.byte] >> self.bit & 1 == 1
    }
}

/// A number of the normal form.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Number {
    /// The code of a weight.
    Code(usize),
    /// The integer scale of a sub-block.
    Sub(usize),
    /// The integer minimum of a sub-block.
    SubMin(usize),
    /// The block's scale.
    Scale,
    /// The block's minimum.
    Min,
}

/// The bits of every number, the most significant first.
#[derive(Clone, Debug)]
pub(super) struct Origins {
    codes: Vec<Vec<Bit>>,
    sub: [Vec<Bit>; 16],
    sub_min: [Vec<Bit>; 16],
    scale: Vec<Bit>,
    min: Vec<Bit>,
}

impl Origins {
    /// Tries every bit of a block: against zero bytes, or, in base 3, where a bit of a digit is not a bit of
    /// the byte, against every value of its byte.
    pub(super) fn measure(info: &Info, codes: &Codes) -> Self {
        // How far each flip moves a number orders its bits.
        let mut found: Vec<(Number, i32, Bit)> = Vec::new();
        let mut block = vec![0u8; info.bytes];
        for byte in 0..info.bytes {
            let mut decode = |value: u8| {
                let mut plain = Plain::new();
                block[byte] = value;
                (codes.decode)(&block, &mut plain);
                block[byte] = 0;
                plain
            };
            let values = if codes.base3 { 0..=255 } else { 0..=0u8 };
            for bit in 0..8u8 {
                let (at, mask) = (Bit { byte, bit }, 1 << bit);
                let mut moved = Vec::new();
                for value in values.clone().filter(|v| v & mask == 0) {
                    let (before, after) = (decode(value), decode(value | mask));
                    compare(info.block, codes, &before, &after, at, &mut moved);
                }
                moved.sort_unstable();
                moved.dedup();
                found.extend(moved.into_iter().map(|(number, step)| (number, step, at)));
            }
        }
        found.sort_by_key(|(_, step, at)| (-step, *at));
        let mut out = Origins {
            codes: vec![Vec::new(); info.block],
            sub: Default::default(),
            sub_min: Default::default(),
            scale: Vec::new(),
            min: Vec::new(),
        };
        for (number, _, at) in found {
            let bits = match number {
                Number::Code(i) => &mut out.codes[i],
                Number::Sub(k) => &mut out.sub[k],
                Number::SubMin(k) => &mut out.sub_min[k],
                Number::Scale => &mut out.scale,
                Number::Min => &mut out.min,
            };
            bits.push(at);
        }
        out
    }

    /// The bits of one number.
    pub(super) fn of(&self, number: Number) -> &[Bit] {
        match number {
            Number::Code(i) => &self.codes[i],
            Number::Sub(k) => &self.sub[k],
            Number::SubMin(k) => &self.sub_min[k],
            Number::Scale => &self.scale,
            Number::Min => &self.min,
        }
    }

    /// Every number that has a bit in this byte, with its bits there.
    pub(super) fn in_byte(&self, byte: usize) -> Vec<(Number, Vec<usize>)> {
        let codes = (0..self.codes.len()).map(Number::Code);
        let subs = (0..16).map(Number::Sub).chain((0..16).map(Number::SubMin));
        let numbers = codes.chain(subs).chain([Number::Scale, Number::Min]);
        let mut out: Vec<_> = numbers
            .filter_map(|number| {
                let bits = self.of(number);
                let here = bits.iter().enumerate().filter(|(_, bit)| bit.byte == byte);
                // The place in the number, 0 the least significant.
                let places: Vec<_> = here.clone().map(|(n, _)| bits.len() - 1 - n).collect();
                let top = here.map(|(_, bit)| bit.bit).max()?;
                Some((top, number, places))
            })
            .collect();
        out.sort_by_key(|(top, ..)| std::cmp::Reverse(*top));
        out.into_iter().map(|(_, number, places)| (number, places)).collect()
    }
}

/// Adds every number that differs, with how far its stored form moved.
fn compare(
    block: usize,
    codes: &Codes,
    before: &Plain,
    after: &Plain,
    at: Bit,
    moved: &mut Vec<(Number, i32)>,
) {
    // Where codes are indices, bits count in those; in base 3 they have no place of their own.
    let stored = |q: i16| match &codes.table {
        Some(table) => table.iter().position(|v| i16::from(*v) == q).map_or(0, |i| i as i32),
        None => i32::from(q),
    };
    let place = 1 + at.byte as i32 * 8 + i32::from(at.bit);
    for i in (0..block.min(MAX_BLOCK)).filter(|i| before.q[*i] != after.q[*i]) {
        let step = (stored(before.q[i]) - stored(after.q[i])).abs();
        moved.push((Number::Code(i), if codes.base3 { place } else { step }));
    }
    for k in 0..16 {
        let step = |a: &[i16; 16], b: &[i16; 16]| i32::from((a[k] - b[k]).abs());
        let (sub, min) = (step(&before.sub, &after.sub), step(&before.sub_min, &after.sub_min));
        moved.extend((sub != 0).then_some((Number::Sub(k), sub)));
        moved.extend((min != 0).then_some((Number::SubMin(k), min)));
    }
    moved.extend((before.d.to_bits() != after.d.to_bits()).then_some((Number::Scale, place)));
    moved.extend((before.m.to_bits() != after.m.to_bits()).then_some((Number::Min, place)));
}
