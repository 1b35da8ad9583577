//! What the tests of models share: the fixtures with what an independent implementation expects of them,
//! files changed in one place, and backends one at a time.

#![allow(dead_code, reason = "each test binary uses a part")]

pub mod edit;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard};

use serde_json::json;
use tritlab_kernels::{Backend, Format, Matrix, backend, threads};
use tritlab_model::gguf::{Array, Gguf, TensorType, Value, WriteError, Writer};
use tritlab_model::source::type_of;
use tritlab_model::{Error, Model, Options, Result};

/// Every fixture with a GGUF file that the kernels can run.
pub const FIXTURES: [&str; 7] = [
    "llama",
    "qwen3",
    "phi3-short",
    "phi3-long",
    "gemma3",
    "bitnet-gguf-tq2_0",
    "bitnet-gguf-tq1_0",
];

/// Every fixture that is a Hugging Face folder.
pub const FOLDERS: [&str; 8] = [
    "llama",
    "qwen3",
    "phi3-short",
    "phi3-long",
    "gemma3",
    "bitnet-online",
    "bitnet-packed-multiply",
    "bitnet-packed-divide",
];

/// A fixture's folder.
pub fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/fixtures").join(name)
}

/// The file of a fixture.
pub fn path(name: &str) -> PathBuf {
    folder(name).join("model.gguf")
}

/// What an independent f64 implementation makes of a fixture.
pub struct Expected {
    pub ids: Vec<u32>,
    /// [ids][vocabulary]
    pub logits: Vec<f32>,
    /// The greedy continuation; `None` where the fixture has none.
    pub greedy: Option<Vec<u32>>,
}

/// Reads a fixture's `expected.safetensors`.
pub fn expected(name: &str) -> Expected {
    let file = path(name).with_file_name("expected.safetensors");
    let bytes = std::fs::read(&file).unwrap();
    let all = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let ids = |name: &str| -> Option<Vec<u32>> {
        let words = all.tensor(name).ok()?.data().as_chunks::<8>().0.to_vec();
        Some(words.into_iter().map(|w| i64::from_le_bytes(w) as u32).collect())
    };
    let words = all.tensor("logits").unwrap().data().as_chunks::<4>().0.to_vec();
    Expected {
        ids: ids("input_ids").unwrap(),
        logits: words.into_iter().map(f32::from_le_bytes).collect(),
        greedy: ids("greedy").filter(|g| !g.is_empty()),
    }
}

/// Loads a file in its own types.
pub fn load(path: impl AsRef<Path>) -> Result<Model> {
    Model::load(path, Options::default(), &mut |_, _, _| true)
}

/// Loads a file with its linear layers in `format`.
pub fn load_as(path: impl AsRef<Path>, format: Option<Format>) -> Result<Model> {
    Model::load(path, Options { format, ..Options::default() }, &mut |_, _, _| true)
}

/// A fixture in its own types.
pub fn fixture(name: &str) -> Model {
    load(path(name)).unwrap()
}

/// The error of a result; its value has no `Debug` worth printing.
#[track_caller]
pub fn whole_error<T>(result: Result<T>) -> Error {
    match result {
        Err(e) => e,
        Ok(_) => panic!("this should have been refused"),
    }
}

/// The same without the file that it is in: see [`Error::cause`].
#[track_caller]
pub fn error<T>(result: Result<T>) -> Error {
    fn inner(e: Error) -> Error {
        match e {
            Error::InFile { source, .. } | Error::Assumed { source, .. } => inner(*source),
            e => e,
        }
    }
    inner(whole_error(result))
}

/// An error of this key, with these words.
#[track_caller]
pub fn assert_key(e: &Error, key: &str, words: &[&str]) {
    let found = match e.cause() {
        Error::BadConfig { key, .. } | Error::MissingKey { key } | Error::WrongType { key, .. } => {
            key
        }
        _ => panic!("no key: {e}"),
    };
    assert_eq!(found, key, "{e}");
    for word in words {
        assert!(e.to_string().contains(word), "{word} is not in: {e}");
    }
}

/// `n` ids that are no pattern a model could like.
pub fn ids(n: usize, vocab: u32) -> Vec<u32> {
    (0..n as u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 7) % vocab).collect()
}

/// Bit-equality with a message that says where.
#[track_caller]
pub fn assert_bits(what: &str, got: &[f32], expected: &[f32]) {
    assert_eq!(got.len(), expected.len(), "{what}: lengths");
    for (i, (g, e)) in got.iter().zip(expected).enumerate() {
        assert!(g.to_bits() == e.to_bits(), "{what}: first difference at {i}: {g:e}, not {e:e}");
    }
}

/// Writes a line that the test harness does not capture.
pub fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

// ---- settings of the whole process ----

