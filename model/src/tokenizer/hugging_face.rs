//! Tokenizers that come as `tokenizer.json`, run by the `tokenizers` crate.
//!
//! Everything about encoding is that crate's: normalisation, splitting, merging, and which special
//! tokens are added. Decoding is not, so that all tokenizers stream in the same way: the decoder
//! named in the file says how tokens are spelled, and [`Vocabulary`] does the rest.

use super::{
    Encoder as AnyEncoder, Tokenizer,
    ids::SpecialIds,
    vocabulary::{Kind, Spelling, Vocabulary, byte_of},
};
use crate::error::{Error, Result};
use crate::hugging_face::keys::Keys;
use serde::Deserialize;
use serde_json::{Map, Value};
use std::{collections::HashMap, fs, io::ErrorKind, path::Path, sync::OnceLock};

/// Real vocabularies stay below 300 000; a single absurd id must not allocate a table to match.
const MAX_ID: u32 = 1 << 24;

/// The crate's tokenizer, twice: whether it sees special tokens in a text is its state, not an
/// argument. The second is made when it is first needed.
#[derive(Debug)]
pub(super) struct Encoder {
    with_special: tokenizers::Tokenizer,
    plain: OnceLock<tokenizers::Tokenizer>,
}

impl Encoder {
    pub(super) fn encode(
        &self,
        text: &str,
        add_special: bool,
        parse_special: bool,
    ) -> Result<Vec<u32>> {
        let tokenizer = if parse_special {
            &self.with_special
        } else {
            self.plain.get_or_init(|| {
                let mut plain = self.with_special.clone();
                plain.set_encode_special_tokens(true); // "encode" them as the text they are
                plain
            })
        };
        let encoding = tokenizer.encode_fast(text, add_special).map_err(bad("the text"))?;
        Ok(encoding.get_ids().to_vec())
    }
}

impl Tokenizer {
    /// The tokenizer of a `tokenizer.json`, given as its contents.
    ///
    /// Such a file does not say which ids begin and end a text; [`Self::from_folder`] finds them in
    /// the files beside it.
    ///
    /// # Errors
    /// [`Error::BadTokenizer`] if the `tokenizers` crate cannot read it or its decoder is neither
    /// byte-level nor SentencePiece's.
    pub fn from_json(json: &[u8]) -> Result<Self> {
        from_json(json)
    }

    /// The tokenizer of a Hugging Face folder: `tokenizer.json`, and if they are there
    /// `tokenizer_config.json` (BOS, EOS, chat template), `generation_config.json` (ids that end a
    /// generation; where it names none, those of `config.json`) and `chat_template.jinja`.
    ///
    /// # Errors
    /// [`Error::MissingTokenizer`] if there is no `tokenizer.json`, [`Error::Io`] if a file cannot
    /// be read, [`Error::BadTokenizer`] if one is malformed or its tokens contradict each other,
    /// [`Error::WrongType`] and [`Error::BadConfig`] for an `eos_token_id` that is none.
    pub fn from_folder(folder: impl AsRef<Path>) -> Result<Self> {
        let folder = folder.as_ref();
        let path = folder.join("tokenizer.json");
        let json = read(&path)?
            .ok_or_else(|| Error::MissingTokenizer { what: path.display().to_string() })?;
        let mut tokenizer = from_json(&json).map_err(Error::in_file(&path))?;
        let config = Value::Object(read_object(&folder.join("tokenizer_config.json"))?);

        let vocabulary = &tokenizer.vocabulary;
        let ends = ends(folder, vocabulary.len())?;
        let named = |key| token_text(&config[key]).and_then(|text| vocabulary.find(text));
        let eos = named("eos_token").or(ends.first().copied());
        tokenizer.ids = SpecialIds::new(vocabulary, named("bos_token"), eos, ends);
        tokenizer.chat_template = match read(&folder.join("chat_template.jinja"))? {
            Some(template) => Some(String::from_utf8_lossy(&template).into_owned()),
            None => chat_template(&config["chat_template"]).map(str::to_owned),
        };
        Ok(tokenizer)
    }
}

/// The ids that end a generation. Newer folders have a file for what only generation needs; where it is not
/// there, or says nothing of them, they are in `config.json`, which may have an object for the language model.
fn ends(folder: &Path, vocab: usize) -> Result<Vec<u32>> {
    for name in ["generation_config.json", "config.json"] {
        let file = folder.join(name);
        let object = read_object(&file)?;
        if let Some(ids) = Keys::of(&object).ends(vocab).map_err(Error::in_file(file))? {
            return Ok(ids);
        }
    }
    Ok(Vec::new())
}

pub(super) fn from_json(json: &[u8]) -> Result<Tokenizer> {
    // The crate indexes a buffer by what the file says about merges, so a hostile file makes it
    // panic. The state that a panic leaves behind is dropped here.
    let parsed = std::panic::catch_unwind(|| tokenizers::Tokenizer::from_bytes(json));
    let mut tokenizer = parsed
        .map_err(|_| Error::BadTokenizer {
            reason: "the tokenizers crate panicked on tokenizer.json".to_owned(),
        })?
        .map_err(bad("tokenizer.json"))?;
    // Files keep the settings of whoever saved them last; here a text is never cut or padded.
    tokenizer.with_truncation(None).map_err(bad("tokenizer.json"))?;
    tokenizer.with_padding(None);

    check_added(json, &tokenizer)?;
    let (spelling, space_prefix) = decoder(&tokenizer)?;
    let vocabulary = vocabulary(&tokenizer, spelling)?;
    let ids = SpecialIds::new(&vocabulary, None, None, []);
    let encoder = Encoder { with_special: tokenizer, plain: OnceLock::new() };
    Ok(Tokenizer {
        vocabulary,
        encoder: AnyEncoder::HuggingFace(Box::new(encoder)),
        space_prefix,
        ids,
        chat_template: None,
    })
}

