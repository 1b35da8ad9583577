//! Byte-level BPE tokenizers between `tokenizer.json` and GGUF's tables.
//!
//! The file that a folder has goes into GGUF whole, as `tokenizer.huggingface.json`, and comes out of it
//! whole. The tables beside it are for other programs; a `tokenizer.json` is made of them where a file has
//! no other. Both need a pre-tokenizer that has a name in GGUF.

use std::borrow::Cow;

use serde_json::{Map, Value, json};

use crate::error::Result;
use crate::gguf::{Array, Gguf, Writer};
use crate::tokenizer::{PreTokenizer, Tokenizer, pre_tokenizers};

// Kinds of tokens, as GGUF numbers them.
pub(super) const NORMAL: i32 = 1;
const UNKNOWN: i32 = 2;
const CONTROL: i32 = 3;
const USER_DEFINED: i32 = 4;
const UNUSED: i32 = 5;
pub(super) const BYTE: i32 = 6;

/// Sets the tables of a byte-level BPE `tokenizer.json` for an embedding of `vocab` rows; returns whether
/// it is one with a pre-tokenizer that GGUF has a name for.
pub(super) fn write_tables(writer: &mut Writer<'_>, file: &Value, vocab: usize) -> Result<bool> {
    let model = &file["model"];
    let Some(pre) = pre_tokenizers().find(|p| p.is_that_of(file)) else { return Ok(false) };
    let (Some(words), Some(merges)) = (model["vocab"].as_object(), merges(&model["merges"])) else {
        return Ok(false);
    };
    if model["ignore_merges"].as_bool().unwrap_or(false) != pre.ignore_merges {
        return Ok(false);
    }
    // Rows without a token get a name of their own, as in llama.cpp's converter; tokens without a row are
    // left out.
    let mut tokens: Vec<String> = (0..vocab).map(|i| format!("[PAD{i}]")).collect();
    let mut kinds = vec![UNUSED; vocab];
    let mut set = |id: Option<u64>, text: &str, kind: i32| {
        let id = id.and_then(|id| usize::try_from(id).ok()).filter(|id| *id < vocab);
        if let Some(id) = id {
            text.clone_into(&mut tokens[id]);
            kinds[id] = kind;
        }
    };
    for (text, id) in words {
        set(id.as_u64(), text, NORMAL);
    }
    for token in file["added_tokens"].as_array().into_iter().flatten() {
        let kind = if token["special"] == true { CONTROL } else { USER_DEFINED };
        set(token["id"].as_u64(), token["content"].as_str().unwrap_or_default(), kind);
    }
    writer.set("tokenizer.ggml.model", "gpt2".to_owned())?;
    writer.set("tokenizer.ggml.pre", pre.names[0].to_owned())?;
    writer.set("tokenizer.ggml.tokens", Array::from_strings(tokens))?;
    writer.set("tokenizer.ggml.token_type", Array::from_i32(&kinds))?;
    writer.set("tokenizer.ggml.merges", Array::from_strings(merges))?;
    Ok(true)
}

/// Merges as lines, from either of the two forms that files have.
fn merges(merges: &Value) -> Option<Vec<String>> {
    let line = |merge: &Value| match merge {
        Value::String(line) => Some(line.clone()),
        Value::Array(pair) => {
            Some(format!("{} {}", pair.first()?.as_str()?, pair.get(1)?.as_str()?))
        }
        _ => None,
    };
    merges.as_array()?.iter().map(line).collect()
}

impl PreTokenizer {
    /// Whether `file` is byte-level BPE that splits texts in this way.
    fn is_that_of(&self, file: &Value) -> bool {
        let steps = |v: &Value, list: &str| v[list].as_array().cloned().unwrap_or(vec![v.clone()]);
        let found = steps(&file["pre_tokenizer"], "pretokenizers");
        let regex = |step: &Value| step["pattern"]["Regex"].as_str().map(str::to_owned);
        let same = |a: &Value, b: &Value| {
            a["type"] == b["type"]
                && regex(a) == regex(b)
                && ["use_regex", "individual_digits", "behavior", "add_prefix_space"]
                    .iter()
                    .all(|key| a[*key] == b[*key] || b[*key].is_null())
        };
        let wanted = steps(&self.json(), "pretokenizers");
        file["model"]["type"] == "BPE"
            && found.len() == wanted.len()
            && found.iter().zip(&wanted).all(|(a, b)| same(a, b))
    }