/// Holds the backend and the number of threads, which belong to the whole process, for one test at a time.
pub struct Settings(#[allow(dead_code)] MutexGuard<'static, ()>);

impl Settings {
    /// Waits for the tests before.
    pub fn hold() -> Settings {
        static LOCK: Mutex<()> = Mutex::new(());
        Settings(LOCK.lock().unwrap_or_else(|e| e.into_inner()))
    }
}

impl Drop for Settings {
    fn drop(&mut self) {
        backend::force(None).unwrap();
        threads::set(2).unwrap();
    }
}

/// Runs on `backend` until the result is dropped. `None`, said on the terminal, where the CPU lacks it.
///
/// # Panics
/// If `EXPECT_BACKENDS` lists it.
pub fn on(backend: Backend) -> Option<Settings> {
    let settings = Settings::hold();
    match backend::force(Some(backend.name())) {
        Ok(()) => Some(settings),
        Err(e) => {
            let names = std::env::var("EXPECT_BACKENDS").unwrap_or_default();
            let expected = names.split(',').any(|n| n.trim() == backend.name());
            assert!(!expected, "EXPECT_BACKENDS lists {backend}: {e}");
            say(&format!("**** {backend} WAS NOT CHECKED: {e} ****"));
            None
        }
    }
}

/// Makes one module per backend of this architecture, with one test per function given: each takes the
/// [`Backend`], which is then in force.
#[macro_export]
macro_rules! on_every_backend {
    ($($test:ident),* $(,)?) => {
        $crate::on_every_backend!(@module oracle Oracle, $($test),*);
        $crate::on_every_backend!(@module portable Portable, $($test),*);
        #[cfg(target_arch = "x86_64")]
        $crate::on_every_backend!(@module avx2 Avx2, $($test),*);
        #[cfg(target_arch = "x86_64")]
        $crate::on_every_backend!(@module avx512 Avx512, $($test),*);
        #[cfg(target_arch = "x86_64")]
        $crate::on_every_backend!(@module avx512_lut Avx512Lut, $($test),*);
        #[cfg(target_arch = "x86_64")]
        $crate::on_every_backend!(@module amx Amx, $($test),*);
        #[cfg(target_arch = "aarch64")]
        $crate::on_every_backend!(@module neon Neon, $($test),*);
        #[cfg(target_arch = "aarch64")]
        $crate::on_every_backend!(@module neon_dotprod NeonDotprod, $($test),*);
    };
    (@module $module:ident $variant:ident, $($test:ident),*) => {
        mod $module {
            use tritlab_kernels::Backend;
            $(#[test]
            fn $test() {
                if let Some(_settings) = super::support::on(Backend::$variant) {
                    super::$test(Backend::$variant);
                }
            })*
        }
    };
}

// ---- files changed in one place ----

/// A tensor to be written.
#[derive(Clone)]
pub struct Draft {
    pub name: String,
    pub ty: TensorType,
    pub dims: Vec<u64>,
    pub data: Vec<u8>,
}

/// A GGUF file to be written, with everything open to change.
#[derive(Clone)]
pub struct File {
    pub keys: Vec<(String, Value<'static>)>,
    pub tensors: Vec<Draft>,
}

impl File {
    /// The file of a fixture.
    pub fn of(name: &str) -> File {
        let gguf = Gguf::open(path(name)).unwrap();
        File {
            keys: gguf.metadata().iter().map(|(k, v)| (k.to_owned(), v.into_owned())).collect(),
            tensors: gguf
                .tensors()
                .iter()
                .map(|t| Draft {
                    name: t.name().to_owned(),
                    ty: t.tensor_type(),
                    dims: t.dims().to_vec(),
                    data: gguf.data(t).to_vec(),
                })
                .collect(),
        }
    }

    /// Sets a key.
    pub fn set(mut self, key: &str, value: impl Into<Value<'static>>) -> File {
        let value = value.into();
        match self.keys.iter_mut().find(|(k, _)| k == key) {
            Some((_, old)) => *old = value,
            None => self.keys.push((key.to_owned(), value)),
        }
        self
    }

    /// Removes a key, which must be there.
    pub fn unset(mut self, key: &str) -> File {
        let before = self.keys.len();
        self.keys.retain(|(k, _)| k != key);
        assert_eq!(self.keys.len() + 1, before, "{key}");
        self
    }

    /// Removes a tensor, which must be there.
    pub fn without(mut self, name: &str) -> File {
        let before = self.tensors.len();
        self.tensors.retain(|t| t.name != name);
        assert_eq!(self.tensors.len() + 1, before, "{name}");
        self
    }

    /// Adds a tensor of f32.
    pub fn with(mut self, name: &str, dims: &[u64], data: &[f32]) -> File {
        self.tensors.push(Draft {
            name: name.to_owned(),
            ty: TensorType::F32,
            dims: dims.to_vec(),
            data: data.iter().flat_map(|v| v.to_le_bytes()).collect(),
        });
        self
    }

    /// A tensor, to be changed.
    pub fn tensor(&mut self, name: &str) -> &mut Draft {
        self.tensors.iter_mut().find(|t| t.name == name).unwrap()
    }

    /// Changes a tensor.
    pub fn change(mut self, name: &str, change: impl FnOnce(&mut Draft)) -> File {
        change(self.tensor(name));
        self
    }

    /// Puts an f32 in place of an element of an F32 tensor.
    pub fn poke(self, name: &str, index: usize, value: f32) -> File {
        self.change(name, |t| {
            assert_eq!(t.ty, TensorType::F32);
            t.data[index * 4..index * 4 + 4].copy_from_slice(&value.to_le_bytes());
        })
    }

    /// Puts an F32 matrix into another format.
    pub fn store(self, name: &str, format: Format) -> File {
        self.change(name, |t| {
            assert_eq!(t.ty, TensorType::F32);
            let w: Vec<f32> =
                t.data.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
            let m = Matrix::quantize(format, t.dims[1] as usize, t.dims[0] as usize, &w).unwrap();
            t.data = m.bytes().to_vec();
            t.ty = type_of(format).unwrap();
        })
    }

    /// Gives a fixture a byte-level BPE tokenizer of its 128 tokens: `<s>` (0, BOS), `</s>` (1, EOS), printable
    /// ASCII, space, newline, five merged tokens, and padding.
    pub fn with_tokenizer(self, add_bos: bool) -> File {
        let mut tokens: Vec<String> = ["<s>", "</s>", "Ġ", "Ċ"].map(str::to_owned).to_vec();
        tokens.extend(('!'..='~').map(String::from));
        tokens.extend(["th", "the", "Ġthe", "an", "and"].map(str::to_owned));
        let words = tokens.len();
        tokens.extend((words..128).map(|i| format!("[PAD{i}]")));
        let kind = |i: usize| match i {
            0 | 1 => 3,
            i if i < words => 1,
            _ => 5,
        };
        let kinds: Vec<i32> = (0..128).map(kind).collect();
        let merges = ["t h", "th e", "Ġ the", "a n", "an d"];
        self.set("tokenizer.ggml.model", "gpt2")
            .set("tokenizer.ggml.pre", "gpt-2")
            .set("tokenizer.ggml.tokens", Array::from_strings(tokens))
            .set("tokenizer.ggml.token_type", Array::from_i32(&kinds))
            .set("tokenizer.ggml.merges", Array::from_strings(merges))
            .set("tokenizer.ggml.bos_token_id", 0u32)
            .set("tokenizer.ggml.eos_token_id", 1u32)
            .set("tokenizer.ggml.add_bos_token", add_bos)
    }

    fn writer(&self) -> Writer<'static> {
        let mut writer = Writer::new();
        for (k, v) in &self.keys {
            writer.set(k, v.clone()).unwrap();
        }
        for t in &self.tensors {
            writer.tensor(&t.name, t.ty, &t.dims).unwrap();
        }
        writer
    }

    /// Writes it.
    pub fn write(&self, path: &Path) {
        let mut data = self.tensors.iter();
        self.writer()
            .write(path, |_, out| -> std::result::Result<(), WriteError> {
                Ok(out.write_all(&data.next().unwrap().data)?)
            })
            .unwrap();
    }

    /// The file's bytes.
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut data = self.tensors.iter();
        self.writer()
            .write_to(&mut bytes, |_, out| -> std::result::Result<(), WriteError> {
                Ok(out.write_all(&data.next().unwrap().data)?)
            })
            .unwrap();
        bytes
    }

    /// Writes it into a new folder and loads it.
    pub fn load(&self) -> Result<Model> {
        self.load_as(None)
    }

    /// As [`Self::load`], with the linear layers in a format.
    pub fn load_as(&self, format: Option<Format>) -> Result<Model> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.gguf");
        self.write(&path);
        let model = load_as(&path, format);
        if let Err(e) = &model {
            let named = matches!(e, Error::InFile { path: p, .. } if *p == path);
            assert!(named, "the file is not named: {e}");
        }
        model
    }
}

/// A byte-level BPE `tokenizer.json` with the tokens `t0`, `t1`, ... and some control tokens beside them.
pub fn tokenizer_json(tokens: usize, added: &[(usize, &str)]) -> serde_json::Value {
    let mut vocab = serde_json::Map::new();
    for i in 0..tokens {
        vocab.insert(format!("t{i}"), json!(i));
    }
    let added: Vec<_> = added
        .iter()
        .map(|(id, text)| {
            json!({"id": id, "content": text, "single_word": false, "lstrip": false,
                   "rstrip": false, "normalized": false, "special": true})
        })
        .collect();
    json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added,
        "normalizer": null, "post_processor": null,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
        "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
                  "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
                  "vocab": vocab, "merges": []}
    })
}
