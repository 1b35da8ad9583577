//! GGUF files that are not as they should be: every fault is a typed error, never a panic.

use proptest::prelude::*;
use tritlab_model::{Error, gguf::Gguf, tokenizer::Tokenizer};

/// A GGUF file by hand, so that every field can lie.
#[derive(Clone)]
struct Raw {
    magic: [u8; 4],
    version: u32,
    n_tensors: u64,
    n_entries: u64,
    entries: Vec<u8>,
    infos: Vec<u8>,
    data: usize,
}

impl Raw {
    fn new() -> Self {
        Self {
            magic: *b"GGUF",
            version: 3,
            n_tensors: 0,
            n_entries: 0,
            entries: Vec::new(),
            infos: Vec::new(),
            data: 0,
        }
    }

    fn entry(mut self, key: &[u8], ty: u32, value: &[u8]) -> Self {
        self.n_entries += 1;
        self.entries.extend(string(key));
        self.entries.extend(ty.to_le_bytes());
        self.entries.extend(value);
        self
    }

    fn tensor(mut self, name: &[u8], dims: &[u64], ty: u32, offset: u64) -> Self {
        self.n_tensors += 1;
        self.infos.extend(string(name));
        self.infos.extend((dims.len() as u32).to_le_bytes());
        dims.iter().for_each(|d| self.infos.extend(d.to_le_bytes()));
        self.infos.extend(ty.to_le_bytes());
        self.infos.extend(offset.to_le_bytes());
        self
    }

    fn bytes(&self) -> Vec<u8> {
        let mut bytes = self.magic.to_vec();
        bytes.extend(self.version.to_le_bytes());
        bytes.extend(self.n_tensors.to_le_bytes());
        bytes.extend(self.n_entries.to_le_bytes());
        bytes.extend(&self.entries);
        bytes.extend(&self.infos);
        if self.data > 0 {
            bytes.resize(bytes.len().next_multiple_of(32) + self.data, 0);
        }
        bytes
    }

    fn open(&self) -> Result<Gguf, Error> {
        Gguf::from_bytes(self.bytes())
    }

    fn error(&self) -> Error {
        self.open().expect_err("a hostile file was accepted")
    }
}

fn string(s: &[u8]) -> Vec<u8> {
    [&(s.len() as u64).to_le_bytes(), s].concat()
}

/// An array value: element type, stated length, elements.
fn array(element: u32, len: u64, elements: &[u8]) -> Vec<u8> {
    [&element.to_le_bytes()[..], &len.to_le_bytes(), elements].concat()
}

const U16: u32 = 2;
const U32: u32 = 4;
const STRING: u32 = 8;
const ARRAY: u32 = 9;
const F32: u32 = 0; // of tensors
const Q4_0: u32 = 2; // of tensors

/// A small valid file with one of everything, and a tokenizer.
fn valid() -> Raw {
    let tokens: Vec<u8> =
        ["a", "b", "ab", "<s>"].iter().flat_map(|t| string(t.as_bytes())).collect();
    let types: Vec<u8> = [1i32, 1, 1, 3].iter().flat_map(|t| t.to_le_bytes()).collect();
    Raw {
        data: 32 + 18,
        ..Raw::new()
            .entry(b"general.alignment", U32, &32u32.to_le_bytes())
            .entry(b"tokenizer.ggml.model", STRING, &string(b"gpt2"))
            .entry(b"tokenizer.ggml.pre", STRING, &string(b"gpt-2"))
            .entry(b"tokenizer.ggml.tokens", ARRAY, &array(STRING, 4, &tokens))
            .entry(b"tokenizer.ggml.token_type", ARRAY, &array(5, 4, &types))
            .entry(b"tokenizer.ggml.merges", ARRAY, &array(STRING, 1, &string(b"a b")))
            .entry(b"tokenizer.ggml.bos_token_id", U32, &3u32.to_le_bytes())
            .entry(b"flag", 7, &[1])
            .tensor(b"scalar", &[], F32, 0)
            .tensor(b"blocks", &[32, 1], Q4_0, 32)
    }
}