    /// As `tokenizer.json` has it.
    fn json(&self) -> Value {
        let bytes = |use_regex: bool| {
            json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true,
                   "use_regex": use_regex})
        };
        let steps = match &self.pattern {
            Some(pattern) => vec![
                json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated",
                       "invert": false}),
                bytes(false),
            ],
            None if self.digits => {
                vec![json!({"type": "Digits", "individual_digits": true}), bytes(true)]
            }
            None => return bytes(true),
        };
        json!({"type": "Sequence", "pretokenizers": steps})
    }
}

/// A `tokenizer.json` that says the same as the tables of a file; `None` where there are none of byte-level
/// BPE.
pub(super) fn from_tables(gguf: &Gguf, tokenizer: &Tokenizer) -> Result<Option<Value>> {
    let metadata = gguf.metadata();
    let text = |key: &str| metadata.optional::<Cow<'_, str>>(key);
    let strings = |key: &str| -> Result<Option<Vec<String>>> {
        let array = metadata.optional::<Array<'_>>(key)?;
        Ok(array.and_then(|a| Some(a.strings()?.map(str::to_owned).collect())))
    };
    if text("tokenizer.ggml.model")?.as_deref() != Some("gpt2") {
        return Ok(None);
    }
    let name = text("tokenizer.ggml.pre")?;
    let pre = pre_tokenizers().find(|p| name.as_deref().is_some_and(|n| p.names.contains(&n)));
    let tables = (pre, strings("tokenizer.ggml.tokens")?, strings("tokenizer.ggml.merges")?);
    let (Some(pre), Some(tokens), Some(merges)) = tables else { return Ok(None) };
    let (words, added) = words_and_added(&tokens, &kinds(gguf, tokens.len())?);
    let pairs: Vec<Vec<&str>> = merges.iter().map(|m| m.splitn(2, ' ').collect()).collect();
    Ok(Some(json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added,
        "normalizer": null, "pre_tokenizer": pre.json(),
        "post_processor": post_processor(tokenizer),
        "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true,
                    "use_regex": true},
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
            "ignore_merges": pre.ignore_merges, "vocab": words, "merges": pairs
        }
    })))
}

/// The kind of each of `count` tokens.
pub(super) fn kinds(gguf: &Gguf, count: usize) -> Result<Vec<i32>> {
    let stated = gguf.metadata().optional::<Array<'_>>("tokenizer.ggml.token_type")?;
    Ok(stated.and_then(|a| a.integers()).unwrap_or_else(|| vec![NORMAL; count]))
}

/// All tokens with their ids, and those that are found in a text before everything else.
pub(super) fn words_and_added(
    tokens: &[impl AsRef<str>],
    kinds: &[i32],
) -> (Map<String, Value>, Vec<Value>) {
    let (mut words, mut added) = (Map::new(), Vec::new());
    for (id, (token, kind)) in tokens.iter().map(AsRef::as_ref).zip(kinds).enumerate() {
        if matches!(*kind, UNKNOWN | CONTROL | USER_DEFINED) {
            added.push(json!({
                "id": id, "content": token, "single_word": false, "lstrip": false,
                "rstrip": false, "normalized": false, "special": *kind != USER_DEFINED
            }));
        }
        words.insert(token.to_owned(), json!(id));
    }
    (words, added)
}

/// What puts BOS before a text and EOS after it; `None` where the model wants neither.
pub(super) fn post_processor(tokenizer: &Tokenizer) -> Option<Value> {
    let bos = tokenizer.bos().filter(|_| tokenizer.adds_bos());
    let eos = tokenizer.eos().filter(|_| tokenizer.adds_eos());
    let token = |id: Option<u32>| id.and_then(|id| Some((id, tokenizer.token(id)?)));
    let (bos, eos) = (token(bos), token(eos));
    let mut special = Map::new();
    for (id, text) in bos.into_iter().chain(eos) {
        special.insert(text.to_owned(), json!({"id": text, "ids": [id], "tokens": [text]}));
    }
    let around = |inner: &[(&str, u32)]| {
        let special =
            |(_, text): (u32, &str), kind| json!({"SpecialToken": {"id": text, "type_id": kind}});
        let inner = inner.iter().map(|(id, kind)| json!({"Sequence": {"id": id, "type_id": kind}}));
        let kind = inner.len() as u32 - 1;
        let first = bos.map(|bos| special(bos, 0));
        first.into_iter().chain(inner).chain(eos.map(|eos| special(eos, kind))).collect::<Value>()
    };
    (!special.is_empty()).then(|| {
        json!({
            "type": "TemplateProcessing", "single": around(&[("A", 0)]),
            "pair": around(&[("A", 0), ("B", 1)]), "special_tokens": special
        })
    })
}
