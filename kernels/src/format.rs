//! The list of formats, and what a format is.
//!
//! Every coded format is the same sentence: the weight `i` of a block is
//!
//! ```text
//! w[i] = (d * sub[i / sub_len]) * q[i]  -  (m * sub_min[i / sub_len])
//! ```
//!
//! with small integers `q`, `sub`, `sub_min` and two f32 numbers `d`, `m` per block. [`Plain`] holds
//! exactly that, `decode` is the meaning of the bytes, and everything else (dequantise, panels,
//! kernels, the oracle) is written once over it. Dense formats (F32, F16, BF16) are a scalar
//! conversion.
//!
//! To add a format: write `format/<name>.rs` with one [`Info`], and add one line to `formats!`.
//! Bytes on disk never depend on the CPU.
//!
//! A page per format, made from its file, its description and measurements, is in `kernels/docs/formats`;
//! `make docs` writes them.

mod dense;
mod exact;
mod field;
mod iq4_nl;
mod kquant;
mod min_search;
mod q2_k;
mod q3_k;
mod q4_0;
mod q4_1;
mod q4_k;
mod q5_0;
mod q5_1;
mod q5_k;
mod q6_k;
mod q8_0;
mod search;
mod sign;
mod ternary;
mod ternary_base3;
mod ternary_group;
mod tq1_0;
mod tq2_0;

pub use field::{Field, Holds};

use std::ops::Range;

use crate::activation::{BASE3_COLS, CHUNK};
use crate::error::{Error, Result};

pub(crate) use ternary::{absmean, ternary as nearest_ternary};

/// The largest block of any format, in weights.
pub const MAX_BLOCK: usize = 256;

/// How the activations that meet a format are quantised (contract: see [`crate::oracle`]).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Grouping {
    /// Not at all: f32 activations, for dense weights.
    Dense,
    /// int8, one scale per token (BitNet's own rule).
    Token,
    /// int8, one scale per 256 elements.
    Group256,
    /// int8, one scale per 128 elements.
    Group128,
    /// int8, one scale per 64 elements.
    Group64,
    /// int8, one scale per 32 elements.
    Group32,
}

impl Grouping {
    /// All groupings.
    pub const ALL: [Grouping; 6] = [
        Grouping::Dense,
        Grouping::Token,
        Grouping::Group256,
        Grouping::Group128,
        Grouping::Group64,
        Grouping::Group32,
    ];

    /// Name used in messages and tables.
    pub const fn name(self) -> &'static str {
        match self {
            Grouping::Dense => "f32",
            Grouping::Token => "token",
            Grouping::Group256 => "256",
            Grouping::Group128 => "128",
            Grouping::Group64 => "64",
            Grouping::Group32 => "32",
        }
    }

    /// Elements per group; `None` where the group is the whole row.
    #[allow(clippy::len_without_is_empty, reason = "a group is never empty")]
    pub const fn len(self) -> Option<usize> {
        match self {
            Grouping::Dense | Grouping::Token => None,
            Grouping::Group256 => Some(256),
            Grouping::Group128 => Some(128),
            Grouping::Group64 => Some(64),
            Grouping::Group32 => Some(32),
        }
    }
}

/// Where a format keeps its scales.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Scales {
    /// There is none (dense formats).
    None,
    /// In every block.
    Block,
    /// Outside the bytes: one f32 per row.
    Row,
    /// Outside the bytes: one f32 for the whole matrix.
    Tensor,
}

/// The normal form of one block, or of a run of blocks ([`Info::run`]); see the module's first lines.
#[derive(Clone, Debug)]
pub struct Plain {
    /// Signed codes, one per weight; only those of the blocks that were decoded are meaningful.
    pub q: [i16; MAX_BLOCK],
    /// Block scale.
    pub d: f32,
    /// Block minimum, subtracted; 0 for formats without one.
    pub m: f32,
    /// Integer scale of each sub-block; 1 where a format has none.
    pub sub: [i16; 16],
    /// Integer minimum of each sub-block; 1 where a format has none.
    pub sub_min: [i16; 16],
    /// Weights per sub-block.
    pub sub_len: usize,
}