#[test]
fn the_valid_file_is_valid() {
    let gguf = valid().open().unwrap();
    assert_eq!(gguf.tensors().len(), 2);
    let tokenizer = Tokenizer::from_gguf(&gguf).unwrap();
    assert_eq!(tokenizer.encode("abba", true, false).unwrap(), [2, 1, 0]);
    assert_eq!(tokenizer.encode("<s>ab", false, true).unwrap(), [3, 2]);
    assert!(matches!(tokenizer.encode("abc", false, false), Err(Error::Unencodable { .. })));
}

#[test]
fn cut_at_every_length() {
    let bytes = valid().bytes();
    for len in 0..bytes.len() {
        let error = Gguf::from_bytes(bytes[..len].to_vec()).unwrap_err();
        assert!(
            matches!(error, Error::Truncated { .. } | Error::TooMany { .. }),
            "cut to {len} bytes: {error}"
        );
    }
    assert!(Gguf::from_bytes(bytes).is_ok());
}

#[test]
fn magic_and_versions() {
    let lfs = Gguf::from_bytes(b"version https://git-lfs.github.com/spec/v1".to_vec()).unwrap_err();
    assert!(matches!(lfs, Error::BadMagic { found } if found == b"vers"));
    let with = |version| Raw { version, ..Raw::new() };
    assert!(matches!(with(1).error(), Error::UnsupportedVersion { version: 1 }));
    assert!(matches!(with(4).error(), Error::UnsupportedVersion { version: 4 }));
    assert!(matches!(with(0).error(), Error::UnsupportedVersion { version: 0 }));
    assert!(matches!(with(3u32.swap_bytes()).error(), Error::BigEndian { version: 0x0300_0000 }));
    assert!(with(2).open().is_ok());
    assert!(with(3).open().is_ok());
}

#[test]
fn files_that_cannot_be_mapped_or_hold_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let empty = folder.path().join("empty.gguf");
    std::fs::write(&empty, "").unwrap();
    let error = Gguf::open(&empty).unwrap_err();
    assert!(matches!(error.cause(), Error::Truncated { needed: 4, have: 0, .. }), "{error}");
    let error = Gguf::open(folder.path()).unwrap_err();
    assert!(matches!(error, Error::Io { .. }), "{error}");
}

#[test]
fn counts_beyond_the_file() {
    for count in [1, 1 << 20, 1 << 40, u64::MAX / 2, u64::MAX] {
        let tensors = Raw { n_tensors: count, ..Raw::new() };
        match tensors.error() {
            // The 8 bytes of n_entries are all that is left, not enough for one description.
            Error::TooMany { what, count: c, limit: 0 } => {
                assert_eq!((what.as_str(), c), ("tensors", count))
            }
            other => panic!("{other}"),
        }
        let entries = Raw { n_entries: count, ..Raw::new() };
        assert!(matches!(entries.error(), Error::TooMany { limit: 0, .. }));
        for element in [0, U32, STRING, 12] {
            let array = Raw::new().entry(b"k", ARRAY, &array(element, count, &[]));
            assert!(matches!(array.error(), Error::TooMany { limit: 0, .. }));
        }
        let key = Raw::new().entry(b"k", STRING, &count.to_le_bytes());
        assert!(matches!(key.error(), Error::Truncated { needed, have: 0, .. } if needed == count));
    }
    // One description too many: the padding would be a nameless scalar, were that allowed.
    let mut raw = valid();
    raw.n_tensors = 3;
    assert!(
        matches!(raw.error(), Error::BadName { what: "tensor name", name, .. } if name.is_empty())
    );
}

