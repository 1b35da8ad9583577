//! F32, F16, BF16: one element after the other, little-endian.
//!
//! ```text
//! F32   seeeeeee emmmmmmm mmmmmmmm mmmmmmmm     4 bytes
//! F16   seeeeemm mmmmmmmm                       2 bytes, round to nearest even
//! BF16  seeeeeee emmmmmmm                       2 bytes, round to nearest even, NaN made quiet
//! ```
//!
//! Reading is exact. Source: IEEE 754; ggml `ggml-impl.h` for BF16.

use super::field::{Field, Holds, layout};
use super::{Element, Grouping, Info, Kind, Scales};

/// IEEE binary32.
pub struct F32;
/// IEEE binary16.
pub struct F16;
/// bfloat16.
pub struct BF16;

const fn info<const BYTES: usize>(name: &'static str, summary: &'static str, kind: Kind) -> Info {
    Info {
        name,
        block: 1,
        bytes: BYTES,
        activation: Grouping::Dense,
        scales: Scales::None,
        summary,
        fields: const { &layout([Field::new("w", BYTES, Holds::Element, "the weight")]) },
        kind,
    }
}

impl F32 {
    pub(super) const INFO: Info = info::<4>(
        "F32",
        "IEEE single precision; f32 activations",
        Kind::Dense {
            element: Element::F32,
            read: |b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]),
            write: |x, b| b.copy_from_slice(&x.to_le_bytes()),
        },
    );
}

impl F16 {
    pub(super) const INFO: Info = info::<2>(
        "F16",
        "IEEE half precision; f32 activations",
        Kind::Dense {
            element: Element::F16,
            read: |b| half::f16::from_le_bytes([b[0], b[1]]).to_f32(),
            write: |x, b| b.copy_from_slice(&half::f16::from_f32(x).to_le_bytes()),
        },
    );
}

impl BF16 {
    pub(super) const INFO: Info = info::<2>(
        "BF16",
        "bfloat16; f32 activations",
        Kind::Dense {
            element: Element::BF16,
            read: |b| half::bf16::from_le_bytes([b[0], b[1]]).to_f32(),
            write: |x, b| b.copy_from_slice(&half::bf16::from_f32(x).to_le_bytes()),
        },
    );
}
