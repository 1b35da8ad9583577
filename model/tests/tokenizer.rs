//! Tokenizers against llama.cpp's expected ids, against HF `tokenizers`, and against themselves.

use proptest::prelude::*;
use serde_json::{Value as Json, json};
use std::{
    collections::HashMap,
    fs,
    io::Read,
    path::{Path, PathBuf},
    sync::LazyLock,
};
use tritlab_model::{
    Error,
    gguf::{Array, Gguf, TensorInfo, Value, Writer},
    tokenizer::Tokenizer,
};

fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/vocab").join(name)
}

fn vocabulary(name: &str) -> Gguf {
    let file = fs::File::open(data(&format!("{name}.gguf.gz"))).unwrap();
    let mut bytes = Vec::new();
    flate2::read::GzDecoder::new(file).read_to_end(&mut bytes).unwrap();
    Gguf::from_bytes(bytes).unwrap()
}

/// Vocabularies are parsed once for all tests.
struct Loaded {
    gguf: Gguf,
    tokenizer: Tokenizer,
}

fn load(name: &str) -> Loaded {
    let gguf = vocabulary(name);
    let tokenizer = Tokenizer::from_gguf(&gguf).unwrap();
    Loaded { gguf, tokenizer }
}

static LLAMA_BPE: LazyLock<Loaded> = LazyLock::new(|| load("llama-bpe"));
static QWEN2: LazyLock<Loaded> = LazyLock::new(|| load("qwen2"));
static LLAMA_SPM: LazyLock<Loaded> = LazyLock::new(|| load("llama-spm"));
static PHI3: LazyLock<Loaded> = LazyLock::new(|| load("phi-3"));

static STRINGS: LazyLock<Vec<String>> = LazyLock::new(|| {
    let text = fs::read_to_string(data("strings.txt")).unwrap();
    text.split("\n__ggml_vocab_test__\n").map(str::to_owned).collect()
});

fn all() -> [(&'static str, &'static Loaded); 4] {
    [("llama-bpe", &LLAMA_BPE), ("qwen2", &QWEN2), ("llama-spm", &LLAMA_SPM), ("phi-3", &PHI3)]
}

#[test]
fn ids_equal_llama_cpps() {
    assert_eq!(STRINGS.len(), 47);
    for (name, loaded) in all() {
        let expected = fs::read_to_string(data(&format!("{name}.ids.txt"))).unwrap();
        let expected: Vec<&str> = expected.split('\n').collect();
        assert_eq!(expected.len(), STRINGS.len());
        for (text, line) in STRINGS.iter().zip(expected) {
            let ids: Vec<u32> = line.split_whitespace().map(|id| id.parse().unwrap()).collect();
            assert_eq!(
                loaded.tokenizer.encode(text, false, false).unwrap(),
                ids,
                "{name}: {text:?}"
            );
        }
    }
}

#[test]
fn decoding_undoes_encoding() {
    for (name, Loaded { tokenizer, .. }) in all() {
        for text in STRINGS.iter() {
            for (add, skip) in [(false, false), (true, true)] {
                let ids = tokenizer.encode(text, add, false).unwrap();
                assert_eq!(&tokenizer.decode(&ids, skip).unwrap(), text, "{name}");
            }
        }
    }
}

#[test]
fn special_tokens_per_family() {
    let ids = |t: &Tokenizer| (t.bos(), t.eos(), t.eog().to_vec(), t.vocab_size());
    let end = 128_001; // <|end_of_text|>; 128009 is <|eot_id|>
    let eog = vec![end, 128_009];
    assert_eq!(ids(&LLAMA_BPE.tokenizer), (Some(128_000), Some(end), eog, 128_256));
    let eog = vec![151_643, 151_645]; // <|endoftext|>, <|im_end|>
    assert_eq!(ids(&QWEN2.tokenizer), (Some(151_643), Some(151_643), eog, 151_936));
    assert_eq!(ids(&LLAMA_SPM.tokenizer), (Some(1), Some(2), vec![2], 32_000));
    let eog = vec![2, 32_000, 32_007]; // </s>, <|endoftext|>, <|end|>
    assert_eq!(ids(&PHI3.tokenizer), (Some(1), Some(32_000), eog, 32_064));

    let first = |t: &Tokenizer| t.encode("x", true, false).unwrap()[0];
    assert_eq!(first(&LLAMA_BPE.tokenizer), 128_000); // default of the family
    assert_ne!(first(&QWEN2.tokenizer), 151_643); // has a BOS, does not add it
    assert_eq!(first(&LLAMA_SPM.tokenizer), 1); // stated in the file
    assert_eq!(LLAMA_BPE.tokenizer.encode("", true, false).unwrap(), [128_000]);
}

