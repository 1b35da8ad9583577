//! I2_S of bitnet.cpp: 2 bits per weight, then one f32 scale for the tensor and 28 unused bytes.
//!
//! ```text
//! bytes   0 ......... n/4 - 1 | n/4 .. n/4+3 | 28 bytes
//!         codes plus one      | alpha f32    | anything        n = rows * cols
//! ```
//!
//! The codes are in one of three orders, by the machine that wrote the file; nothing in it says which. With
//! `e = r * cols + c`, shifts from the top of a byte down:
//!
//! ```text
//! I2_S        e in blocks of 128 in 32 bytes:   byte 32 (e / 128) + e % 32,   bit 6 - 2 (e % 128 / 32)
//! I2_S_64     e in blocks of 64 in 16 bytes:    byte 16 (e / 64) + e % 16,    bit 6 - 2 (e % 64 / 16)
//! I2_S_ROWS4  four rows in `cols` bytes:        byte cols (r / 4) + c,        bit 6 - 2 (r % 4)
//! ```
//!
//! `I2_S` is what x86 builds, the published files and the Python converter write; `I2_S_64` Arm builds since
//! November 2025; `I2_S_ROWS4` x86 builds without `ACT_PARALLEL`. Source: microsoft/BitNet,
//! `src/ggml-bitnet-mad.cpp`.

use super::{Info, Place, Scale, Shape};

const fn info(
    name: &'static str,
    summary: &'static str,
    needs: fn(Shape) -> Option<&'static str>,
    place: fn(Shape, usize, usize) -> (usize, u32),
) -> Info {
    let scale = Scale::TensorF32(|shape| shape.rows * shape.cols / 4);
    let nbytes = |shape: Shape| shape.rows * shape.cols / 4 + 32;
    Info { name, summary, needs, nbytes, scale, place: Place::Bits(place) }
}

pub(super) const I2_S: Info = info(
    "I2_S",
    "bitnet.cpp, blocks of 128 (x86 and published files), one f32 scale per matrix",
    |shape| {
        let whole = (shape.rows * shape.cols).is_multiple_of(128);
        (!whole).then_some("their number must be a multiple of 128")
    },
    |shape, r, c| {
        let e = r * shape.cols + c;
        (e / 128 * 32 + e % 32, 6 - 2 * (e % 128 / 32) as u32)
    },
);

pub(super) const I2_S_64: Info = info(
    "I2_S_64",
    "bitnet.cpp, blocks of 64 (Arm), one f32 scale per matrix",
    |shape| {
        let whole = (shape.rows * shape.cols).is_multiple_of(64);
        (!whole).then_some("their number must be a multiple of 64")
    },
    |shape, r, c| {
        let e = r * shape.cols + c;
        (e / 64 * 16 + e % 16, 6 - 2 * (e % 64 / 16) as u32)
    },
);

pub(super) const I2_S_ROWS4: Info = info(
    "I2_S_ROWS4",
    "bitnet.cpp, four rows to a byte (x86 without ACT_PARALLEL), one f32 scale per matrix",
    |shape| (!shape.rows.is_multiple_of(4)).then_some("rows must be a multiple of 4"),
    |shape, r, c| (r / 4 * shape.cols + c, 6 - 2 * (r % 4) as u32),
);
