//! Shapes with a reason each: at, below and above the sizes that kernels treat differently.

use crate::format::{Format, Scales};

/// Rows to try: a panel is 64 rows, a vector 16.
pub const ROWS: &[usize] = &[
    0,   // nothing to do
    1,   // one lane of one vector
    15,  // one short of a vector
    16,  // a vector
    17,  // a vector and one lane of the next
    63,  // one short of a panel
    64,  // a panel
    65,  // a panel and one lane of the next
    127, // one short of two panels
    128, // two panels
    129, // three panels, the last nearly empty
];

/// Tokens to try: tiles of every backend have 6, 4, 2 or 1 of them, of look-ups 5, 4, 2 or 1, of a matrix unit 12 to 16.
pub const TOKENS: &[usize] = &[
    0,  // nothing to do
    2,  // the smallest gemm tile
    3,  // 2 + 1
    5,  // 4 + 1
    6,  // the largest tile
    7,  // 6 + 1, 4 + 2 + 1
    8,  // 6 + 2, 4 + 4
    9,  // 5 + 4 of look-ups
    13, // 6 + 6 + 1, 4 + 4 + 4 + 1; one short tile of a matrix unit
    21, // 16 + 5: what a matrix unit leaves over
    31, // 16 + 15: its last tile overlaps the one before
    37, // 36 + 1: from 36 on codes of several planes are unpacked for all tokens
    97, // 96 + 1: from 96 on with the scales of their sub-blocks
];

/// Lengths of vectors to try.
pub const LENGTHS: &[usize] = &[
    0,    // nothing to do
    1,    // one lane
    15,   // one short of a vector
    16,   // a vector
    17,   // a vector and one lane
    31,   // one short of a chunk
    33,   // a chunk and one
    64,   // whole vectors
    100,  // a tail of four
    255,  // one short of a group of 256
    257,  // a group of 256 and one
    576,  // SmolLM2-135M's width
    1000, // a tail of eight, a part of a group
];

/// Columns to try for formats that hold any row length.
pub const COLS_ANY: &[usize] = &[
    0,   // an empty sum
    1,   // one code of a byte
    3,   // three codes of a byte
    5,   // one code of the second byte
    31,  // one short of a chunk of 32
    32,  // a chunk
    33,  // a chunk and one
    127, // odd, near a power of two
    130, // not a multiple of four
    576, // SmolLM2-135M's width: not a multiple of 256
];

/// Columns to try for formats in blocks of 32.
pub const COLS_32: &[usize] = &[
    0,   // an empty sum
    32,  // one block
    64,  // two blocks
    96,  // an odd number of blocks
    160, // not a multiple of 64
    576, // SmolLM2-135M's width: not a multiple of 256
    640, // Gemma 3 270M's width
];

/// Columns to try for formats in blocks of 256.
pub const COLS_256: &[usize] = &[
    0,   // an empty sum
    256, // one block
    512, // two blocks
    768, // an odd number of blocks
];

/// Columns to try for formats in blocks of 64 and 128.
pub const COLS_128: &[usize] = &[
    0,   // an empty sum
    128, // one block, or two
    384, // an odd number of blocks
    640, // Gemma 3 270M's width
];

/// The columns of the lists above that a format can hold, in ascending order.
///
/// # Panics
/// If the lists have none for the format's block: a new size of block wants columns of its own.
pub fn columns(format: Format) -> &'static [usize] {
    let info = format.info();
    match (info.scales == Scales::Block, info.block) {
        (true, 32) => COLS_32,
        (true, 64 | 128) => COLS_128,
        (true, 256) => COLS_256,
        (true, block) => panic!("{format}: add columns for blocks of {block} to these lists"),
        (false, _) => COLS_ANY,
    }
}