#[test]
fn special_tokens_are_text_unless_asked_for() {
    let t = &QWEN2.tokenizer;
    let text = "<|im_start|>user\nhi<|im_end|>";
    let parsed = t.encode(text, false, true).unwrap();
    assert_eq!((parsed[0], parsed[parsed.len() - 1]), (151_644, 151_645));
    let plain = t.encode(text, false, false).unwrap();
    assert!(plain.iter().all(|&id| !t.is_control(id)));
    for ids in [&parsed, &plain] {
        assert_eq!(t.decode(ids, false).unwrap(), text);
    }
    assert_eq!(t.decode(&parsed, true).unwrap(), "user\nhi");
    assert_eq!(t.decode(&plain, true).unwrap(), text);
    assert_eq!(t.token(151_645), Some("<|im_end|>"));
    assert_eq!(t.token_id("<|im_end|>"), Some(151_645));
    assert_eq!((t.token(151_936), t.token_id("no such token")), (None, None));
    let error = t.decode(&[151_936], false).unwrap_err();
    assert!(matches!(error, Error::UnknownToken { id: 151_936, vocab: 151_936 }));

    // SentencePiece merges `<`, `s`, `>` to no control token either, and puts a space after one.
    let t = &LLAMA_SPM.tokenizer;
    assert!(!t.encode("<s>", false, false).unwrap().contains(&1));
    let (a, b) = (t.token_id("▁a").unwrap(), t.token_id("▁b").unwrap());
    assert_eq!(t.encode("a</s>b", true, true).unwrap(), [1, a, 2, b]);
}

#[test]
fn a_stream_never_splits_a_character() {
    let text = "naïve 中文 🦙🚀 😶\u{200d}🌫️ ½ кот";
    for (name, Loaded { tokenizer, .. }) in all() {
        let ids = tokenizer.encode(text, false, false).unwrap();
        let mut stream = tokenizer.decode_stream(false);
        let mut joined = String::new();
        let mut empty = 0;
        for &id in &ids {
            let piece = stream.push(id).unwrap();
            assert!(!piece.contains(char::REPLACEMENT_CHARACTER), "{name}: {piece:?}");
            empty += usize::from(piece.is_empty());
            joined += piece;
        }
        assert!(empty > 0, "{name}: every emoji is one token, so this tests nothing");
        assert_eq!(stream.finish(), "");
        assert_eq!(joined, text, "{name}");
    }
}

#[test]
fn broken_characters_become_replacements() {
    let t = &LLAMA_SPM.tokenizer;
    let byte = |b: u8| t.token_id(&format!("<0x{b:02X}>")).unwrap();
    let a = t.token_id("a").unwrap();
    // The first two bytes of a three-byte character, then a letter, then a lone continuation.
    let ids = [byte(0xe2), byte(0x82), a, byte(0x82), a];
    let mut stream = t.decode_stream(false);
    let pieces: Vec<String> = ids.iter().map(|&id| stream.push(id).unwrap().to_owned()).collect();
    assert_eq!(pieces, ["", "", "\u{fffd}a", "\u{fffd}", "a"]);
    assert_eq!(t.decode(&ids[..2], false).unwrap(), "\u{fffd}"); // cut short
    // A text that goes on keeps the space that a text's beginning loses.
    let word = t.token_id("▁world").unwrap();
    assert_eq!(t.decode_stream(true).push(word).unwrap(), "world");
    assert_eq!(t.continue_stream(true).push(word).unwrap(), " world");
    assert_eq!(t.decode(&[1, word], true).unwrap(), "world");
}