impl Plain {
    /// An empty block; `decode` fills it.
    pub const fn new() -> Self {
        Plain {
            q: [0; MAX_BLOCK],
            d: 0.0,
            m: 0.0,
            sub: [1; 16],
            sub_min: [1; 16],
            sub_len: MAX_BLOCK,
        }
    }

    /// The weight at `i`: two exact products and one rounding at most.
    pub fn weight(&self, i: usize) -> f32 {
        let (scale, minimum) = self.sub_block(i / self.sub_len);
        scale * f32::from(self.q[i]) - minimum
    }

    /// The first weights, as many as `out` has room for.
    pub fn weights(&self, out: &mut [f32]) {
        // A sub-block at a time, so that nothing is divided for a weight.
        for ((s, out), q) in
            out.chunks_mut(self.sub_len).enumerate().zip(self.q.chunks(self.sub_len))
        {
            let (scale, minimum) = self.sub_block(s);
            for (w, q) in out.iter_mut().zip(q) {
                *w = scale * f32::from(*q) - minimum;
            }
        }
    }

    /// Scale and minimum of sub-block `s`.
    fn sub_block(&self, s: usize) -> (f32, f32) {
        // Formats without a minimum have m = +0, and subtracting +0 keeps even the sign of a zero.
        (self.d * f32::from(self.sub[s]), self.m * f32::from(self.sub_min[s]))
    }
}

impl Default for Plain {
    fn default() -> Self {
        Self::new()
    }
}

/// The three dense element types.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Element {
    /// IEEE binary32.
    F32,
    /// IEEE binary16.
    F16,
    /// The upper half of a binary32.
    BF16,
}

/// What an encoder may look at.
#[derive(Clone, Copy, Debug)]
pub struct Input<'a> {
    /// The block's weights.
    pub x: &'a [f32],
    /// How much each weight's column matters (mean squared activation); `None`: all the same.
    pub importance: Option<&'a [f32]>,
    /// Mean square of the whole row's weights; used beside `importance`.
    pub row_mean_square: f32,
    /// The row or tensor scale; 1 where scales are in the block.
    pub scale: f32,
}

impl Codes {
    /// Codes with one scale per block, for `..Codes::simple(..)`.
    pub(crate) const fn simple(
        bits: u32,
        zero: i32,
        max: i32,
        decode: fn(&[u8], &mut Plain),
        encode: fn(&Input<'_>, &mut [u8]),
    ) -> Self {
        let outer_scale = no_outer_scale;
        Codes {
            bits,
            zero,
            max,
            min: false,
            sub_len: None,
            sub_range: [0, 0],
            table: None,
            base3: false,
            decode,
            encode,
            outer_scale,
        }
    }
}

/// How a coded format is read and written.
#[derive(Clone, Copy, Debug)]
pub struct Codes {
    /// Bits per code in a panel: 1 to 6 or 8.
    pub bits: u32,
    /// Unsigned code = signed code + `zero`.
    pub zero: i32,
    /// Largest unsigned code that any byte pattern can hold.
    pub max: i32,
    /// Whether blocks have a minimum.
    pub min: bool,
    /// Weights per sub-block, 16 or 32, where blocks of 256 have integer scales of their own in them.
    pub sub_len: Option<usize>,
    /// Smallest and largest integer scale of a sub-block. Where they are 4 bits and there are minima, so are those.
    pub sub_range: [i32; 2],
    /// Where codes are indices: the signed code of each index.
    pub table: Option<[i8; 16]>,
    /// Whether a panel keeps five ternary codes to a byte instead of planes of bits.
    pub base3: bool,
    /// Meaning of one block's bytes; in formats whose scale is outside the blocks, of several, to at most
    /// [`MAX_BLOCK`] weights.
    pub decode: fn(&[u8], &mut Plain),
    /// Quantises one block.
    pub encode: fn(&Input<'_>, &mut [u8]),
    /// Row or tensor scale of these weights; used where `Scales` is `Row` or `Tensor`.
    pub outer_scale: fn(&[f32]) -> f32,
}

/// Dense or coded.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// One element after the other.
    Dense {
        /// The element type.
        element: Element,
        /// Bytes to f32, exact.
        read: fn(&[u8]) -> f32,
        /// f32 to bytes, round to nearest even.
        write: fn(f32, &mut [u8]),
    },
    /// Blocks of codes.
    Coded(Codes),
}

/// Everything that is known about a format, written once, in the format's own file.
#[derive(Clone, Copy, Debug)]
pub struct Info {
    /// The field's name for it, for example `Q4_0`.
    pub name: &'static str,
    /// Weights per block.
    pub block: usize,
    /// Bytes per block.
    pub bytes: usize,
    /// How activations are quantised against it.
    pub activation: Grouping,
    /// Where its scales are.
    pub scales: Scales,
    /// One sentence for tables and `--help`.
    pub summary: &'static str,
    /// What its bytes are, in their order; every byte belongs to one field.
    pub fields: &'static [Field],
    /// How to read and write it.
    pub kind: Kind,
}

impl Info {
    /// How many blocks one call of [`Codes::decode`] may take: one, or, where the scale is outside the blocks, as many
    /// as are whole chunks of 32 columns and fit [`Plain`].
    pub const fn run(&self) -> usize {
        match self.scales {
            Scales::None | Scales::Block => 1,
            Scales::Row | Scales::Tensor => {
                let mut blocks = MAX_BLOCK / self.block;
                while !(blocks * self.block).is_multiple_of(CHUNK) {
                    blocks -= 1;
                }
                blocks
            }
        }
    }

