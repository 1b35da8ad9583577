//! From bytes to a checked description: header, metadata, tensor infos, in file order.
//!
//! ```text
//! magic "GGUF"   version u32   n_tensors u64   n_metadata u64
//! n_metadata × { key string   type u32   value }
//! n_tensors  × { name string   n_dims u32   dims u64 × n_dims   type u32   offset u64 }
//! zeros up to a multiple of the alignment; then the data section, where offsets count from
//! ```

use super::{
    Gguf,
    cursor::Cursor,
    metadata::{Entry, Metadata, Stored},
    tensor::{MAX_DIMS, TensorInfo, TensorType},
    value::{Value, ValueType, skip_array},
};
use crate::error::{Error, Result};
use std::collections::{HashMap, HashSet};

pub(super) const MAGIC: [u8; 4] = *b"GGUF";
pub(super) const DEFAULT_ALIGNMENT: u64 = 32;
/// The smallest metadata entry: an empty key, a type, one byte.
const MIN_ENTRY: u64 = 8 + 4 + 1;
/// The smallest tensor info: an empty name, no dimensions, a type, an offset.
const MIN_INFO: u64 = 8 + 4 + 4 + 8;

/// Fills in everything about `gguf.bytes`.
pub(super) fn parse(gguf: &mut Gguf) -> Result<()> {
    let mut cursor = Cursor::new(&gguf.bytes);
    gguf.version = version(&mut cursor)?;
    // n_tensors comes first in the file, but its bound is checked when its turn comes.
    let n_tensors = cursor.count(MIN_INFO, &"tensors")?;
    let n_entries = cursor.count(MIN_ENTRY, &"metadata keys")?;
    gguf.entries = entries(&mut cursor, n_entries)?;
    let infos_start = cursor.at();
    Metadata(gguf).check()?;
    gguf.alignment = alignment(Metadata(gguf))?;

    let mut cursor = Cursor::new(&gguf.bytes);
    cursor.skip(infos_start as u64, &"metadata")?;
    gguf.tensors = infos(&mut cursor, n_tensors, gguf.alignment)?;
    gguf.data_start = (cursor.at() as u64).next_multiple_of(gguf.alignment);
    let mut tensors = gguf.tensors.iter();
    tensors
        .try_for_each(|info| check_data(info, gguf.data_start, gguf.bytes.len() as u64))
        .and_then(|()| check_overlap(&gguf.tensors))
        .map_err(|e| explain_39(&gguf.tensors, e))?;
    gguf.index = index(&gguf.tensors)?;
    Ok(())
}

/// Type number 39 is MXFP4 in ggml and TL2, which is smaller, in bitnet.cpp: where data does not fit, that may be
/// the reason, and the only sign of it.
fn explain_39(tensors: &[TensorInfo], error: Error) -> Error {
    let tensor = tensors.iter().find(|t| t.tensor_type() == TensorType::MXFP4);
    match (error, tensor) {
        (e @ (Error::Truncated { .. } | Error::OverlappingData { .. }), Some(tensor)) => {
            Error::NotMxfp4 { tensor: tensor.name().to_owned(), reason: e.to_string() }
        }
        (e, _) => e,
    }
}

/// No two tensors share data, as in ggml's reader: otherwise a small file could describe a model of any size.
fn check_overlap(tensors: &[TensorInfo]) -> Result<()> {
    let mut order: Vec<&TensorInfo> = tensors.iter().filter(|t| t.nbytes() > 0).collect();
    order.sort_by_key(|t| t.offset);
    for pair in order.windows(2) {
        let end = pair[0].offset.saturating_add(pair[0].nbytes());
        if pair[1].offset < end {
            return Err(Error::OverlappingData {
                tensor: pair[1].name().to_owned(),
                offset: pair[1].offset,
                other: pair[0].name().to_owned(),
                end,
            });
        }
    }
    Ok(())
}

fn version(cursor: &mut Cursor<'_>) -> Result<u32> {
    let found = cursor.take(cursor.left().min(4), &"the magic number")?;
    if found != MAGIC {
        // A prefix of the magic number is a file cut short, anything else is another file.
        if MAGIC.starts_with(found) {
            let (needed, have) = (MAGIC.len() as u64, found.len() as u64);
            let what = "the magic number".to_owned();
            return Err(Error::Truncated { what, at: 0, needed, have });
        }
        let found = found.to_vec();
        return Err(Error::BadMagic { found });
    }
    // The byte order has no flag of its own; versions are small, so an empty low half tells.
    match cursor.u32(&"the version")? {
        version @ (2 | 3) => Ok(version),
        version if version != 0 && version & 0xffff == 0 => Err(Error::BigEndian { version }),
        version => Err(Error::UnsupportedVersion { version }),
    }
}

