//! Writing GGUF files, one tensor at a time.
//!
//! The header needs only names, types and shapes, so it is written first; then each tensor's data is
//! asked for in turn and streamed to disk. Memory stays at one tensor, whatever the model's size.

use super::{
    metadata::Metadata,
    parse::{DEFAULT_ALIGNMENT, MAGIC, index},
    tensor::{TensorInfo, TensorType},
    value::Value,
};
use crate::error::{Error, Result};
use std::{
    fs::File,
    io::{self, BufWriter, Write},
    path::Path,
};

/// The version written.
const VERSION: u32 = 3;
/// Large enough that a 2 GB model is some thousands of system calls, small beside a tensor.
const BUFFER: usize = 1 << 20;

/// A GGUF file in the making: metadata and tensor descriptions; the data comes when it is written.
///
/// ```
/// # use tritlab_model::gguf::{Gguf, TensorType, Writer};
/// # fn main() -> tritlab_model::Result<()> {
/// let mut writer = Writer::new();
/// writer.set("general.architecture", "llama")?;
/// writer.tensor("token_embd.weight", TensorType::F32, &[2, 1])?;
/// let mut bytes = Vec::new();
/// writer.write_to(&mut bytes, |_info, out| {
///     out.write_all(&1.0f32.to_le_bytes())?;
///     out.write_all(&2.0f32.to_le_bytes())
/// })?;
/// let gguf = Gguf::from_bytes(bytes)?;
/// assert_eq!(gguf.tensors()[0].dims(), [2, 1]);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, Default)]
pub struct Writer<'a> {
    entries: Vec<(String, Value<'a>)>,
    tensors: Vec<TensorInfo>,
}

impl<'a> Writer<'a> {
    /// An empty file.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets a metadata key; a key that is there already keeps its place and gets the new value.
    ///
    /// # Errors
    /// [`Error::BadName`] for an empty key; [`Error::BadAlignment`] for a `general.alignment` other
    /// than 32, because that is how this writer aligns.
    pub fn set(&mut self, key: &str, value: impl Into<Value<'a>>) -> Result<&mut Self> {
        let value = value.into();
        if key.is_empty() {
            return Err(Error::BadName {
                what: "metadata key",
                name: String::new(),
                reason: "it is empty".to_owned(),
            });
        }
        if key == "general.alignment" && value != Value::U32(DEFAULT_ALIGNMENT as u32) {
            let alignment = value.as_integer().and_then(|v| v.try_into().ok()).unwrap_or(0);
            return Err(Error::BadAlignment { alignment });
        }
        match self.entries.iter_mut().find(|(k, _)| k == key) {
            Some((_, old)) => *old = value,
            None => self.entries.push((key.to_owned(), value)),
        }
        Ok(self)
    }

    /// Copies all metadata of another file. Its alignment is left behind unless it is 32.
    ///
    /// # Errors
    /// As [`Self::set`].
    pub fn copy_metadata(&mut self, metadata: Metadata<'a>) -> Result<&mut Self> {
        let fresh = self.entries.is_empty();
        for (key, value) in metadata.iter() {
            let aligned = value.as_integer() == Some(DEFAULT_ALIGNMENT.into());
            if key == "general.alignment" && !aligned {
                continue;
            }
            // The keys of a file are unique and not empty: only a writer with keys of its own must look.
            if fresh {
                self.entries.push((key.to_owned(), value));
            } else {
                self.set(key, value)?;
            }
        }
        Ok(self)
    }

    /// Adds a tensor; its dimensions are fastest-varying first.
    ///
    /// # Errors
    /// [`Error::BadName`], [`Error::TooMany`] or [`Error::BadShape`] for names and shapes that no
    /// reader accepts.
    pub fn tensor(&mut self, name: &str, ty: TensorType, dims: &[u64]) -> Result<&mut Self> {
        let mut info = TensorInfo::new(name, ty, dims)?;
        info.offset = self.tensors.last().map_or(Some(0), end).ok_or_else(|| Error::BadShape {
            tensor: name.to_owned(),
            dims: dims.to_vec(),
            reason: "the file would have 2^64 bytes or more".to_owned(),
        })?;
        self.tensors.push(info);
        Ok(self)
    }

    /// The tensors added so far.
    pub fn tensors(&self) -> &[TensorInfo] {
        &self.tensors
    }

    /// Writes the file: `fill` is called for each tensor in order and writes exactly its bytes.
    ///
    /// The file appears whole or not at all: it is written beside its destination under a temporary
    /// name, flushed to the disk, and renamed. A program that has the old file open keeps the old.
    ///
    /// # Errors
    /// [`Error::Io`] with the path, [`Error::TensorSize`] if `fill` writes too little or too much,
    /// [`Error::DuplicateName`] for two tensors of one name, and whatever `fill` returns.
    pub fn write<E>(
        &self,
        path: impl AsRef<Path>,
        fill: impl FnMut(&TensorInfo, &mut dyn Write) -> Result<(), E>,
    ) -> Result<()>
    where
        E: Into<WriteError>,
    {
        let path = path.as_ref();
        let folder = match path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        };
        // Renaming over a device would replace the device.
        if std::fs::metadata(path).is_ok_and(|m| !m.is_file()) {
            return Err(Error::io(path)(io::Error::other("it exists and is not a regular file")));
        }
        let mut builder = tempfile::Builder::new();
        #[cfg(unix)] // a temporary file is private by default; a model should follow the umask
        builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
        let file =
            builder.prefix(".tritlab-").tempfile_in(folder).map_err(Error::temporary_in(folder))?;

