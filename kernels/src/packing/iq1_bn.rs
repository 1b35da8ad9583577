//! IQ1_BN of ik_llama.cpp: 1.625 bits per weight; a row is its f16 scale and blocks of 64 in 13 bytes.
//!
//! ```text
//! byte    0 1 | 2 ......... 13 | 14                | next block
//!         f16 | 12 bytes       | extra byte        |
//!
//! weight e of a block, g = e / 16, p = e % 16:
//!     p < 15    digit p % 5 of byte 3 g + p / 5
//!     p = 15    digit g of the extra byte (which has four)
//! ```
//!
//! A byte holds digits 0..=2 (code plus one) in base 3, the first weight's least significant: the other way
//! round than TQ1_0. Value v in 0..=242 is stored as ceil(256 v / 243). Source: ik_llama.cpp,
//! `ggml/src/iqk/iqk_quantize.cpp`.

use super::{Info, Place, Scale};

pub(super) const IQ1_BN: Info = Info {
    name: "IQ1_BN",
    summary: "ik_llama.cpp, base 3, one f16 scale per row",
    needs: |shape| (!shape.cols.is_multiple_of(64)).then_some("columns must be a multiple of 64"),
    nbytes: |shape| shape.rows * row_bytes(shape.cols),
    scale: Scale::RowF16(|shape, r| r * row_bytes(shape.cols)),
    place: Place::Digit(|shape, r, c| {
        let block = r * row_bytes(shape.cols) + 2 + c / 64 * 13;
        let (g, p) = (c % 64 / 16, c % 16);
        if p < 15 { (block + 3 * g + p / 5, (p % 5) as u32) } else { (block + 12, g as u32) }
    }),
};

const fn row_bytes(cols: usize) -> usize {
    2 + cols / 64 * 13
}
