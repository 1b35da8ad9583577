//! The tensors of a folder: `model.safetensors`, or the shards that `model.safetensors.index.json` lists,
//! mapped and never copied.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Component, Path, PathBuf};

use safetensors::{Dtype, SafeTensors};
use serde_json::Value;

use super::{damage, keys};
use crate::error::{Error, Result};
use crate::mmap::Mmap;
use crate::stand_in;

/// The single file.
pub(super) const SINGLE: &str = "model.safetensors";
/// The list of shards.
pub(super) const INDEX: &str = "model.safetensors.index.json";

/// Where a tensor is, and what.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    shard: usize,
    pub dtype: Dtype,
    pub shape: Vec<usize>,
    bytes: Range<usize>,
}

impl Entry {
    /// Rows and columns: all dimensions but the last, and the last. A scalar is 1 by 1.
    pub fn rows_cols(&self) -> (usize, usize) {
        match self.shape.split_last() {
            None => (1, 1),
            Some((cols, rows)) => (rows.iter().product(), *cols),
        }
    }
}

#[derive(Debug)]
struct Shard {
    path: PathBuf,
    map: Mmap,
}

/// All tensors of a folder.
#[derive(Debug)]
pub(super) struct Tensors {
    shards: Vec<Shard>,
    entries: BTreeMap<String, Entry>,
}

impl Tensors {
    /// Maps the files of `folder` and reads their headers.
    pub fn open(folder: &Path) -> Result<Self> {
        let mut tensors = Tensors { shards: Vec::new(), entries: BTreeMap::new() };
        let (single, index) = (folder.join(SINGLE), folder.join(INDEX));
        if single.is_file() {
            tensors.add(single)?;
            return Ok(tensors);
        }
        if !index.is_file() {
            let expected = "model.safetensors or model.safetensors.index.json";
            return Err(Error::NotAModel { folder: folder.to_owned(), expected });
        }
        let json = std::fs::read(&index).map_err(Error::io(&index))?;
        let in_index = Error::in_file(&index);
        let shards = match weight_map(&json).and_then(|map| present(folder, map)) {
            Ok(shards) => shards,
            Err(e) => return Err(in_index(e)),
        };
        for (file, names) in shards {
            let path = folder.join(&file);
            tensors.add(path.clone())?;
            let shard = tensors.shards.len() - 1;
            let held = |name: &String| tensors.entries.get(name).is_some_and(|e| e.shard == shard);
            if let Some(name) = names.into_iter().find(|name| !held(name)) {
                return Err(Error::in_file(path)(Error::MissingTensor { name }));
            }
        }
        Ok(tensors)
    }

    fn add(&mut self, path: PathBuf) -> Result<()> {
        let map = Mmap::open(&path)?;
        match self.entries_of(&map) {
            Ok(()) => self.shards.push(Shard { path, map }),
            Err(e) => return Err(Error::in_file(path)(e)),
        }
        Ok(())
    }

    fn entries_of(&mut self, map: &[u8]) -> Result<()> {
        stand_in::refuse(map)?;
        let (header, metadata) =
            SafeTensors::read_metadata(map).map_err(|e| damage::explain(map, &e))?;
        let data = header + 8; // after the header's length and the header
        for (name, info) in metadata.tensors() {
            let (start, end) = info.data_offsets;
            let entry = Entry {
                shard: self.shards.len(),
                dtype: info.dtype,
                shape: info.shape.clone(),
                bytes: data + start..data + end,
            };
            if self.entries.insert(name.clone(), entry).is_some() {
                return Err(Error::DuplicateName { what: "tensor name", name });
            }
        }
        Ok(())
    }

    pub fn get(&self, name: &str) -> Option<&Entry> {
        self.entries.get(name)
    }

    pub fn iter(&self) -> impl Iterator<Item = (&String, &Entry)> {
        self.entries.iter()
    }

    pub fn names(&self) -> impl ExactSizeIterator<Item = &String> {
        self.entries.keys()
    }

    /// The file that holds a tensor.
    pub fn file(&self, entry: &Entry) -> &Path {
        &self.shards[entry.shard].path
    }

    /// The file that says which tensors there are: the only one, or the index.
    pub fn list(&self, folder: &Path) -> PathBuf {
        match self.shards.as_slice() {
            [only] if only.path.ends_with(SINGLE) => only.path.clone(),
            _ => folder.join(INDEX),
        }
    }

    pub fn bytes(&self, entry: &Entry) -> &[u8] {
        &self.shards[entry.shard].map[entry.bytes.clone()]
    }

    pub fn release(&self, entry: &Entry) {
        self.shards[entry.shard].map.release(entry.bytes.clone());
    }
}

/// File names of the index, each with its tensors, in order.
fn weight_map(json: &[u8]) -> Result<BTreeMap<String, Vec<String>>> {
    let index = keys::object(json)?;
    let key = || "weight_map".to_owned();
    let map = match index.get("weight_map").unwrap_or(&Value::Null) {
        Value::Object(map) => map,
        Value::Null => return Err(Error::MissingKey { key: key() }),
        other => {
            let found = other.to_string().chars().take(60).collect();
            return Err(Error::WrongType { key: key(), expected: "an object", found });
        }
    };
    let mut files: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (tensor, file) in map {
        let file = file.as_str().ok_or_else(|| Error::WrongType {
            key: format!("weight_map.{tensor}"),
            expected: "a file name",
            found: file.to_string().chars().take(60).collect(),
        })?;
        // A folder's own files only.
        let mut parts = Path::new(file).components();
        if !matches!((parts.next(), parts.next()), (Some(Component::Normal(_)), None)) {
            let reason = format!("{file:?} is not the name of a file in the folder");
            return Err(Error::BadConfig { key: format!("weight_map.{tensor}"), reason });
        }
        files.entry(file.to_owned()).or_default().push(tensor.clone());
    }
    Ok(files)
}

/// The same, if all files are there.
fn present(
    folder: &Path,
    files: BTreeMap<String, Vec<String>>,
) -> Result<BTreeMap<String, Vec<String>>> {
    for (file, tensors) in &files {
        if !folder.join(file).is_file() {
            return Err(Error::MissingShard {
                shard: file.clone(),
                tensors: tensors.len(),
                first: tensors.first().cloned().unwrap_or_default(),
            });
        }
    }
    Ok(files)
}
