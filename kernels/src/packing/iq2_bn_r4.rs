//! IQ2_BN_R4 of ik_llama.cpp: IQ2_BN with four rows interleaved.
//!
//! ```text
//! byte    0 ......... 15 | 16 ................ 79 | next 64 columns
//!         4 f32 scales   | byte 16 l + 4 k + i (l, k, i in 0..=3) is of row k and holds columns
//!                        | 16 l + i, +4, +8, +12 of the 64 at bits 0, 2, 4, 6, code plus one
//! ```
//!
//! Source: ik_llama.cpp, `ggml/src/iqk/iqk_quantize.cpp`.

use super::{Info, Place, Scale};

pub(super) const IQ2_BN_R4: Info = Info {
    name: "IQ2_BN_R4",
    summary: "ik_llama.cpp, 2 bits, four rows interleaved, one f32 scale per row",
    needs: |shape| match shape.cols.is_multiple_of(64) && shape.rows.is_multiple_of(4) {
        true => None,
        false => Some("columns must be a multiple of 64 and rows of 4"),
    },
    nbytes: |shape| shape.rows / 4 * four_rows(shape.cols),
    scale: Scale::RowF32(|shape, r| r / 4 * four_rows(shape.cols) + r % 4 * 4),
    place: Place::Bits(|shape, r, c| {
        let columns = r / 4 * four_rows(shape.cols) + 16 + c / 64 * 64;
        let (l, i, field) = (c % 64 / 16, c % 4, c % 16 / 4);
        (columns + 16 * l + 4 * (r % 4) + i, 2 * field as u32)
    }),
};

const fn four_rows(cols: usize) -> usize {
    16 + cols
}
