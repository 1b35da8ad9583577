//! Building a tokenizer from the metadata of a GGUF file.

use super::{
    Encoder, Model, Tables, Tokenizer,
    added::AddedTokens,
    bpe::Bpe,
    hugging_face,
    ids::SpecialIds,
    split::Family,
    spm::Spm,
    vocabulary::{Kind, Spelling, Vocabulary, byte_of},
};
use crate::{
    error::{Error, Result},
    gguf::{Array, Gguf, Metadata},
    tensors::Roles,
};
use std::borrow::Cow;

const MODEL: &str = "tokenizer.ggml.model";
const PRE: &str = "tokenizer.ggml.pre";
const TOKENS: &str = "tokenizer.ggml.tokens";
const TYPES: &str = "tokenizer.ggml.token_type";
const SCORES: &str = "tokenizer.ggml.scores";
const MERGES: &str = "tokenizer.ggml.merges";
const BOS: &str = "tokenizer.ggml.bos_token_id";
const EOS: &str = "tokenizer.ggml.eos_token_id";
const UNKNOWN: &str = "tokenizer.ggml.unknown_token_id";
const PAD: &str = "tokenizer.ggml.padding_token_id";
/// Ids that end a generation besides EOS: end of turn, end of message.
const ENDS: [&str; 2] = ["tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id"];
const ADD_BOS: &str = "tokenizer.ggml.add_bos_token";
const ADD_EOS: &str = "tokenizer.ggml.add_eos_token";
const ADD_SPACE_PREFIX: &str = "tokenizer.ggml.add_space_prefix";
const HUGGING_FACE: &str = "tokenizer.huggingface.json";
const CHAT_TEMPLATE: &str = "tokenizer.chat_template";

/// Llama 3's vocabulary, by which old files without a pre-tokenizer name are recognised.
const LLAMA3_TOKENS: usize = 128_256;

impl Tokenizer {
    /// The tokenizer of a GGUF file.
    ///
    /// # Errors
    /// [`Error::MissingTokenizer`] if the file has none, [`Error::UnsupportedTokenizer`] or
    /// [`Error::UnsupportedPreTokenizer`] if it is of an unknown family, and
    /// [`Error::BadTokenizer`], [`Error::WrongType`] or [`Error::BadConfig`] if its tables and ids
    /// contradict each other; in [`Error::InFile`] where there is one.
    pub fn from_gguf(gguf: &Gguf) -> Result<Self> {
        Self::of_metadata(gguf.metadata()).map_err(gguf.blame())
    }

    fn of_metadata(metadata: Metadata<'_>) -> Result<Self> {
        let mut tokenizer = match metadata.optional::<Cow<'_, str>>(HUGGING_FACE)? {
            Some(json) => {
                let mut tokenizer = hugging_face::from_json(json.as_bytes())?;
                check_table(metadata, &tokenizer.vocabulary)?;
                tokenizer.ids = ids(metadata, &tokenizer.vocabulary, |_, _| None)?;
                tokenizer
            }
            None => from_tables(metadata)?,
        };
        tokenizer.chat_template = metadata.optional(CHAT_TEMPLATE)?;
        Ok(tokenizer)
    }
}

/// The table of tokens beside a `tokenizer.json`, which is for programs that read nothing else, has the same tokens.
fn check_table(metadata: Metadata<'_>, vocabulary: &Vocabulary) -> Result<()> {
    let Some(tokens) = metadata.optional::<Array<'_>>(TOKENS)? else { return Ok(()) };
    let spaces = |text: &str| text.replace('▁', " ");
    for (id, text) in (0..).zip(strings(&tokens, TOKENS)?) {
        // Ids without a token have some name in the table.
        let own = vocabulary.text(id).filter(|own| !own.is_empty() && *own != text);
        if let Some(own) = own.filter(|own| spaces(own) != spaces(text)) {
            let reason =
                format!("token {id} is {text:?} in {TOKENS}, but {own:?} in {HUGGING_FACE}");
            return Err(Error::BadTokenizer { reason });
        }
    }
    Ok(())
}