        let mut out = BufWriter::with_capacity(BUFFER, file);
        self.stream(&mut out, fill).map_err(|e| e.at(path))?;
        let file = out.into_inner().map_err(|e| Error::io(path)(e.into_error()))?;
        file.as_file().sync_all().map_err(Error::io(path))?;
        file.persist(path).map_err(|e| Error::io(path)(e.error))?;
        #[cfg(unix)] // the rename itself must reach the disk too
        File::open(folder).and_then(|f| f.sync_all()).map_err(Error::io(folder))?;
        Ok(())
    }

    /// Writes the file to `out`, as [`Self::write`] does to a path.
    ///
    /// # Errors
    /// As [`Self::write`]; I/O errors carry the path `<stream>`.
    pub fn write_to<E>(
        &self,
        out: &mut dyn Write,
        fill: impl FnMut(&TensorInfo, &mut dyn Write) -> Result<(), E>,
    ) -> Result<()>
    where
        E: Into<WriteError>,
    {
        self.stream(out, fill).map_err(|e| e.at(Path::new("<stream>")))
    }

    fn stream<E>(
        &self,
        out: &mut dyn Write,
        mut fill: impl FnMut(&TensorInfo, &mut dyn Write) -> Result<(), E>,
    ) -> Result<(), WriteError>
    where
        E: Into<WriteError>,
    {
        index(&self.tensors)?;
        let header = self.header()?;
        out.write_all(&header)?;
        let mut at = header.len() as u64;
        for info in &self.tensors {
            at = pad(out, at)?;
            let mut sink = Counted { out, written: 0 };
            fill(info, &mut sink).map_err(Into::into)?;
            if sink.written != info.nbytes() {
                return Err(WriteError(Fault::Error(Error::TensorSize {
                    tensor: info.name().to_owned(),
                    expected: info.nbytes(),
                    got: sink.written,
                })));
            }
            at += info.nbytes();
        }
        pad(out, at)?; // llama.cpp's own writer pads the last tensor too
        out.flush()?;
        Ok(())
    }

    fn header(&self) -> io::Result<Vec<u8>> {
        let mut out = Vec::new();
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&(self.tensors.len() as u64).to_le_bytes());
        out.extend_from_slice(&(self.entries.len() as u64).to_le_bytes());
        for (key, value) in &self.entries {
            string(&mut out, key);
            out.extend_from_slice(&(value.value_type() as u32).to_le_bytes());
            value.write(&mut out)?;
        }
        for info in &self.tensors {
            string(&mut out, info.name());
            out.extend_from_slice(&(info.dims().len() as u32).to_le_bytes());
            info.dims().iter().for_each(|d| out.extend_from_slice(&d.to_le_bytes()));
            out.extend_from_slice(&(info.tensor_type() as u32).to_le_bytes());
            out.extend_from_slice(&info.offset().to_le_bytes());
        }
        Ok(out)
    }
}

/// The offset after a tensor, aligned; `None` past 2^64.
fn end(info: &TensorInfo) -> Option<u64> {
    info.offset().checked_add(info.nbytes())?.checked_next_multiple_of(DEFAULT_ALIGNMENT)
}

fn string(out: &mut Vec<u8>, s: &str) {
    out.extend_from_slice(&(s.len() as u64).to_le_bytes());
    out.extend_from_slice(s.as_bytes());
}

/// Zeros up to the alignment.
fn pad(out: &mut dyn Write, at: u64) -> io::Result<u64> {
    let to = at.next_multiple_of(DEFAULT_ALIGNMENT);
    out.write_all(&[0; DEFAULT_ALIGNMENT as usize][..(to - at) as usize])?;
    Ok(to)
}

/// Counts the bytes that pass.
struct Counted<'a> {
    out: &'a mut dyn Write,
    written: u64,
}

impl Write for Counted<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = self.out.write(bytes)?;
        self.written += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// What may come out of a closure that writes a tensor: an I/O error, which gets its path later, or
/// an error of this crate.
#[derive(Debug)]
pub struct WriteError(Fault);

#[derive(Debug)]
enum Fault {
    Io(io::Error),
    Error(Error),
}

impl WriteError {
    fn at(self, path: &Path) -> Error {
        match self.0 {
            Fault::Io(source) => Error::io(path)(source),
            Fault::Error(error) => error,
        }
    }
}

impl From<io::Error> for WriteError {
    fn from(e: io::Error) -> Self {
        Self(Fault::Io(e))
    }
}

impl From<Error> for WriteError {
    fn from(e: Error) -> Self {
        Self(Fault::Error(e))
    }
}
