//! What is wrong with a safetensors file, in words that name the tensor: the library says only that something is.

use safetensors::SafeTensorError;
use safetensors::tensor::TensorInfo;
use serde_json::{Map, Value};

use crate::error::Error;

/// Bytes of the header's length, with which a file begins.
const LEN: usize = 8;

/// The error of the file `bytes`, which the library refuses because of `error`.
pub(super) fn explain(bytes: &[u8], error: &SafeTensorError) -> Error {
    Error::BadSafetensors { reason: header(bytes).err().unwrap_or_else(|| error.to_string()) }
}

/// Walks through the file as the library does, up to what is wrong.
fn header(bytes: &[u8]) -> Result<(), String> {
    let size = bytes.len();
    let Some(length) = bytes.first_chunk::<LEN>() else {
        return Err(format!("it has {size} bytes, and the length of its header alone needs {LEN}"));
    };
    let length = u64::from_le_bytes(*length);
    let text =
        usize::try_from(length).ok().and_then(|n| bytes[LEN..].get(..n)).ok_or_else(|| {
            let left = size - LEN;
            format!(
                "the header should have {length} bytes, but the file has {left} after its length"
            )
        })?;
    let json: Map<String, Value> =
        serde_json::from_slice(text).map_err(|e| format!("the header is not JSON: {e}"))?;
    let mut tensors = Vec::new();
    for (name, info) in json.into_iter().filter(|(name, _)| name != "__metadata__") {
        match serde_json::from_value::<TensorInfo>(info) {
            Ok(info) => tensors.push((name, info)),
            Err(e) => return Err(format!("the description of tensor `{name}`: {e}")),
        }
    }
    tensors.sort_by_key(|(_, info)| info.data_offsets);
    let have = size - LEN - text.len();
    let mut at = 0;
    for (name, info) in tensors {
        let (start, end) = info.data_offsets;
        let TensorInfo { dtype, shape, .. } = info;
        if start != at || end < start {
            return Err(format!(
                "the data of tensor `{name}` lies from {start} to {end}, but should start at {at}"
            ));
        }
        let bits = shape.iter().try_fold(dtype.bitsize(), |bits, n| bits.checked_mul(*n));
        if bits != (end - start).checked_mul(8) {
            let needed = bits.map_or("more than can be".to_owned(), |b| b.div_ceil(8).to_string());
            return Err(format!(
                "the tensor `{name}`, {dtype:?} {shape:?}, needs {needed} bytes, but has {}",
                end - start
            ));
        }
        if end > have {
            return Err(format!(
                "it is truncated: the data of tensor `{name}` ends at {end}, that of the file at {have}"
            ));
        }
        at = end;
    }
    match at == have {
        true => Ok(()),
        false => Err(format!("{have} bytes of data, but its tensors have {at}")),
    }
}