fn from_tables(metadata: Metadata<'_>) -> Result<Tokenizer> {
    let model: Cow<'_, str> = needed(metadata, MODEL)?;
    match model.as_ref() {
        "gpt2" => from_bpe(metadata),
        "llama" => from_spm(metadata),
        // What converters write for a model that is used by ids alone.
        "no_vocab" | "none" => Err(Error::MissingTokenizer {
            what: format!("{TOKENS} (the file says {MODEL} = {model})"),
        }),
        _ => Err(Error::UnsupportedTokenizer { model: model.into_owned() }),
    }
}

fn from_bpe(metadata: Metadata<'_>) -> Result<Tokenizer> {
    let tokens: Array<'_> = needed(metadata, TOKENS)?;
    let merges: Array<'_> = needed(metadata, MERGES)?;
    let vocabulary = vocabulary(metadata, &tokens, Spelling::ByteLevel)?;
    let family = match metadata.optional::<Cow<'_, str>>(PRE)? {
        Some(name) => Family::named(&name)?,
        None if tokens.len() == LLAMA3_TOKENS => Family::named("llama-bpe")?,
        None => Family::named("(none stated)")?,
    };
    let model = Model::Bpe(Bpe::new(
        &vocabulary,
        strings(&tokens, TOKENS)?,
        strings(&merges, MERGES)?,
        family.splitter()?,
        family.ignore_merges,
    )?);
    let ids = ids(metadata, &vocabulary, |_, _| None)?;
    tables(metadata, vocabulary, model, ids, family.add_bos, false)
}

fn from_spm(metadata: Metadata<'_>) -> Result<Tokenizer> {
    let tokens: Array<'_> = needed(metadata, TOKENS)?;
    let scores: Vec<f32> = needed(metadata, SCORES)?;
    if scores.len() != tokens.len() {
        return Err(Error::BadTokenizer {
            reason: format!("{} tokens, but {} scores", tokens.len(), scores.len()),
        });
    }
    if let Some((i, score)) = scores.iter().enumerate().find(|(_, s)| !s.is_finite()) {
        let reason = format!("{SCORES} says {score} of token {i}");
        return Err(Error::BadTokenizer { reason });
    }
    let vocabulary = vocabulary(metadata, &tokens, Spelling::SentencePiece)?;
    // SentencePiece's own order of control tokens, where it is one.
    let default = |key, vocabulary: &Vocabulary| {
        let (id, kind) = match key {
            UNKNOWN => (0, Kind::Unknown),
            BOS => (1, Kind::Control),
            _ => (2, Kind::Control),
        };
        (vocabulary.kind(id) == Some(kind)).then_some(id)
    };
    let unknown = stated_or_none(metadata, UNKNOWN, vocabulary.len())?
        .or_else(|| default(UNKNOWN, &vocabulary));
    let ids = ids(metadata, &vocabulary, default)?;
    let model = Model::Spm(Spm::new(&vocabulary, &scores, unknown));
    let space_prefix = metadata.optional(ADD_SPACE_PREFIX)?.unwrap_or(true);
    tables(metadata, vocabulary, model, ids, true, space_prefix)
}

/// Puts the parts together; `add_bos` is the default of the family.
fn tables(
    metadata: Metadata<'_>,
    vocabulary: Vocabulary,
    model: Model,
    ids: SpecialIds,
    add_bos: bool,
    space_prefix: bool,
) -> Result<Tokenizer> {
    let add_bos = metadata.optional(ADD_BOS)?.unwrap_or(add_bos);
    let add_eos = metadata.optional(ADD_EOS)?.unwrap_or(false);
    for (added, id, key) in [(add_bos, ids.bos, BOS), (add_eos, ids.eos, EOS)] {
        if added && id.is_none() {
            return Err(Error::MissingKey { key: key.to_owned() });
        }
    }
    let added = AddedTokens::new(&vocabulary)?;
    Ok(Tokenizer {
        vocabulary,
        encoder: Encoder::Tables(Box::new(Tables { added, model, add_bos, add_eos })),
        space_prefix,
        ids,
        chat_template: None,
    })
}

