//! The packed weights of Hugging Face's BitNet integration (safetensors, U8 [rows / 4, cols]), 2 bits per
//! weight; the scale is a tensor of its own, `weight_scale` [1].
//!
//! ```text
//! R = ceil(rows / 4)       row r, column c: byte cols (r % R) + c, bit 2 (r / R), code plus one
//! ```
//!
//! A byte holds four rows that are R apart, the first quarter in its lowest bits. In files with
//! `linear_class: autobitlinear` weights are codes times `weight_scale` (`HF_PACKED`); with `bitlinear`, the
//! default of the configuration, codes divided by it (`HF_PACKED_DIVIDE`): the scale is then one rounded f32
//! division. mlx-lm has the same layout. Source: transformers, `integrations/bitnet.py`.

use super::{Info, Place, Scale};

const fn info(name: &'static str, summary: &'static str, scale: Scale) -> Info {
    Info {
        name,
        summary,
        needs: |_| None,
        nbytes: |shape| shape.rows.div_ceil(4) * shape.cols,
        scale,
        place: Place::Bits(|shape, r, c| {
            let quarter = shape.rows.div_ceil(4);
            (r % quarter * shape.cols + c, 2 * (r / quarter) as u32)
        }),
    }
}

pub(super) const HF_PACKED: Info = info(
    "HF_PACKED",
    "Hugging Face U8 [rows/4, cols], times weight_scale (autobitlinear)",
    Scale::Multiply,
);

pub(super) const HF_PACKED_DIVIDE: Info = info(
    "HF_PACKED_DIVIDE",
    "Hugging Face U8 [rows/4, cols], divided by weight_scale (bitlinear)",
    Scale::Divide,
);
