//! GGUF files: a reader that maps them and trusts nothing, and a writer that streams them.
//!
//! A GGUF file is a header, typed metadata, descriptions of tensors, and their data, aligned so that
//! it can be used in place. The format is described in ggml's `docs/gguf.md`; limits that the
//! description leaves open (names under 64 bytes, four dimensions, no arrays of arrays) are those of
//! ggml's own reader.
//!
//! **Reading.** [`Gguf::open`] maps the file and checks all of it except the tensors' contents:
//! every count against the bytes that are left *before* anything is allocated for it, every string
//! for UTF-8, every shape and offset for overflow and for lying inside the file. What it returns can
//! then be used without further errors. A hostile file gives an [`Error`] that names
//! the key or tensor, never a panic or a large allocation. Metadata strings and arrays stay where
//! they are in the file, so a vocabulary of 150 000 tokens costs one pass over its bytes.
//!
//! Versions 2 and 3 are read; they differ in nothing a reader sees. Version 1, big-endian files and
//! parts of split models are refused with an error that says what to do.
//!
//! **Writing.** [`Writer`] takes metadata and descriptions, then asks for the data of one tensor at
//! a time.

mod cursor;
mod metadata;
mod parse;
mod tensor;
mod value;
mod writer;

pub use metadata::{FromValue, Metadata};
pub use tensor::{Layout, TensorInfo, TensorType};
pub use value::{Array, Strings, Value, ValueType};
pub use writer::{WriteError, Writer};

use crate::{
    error::{Error, Result},
    mmap::Mmap,
    stand_in,
};
use std::{
    collections::HashMap,
    fmt,
    ops::Deref,
    path::{Path, PathBuf},
};

/// An opened GGUF file.
#[derive(Debug)]
pub struct Gguf {
    path: Option<PathBuf>,
    bytes: Bytes,
    version: u32,
    alignment: u64,
    entries: Vec<metadata::Entry>,
    tensors: Vec<TensorInfo>,
    index: HashMap<String, usize>,
    data_start: u64,
}

impl Gguf {
    /// Maps a file and checks it. See [`Mmap`] for what must not happen to the file meanwhile.
    ///
    /// # Errors
    /// [`Error::Io`](crate::Error::Io) if it cannot be opened, and [`Error::InFile`] around the GGUF variants
    /// of [`Error`] for whatever is wrong in it.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let map = Mmap::open(path)?;
        stand_in::refuse(&map)
            .and_then(|()| Self::new(Some(path.to_owned()), Bytes::Mapped(map)))
            .map_err(Error::in_file(path))
    }

    /// Reads a file that is in memory.
    ///
    /// # Errors
    /// As [`Self::open`], except for I/O.
    pub fn from_bytes(bytes: Vec<u8>) -> Result<Self> {
        Self::new(None, Bytes::Owned(bytes))
    }

    fn new(path: Option<PathBuf>, bytes: Bytes) -> Result<Self> {
        let mut gguf = Self {
            path,
            bytes,
            version: 0,
            alignment: 0,
            entries: Vec::new(),
            tensors: Vec::new(),
            index: HashMap::new(),
            data_start: 0,
        };
        parse::parse(&mut gguf)?;
        Ok(gguf)
    }

    /// The file; `None` for one that is in memory.
    pub fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }

    /// Says that it is this file in which something is wrong.
    pub(crate) fn blame(&self) -> impl FnOnce(Error) -> Error + '_ {
        move |e| match &self.path {
            Some(path) => Error::in_file(path)(e),
            None => e,
        }
    }

    /// The version of the container: 2 or 3.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// What the offsets of tensors are multiples of.
    pub fn alignment(&self) -> u64 {
        self.alignment
    }

    /// The metadata.
    pub fn metadata(&self) -> Metadata<'_> {
        Metadata(self)
    }

    /// The tensors, in file order.
    pub fn tensors(&self) -> &[TensorInfo] {
        &self.tensors
    }

    /// The tensor of this name, if there is one.
    pub fn tensor(&self, name: &str) -> Option<&TensorInfo> {
        self.index.get(name).map(|&i| &self.tensors[i])
    }

    /// The data of a tensor of this file, as stored.
    ///
    /// # Panics
    /// If `info` belongs to another file and points outside this one.
    pub fn data(&self, info: &TensorInfo) -> &[u8] {
        let start = (self.data_start + info.offset()) as usize; // inside the file: checked at opening
        &self.bytes[start..][..info.nbytes() as usize]
    }

    /// Says that a tensor's data will not be read soon; see [`Mmap::release`].
    pub(crate) fn release_data(&self, info: &TensorInfo) {
        if let Bytes::Mapped(map) = &self.bytes {
            let start = (self.data_start + info.offset()) as usize;
            map.release(start..start + info.nbytes() as usize);
        }
    }

    /// The size of the whole file in bytes.
    pub fn file_size(&self) -> u64 {
        self.bytes.len() as u64
    }
}

/// The bytes of a file, wherever they are.
enum Bytes {
    Mapped(Mmap),
    Owned(Vec<u8>),
}

impl Deref for Bytes {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        match self {
            Self::Mapped(map) => map,
            Self::Owned(bytes) => bytes,
        }
    }
}

/// Their number: a model's bytes tell a reader nothing.
impl fmt::Debug for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.len())
    }
}