#[test]
fn a_long_text_is_not_quadratic() {
    let text = STRINGS.join(" ").repeat(40); // some 70 000 characters
    let spaces = " ".repeat(60_000);
    let letters = "ab".repeat(30_000); // one piece of 60 000 bytes
    for (name, Loaded { tokenizer, .. }) in all() {
        for text in [&text, &spaces, &letters] {
            let start = std::time::Instant::now();
            let ids = tokenizer.encode(text, false, false).unwrap();
            let seconds = start.elapsed().as_secs_f64();
            // Some 0.02 s here; leave room for emulators. Quadratic merging takes minutes there.
            assert!(seconds < 5.0, "{name}: {seconds} s for {} bytes", text.len());
            assert_eq!(&tokenizer.decode(&ids, false).unwrap(), text);
        }
    }
}

/// The strings of an array in the metadata.
fn strings(gguf: &Gguf, key: &str) -> Vec<String> {
    let array: Array = gguf.metadata().require(key).unwrap();
    array.strings().unwrap().map(str::to_owned).collect()
}

const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// The `tokenizer.json` that says the same as the tables of a GGUF file.
fn json(gguf: &Gguf, parts: Json, model: Json) -> Json {
    let tokens = strings(gguf, "tokenizer.ggml.tokens");
    let kinds: Array = gguf.metadata().require("tokenizer.ggml.token_type").unwrap();
    let kinds: Vec<i32> = kinds.integers().unwrap();
    let (control, user_defined) = (3, 4);
    let added: Vec<Json> = tokens
        .iter()
        .zip(&kinds)
        .enumerate()
        .filter(|(_, (_, kind))| [control, user_defined].contains(*kind))
        .map(|(id, (token, kind))| {
            json!({ "id": id, "content": token, "single_word": false, "lstrip": false,
                    "rstrip": false, "normalized": false, "special": *kind == control })
        })
        .collect();
    let vocab: serde_json::Map<String, Json> =
        tokens.into_iter().enumerate().map(|(id, token)| (token, id.into())).collect();
    let mut json = json!({ "version": "1.0", "added_tokens": added, "model": {
        "type": "BPE", "vocab": vocab, "dropout": null, "unk_token": null,
        "continuing_subword_prefix": null, "end_of_word_suffix": null,
    }});
    json["model"].as_object_mut().unwrap().extend(model.as_object().unwrap().clone());
    json.as_object_mut().unwrap().extend(parts.as_object().unwrap().clone());
    json
}

fn bpe_json(gguf: &Gguf, pattern: &str, ignore_merges: bool) -> Json {
    let split = json!({ "type": "Split", "pattern": { "Regex": pattern },
                        "behavior": "Isolated", "invert": false });
    let bytes = json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true,
                        "use_regex": false });
    let parts = json!({
        "pre_tokenizer": { "type": "Sequence", "pretokenizers": [split, bytes] },
        "decoder": bytes,
        // What a careless save leaves in a file: a limit that must not cut our texts.
        "truncation": { "max_length": 4, "strategy": "LongestFirst", "stride": 0,
                        "direction": "Right" },
    });
    let merges = strings(gguf, "tokenizer.ggml.merges");
    json(
        gguf,
        parts,
        json!({ "merges": merges, "ignore_merges": ignore_merges,
                              "byte_fallback": false, "fuse_unk": false }),
    )
}

