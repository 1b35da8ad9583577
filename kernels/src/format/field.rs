//! The bytes of a block as fields, under ggml's names where ggml has the format: data for pictures and
//! explanations ([`crate::explain`]). Reading and writing is `decode` and `encode`; tests hold that both agree.

/// What a field of a block holds.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Holds {
    /// The weight itself, in a dense format.
    Element,
    /// The block's scale, f16.
    Scale,
    /// The block's minimum, f16, which is subtracted.
    Min,
    /// The block's lowest level, f16, which is added: the minimum with the other sign.
    Lowest,
    /// Integer scales of the sub-blocks, and their minima where there are any.
    SubScales,
    /// Codes; where there is a field of high bits, their low bits.
    Codes,
    /// The high bits of codes.
    HighBits,
}

impl Holds {
    /// One word for tables.
    pub const fn name(self) -> &'static str {
        match self {
            Holds::Element => "element",
            Holds::Scale => "scale",
            Holds::Min => "minimum",
            Holds::Lowest => "lowest",
            Holds::SubScales => "sub-scales",
            Holds::Codes => "codes",
            Holds::HighBits => "high bits",
        }
    }
}

/// A run of bytes of a block.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Field {
    /// Its name, for example `qs`.
    pub name: &'static str,
    /// First byte.
    pub at: usize,
    /// Bytes.
    pub len: usize,
    /// What it holds.
    pub holds: Holds,
    /// The same in words.
    pub about: &'static str,
}

impl Field {
    /// The scale of a block without sub-blocks.
    pub(super) const D: Field = Field::f16("d", Holds::Scale, "scale");
    /// The scale of a super-block.
    pub(super) const D_OF_SCALES: Field = Field::f16("d", Holds::Scale, "scale of the scales");
    /// The minimum of a super-block.
    pub(super) const DMIN: Field = Field::f16("dmin", Holds::Min, "scale of the minima");

    /// A field of `len` bytes; [`layout`] gives it its place.
    pub(super) const fn new(
        name: &'static str,
        len: usize,
        holds: Holds,
        about: &'static str,
    ) -> Self {
        Field { name, at: 0, len, holds, about }
    }

    /// A little-endian f16.
    pub(super) const fn f16(name: &'static str, holds: Holds, about: &'static str) -> Self {
        Field::new(name, 2, holds, about)
    }

    /// The codes of a block, all of them in one field.
    pub(super) const fn codes(len: usize, about: &'static str) -> Self {
        Field::new("qs", len, Holds::Codes, about)
    }

    /// Its bytes.
    pub const fn range(&self) -> std::ops::Range<usize> {
        self.at..self.at + self.len
    }
}

/// The fields one after the other, from byte 0 on.
pub(super) const fn layout<const N: usize>(mut fields: [Field; N]) -> [Field; N] {
    let (mut i, mut at) = (0, 0);
    while i < N {
        fields[i].at = at;
        at += fields[i].len;
        i += 1;
    }
    fields
}

/// How many fields hold this.
pub(super) const fn count(fields: &[Field], holds: Holds) -> usize {
    let (mut i, mut n) = (0, 0);
    while i < fields.len() {
        n += (fields[i].holds as u8 == holds as u8) as usize;
        i += 1;
    }
    n
}

/// Whether the fields cover a block of `bytes` bytes, each byte once, and every f16 has two.
pub(super) const fn cover(fields: &[Field], bytes: usize) -> bool {
    let (mut i, mut at) = (0, 0);
    while i < fields.len() {
        let f16 = matches!(fields[i].holds, Holds::Scale | Holds::Min | Holds::Lowest);
        if fields[i].at != at || fields[i].len == 0 || (f16 && fields[i].len != 2) {
            return false;
        }
        at += fields[i].len;
        i += 1;
    }
    at == bytes
}