    /// A row of `cols` columns by such runs: the blocks, and the columns that are in them.
    pub(crate) fn runs(
        &self,
        cols: usize,
    ) -> impl Iterator<Item = (Range<usize>, Range<usize>)> + use<> {
        let (block, run, blocks) = (self.block, self.run(), cols.div_ceil(self.block));
        (0..blocks).step_by(run).map(move |first| {
            let end = blocks.min(first + run);
            (first..end, first * block..cols.min(end * block))
        })
    }
}

/// A type that stands for a format, so that kernels can be generic over its constants.
pub trait Codec: 'static {
    /// The facts.
    const INFO: Info;
    /// The format's place in the list.
    const FORMAT: Format;
}

/// A coded format, for the integer kernels.
pub trait CodedFormat: Codec {
    /// How its codes are read.
    const CODES: Codes;
    /// Codes as packed, by which minima of sub-blocks are read: not CODES where codes have been unpacked for a product.
    const MINIMA: Codes = Self::CODES;
}

/// A dense format, for the dense kernels.
pub trait DenseFormat: Codec {
    /// The element type.
    const ELEMENT: Element;
}

macro_rules! formats {
    ($($variant:ident => $kind:ident $codec:path),* $(,)?) => {
        /// A format of the table. Names are the field's own.
        #[allow(non_camel_case_types, reason = "Q4_0 is the name everybody knows")]
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
        pub enum Format { $(#[doc = concat!("The format `", stringify!($variant), "`.")] $variant),* }

        impl Format {
            /// Every format, in the order of the tables.
            pub const ALL: &'static [Format] = &[$(Format::$variant),*];

            /// The facts about it.
            pub fn info(self) -> &'static Info {
                match self { $(Format::$variant => const { &<$codec as Codec>::INFO }),* }
            }

            /// The file that defines it, from this crate's `src`: `format/q4_k.rs`.
            pub fn source(self) -> String {
                let path = match self { $(Format::$variant => stringify!($codec)),* };
                let module: String = path.chars().take_while(|c| *c != ':' && *c != ' ').collect();
                format!("format/{module}.rs")
            }
        }

        /// Calls `visit` with every format's type: how the kernel table is filled.
        pub(crate) fn for_each(visit: &mut impl Visit) {
            $(visit.$kind::<$codec>();)*
        }

        $(impl Codec for $codec {
            const INFO: Info = <$codec>::INFO;
            const FORMAT: Format = Format::$variant;
        }
        formats!(@$kind $codec);)*
    };
    (@coded $codec:path) => {
        impl CodedFormat for $codec {
            const CODES: Codes = match <$codec>::INFO.kind {
                Kind::Coded(codes) => codes,
                Kind::Dense { .. } => panic!("listed as coded"),
            };
        }
        const _: () = check(&<$codec>::INFO, &<$codec as CodedFormat>::CODES);
    };
    (@base3 $codec:path) => {
        formats!(@coded $codec);
    };
    (@dense $codec:path) => {
        impl DenseFormat for $codec {
            const ELEMENT: Element = match <$codec>::INFO.kind {
                Kind::Dense { element, .. } => element,
                Kind::Coded(_) => panic!("listed as dense"),
            };
        }
        const _: () = check_fields(&<$codec>::INFO);
    };
}

/// Every byte of a block is in one field.
const fn check_fields(info: &Info) {
    assert!(field::cover(info.fields, info.bytes), "fields cover every byte of a block once");
}

/// What the kernels take for granted, refused when a format is compiled.
const fn check(info: &Info, codes: &Codes) {
    check_fields(info);
    let fields = info.fields;
    let in_block = matches!(info.scales, Scales::Block);
    let minima = field::count(fields, Holds::Min) + field::count(fields, Holds::Lowest);
    assert!(field::count(fields, Holds::Scale) == in_block as usize, "a scale is a field");
    assert!(minima == codes.min as usize, "a minimum is a field");
    assert!(
        field::count(fields, Holds::SubScales) == codes.sub_len.is_some() as usize,
        "scales of sub-blocks are a field"
    );
    assert!(info.block <= MAX_BLOCK && info.bytes > 0, "a block fits Plain");
    let run = info.run() * info.block;
    assert!(run > 0 && (run.is_multiple_of(CHUNK) || in_block), "runs of blocks are whole chunks");
    assert!(
        !codes.base3 || in_block || run.is_multiple_of(BASE3_COLS),
        "and begin a line in base 3"
    );
    assert!(matches!(codes.bits, 1..=6 | 8), "panels have planes for these");
    let highest = if codes.bits == 1 { 2 } else { (1 << codes.bits) - 1 };
    assert!(codes.table.is_some() || codes.max <= highest, "codes fit their bits");
    if codes.sub_len.is_some() {
        assert!(matches!(codes.sub_len, Some(16 | 32)), "sub-blocks are whole steps of a chunk");
        assert!(
            matches!(info.activation, Grouping::Group256),
            "their sums are kept for groups of 256"
        );
    }
    let plain = !codes.min && codes.sub_len.is_none() && codes.table.is_none();
    assert!(
        !codes.base3 || (plain && codes.max == 2),
        "base 3 holds ternary codes and nothing else"
    );
}

/// Something done once per format; see [`for_each`].
pub(crate) trait Visit {
    /// Called with a dense format's type.
    fn dense<C: DenseFormat>(&mut self);
    /// Called with the type of a format whose panels are planes of bits.
    fn coded<C: CodedFormat>(&mut self);
    /// Called with the type of a format whose panels are in base 3.
    fn base3<C: CodedFormat>(&mut self);
}

// The one list. A new format is one line here and one file beside the others.
formats! {
    F32 => dense dense::F32,
    F16 => dense dense::F16,
    BF16 => dense dense::BF16,
    Q8_0 => coded q8_0::Q8_0,
    Q6_K => coded q6_k::Q6_K,
    Q5_1 => coded q5_1::Q5_1,
    Q5_0 => coded q5_0::Q5_0,
    Q5_K => coded q5_k::Q5_K,
    Q4_1 => coded q4_1::Q4_1,
    Q4_0 => coded q4_0::Q4_0,
    Q4_K => coded q4_k::Q4_K,
    IQ4_NL => coded iq4_nl::IQ4_NL,
    Q3_K => coded q3_k::Q3_K,
    Q2_K => coded q2_k::Q2_K,
    TERNARY_G32 => coded ternary_group::G32,
    TERNARY_G64 => coded ternary_group::G64,
    TERNARY_G128 => coded ternary_group::G128,
    TERNARY_G256 => coded ternary_group::G256,
    TQ2_0 => coded tq2_0::TQ2_0,
    TERNARY => coded ternary::PerTensor,
    TERNARY_ROW => coded ternary::PerRow,
    TQ1_0 => base3 tq1_0::TQ1_0,
    TERNARY_B3 => base3 ternary_base3::PerTensor,
    TERNARY_B3_ROW => base3 ternary_base3::PerRow,
    SIGN => coded sign::PerTensor,
    SIGN_ROW => coded sign::PerRow,
}

impl Format {
    /// The field's name.
    pub fn name(self) -> &'static str {
        self.info().name
    }

    /// Finds a format by name, in any letter case.
    ///
    /// # Errors
    /// [`Error::UnknownFormat`], which lists the names.
    pub fn from_name(name: &str) -> Result<Format> {
        Format::ALL.iter().copied().find(|f| f.name().eq_ignore_ascii_case(name)).ok_or_else(|| {
            let known: Vec<_> = Format::ALL.iter().map(|f| f.name()).collect();
            Error::UnknownFormat { name: name.to_owned(), known: known.join(", ") }
        })
    }

    /// Bits per weight of the blocks (row and tensor scales not counted: they vanish in a matrix).
    pub fn bits_per_weight(self) -> f64 {
        let info = self.info();
        info.bytes as f64 * 8.0 / info.block as f64
    }

    /// Bytes of one row of `cols` weights. Formats whose scale is outside the blocks pad the last
    /// block with zero weights; the others need whole blocks.
    ///
    /// # Errors
    /// [`Error::Columns`] or [`Error::TooLarge`].
    pub fn row_bytes(self, cols: usize) -> Result<usize> {
        let Info { name, block, bytes, scales, .. } = *self.info();
        if scales == Scales::Block && !cols.is_multiple_of(block) {
            return Err(Error::Columns { format: name, block, cols });
        }
        cols.div_ceil(block).checked_mul(bytes).ok_or(Error::TooLarge {
            format: name,
            rows: 1,
            cols,
            why: "a row is larger than the address space",
        })
    }

    /// The codes of a coded format; `None` for a dense one.
    pub fn codes(self) -> Option<&'static Codes> {
        match &self.info().kind {
            Kind::Coded(codes) => Some(codes),
            Kind::Dense { .. } => None,
        }
    }
}