/// SentencePiece as BPE: every way to cut a token into two tokens is a merge, best score first.
fn spm_json(gguf: &Gguf) -> Json {
    let tokens = strings(gguf, "tokenizer.ggml.tokens");
    let scores: Vec<f32> = gguf.metadata().require("tokenizer.ggml.scores").unwrap();
    let kinds: Array = gguf.metadata().require("tokenizer.ggml.token_type").unwrap();
    let kinds: Vec<i32> = kinds.integers().unwrap();
    let normal = 1;
    let ids: HashMap<&str, usize> = (tokens.iter().map(String::as_str).zip(0..))
        .filter(|(_, id)| kinds[*id] == normal)
        .collect();
    let mut merges = Vec::new();
    for (token, &id) in &ids {
        for (cut, _) in token.char_indices().skip(1) {
            let (left, right) = token.split_at(cut);
            if ids.contains_key(left) && ids.contains_key(right) {
                merges.push((scores[id], left, right));
            }
        }
    }
    let lengths = |m: &(f32, &str, &str)| (m.1.chars().count(), m.2.chars().count());
    merges.sort_by(|a, b| b.0.total_cmp(&a.0).then(lengths(b).cmp(&lengths(a))));
    let merges: Vec<Json> = merges.into_iter().map(|(_, l, r)| json!([l, r])).collect();
    let space = json!({ "String": " " });
    let parts = json!({
        "normalizer": { "type": "Sequence", "normalizers": [
            { "type": "Prepend", "prepend": "▁" },
            { "type": "Replace", "pattern": space, "content": "▁" },
        ]},
        "decoder": { "type": "Sequence", "decoders": [
            { "type": "Replace", "pattern": { "String": "▁" }, "content": " " },
            { "type": "ByteFallback" },
            { "type": "Fuse" },
            { "type": "Strip", "content": " ", "start": 1, "stop": 0 },
        ]},
    });
    json(
        gguf,
        parts,
        json!({ "merges": merges, "byte_fallback": true, "fuse_unk": true,
                              "unk_token": "<unk>", "ignore_merges": false }),
    )
}

/// Tokenizers rebuilt from tables, and from a `tokenizer.json` of the same content.
static PAIRS: LazyLock<Vec<(&'static str, &'static Tokenizer, Tokenizer)>> = LazyLock::new(|| {
    let pair = |name, loaded: &'static Loaded, json: Json| {
        let json = serde_json::to_vec(&json).unwrap();
        (name, &loaded.tokenizer, Tokenizer::from_json(&json).unwrap())
    };
    let qwen2 = LLAMA3.replace("{1,3}", "");
    vec![
        pair("llama-bpe", &LLAMA_BPE, bpe_json(&LLAMA_BPE.gguf, LLAMA3, true)),
        pair("qwen2", &QWEN2, bpe_json(&QWEN2.gguf, &qwen2, false)),
        pair("llama-spm", &LLAMA_SPM, spm_json(&LLAMA_SPM.gguf)),
    ]
});

fn assert_pairs_agree(text: &str) {
    for (name, tables, json) in PAIRS.iter() {
        let ids = tables.encode(text, false, false).unwrap();
        assert_eq!(ids, json.encode(text, false, false).unwrap(), "{name}: {text:?}");
        for skip in [false, true] {
            assert_eq!(tables.decode(&ids, skip).unwrap(), text, "{name}");
            assert_eq!(json.decode(&ids, skip).unwrap(), text, "{name}");
        }
    }
}

#[test]
fn tables_and_json_agree_on_the_test_strings() {
    for text in STRINGS.iter() {
        assert_pairs_agree(text);
    }
    for (name, tables, json) in PAIRS.iter() {
        assert_eq!(tables.vocab_size(), json.vocab_size(), "{name}");
        assert_eq!((json.bos(), json.eos()), (None, None)); // a tokenizer.json does not say
    }
    let (_, tables, json) = &PAIRS[1];
    for parse in [false, true] {
        let text = "<|im_start|>user\nhi<|im_end|>";
        let ids = json.encode(text, false, parse).unwrap();
        assert_eq!(ids, tables.encode(text, false, parse).unwrap());
    }
}

