//! IQ2_BN of ik_llama.cpp: 2 bits per weight; a row is its f32 scale and blocks of 64 in 16 bytes.
//!
//! ```text
//! byte    0 .. 3 | 4 .................... 19 | next block
//!         f32    | byte l holds w[l], w[l+16], w[l+32], w[l+48] at bits 0, 2, 4, 6, code plus one
//! ```
//!
//! Source: ik_llama.cpp, `ggml/src/iqk/iqk_quantize.cpp`.

use super::{Info, Place, Scale};

pub(super) const IQ2_BN: Info = Info {
    name: "IQ2_BN",
    summary: "ik_llama.cpp, 2 bits, one f32 scale per row",
    needs: |shape| (!shape.cols.is_multiple_of(64)).then_some("columns must be a multiple of 64"),
    nbytes: |shape| shape.rows * (4 + shape.cols / 4),
    scale: Scale::RowF32(|shape, r| r * (4 + shape.cols / 4)),
    place: Place::Bits(|shape, r, c| {
        let block = r * (4 + shape.cols / 4) + 4 + c / 64 * 16;
        (block + c % 16, 2 * (c % 64 / 16) as u32)
    }),
};
