//! A SentencePiece vocabulary of a GGUF file as `tokenizer.json`.
//!
//! The `tokenizers` crate has no merging by score, but BPE's merging by rank is the same thing when every way to
//! cut a token into two tokens is a merge, best score first: as `transformers` converts SentencePiece files.

use std::borrow::Cow;
use std::collections::HashMap;

use serde_json::{Value, json};

use super::tokenizer::{BYTE, NORMAL, kinds, post_processor, words_and_added};
use crate::error::Result;
use crate::gguf::{Array, Gguf};
use crate::tokenizer::Tokenizer;

/// Texts that both forms must read alike: spaces everywhere, line ends, bytes without a token, digits, other
/// scripts.
const PROBES: [&str; 8] = [
    "Hello world",
    " a  b   c    d ",
    "\n\n \n\t\t x\r\n",
    "don't 'LL 12345 3.14 1e10",
    "Grüße, 東京 и мир 🚀👩‍🚀 \u{1}\u{7f}",
    "▁under▁line <s> </s> <unk> <0x0A>",
    "fn main() {\n    println!(\"{}\", x);\n}\n",
    "ééé\u{301}\u{a0}…—",
];

/// The `tokenizer.json` of a file whose tables are SentencePiece's; `None` where they are not, or where its own
/// tokens cannot be said in that form.
pub(super) fn from_tables(gguf: &Gguf, tokenizer: &Tokenizer) -> Result<Option<Value>> {
    let metadata = gguf.metadata();
    if metadata.optional::<Cow<'_, str>>("tokenizer.ggml.model")?.as_deref() != Some("llama") {
        return Ok(None);
    }
    let tokens: Array<'_> = metadata.require("tokenizer.ggml.tokens")?;
    let scores: Vec<f32> = metadata.require("tokenizer.ggml.scores")?;
    let prefix = metadata.optional::<bool>("tokenizer.ggml.add_space_prefix")?.unwrap_or(true);
    let unknown: u32 = metadata.optional("tokenizer.ggml.unknown_token_id")?.unwrap_or(0);

    let Some(texts) = tokens.strings() else { return Ok(None) };
    let texts: Vec<&str> = texts.collect();
    let kinds = kinds(gguf, texts.len())?;
    let (words, added) = words_and_added(&texts, &kinds);
    let json = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added,
        "normalizer": normalizer(prefix), "pre_tokenizer": null,
        "post_processor": post_processor(tokenizer), "decoder": decoder(prefix),
        "model": {
            "type": "BPE", "dropout": null, "unk_token": texts.get(unknown as usize),
            "continuing_subword_prefix": null, "end_of_word_suffix": null, "fuse_unk": true,
            "byte_fallback": kinds.contains(&BYTE), "ignore_merges": false, "vocab": words,
            "merges": merges(&texts, &scores, &kinds)
        }
    });
    let same = reads_alike(tokenizer, &json)?;
    Ok(same.then_some(json))
}

/// Every way to cut a token into two, best score first; of equal scores the longer left part, which is what
/// merging from the left comes to first.
fn merges(texts: &[&str], scores: &[f32], kinds: &[i32]) -> Vec<Value> {
    let of = texts.iter().copied().zip(scores).zip(kinds).filter(|(_, kind)| **kind == NORMAL);
    let normal: HashMap<&str, f32> = of.map(|((text, score), _)| (text, *score)).collect();
    let mut found = Vec::new();
    for (text, score) in &normal {
        for (cut, _) in text.char_indices().skip(1) {
            let (left, right) = text.split_at(cut);
            if normal.contains_key(left) && normal.contains_key(right) {
                let lengths = (left.chars().count(), right.chars().count());
                found.push((*score, lengths, left, right));
            }
        }
    }
    found.sort_by(|a, b| b.0.total_cmp(&a.0).then(b.1.cmp(&a.1)));
    found.into_iter().map(|(_, _, left, right)| json!([left, right])).collect()
}

fn normalizer(prefix: bool) -> Value {
    let replace = json!({"type": "Replace", "pattern": {"String": " "}, "content": "▁"});
    match prefix {
        true => json!({"type": "Sequence",
                       "normalizers": [{"type": "Prepend", "prepend": "▁"}, replace]}),
        false => replace,
    }
}

fn decoder(prefix: bool) -> Value {
    let mut decoders = vec![
        json!({"type": "Replace", "pattern": {"String": "▁"}, "content": " "}),
        json!({"type": "ByteFallback"}),
        json!({"type": "Fuse"}),
    ];
    if prefix {
        decoders.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
    }
    json!({"type": "Sequence", "decoders": decoders})
}

/// Whether `json` reads [`PROBES`] as the file's own tables do, and writes them back alike.
fn reads_alike(own: &Tokenizer, json: &Value) -> Result<bool> {
    let bytes = serde_json::to_vec(json).unwrap_or_default();
    let other = Tokenizer::from_json(&bytes)?;
    for text in PROBES {
        for parse in [false, true] {
            let ids = own.encode(text, false, parse)?;
            if other.encode(text, false, parse)? != ids
                || other.decode(&ids, false)? != own.decode(&ids, false)?
            {
                return Ok(false);
            }
        }
    }
    Ok(true)
}
