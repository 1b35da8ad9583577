//! Which sizes of a configuration decide that a tensor is there, and its shape: for messages.

use crate::error::Error;

/// A size of a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // the keys are the documentation
pub enum Size {
    Vocab,
    Hidden,
    Ffn,
    Layers,
    Heads,
    KvHeads,
    HeadDim,
}

impl Size {
    /// Its key in GGUF, without the architecture before it.
    pub fn key(self) -> &'static str {
        match self {
            Self::Vocab => "vocab_size",
            Self::Hidden => "embedding_length",
            Self::Ffn => "feed_forward_length",
            Self::Layers => "block_count",
            Self::Heads => "attention.head_count",
            Self::KvHeads => "attention.head_count_kv",
            Self::HeadDim => "attention.key_length",
        }
    }

    /// Its key in `config.json`.
    pub fn word(self) -> &'static str {
        match self {
            Self::Vocab => "vocab_size",
            Self::Hidden => "hidden_size",
            Self::Ffn => "intermediate_size",
            Self::Layers => "num_hidden_layers",
            Self::Heads => "num_attention_heads",
            Self::KvHeads => "num_key_value_heads",
            Self::HeadDim => "head_dim",
        }
    }
}

/// A size that a configuration does not state, with what was taken instead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assumed {
    /// Which.
    pub size: Size,
    /// Its key, as the file would have it.
    pub key: String,
    /// What was taken.
    pub value: usize,
}

/// The sizes that could be what is wrong in `error`, of the tensor that GGUF calls `name`.
pub(super) fn deciding(error: &Error, name: Option<&str>) -> Vec<Size> {
    match (error, name) {
        (Error::ShapeMismatch { expected, found, .. }, Some(name)) => {
            let (rows, cols) = axes(name);
            // Of two shapes with as many axes, only those that differ.
            match (expected.as_slice(), found.as_slice()) {
                ([r, c], [fr, fc]) => {
                    let rows = if r == fr { &[] } else { rows };
                    let cols = if c == fc { &[] } else { cols };
                    [rows, cols].concat()
                }
                ([_], [_]) => cols.to_vec(),
                _ => Vec::new(),
            }
        }
        (Error::MissingTensor { name: own } | Error::UnusedTensor { tensor: own, .. }, name) => {
            let of_layer = name.unwrap_or(own);
            match of_layer.starts_with("blk.") || of_layer.contains("layers.") {
                true => vec![Size::Layers],
                false => Vec::new(),
            }
        }
        _ => Vec::new(),
    }
}

/// What decides the rows and the columns of a tensor; a vector has columns.
fn axes(name: &str) -> (&'static [Size], &'static [Size]) {
    use Size::{Ffn, HeadDim, Heads, Hidden, KvHeads, Vocab};
    let part = match name.strip_prefix("blk.").and_then(|n| n.split_once('.')) {
        Some((_, part)) => part,
        None => name,
    };
    let Some((stem, kind)) = part.rsplit_once('.') else { return (&[], &[]) };
    let linear = |stem: &str| -> (&'static [Size], &'static [Size]) {
        match stem {
            "token_embd" | "output" => (&[Vocab], &[Hidden]),
            "attn_q" => (&[Heads, HeadDim], &[Hidden]),
            "attn_k" | "attn_v" => (&[KvHeads, HeadDim], &[Hidden]),
            "attn_qkv" => (&[Heads, KvHeads, HeadDim], &[Hidden]),
            "attn_output" => (&[Hidden], &[Heads, HeadDim]),
            "ffn_gate" | "ffn_up" => (&[Ffn], &[Hidden]),
            "ffn_down" => (&[Hidden], &[Ffn]),
            _ => (&[], &[]),
        }
    };
    match (stem, kind) {
        (_, "bias") => (&[], linear(stem).0),
        ("attn_q_norm" | "attn_k_norm", _) => (&[], &[HeadDim]),
        ("attn_sub_norm", _) => (&[], &[Heads, HeadDim]),
        ("ffn_sub_norm", _) => (&[], &[Ffn]),
        (_, "scale") => (&[], &[]),
        _ => match stem.strip_suffix("_norm_in") {
            Some(layer) => (&[], linear(layer).1),
            None if stem.ends_with("_norm") => (&[], &[Hidden]),
            None => linear(stem),
        },
    }
}
