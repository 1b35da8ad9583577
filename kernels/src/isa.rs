//! What a backend must provide: sixteen lanes.
//!
//! Every kernel is written once, over a vector of 16 lanes of i32 or f32 and 64 bytes: one register of
//! AVX-512, two of AVX2, four of NEON, an array in portable code. The lane is a row of a panel, or one of
//! the contract's 16 strided partial sums. A backend is one file: a token that can only be made if the
//! CPU has the features, and the primitives below. This folder is the only place of this crate with `unsafe` and with
//! `core::arch`.
//!
//! Every primitive has one exact meaning, so kernels built from them have one answer everywhere.

/// Declares a token: a type that only `detect` makes, after the CPU (and, by the detection macro, the
/// operating system) reported every feature. The list is written once and used for both the check and
/// the function that enables the instructions.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
macro_rules! token {
    ($(#[$doc:meta])* $name:ident: $($feature:tt),+) => {
        $(#[$doc])*
        #[derive(Clone, Copy)]
        pub(crate) struct $name(());

        impl $name {
            fn detect() -> Option<Self> {
                ($(crate::isa::detected!($feature))&&+).then_some($name(()))
            }

            #[inline(always)]
            fn enter<O: crate::isa::Op>(self, op: O) -> O::Out {
                $(#[target_feature(enable = $feature)])+
                fn inside<O: crate::isa::Op>(token: $name, op: O) -> O::Out {
                    op.run(token)
                }
                // SAFETY: `self` was made by `detect`, so the CPU has every feature that `inside` enables.
                unsafe { inside(self, op) }
            }
        }
    };
}

/// Runs intrinsics of the token `$token`.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
macro_rules! proven {
    ($token:expr, $body:expr) => {{
        let _: Self = $token;
        // SAFETY: the token was made by `detect`, so the CPU has these instructions. Where `$body` reads or
        // writes memory it does so through a reference to an array of exactly that size, as said beside it.
        unsafe { $body }
    }};
}

#[cfg(target_arch = "aarch64")]
use std::arch::is_aarch64_feature_detected as detected;
#[cfg(target_arch = "x86_64")]
use std::is_x86_feature_detected as detected;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
use token;

#[cfg(feature = "disassembly")]
pub(crate) mod image;
pub(crate) mod pages;
pub(crate) mod portable;
#[cfg(feature = "disassembly")]
pub(crate) mod steps;

#[cfg(target_arch = "x86_64")]
pub(crate) mod amx;
#[cfg(target_arch = "x86_64")]
pub(crate) mod avx2;
#[cfg(target_arch = "x86_64")]
pub(crate) mod avx512;
#[cfg(target_arch = "x86_64")]
pub(crate) mod avx512_lut;
#[cfg(target_arch = "aarch64")]
pub(crate) mod neon;
#[cfg(target_arch = "x86_64")]
pub(crate) mod zen5;

/// Work that wants the token's instructions; see [`Isa::vectorize`].
pub(crate) trait Op {
    /// What it returns.
    type Out;
    /// The work. Implementations are `#[inline(always)]`, so that it is compiled inside the function that
    /// enables the instructions.
    fn run<I: Isa>(self, isa: I) -> Self::Out;
}

/// How far ahead a product of one token asks for its lines, in bytes, as measured (benches/LOG.md): about the time of a
/// read from memory. 0: not at all, which leaves it to the hardware.
#[derive(Clone, Copy)]
pub(crate) struct Ahead {
    /// Plain codes of one or two bits.
    pub few_bits: usize,
    /// Codes with sub-blocks, or in base 3.
    pub sub_blocks: usize,
    /// Elements that are no codes.
    pub dense: usize,
    /// Other codes.
    pub other: usize,
}

impl Ahead {
    /// That of most CPUs.
    const USUAL: Ahead = Ahead { few_bits: 2048, sub_blocks: 0, dense: 0, other: 0 };
}

/// A token: having one proves that the CPU can run the instructions.
pub(crate) trait Isa: Copy + Send + Sync + 'static {
    /// Row vectors (of the four in a panel) and tokens that a matrix product keeps in registers.
    const VECTORS: usize;
    /// See [`Isa::VECTORS`].
    const TOKENS: usize;
    /// Whether [`Isa::dot`] sums pairs in i16, so that runs must be short.
    const WORDS: bool;
    /// [`Isa::dot_wide`] multiplies with `u - WIDE_BIAS`.
    const WIDE_BIAS: i32;

    /// 64 bytes: 16 lanes x 4.
    type Bytes: Copy;
    /// Running sums of [`Isa::dot`].
    type Acc: Copy;
    /// 16 lanes of i32.
    type I32: Copy;
    /// 16 lanes of f32.
    type F32: Copy;

    /// The token, if this CPU has the instructions.
    fn new() -> Option<Self>;
    /// Runs `op` compiled for these instructions.
    fn vectorize<O: Op>(self, op: O) -> O::Out;

    /// Loads 64 bytes.
    fn bytes(self, x: &[u8; 64]) -> Self::Bytes;
    /// Stores 64 bytes.
    fn store_bytes(self, x: Self::Bytes, to: &mut [u8; 64]);
    /// Says that the 64 bytes `ahead` bytes after `x` will be read soon. They need not exist.
    #[inline(always)]
    fn prefetch(self, x: &[u8; 64], ahead: usize) {
        let _ = (x, ahead);
    }
    /// How far ahead lines are asked for on this CPU.
    #[inline(always)]
    fn ahead(self) -> Ahead {
        Ahead::USUAL
    }
    /// `(byte >> shift) & mask` in every byte, to the left where `shift` is negative. The mask has only bits
    /// that the shift fills from the byte itself.
    fn field(self, x: Self::Bytes, shift: i32, mask: u8) -> Self::Bytes;
    /// `a | b`
    fn or(self, a: Self::Bytes, b: Self::Bytes) -> Self::Bytes;
    /// `3 * byte`, wrapping.
    fn triple(self, x: Self::Bytes) -> Self::Bytes;
    /// `(3 * byte) >> 8` in every byte: 0, 1 or 2.
    fn trit(self, x: Self::Bytes) -> Self::Bytes;
    /// `table[byte]` in every byte; bytes are below 16.
    fn lookup(self, x: Self::Bytes, table: &[u8; 16]) -> Self::Bytes;

    /// Begins a run of [`Isa::dot`]s that adds to `sum`: at most [`run_length`] of them.
    fn begin(self, sum: Self::I32) -> Self::Acc;
    /// Lane l: adds the sum over j of `u[4l+j] * a[j]`, exact for u in 0..=127 and a in -127..=127.
    fn dot(self, acc: Self::Acc, u: Self::Bytes, a: [i8; 4]) -> Self::Acc;
    /// Ends the run: the new value of the `sum` given to [`Isa::begin`].
    fn finish(self, acc: Self::Acc, sum: Self::I32) -> Self::I32;
    /// Lane l: adds the sum over j of `(u[4l+j] - WIDE_BIAS) * a[j]`, exact for every u and a in -127..=127.
    fn dot_wide(self, acc: Self::I32, u: Self::Bytes, a: [i8; 4]) -> Self::I32;

    /// `x` itself, at this place in the program: what comes before is not mixed with what comes after. For loops
    /// whose order the compiler makes worse.
    #[inline(always)]
    fn pin(self, x: Self::Acc) -> Self::Acc {
        x
    }

    /// Lane l: adds the sum over j of `x[4l+j] * a[p]`, j = 0, 2, 1, 3 for p = 0, 1, 2, 3: two words that are
    /// neighbours in `a` belong to bytes of the same parity. `x` is signed; exact for |a| up to 4,064 (the sum of
    /// 32 activations).
    fn dot_sub(self, acc: Self::I32, x: Self::Bytes, a: [i16; 4]) -> Self::I32;
    /// Lane l: byte `4l + j`, signed.
    fn byte(self, x: Self::Bytes, j: usize) -> Self::I32;

    /// `(3 * a - b) / 256`, where the numerator is a multiple of 256 as long as it does not overflow; it may
    /// wrap on the way.
    fn telescope(self, a: Self::I32, b: Self::I32) -> Self::I32;

    /// `x` in every lane.
    fn splat_i32(self, x: i32) -> Self::I32;
    /// `sum + a * b`, wrapping.
    fn mul_add_i32(self, sum: Self::I32, a: Self::I32, b: Self::I32) -> Self::I32;
    /// `sum + a * b` for a and b in -32,768..=32,767; the sum wraps.
    fn mul_add_i16(self, sum: Self::I32, a: Self::I32, b: Self::I32) -> Self::I32;
    /// Wrapping sum.
    fn add_i32(self, a: Self::I32, b: Self::I32) -> Self::I32;
    /// Nearest f32, ties to even.
    fn to_f32(self, x: Self::I32) -> Self::F32;

    /// `x` in every lane.
    fn splat(self, x: f32) -> Self::F32;
    /// Loads 16 numbers.
    fn load(self, x: &[f32; 16]) -> Self::F32;
    /// Loads 16 little-endian f16, exact.
    fn load_f16(self, x: &[u8; 32]) -> Self::F32;
    /// Loads 16 little-endian bf16, exact.
    fn load_bf16(self, x: &[u8; 32]) -> Self::F32;
    /// Stores 16 numbers.
    fn store(self, x: Self::F32, to: &mut [f32; 16]);
    /// a + b
    fn add(self, a: Self::F32, b: Self::F32) -> Self::F32;
    /// a - b
    fn sub(self, a: Self::F32, b: Self::F32) -> Self::F32;
    /// a * b
    fn mul(self, a: Self::F32, b: Self::F32) -> Self::F32;
    /// a / b
    fn div(self, a: Self::F32, b: Self::F32) -> Self::F32;
    /// a * b + c, rounded once
    fn fma(self, a: Self::F32, b: Self::F32, c: Self::F32) -> Self::F32;
    /// a > b ? a : b (so b where either is NaN)
    fn max(self, a: Self::F32, b: Self::F32) -> Self::F32;
    /// a < b ? a : b (so b where either is NaN)
    fn min(self, a: Self::F32, b: Self::F32) -> Self::F32;
    /// Sign bit cleared.
    fn abs(self, x: Self::F32) -> Self::F32;
    /// Nearest integer, ties to even.
    fn round(self, x: Self::F32) -> Self::F32;
    /// `2^n` for integral n in -126..=127.
    fn pow2(self, n: Self::F32) -> Self::F32;
    /// Integral values in -127..=127 to bytes.
    fn store_i8(self, x: Self::F32, to: &mut [i8; 16]);
}

/// 64 bytes of a tile of weights: 16 rows x 4 k.
#[allow(dead_code, reason = "not every architecture has a matrix unit")]
#[derive(Clone, Copy)]
#[repr(align(64))]
pub(crate) struct TileLine(pub [u8; 64]);

/// Sums of four tiles: [16-row group of the panel][token][row].
#[derive(Clone)]
#[repr(align(64))]
pub(crate) struct Sums(pub [[[i32; 16]; 16]; 4]);

/// A token of a matrix unit: what multiplies tiles of up to 16 tokens with the 64 rows of a panel. It knows bytes only,
/// so a panel's codes are written out for it ([`crate::op`] `tiles`), by the vector instructions that go with it.
pub(crate) trait Unit: Copy + Send + Sync + 'static {
    /// The vector instructions that go with it.
    type Vectors: Isa;
    /// The unit, set up.
    type Tiles;

    /// The token, if this CPU has the unit and the system lends it.
    fn new() -> Option<Self>;
    /// The token of the vector instructions.
    fn vectors(self) -> Self::Vectors;
    /// Sets the unit up for `tokens` (1 to 16) and tiles of `cols` (32 or 64) columns, until the value's end.
    ///
    /// # Panics
    /// If the thread has set it up already.
    fn tiles(self, tokens: usize, cols: usize) -> Self::Tiles;
    /// `sums[v][t][l] = sum over k of a[t * stride + k] * w(v, l, k)`, added to the old ones if `keep`; wrapping. `b` is
    /// [tile of k][v][four k of a tile], each line 16 rows x 4 k of weights, which are signed or not. As many k as
    /// `b` has tiles.
    ///
    /// # Panics
    /// If `a` does not have that many codes of every token, or `b` is not whole tiles.
    #[allow(clippy::too_many_arguments, reason = "they are the operands of one instruction")]
    fn multiply(
        self,
        tiles: &Self::Tiles,
        a: &[i8],
        stride: usize,
        b: &[TileLine],
        signed: bool,
        sums: &mut Sums,
        keep: bool,
    );
    /// Four times `times` products of tiles that are in registers already: what the unit can do at most.
    fn spin(self, tiles: &Self::Tiles, times: usize);
    /// Says that `cols` codes of each of `tokens` tokens will be read soon. They need not exist.
    #[inline(always)]
    fn prefetch(self, a: &[i8], stride: usize, tokens: usize, cols: usize) {
        let _ = (a, stride, tokens, cols);
    }
    /// Stores 64 bytes.
    fn store(self, x: <Self::Vectors as Isa>::Bytes, to: &mut TileLine);
    /// Loads 16 sums.
    fn load(self, x: &[i32; 16]) -> <Self::Vectors as Isa>::I32;
    /// `u - zero` in every byte, wrapping.
    fn signed(self, u: <Self::Vectors as Isa>::Bytes, zero: i32) -> <Self::Vectors as Isa>::Bytes;
    /// `(u - zero) * scale - less` in 16 bits, wrapping, the scale being that of the byte's lane: its lower bytes, and
    /// its upper bytes.
    fn scaled(
        self,
        u: <Self::Vectors as Isa>::Bytes,
        zero: i32,
        scale: <Self::Vectors as Isa>::I32,
        less: i32,
    ) -> [<Self::Vectors as Isa>::Bytes; 2];
}

/// 32 words, aligned: a table to look up, or indices into tables.
#[allow(dead_code, reason = "not every architecture finds 32 words as fast as it multiplies")]
#[derive(Clone, Copy)]
#[repr(align(64))]
pub(crate) struct Words(pub [i16; 32]);

/// A token of instructions that find 32 words in a table of 32 words ([`crate::op`] `lookup`), and of the vector
/// instructions that go with them.
pub(crate) trait Lookup: Copy + Send + Sync + 'static {
    /// The vector instructions that go with it.
    type Vectors: Isa;
    /// 32 lanes of i16.
    type Lanes: Copy;

    /// The token, if this CPU has the instructions.
    fn new() -> Option<Self>;
    /// The token of the vector instructions.
    fn vectors(self) -> Self::Vectors;
    /// Loads 32 words.
    fn load(self, x: &Words) -> Self::Lanes;
    /// Stores 32 words.
    fn store(self, x: Self::Lanes, to: &mut Words);
    /// `x` in every lane.
    fn splat(self, x: i16) -> Self::Lanes;
    /// Wrapping sum.
    fn add(self, a: Self::Lanes, b: Self::Lanes) -> Self::Lanes;
    /// Lane i: `weights[2i] * a[0] + weights[2i+1] * a[1]`, for weights up to 127.
    fn pairs(self, weights: &[u8; 64], a: [i8; 2]) -> Self::Lanes;
    /// `table[index % 32]` in every lane.
    fn look(self, table: Self::Lanes, index: Self::Lanes) -> Self::Lanes;
    /// The next index of every word: a shift by five bits, zeros from above.
    fn next(self, index: Self::Lanes) -> Self::Lanes;
    /// `x` itself, at this place in the program: see [`Isa::pin`].
    fn pin(self, x: Self::Lanes) -> Self::Lanes;
    /// Says that the 64 codes `ahead` codes after the first of `a` will be read soon. They need not exist.
    #[inline(always)]
    fn prefetch(self, a: &[i8], ahead: usize) {
        let _ = (a, ahead);
    }
    /// Two words of each 32 bits: `low + (high << 16)`, both in 0..=65,535.
    fn pair(
        self,
        low: <Self::Vectors as Isa>::I32,
        high: <Self::Vectors as Isa>::I32,
    ) -> Self::Lanes;
    /// `sum + x` of the even lanes, and of the odd ones.
    fn even(self, sum: <Self::Vectors as Isa>::I32, x: Self::Lanes) -> <Self::Vectors as Isa>::I32;
    /// See [`Lookup::even`].
    fn odd(self, sum: <Self::Vectors as Isa>::I32, x: Self::Lanes) -> <Self::Vectors as Isa>::I32;
    /// Loads 16 sums.
    fn sums(self, x: &[i32; 16]) -> <Self::Vectors as Isa>::I32;
    /// Stores 16 sums.
    fn keep(self, x: <Self::Vectors as Isa>::I32, to: &mut [i32; 16]);
}

/// How many tiles of k `b` holds, after a check that `a` has their codes: the bounds of [`Unit::multiply`].
#[allow(dead_code, reason = "not every architecture has a matrix unit")]
pub(crate) fn tile_count(
    tokens: usize,
    cols: usize,
    a: &[i8],
    stride: usize,
    b: &[TileLine],
) -> usize {
    let count = b.len() / cols;
    assert_eq!(count * cols, b.len(), "whole tiles of weights");
    let last = tokens.checked_sub(1).and_then(|t| t.checked_mul(stride));
    let end = last.and_then(|at| at.checked_add(count * cols));
    assert!(end.is_some_and(|end| end <= a.len()), "codes of every token");
    count
}

/// How many [`Isa::dot`]s with codes up to `max` a run may have: eight, or as many as fit i16, where each
/// adds a pair of at most 2 * max * 127.
pub(crate) const fn run_length<I: Isa>(max: i32) -> usize {
    if !I::WORDS {
        return 8;
    }
    let fit = 32_767 / (2 * max * 127);
    if fit >= 8 {
        8
    } else if fit >= 4 {
        4
    } else if fit >= 2 {
        2
    } else {
        1
    }
}