#[test]
fn metadata_values() {
    let unknown = Raw::new().entry(b"k", 13, &[0; 16]);
    assert!(matches!(unknown.error(), Error::UnknownValueType { key, id: 13 } if key == "k"));
    let unknown = Raw::new().entry(b"k", ARRAY, &array(99, 0, &[]));
    assert!(matches!(unknown.error(), Error::UnknownValueType { id: 99, .. }));
    let nested = Raw::new().entry(b"k", ARRAY, &array(ARRAY, 1, &array(U32, 0, &[])));
    assert!(matches!(nested.error(), Error::NestedArray { key } if key == "k"));
    let twice = Raw::new().entry(b"k", 7, &[0]).entry(b"k", 7, &[0]);
    assert!(
        matches!(twice.error(), Error::DuplicateName { what: "metadata key", name } if name == "k")
    );
    let empty = Raw::new().entry(b"", 7, &[0]);
    assert!(matches!(empty.error(), Error::BadName { what: "metadata key", .. }));
    for bad in [
        Raw::new().entry(b"\xff", 7, &[0]),
        Raw::new().entry(b"k", STRING, &string(b"\xe2\x82")),
        Raw::new().entry(b"k", ARRAY, &array(STRING, 1, &string(b"\x80"))),
        Raw { data: 32, ..Raw::new().tensor(b"\xc3", &[1], F32, 0) },
    ] {
        assert!(matches!(bad.error(), Error::NotUtf8 { .. }));
    }
    // Any byte but zero is true.
    let gguf = Raw::new().entry(b"k", 7, &[255]).open().unwrap();
    assert!(gguf.metadata().require::<bool>("k").unwrap());
}

#[test]
fn alignments() {
    for alignment in [0u32, 3, 33, u32::MAX] {
        let raw = Raw::new().entry(b"general.alignment", U32, &alignment.to_le_bytes());
        let bad = u64::from(alignment);
        assert!(matches!(raw.error(), Error::BadAlignment { alignment } if alignment == bad));
    }
    let raw = Raw::new().entry(b"general.alignment", STRING, &string(b"32"));
    assert!(matches!(raw.error(), Error::WrongType { .. }));
    // A vocabulary-only file ends with its metadata, however large the alignment.
    let raw = Raw::new().entry(b"general.alignment", U32, &(1u32 << 31).to_le_bytes());
    assert!(raw.open().is_ok());
}

#[test]
fn tensors() {
    let one =
        |dims: &[u64], ty, offset| Raw { data: 64, ..Raw::new().tensor(b"t", dims, ty, offset) };
    assert!(one(&[8], F32, 32).open().is_ok()); // 32 bytes at 32 of 64

    for id in [4, 5, 31, 38, 43, 1000, u32::MAX] {
        match one(&[32], id, 0).error() {
            Error::UnknownTensorType { tensor, id: i } => {
                assert_eq!((tensor.as_str(), i), ("t", id))
            }
            other => panic!("{other}"),
        }
    }
    assert!(matches!(one(&[33], Q4_0, 0).error(), Error::BadShape { .. }));
    assert!(matches!(one(&[0], F32, 0).error(), Error::BadShape { .. }));
    assert!(matches!(one(&[4, 0], F32, 0).error(), Error::BadShape { .. }));
    for dims in [&[1 << 32, 1 << 31][..], &[u64::MAX], &[1 << 62, 1], &[u64::MAX, u64::MAX, 2, 2]] {
        assert!(matches!(one(dims, F32, 0).error(), Error::BadShape { .. }), "{dims:?}");
    }
    assert!(matches!(one(&[1; 5], F32, 0).error(), Error::TooMany { count: 5, limit: 4, .. }));
    assert!(matches!(
        one(&[1], F32, 16).error(),
        Error::BadOffset { offset: 16, alignment: 32, .. }
    ));
    for offset in [64, 1 << 40, u64::MAX - 31] {
        assert!(matches!(one(&[1], F32, offset).error(), Error::Truncated { have: 0, .. }));
    }
    match one(&[9], F32, 32).error() {
        Error::Truncated { what, needed: 36, have: 32, .. } => assert!(what.contains("`t`")),
        other => panic!("{other}"),
    }
    let long = Raw { data: 32, ..Raw::new().tensor(&[b'n'; 64], &[1], F32, 0) };
    assert!(matches!(long.error(), Error::BadName { what: "tensor name", .. }));
    let longest = Raw { data: 32, ..Raw::new().tensor(&[b'n'; 63], &[1], F32, 0) };
    assert!(longest.open().is_ok());
    let twice =
        Raw { data: 64, ..Raw::new().tensor(b"t", &[1], F32, 0).tensor(b"t", &[1], F32, 32) };
    assert!(matches!(twice.error(), Error::DuplicateName { what: "tensor name", .. }));
    // Two tensors over the same bytes: a small file must not describe a large model.
    for (first, second) in [(0, 0), (32, 0), (0, 32)] {
        let shared = Raw::new().tensor(b"a", &[9], F32, first).tensor(b"b", &[9], F32, second);
        match (Raw { data: 96, ..shared }).error() {
            Error::OverlappingData { offset, end, .. } => assert!(offset < end),
            other => panic!("{other}"),
        }
    }
}