fn vocabulary(
    metadata: Metadata<'_>,
    tokens: &Array<'_>,
    spelling: Spelling,
) -> Result<Vocabulary> {
    let kinds = match metadata.optional::<Array<'_>>(TYPES)? {
        Some(types) => {
            let types: Vec<i32> =
                types.integers().ok_or_else(|| wrong(TYPES, "an array of integers", &types))?;
            if types.len() != tokens.len() {
                let reason =
                    format!("{} tokens, but {} entries in {TYPES}", tokens.len(), types.len());
                return Err(Error::BadTokenizer { reason });
            }
            if let Some((i, ty)) = types.iter().enumerate().find(|(_, ty)| !(0..=6).contains(*ty)) {
                let reason = format!("{TYPES} says {ty} of token {i}; there are types 0 to 6");
                return Err(Error::BadTokenizer { reason });
            }
            types.into_iter().map(Kind::from_id).collect()
        }
        // Without kinds all tokens are text, except what can only be a byte.
        None => strings(tokens, TOKENS)?
            .map(|text| match spelling {
                Spelling::SentencePiece if byte_of(text).is_some() => Kind::Byte,
                _ => Kind::Normal,
            })
            .collect(),
    };
    Vocabulary::new(strings(tokens, TOKENS)?, kinds, spelling)
}

fn ids(
    metadata: Metadata<'_>,
    vocabulary: &Vocabulary,
    default: impl Fn(&'static str, &Vocabulary) -> Option<u32>,
) -> Result<SpecialIds> {
    let (bos, ends) = bounds(metadata, vocabulary.len())?;
    let eos = metadata.get(EOS).and(ends.first().copied());
    let id = |key, stated: Option<u32>| stated.or_else(|| default(key, vocabulary));
    Ok(SpecialIds::new(vocabulary, id(BOS, bos), id(EOS, eos), ends))
}

/// The ids that the keys of a file with `vocab` tokens state.
///
/// # Errors
/// Ids that are none, or outside the vocabulary.
pub(crate) fn roles(metadata: Metadata<'_>, vocab: usize) -> Result<Roles> {
    let (bos, ends) = bounds(metadata, vocab)?;
    stated_or_none(metadata, UNKNOWN, vocab)?;
    Ok(Roles { bos, ends, pad: stated_or_none(metadata, PAD, vocab)? })
}

/// The id that begins a text, and those that end one, the first of them first.
fn bounds(metadata: Metadata<'_>, vocab: usize) -> Result<(Option<u32>, Vec<u32>)> {
    let mut ends = Vec::from_iter(stated(metadata, EOS, vocab)?);
    for key in ENDS {
        ends.extend(stated(metadata, key, vocab)?.filter(|id| !ends.contains(id)));
    }
    Ok((stated(metadata, BOS, vocab)?, ends))
}

fn stated(metadata: Metadata<'_>, key: &str, vocab: usize) -> Result<Option<u32>> {
    let id: Option<u32> = metadata.optional(key)?;
    id.map(|id| inside(key, id, vocab)).transpose()
}

/// The same of a role that no text needs: -1, in 32 bits or signed, is none.
fn stated_or_none(metadata: Metadata<'_>, key: &str, vocab: usize) -> Result<Option<u32>> {
    match metadata.get(key).and_then(|v| v.as_integer()) {
        Some(id) if id == -1 || id == i128::from(u32::MAX) => Ok(None),
        _ => stated(metadata, key, vocab),
    }
}

/// An id that the vocabulary has.
fn inside(key: &str, id: u32, vocab: usize) -> Result<u32> {
    match (id as usize) < vocab {
        true => Ok(id),
        false => {
            let reason = format!("token id {id} is outside the vocabulary of {vocab} tokens");
            Err(Error::BadConfig { key: key.to_owned(), reason })
        }
    }
}

/// A key without which there is no tokenizer.
fn needed<'a, T: crate::gguf::FromValue<'a>>(
    metadata: Metadata<'a>,
    key: &'static str,
) -> Result<T> {
    metadata.optional(key)?.ok_or_else(|| Error::MissingTokenizer { what: key.to_owned() })
}

fn strings<'a>(array: &'a Array<'_>, key: &'static str) -> Result<impl Iterator<Item = &'a str>> {
    array.strings().ok_or_else(|| wrong(key, "an array of strings", array))
}

fn wrong(key: &'static str, expected: &'static str, found: &Array<'_>) -> Error {
    Error::WrongType {
        key: key.to_owned(),
        expected,
        found: format!("array of {} {}", found.len(), found.element().name()),
    }
}