#[test]
fn a_hugging_face_folder() {
    let folder = tempfile::tempdir().unwrap();
    let write =
        |name: &str, json: &Json| fs::write(folder.path().join(name), json.to_string()).unwrap();
    let error = Tokenizer::from_folder(folder.path()).unwrap_err();
    assert!(matches!(error, Error::MissingTokenizer { what } if what.ends_with("tokenizer.json")));

    let mut tokenizer = bpe_json(&QWEN2.gguf, LLAMA3, false);
    tokenizer["post_processor"] = json!({ "type": "TemplateProcessing",
        "single": [{ "SpecialToken": { "id": "<|im_start|>", "type_id": 0 } },
                   { "Sequence": { "id": "A", "type_id": 0 } }],
        "pair": [{ "Sequence": { "id": "A", "type_id": 0 } }, { "Sequence": { "id": "B", "type_id": 1 } }],
        "special_tokens": { "<|im_start|>": { "id": "<|im_start|>", "ids": [151_644],
                                              "tokens": ["<|im_start|>"] } } });
    write("tokenizer.json", &tokenizer);
    write(
        "tokenizer_config.json",
        &json!({
            "bos_token": null,
            "eos_token": { "content": "<|im_end|>", "lstrip": false },
            "chat_template": [{ "name": "tool_use", "template": "t" }, { "name": "default", "template": "d" }],
        }),
    );
    write("generation_config.json", &json!({ "eos_token_id": [151_645, 7] }));
    let t = Tokenizer::from_folder(folder.path()).unwrap();
    // 7 from the generation settings, <|endoftext|> for its name.
    assert_eq!((t.bos(), t.eos(), t.eog()), (None, Some(151_645), &[7, 151_643, 151_645][..]));
    assert_eq!(t.chat_template(), Some("d"));
    assert_eq!(t.encode("a", true, false).unwrap()[0], 151_644); // as the post-processor says

    fs::write(folder.path().join("chat_template.jinja"), "j").unwrap();
    write("tokenizer_config.json", &json!({ "chat_template": "c" }));
    assert_eq!(Tokenizer::from_folder(folder.path()).unwrap().chat_template(), Some("j"));
    fs::write(folder.path().join("tokenizer_config.json"), "{").unwrap();
    let error = Tokenizer::from_folder(folder.path()).unwrap_err();
    assert!(matches!(error.cause(), Error::BadJson { .. }), "{error}");
    assert!(error.to_string().contains("tokenizer_config.json"), "{error}");
}

#[test]
fn a_tokenizer_json_inside_a_gguf_file() {
    let json = serde_json::to_string(&spm_json(&LLAMA_SPM.gguf)).unwrap();
    let mut writer = Writer::new();
    writer.copy_metadata(LLAMA_SPM.gguf.metadata()).unwrap();
    writer.set("tokenizer.huggingface.json", json).unwrap();
    writer.set("tokenizer.chat_template", "{{ x }}").unwrap();
    writer.set("tokenizer.ggml.model", "no such model").unwrap(); // never looked at
    let t = rewritten(&writer);
    let text = "Hello 世界";
    let ids = LLAMA_SPM.tokenizer.encode(text, false, false).unwrap();
    assert_eq!(t.encode(text, false, false).unwrap(), ids);
    assert_eq!((t.bos(), t.eos(), t.chat_template()), (Some(1), Some(2), Some("{{ x }}")));
}

#[test]
fn a_hostile_tokenizer_json_is_an_error() {
    let with = |model: Json| {
        let json = json!({ "version": "1.0", "added_tokens": [], "model": model });
        Tokenizer::from_json(json.to_string().as_bytes())
    };
    let bpe = |vocab: Json, merges: Json| {
        with(json!({ "type": "BPE", "vocab": vocab, "merges": merges }))
    };
    let bad = |result: Result<Tokenizer, Error>| matches!(result, Err(Error::BadTokenizer { .. }));
    assert!(bad(bpe(json!({ "a": 0 }), json!(["a b"])))); // unknown token
    assert!(bad(bpe(json!({ "a": 0 }), json!(["a a"])))); // aa is longer than any token
    assert!(bad(bpe(json!({ "a": 4_000_000_000u32 }), json!([])))); // no table that long
    assert!(bad(bpe(json!({ "a": 0 }), json!([])))); // no decoder
    assert!(bad(Tokenizer::from_json(b"{")));
}

fn rewritten(writer: &Writer<'_>) -> Tokenizer {
    let mut bytes = Vec::new();
    let no_tensors = |_: &TensorInfo, _: &mut dyn std::io::Write| std::io::Result::Ok(());
    writer.write_to(&mut bytes, no_tensors).unwrap();
    Tokenizer::from_gguf(&Gguf::from_bytes(bytes).unwrap()).unwrap()
}