#[test]
fn parts_of_split_models() {
    let part = |count: u16| {
        Raw::new().entry(b"split.no", U16, &1u16.to_le_bytes()).entry(
            b"split.count",
            U16,
            &count.to_le_bytes(),
        )
    };
    assert!(matches!(part(3).error(), Error::SplitFile { part: 2, count: 3 }));
    assert!(part(1).open().is_ok()); // a split into one part is whole
}

#[test]
fn tokenizer_tables_that_contradict_each_other() {
    let error = |raw: Raw| Tokenizer::from_gguf(&raw.open().unwrap()).unwrap_err();
    let model = |name: &[u8]| Raw::new().entry(b"tokenizer.ggml.model", STRING, &string(name));
    let two = [string(b"a"), string(b"<0x0A>")].concat();
    let tokens = |raw: Raw| raw.entry(b"tokenizer.ggml.tokens", ARRAY, &array(STRING, 2, &two));
    let merges = |raw: Raw, merge: &[u8]| {
        raw.entry(b"tokenizer.ggml.merges", ARRAY, &array(STRING, 1, &string(merge)))
    };
    let pre = |raw: Raw, name: &[u8]| raw.entry(b"tokenizer.ggml.pre", STRING, &string(name));
    let scores = |raw: Raw, n: u64| {
        raw.entry(b"tokenizer.ggml.scores", ARRAY, &array(6, n, &vec![0; n as usize * 4]))
    };
    let missing = |error: Error, key: &str| match error {
        Error::MissingTokenizer { what } => assert!(what.contains(key), "{what}"),
        other => panic!("{other}"),
    };

    missing(error(Raw::new()), "tokenizer.ggml.model");
    missing(error(model(b"no_vocab")), "no_vocab");
    missing(error(model(b"gpt2")), "tokenizer.ggml.tokens");
    missing(error(tokens(model(b"gpt2"))), "tokenizer.ggml.merges");
    missing(error(tokens(model(b"llama"))), "tokenizer.ggml.scores");
    assert!(
        matches!(error(model(b"bert")), Error::UnsupportedTokenizer { model } if model == "bert")
    );

    let bpe = |merge: &[u8]| merges(tokens(model(b"gpt2")), merge);
    let unknown = |raw| matches!(error(raw), Error::UnsupportedPreTokenizer { .. });
    assert!(unknown(bpe(b"a a")));
    assert!(unknown(pre(bpe(b"a a"), b"default")));
    let bad = |raw| matches!(error(raw), Error::BadTokenizer { .. });
    assert!(bad(pre(bpe(b"a"), b"gpt-2"))); // no pair
    assert!(bad(pre(bpe(b"a b"), b"gpt-2"))); // b is no token
    assert!(bad(pre(bpe(b"a a"), b"gpt-2"))); // aa is no token
    assert!(bad(scores(tokens(model(b"llama")), 3)));
    let types = |n: u64, of: [i32; 3]| {
        let bytes: Vec<u8> = of[..n as usize].iter().flat_map(|t| t.to_le_bytes()).collect();
        let key = b"tokenizer.ggml.token_type";
        error(scores(tokens(model(b"llama")), 2).entry(key, ARRAY, &array(5, n, &bytes)))
    };
    for (n, of, said) in [
        (1, [1, 1, 1], "2 tokens, but 1 entries"),
        (3, [1, 1, 1], "2 tokens, but 3 entries"),
        (2, [1, 99, 1], "says 99 of token 1"),
        (2, [-1, 1, 1], "says -1 of token 0"),
    ] {
        let e = types(n, of);
        assert!(e.to_string().contains(said), "{e}");
    }
    let nan = [f32::NAN.to_le_bytes(), 1.0f32.to_le_bytes()].concat();
    let e = tokens(model(b"llama")).entry(b"tokenizer.ggml.scores", ARRAY, &array(6, 2, &nan));
    assert!(error(e).to_string().contains("says NaN of token 0"));

    let id = |key: &[u8], id: u32| {
        error(scores(tokens(model(b"llama")), 2).entry(key, U32, &id.to_le_bytes()))
    };
    for key in ["bos", "eos", "unknown", "eot"] {
        let key = format!("tokenizer.ggml.{key}_token_id");
        match id(key.as_bytes(), 2) {
            Error::BadConfig { key: found, reason } => {
                assert_eq!(found, key);
                assert!(reason.contains("2 tokens"), "{reason}");
            }
            e => panic!("{e}"),
        }
    }
    // BOS is to be added by the family's default, but there is none.
    assert!(matches!(
        error(scores(tokens(model(b"llama")), 2)),
        Error::MissingKey { key } if key == "tokenizer.ggml.bos_token_id"
    ));
    let wrong = merges(pre(model(b"gpt2"), b"gpt-2"), b"a a").entry(
        b"tokenizer.ggml.tokens",
        ARRAY,
        &array(U32, 1, &[0; 4]),
    );
    assert!(matches!(error(wrong), Error::WrongType { .. }));
    let json = Raw::new().entry(b"tokenizer.huggingface.json", STRING, &string(b"{}"));
    assert!(matches!(error(json), Error::BadTokenizer { .. }));
}