/// The tokens beside the model's own, as the file has them.
#[derive(Deserialize)]
struct AddedTokens {
    #[serde(default)]
    added_tokens: Vec<AddedToken>,
}

#[derive(Deserialize)]
struct AddedToken {
    id: u32,
    content: String,
}

/// The crate gives an added token the next free id, whatever the file says: where the two differ, the model was
/// trained on another id than a text would get.
fn check_added(json: &[u8], tokenizer: &tokenizers::Tokenizer) -> Result<()> {
    let file: AddedTokens = serde_json::from_slice(json)
        .map_err(|e| Error::BadTokenizer { reason: format!("added_tokens: {e}") })?;
    let mut seen = HashMap::new();
    for AddedToken { id, content } in &file.added_tokens {
        if let Some(other) = seen.insert(*id, content).filter(|other| *other != content) {
            let reason = format!("the added tokens {other:?} and {content:?} have one id, {id}");
            return Err(Error::BadTokenizer { reason });
        }
        let found = tokenizer.token_to_id(content);
        if found != Some(*id) {
            let found = found.map_or("none".to_owned(), |id| id.to_string());
            let reason = format!(
                "the added token {content:?} has the id {id} in added_tokens, but the ids of the \
                 tokens before it give it {found}"
            );
            return Err(Error::BadTokenizer { reason });
        }
    }
    Ok(())
}

/// How the file's decoder spells tokens, and whether it takes a space from the start.
fn decoder(tokenizer: &tokenizers::Tokenizer) -> Result<(Spelling, bool)> {
    let decoder = serde_json::to_value(tokenizer.get_decoder()).unwrap_or(Value::Null);
    let steps: Vec<&Value> = match decoder["decoders"].as_array() {
        Some(steps) => steps.iter().collect(),
        None => vec![&decoder],
    };
    let step = |name: &str| steps.iter().find(|step| step["type"] == name);
    if step("ByteLevel").is_some() {
        return Ok((Spelling::ByteLevel, false));
    }
    if let Some(metaspace) = step("Metaspace") {
        return Ok((Spelling::SentencePiece, metaspace["prepend_scheme"] != "never"));
    }
    let spaces = step("Replace").is_some_and(|s| s["pattern"]["String"] == "▁");
    if spaces && step("ByteFallback").is_some() {
        let strips = step("Strip").is_some_and(|s| s["content"] == " " && s["start"] != 0);
        return Ok((Spelling::SentencePiece, strips));
    }
    let names: Vec<&str> = steps.iter().filter_map(|s| s["type"].as_str()).collect();
    Err(Error::BadTokenizer {
        reason: format!(
            "tokenizer.json has the decoder {names:?}; known are ByteLevel, Metaspace, and \
             Replace with ByteFallback"
        ),
    })
}

fn vocabulary(tokenizer: &tokenizers::Tokenizer, spelling: Spelling) -> Result<Vocabulary> {
    let mut tokens: Vec<(u32, String)> =
        tokenizer.get_vocab(true).into_iter().map(|(text, id)| (id, text)).collect();
    tokens.sort_unstable();
    let last = tokens.last().map_or(0, |(id, _)| *id);
    if last > MAX_ID {
        let reason = format!("tokenizer.json has the token id {last}, more than {MAX_ID}");
        return Err(Error::BadTokenizer { reason });
    }
    if let Some(pair) = tokens.windows(2).find(|pair| pair[0].0 == pair[1].0) {
        let [(id, first), (_, second)] = [&pair[0], &pair[1]];
        let reason = format!("the tokens {first:?} and {second:?} have one id, {id}");
        return Err(Error::BadTokenizer { reason });
    }
    let len = if tokens.is_empty() { 0 } else { last as usize + 1 };
    let (mut texts, mut kinds) = (vec![""; len], vec![Kind::Unused; len]);
    for (id, text) in &tokens {
        texts[*id as usize] = text;
        kinds[*id as usize] = match spelling {
            Spelling::SentencePiece if byte_of(text).is_some() => Kind::Byte,
            _ => Kind::Normal,
        };
    }
    let added = tokenizer.get_added_tokens_decoder();
    for (id, token) in &added {
        if let Some(kind) = kinds.get_mut(*id as usize) {
            texts[*id as usize] = &token.content;
            *kind = if token.special { Kind::Control } else { Kind::UserDefined };
        }
    }
    Vocabulary::new(texts.into_iter(), kinds, spelling)
}

/// A token in a configuration: its text, or an object with it.
fn token_text(token: &Value) -> Option<&str> {
    token.as_str().or_else(|| token["content"].as_str())
}

/// A template, or a list of named ones of which "default" is meant.
fn chat_template(template: &Value) -> Option<&str> {
    let list = template.as_array().map(Vec::as_slice).unwrap_or_default();
    let default = list.iter().find(|t| t["name"] == "default");
    template.as_str().or_else(|| default?["template"].as_str())
}

fn read(path: &Path) -> Result<Option<Vec<u8>>> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Error::io(path)(e)),
    }
}

/// The object in a JSON file; an empty one if the file is not there.
fn read_object(path: &Path) -> Result<Map<String, Value>> {
    let Some(bytes) = read(path)? else {
        return Ok(Map::new());
    };
    serde_json::from_slice(&bytes)
        .map_err(|e| Error::in_file(path)(Error::BadJson { reason: e.to_string() }))
}

/// An error of the crate, with what it was about.
fn bad(what: &'static str) -> impl FnOnce(tokenizers::Error) -> Error {
    move |e| Error::BadTokenizer { reason: format!("{what}: {e}") }
}