impl std::fmt::Display for Format {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

impl std::str::FromStr for Format {
    type Err = Error;
    fn from_str(s: &str) -> Result<Self> {
        Format::from_name(s)
    }
}

/// Little-endian f16 at byte `at`, as f32.
fn f16_at(bytes: &[u8], at: usize) -> f32 {
    half::f16::from_le_bytes([bytes[at], bytes[at + 1]]).to_f32()
}

/// Stores `x` as little-endian f16 (round to nearest even) at byte `at`.
fn put_f16(bytes: &mut [u8], at: usize, x: f32) {
    bytes[at..at + 2].copy_from_slice(&half::f16::from_f32(x).to_le_bytes());
}

/// `1/d`, or 0 where `d` is 0: the reference quantisers' convention for constant blocks.
pub(crate) fn inverse(d: f32) -> f32 {
    if d == 0.0 { 0.0 } else { 1.0 / d }
}

/// C's `roundf`: half away from zero. `f32::round` is the same function; the name says why it is used.
fn round_half_away(x: f32) -> f32 {
    x.round()
}

/// The nearest of -1, 0 and 1, half away from zero. Where a block's maximum is too small to divide by, `x` is
/// infinite: the nearest is still one of the three.
pub(crate) fn nearest_trit(x: f32) -> i8 {
    (round_half_away(x) as i8).clamp(-1, 1)
}

/// The first base-3 digit of a byte that is a fraction of 256, 0 to 2; `3 * byte` mod 256 is the rest.
pub(crate) const fn first_digit(byte: u8) -> u8 {
    ((byte as u16 * 3) >> 8) as u8
}

/// The byte of five base-3 digits, the first most significant, whose value is 0 to 242: as a fraction of 256.
pub(crate) const fn fraction(value: u8) -> u8 {
    (value as u16 * 256).div_ceil(243) as u8
}

/// `outer_scale` of formats that have none.
fn no_outer_scale(_: &[f32]) -> f32 {
    1.0
}