/// A vocabulary with some keys set otherwise.
fn with_keys(loaded: &'static Loaded, keys: &[(&str, Value<'static>)]) -> Tokenizer {
    let mut writer = Writer::new();
    writer.copy_metadata(loaded.gguf.metadata()).unwrap();
    for (key, value) in keys {
        writer.set(key, value.clone()).unwrap();
    }
    rewritten(&writer)
}

#[test]
fn keys_that_change_the_rules() {
    let no_prefix = with_keys(
        &LLAMA_SPM,
        &[
            ("tokenizer.ggml.add_space_prefix", false.into()),
            ("tokenizer.ggml.add_bos_token", false.into()),
            ("tokenizer.ggml.add_eos_token", true.into()),
        ],
    );
    let hello = no_prefix.token_id("Hello").unwrap();
    assert_eq!(no_prefix.encode("Hello", true, false).unwrap(), [hello, 2]);
    let spaced = no_prefix.encode(" Hello", false, false).unwrap();
    assert_eq!(spaced, LLAMA_SPM.tokenizer.encode("Hello", false, false).unwrap());
    assert_eq!(no_prefix.decode(&spaced, false).unwrap(), " Hello");

    // Gemma's runs of newlines are user-defined tokens with the text itself as spelling.
    let mut tokens = strings(&LLAMA_SPM.gguf, "tokenizer.ggml.tokens");
    let (unused, newlines) = (31_999, 31_998); // the last of 32 000
    tokens[newlines] = "\n\n".to_owned();
    let kinds: Array = LLAMA_SPM.gguf.metadata().require("tokenizer.ggml.token_type").unwrap();
    let mut kinds: Vec<i32> = kinds.integers().unwrap();
    (kinds[newlines], kinds[unused]) = (4, 5);
    let gemma = with_keys(
        &LLAMA_SPM,
        &[
            ("tokenizer.ggml.tokens", Array::from_strings(tokens).into()),
            ("tokenizer.ggml.token_type", Array::from_i32(&kinds).into()),
            ("tokenizer.ggml.add_space_prefix", false.into()),
        ],
    );
    let ids = gemma.encode("a\n\n\nb", false, false).unwrap();
    assert_eq!(ids[1], newlines as u32);
    assert_eq!(gemma.decode(&ids, true).unwrap(), "a\n\n\nb");
    assert_eq!(gemma.decode(&[unused as u32], false).unwrap(), ""); // no text of its own

    // Without a name, Llama 3's vocabulary is known by its size; others are refused.
    let mut writer = Writer::new();
    for (key, value) in LLAMA_BPE.gguf.metadata().iter() {
        if key != "tokenizer.ggml.pre" {
            writer.set(key, value).unwrap();
        }
    }
    let nameless = rewritten(&writer);
    assert_eq!(
        nameless.encode(&STRINGS[45], true, false).unwrap(),
        LLAMA_BPE.tokenizer.encode(&STRINGS[45], true, false).unwrap()
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn tables_and_json_agree(text in r"[ a-zA-Z'0-9é\u{0301}中日\n\r\t\u{a0}\u{3000}/!_<>🚀\u{200d}к]{0,60}") {
        assert_pairs_agree(&text);
    }

    #[test]
    fn any_text_survives(text in any::<String>()) {
        for (name, loaded) in all() {
            // `▁` is how SentencePiece writes a space: a text with it comes back with spaces.
            let text = if name.contains("bpe") || name == "qwen2" { text.clone() } else { text.replace('▁', "") };
            let ids = loaded.tokenizer.encode(&text, true, false).unwrap();
            prop_assert_eq!(loaded.tokenizer.decode(&ids, true).unwrap(), text);
        }
    }

    #[test]
    fn streams_equal_decoding(ids in prop::collection::vec(0u32..32_000, 0..40), skip: bool) {
        for (_, Loaded { tokenizer, .. }) in all() {
            let mut stream = tokenizer.decode_stream(skip);
            let mut joined = String::new();
            for &id in &ids {
                joined += stream.push(id).unwrap();
            }
            joined += stream.finish();
            prop_assert_eq!(joined, tokenizer.decode(&ids, skip).unwrap());
        }
    }
}