fn entries(cursor: &mut Cursor<'_>, count: usize) -> Result<Vec<Entry>> {
    let mut entries = Vec::with_capacity(count);
    let mut seen = HashSet::with_capacity(count);
    for i in 0..count {
        let (key, _) = cursor.string(&format_args!("metadata key {i}"))?;
        if key.is_empty() {
            return Err(Error::BadName {
                what: "metadata key",
                name: String::new(),
                reason: format!("key {i} is empty"),
            });
        }
        if !seen.insert(key) {
            return Err(Error::DuplicateName { what: "metadata key", name: key.to_owned() });
        }
        let stored = stored(cursor, key)?;
        let key = key.to_owned();
        entries.push(Entry { key, stored });
    }
    Ok(entries)
}

fn stored(cursor: &mut Cursor<'_>, key: &str) -> Result<Stored> {
    let what = format_args!("the value of metadata key `{key}`");
    let id = cursor.u32(&what)?;
    let ty = ValueType::from_id(id)
        .ok_or_else(|| Error::UnknownValueType { key: key.to_owned(), id })?;
    match ty {
        ValueType::String => Ok(Stored::String(cursor.string(&what)?.1)),
        ValueType::Array => {
            let (element, len, range) = skip_array(cursor, key)?;
            Ok(Stored::Array(element, len, range))
        }
        _ => {
            let bytes = cursor.take(ty.bytes().unwrap_or(0) as u64, &what)?;
            let value = Value::scalar(ty, bytes);
            let missing = || Error::MissingKey { key: key.to_owned() }; // unreachable: sizes agree
            value.map(Stored::Scalar).ok_or_else(missing)
        }
    }
}

impl Metadata<'_> {
    /// Refuses files that are only a part of a model.
    fn check(self) -> Result<()> {
        let count = self.optional::<u64>("split.count")?.unwrap_or(1);
        if count > 1 {
            let part = self.optional::<u64>("split.no")?.unwrap_or(0).saturating_add(1);
            return Err(Error::SplitFile { part, count });
        }
        Ok(())
    }
}

fn alignment(metadata: Metadata<'_>) -> Result<u64> {
    let key = "general.alignment";
    let alignment = metadata.optional::<u32>(key)?.map_or(DEFAULT_ALIGNMENT, u64::from);
    if !alignment.is_power_of_two() {
        return Err(Error::BadAlignment { alignment });
    }
    Ok(alignment)
}

fn infos(cursor: &mut Cursor<'_>, count: usize, alignment: u64) -> Result<Vec<TensorInfo>> {
    let limit = cursor.left() / MIN_INFO;
    if count as u64 > limit {
        return Err(Error::TooMany { what: "tensors".to_owned(), count: count as u64, limit });
    }
    (0..count).map(|i| info(cursor, i, alignment)).collect()
}

fn info(cursor: &mut Cursor<'_>, i: usize, alignment: u64) -> Result<TensorInfo> {
    let (name, _) = cursor.string(&format_args!("the name of tensor {i}"))?;
    let what = format_args!("the description of tensor `{name}`");
    let n_dims = cursor.u32(&what)? as usize;
    if n_dims > MAX_DIMS {
        return Err(Error::TooMany {
            what: format!("dimensions of tensor `{name}`"),
            count: n_dims as u64,
            limit: MAX_DIMS as u64,
        });
    }
    let mut dims = [1; MAX_DIMS];
    for dim in &mut dims[..n_dims] {
        *dim = cursor.u64(&what)?;
    }
    let id = cursor.u32(&what)?;
    let ty = TensorType::from_id(id)
        .ok_or_else(|| Error::UnknownTensorType { tensor: name.to_owned(), id })?;
    let mut info = TensorInfo::new(name, ty, &dims[..n_dims])?;
    info.offset = cursor.u64(&what)?;
    if info.offset % alignment != 0 {
        return Err(Error::BadOffset { tensor: name.to_owned(), offset: info.offset, alignment });
    }
    Ok(info)
}

/// The tensor's data must lie inside the file.
fn check_data(info: &TensorInfo, data_start: u64, file: u64) -> Result<()> {
    let at = data_start.saturating_add(info.offset);
    let end = at.checked_add(info.nbytes());
    if end.is_none_or(|end| end > file) {
        return Err(Error::Truncated {
            what: format!("the data of tensor `{}`", info.name()),
            at,
            needed: info.nbytes(),
            have: file.saturating_sub(at),
        });
    }
    Ok(())
}

/// From name to position; names must be unique.
pub(super) fn index(tensors: &[TensorInfo]) -> Result<HashMap<String, usize>> {
    let mut index = HashMap::with_capacity(tensors.len());
    for (i, info) in tensors.iter().enumerate() {
        if index.insert(info.name().to_owned(), i).is_some() {
            return Err(Error::DuplicateName { what: "tensor name", name: info.name().to_owned() });
        }
    }
    Ok(index)
}