/// Opens and reads everything; errors are fine, panics are not.
fn exercise(bytes: Vec<u8>) {
    let Ok(gguf) = Gguf::from_bytes(bytes) else {
        return;
    };
    for (_, value) in gguf.metadata().iter() {
        let _ = value.to_string();
    }
    for info in gguf.tensors() {
        assert_eq!(gguf.data(info).len() as u64, info.nbytes());
        assert!(info.rows() * info.cols() == info.elements());
    }
    if let Ok(tokenizer) = Tokenizer::from_gguf(&gguf) {
        let ids = tokenizer.encode("ab<s> \n", true, true).unwrap_or_default();
        tokenizer.decode(&ids, false).unwrap();
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn random_bytes_in_a_valid_file(changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6)) {
        let mut bytes = valid().bytes();
        for (index, byte) in changes {
            let i = index.index(bytes.len());
            bytes[i] = byte;
        }
        exercise(bytes);
    }

    #[test]
    fn random_bytes_behind_a_valid_header(tail in prop::collection::vec(any::<u8>(), 0..200), small in 0u64..4) {
        let mut bytes = Raw { n_tensors: small, n_entries: 3 - small.min(3), ..Raw::new() }.bytes();
        bytes.extend(tail);
        exercise(bytes);
    }
}

#[test]
fn every_bit_of_a_valid_file_flipped() {
    let bytes = valid().bytes();
    for bit in 0..bytes.len() * 8 {
        let mut bytes = bytes.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        exercise(bytes);
    }
}
