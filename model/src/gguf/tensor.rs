//! Tensor types and the descriptions of tensors.
//!
//! One table gives every ggml type its number, its block and its bytes. Dispatch is always on a
//! tensor's own type: `general.file_type` is informational and means different things in forks.

use crate::error::{Error, Result};

/// The longest tensor name in bytes: ggml keeps 64 with the terminator.
const MAX_NAME: usize = 63;
/// ggml tensors have at most four dimensions.
pub(super) const MAX_DIMS: usize = 4;

/// How many bytes a tensor of a type takes:
/// `rows · (per_row + cols / block · bytes) + per_tensor`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Weights per block; a row's length must be a multiple of it.
    pub block: u64,
    /// Bytes per block.
    pub bytes: u64,
    /// Bytes at the start of each row (the row scale of the `_BN` types).
    pub per_row: u64,
    /// Bytes after the last row (the tensor scale of `I2_S`, padded to 32).
    pub per_tensor: u64,
}

macro_rules! tensor_types {
    ($($name:ident $id:literal: $block:literal $bytes:literal $per_row:literal $per_tensor:literal;)*) => {
        /// The type of a tensor's data. The discriminant is the number in the file.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[allow(non_camel_case_types, missing_docs)] // ggml's own names
        #[non_exhaustive]
        #[repr(u32)]
        pub enum TensorType { $($name = $id),* }

        impl TensorType {
            /// All types, in the order of their numbers.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];

            /// The name, as ggml spells it.
            pub fn name(self) -> &'static str {
                match self { $(Self::$name => stringify!($name)),* }
            }

            /// The type with this number; `None` for unknown and withdrawn numbers.
            pub fn from_id(id: u32) -> Option<Self> {
                match id { $($id => Some(Self::$name),)* _ => None }
            }

            /// The sizes of the type.
            pub fn layout(self) -> Layout {
                let (block, bytes, per_row, per_tensor) = match self {
                    $(Self::$name => ($block, $bytes, $per_row, $per_tensor)),*
                };
                Layout { block, bytes, per_row, per_tensor }
            }
        }
    };
}

// Numbers 4, 5, 31 to 33, 37 and 38 were withdrawn from ggml. So was 36, which now safely means the
// I2_S of bitnet.cpp: its codes of the whole tensor, then one scale. 39 is MXFP4 here; bitnet.cpp
// used it for TL2, whose size differs, so such a file's offsets do not fit. 133 and up are
// ik_llama.cpp's.
tensor_types! {
    //         number: block bytes per_row per_tensor
    F32             0:   1   4 0 0;
    F16             1:   1   2 0 0;
    Q4_0            2:  32  18 0 0;
    Q4_1            3:  32  20 0 0;
    Q5_0            6:  32  22 0 0;
    Q5_1            7:  32  24 0 0;
    Q8_0            8:  32  34 0 0;
    Q8_1            9:  32  36 0 0;
    Q2_K           10: 256  84 0 0;
    Q3_K           11: 256 110 0 0;
    Q4_K           12: 256 144 0 0;
    Q5_K           13: 256 176 0 0;
    Q6_K           14: 256 210 0 0;
    Q8_K           15: 256 292 0 0;
    IQ2_XXS        16: 256  66 0 0;
    IQ2_XS         17: 256  74 0 0;
    IQ3_XXS        18: 256  98 0 0;
    IQ1_S          19: 256  50 0 0;
    IQ4_NL         20:  32  18 0 0;
    IQ3_S          21: 256 110 0 0;
    IQ2_S          22: 256  82 0 0;
    IQ4_XS         23: 256 136 0 0;
    I8             24:   1   1 0 0;
    I16            25:   1   2 0 0;
    I32            26:   1   4 0 0;
    I64            27:   1   8 0 0;
    F64            28:   1   8 0 0;
    IQ1_M          29: 256  56 0 0;
    BF16           30:   1   2 0 0;
    TQ1_0          34: 256  54 0 0;
    TQ2_0          35: 256  66 0 0;
    I2_S           36:   4   1 0 32;
    MXFP4          39:  32  17 0 0;
    NVFP4          40:  64  36 0 0;
    Q1_0           41: 128  18 0 0;
    Q2_0           42:  64  18 0 0;
    IQ1_BN        134:  64  13 2 0;
    IQ2_BN        135:  64  16 4 0;
    IQ2_BN_R4     335:  64  16 4 0;
}

impl TensorType {
    /// Bytes of `rows` rows of `cols` weights, whole blocks.
    pub(crate) fn bytes(self, rows: u64, cols: u64) -> u64 {
        let layout = self.layout();
        rows * (layout.per_row + cols / layout.block * layout.bytes) + layout.per_tensor
    }
}

impl std::fmt::Display for TensorType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.name())
    }
}

/// The description of a tensor: name, type, shape, and where its data is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorInfo {
    name: String,
    tensor_type: TensorType,
    dims: [u64; MAX_DIMS],
    n_dims: usize,
    nbytes: u64,
    pub(super) offset: u64,
}

impl TensorInfo {
    /// Describes a tensor at offset 0, and checks its name and shape.
    pub(crate) fn new(name: &str, tensor_type: TensorType, dims: &[u64]) -> Result<Self> {
        // Padding that a wrong count turns into descriptions reads as tensors without a name.
        if name.is_empty() || name.len() > MAX_NAME {
            return Err(Error::BadName {
                what: "tensor name",
                name: name.to_owned(),
                reason: format!("it has {} bytes, not 1 to {MAX_NAME}", name.len()),
            });
        }
        if dims.len() > MAX_DIMS {
            return Err(Error::TooMany {
                what: format!("dimensions of tensor `{name}`"),
                count: dims.len() as u64,
                limit: MAX_DIMS as u64,
            });
        }
        let nbytes = nbytes(tensor_type, dims).map_err(|reason| Error::BadShape {
            tensor: name.to_owned(),
            dims: dims.to_vec(),
            reason,
        })?;
        let mut padded = [1; MAX_DIMS];
        padded[..dims.len()].copy_from_slice(dims);
        Ok(Self {
            name: name.to_owned(),
            tensor_type,
            dims: padded,
            n_dims: dims.len(),
            nbytes,
            offset: 0,
        })
    }

    /// The tensor's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The type of its data.
    pub fn tensor_type(&self) -> TensorType {
        self.tensor_type
    }

    /// Its dimensions, **fastest-varying first**: a weight that maps `n` inputs to `m` outputs has
    /// `[n, m]`, and its rows of `n` lie one after another. A scalar has none.
    pub fn dims(&self) -> &[u64] {
        &self.dims[..self.n_dims]
    }

    /// The length of a row: the first dimension, 1 for a scalar.
    pub fn cols(&self) -> u64 {
        self.dims[0]
    }

    /// How many rows there are: the product of all dimensions but the first.
    pub fn rows(&self) -> u64 {
        self.dims[1..].iter().product() // cannot overflow: checked when made
    }

    /// How many elements there are.
    pub fn elements(&self) -> u64 {
        self.cols() * self.rows()
    }

    /// How many bytes its data takes.
    pub fn nbytes(&self) -> u64 {
        self.nbytes
    }

    /// Where its data starts, from the start of the data section.
    pub fn offset(&self) -> u64 {
        self.offset
    }
}

/// The bytes of a tensor, or what is wrong with its shape.
fn nbytes(ty: TensorType, dims: &[u64]) -> Result<u64, String> {
    if dims.contains(&0) {
        return Err("a dimension is zero".to_owned());
    }
    let layout = ty.layout();
    let (cols, rows) = match dims {
        [] => (1, Some(1)),
        [cols, rest @ ..] => {
            (*cols, rest.iter().try_fold(1u64, |product, d| product.checked_mul(*d)))
        }
    };
    if cols % layout.block != 0 {
        return Err(format!("{ty} needs rows of a multiple of {} elements", layout.block));
    }
    let row_bytes = (cols / layout.block)
        .checked_mul(layout.bytes)
        .and_then(|bytes| bytes.checked_add(layout.per_row));
    let bytes = rows
        .filter(|rows| cols.checked_mul(*rows).is_some_and(|n| n < 1 << 63)) // ggml counts in i64
        .zip(row_bytes)
        .and_then(|(rows, bytes)| rows.checked_mul(bytes)?.checked_add(layout.per_tensor));
    bytes
        .filter(|bytes| *bytes < 1 << 63)
        .ok_or_else(|| "it has 2^63 elements or bytes, or more".to_owned())
}
