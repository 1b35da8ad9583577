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
use crate::hugging_face::{
    ids::stated,
    keys::{Keys, read_object},
};
use crate::stand_in;
use serde::Deserialize;
use serde_json::Value;
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
    /// `tokenizer_config.json` (BOS, EOS, padding, chat template), `generation_config.json` (ids that end
    /// a generation, and BOS where the former names none; where it names none either, those of `config.json`)
    /// and `chat_template.jinja`.
    ///
    /// # Errors
    /// [`Error::MissingTokenizer`] if there is no `tokenizer.json`, [`Error::Io`] if a file cannot
    /// be read, [`Error::BadTokenizer`] if one is malformed or its tokens contradict each other,
    /// [`Error::WrongType`] and [`Error::BadConfig`] for a token or an id that is none.
    pub fn from_folder(folder: impl AsRef<Path>) -> Result<Self> {
        let folder = folder.as_ref();
        let path = folder.join("tokenizer.json");
        let json = read(&path)?
            .ok_or_else(|| Error::MissingTokenizer { what: path.display().to_string() })?;
        let mut tokenizer = from_json(&json).map_err(Error::in_file(&path))?;
        let file = folder.join("tokenizer_config.json");
        let config = read_object(&file)?;
        let config = Settings::read(&Keys::of(&config), &tokenizer.vocabulary)
            .map_err(Error::in_file(&file))?;

        let vocabulary = &tokenizer.vocabulary;
        let ends = stated(folder, |keys| keys.ends(vocabulary.len()))?.unwrap_or_default();
        let eos = config.eos.or(ends.first().copied());
        let other_bos = stated(folder, |keys| keys.bos(vocabulary.len()))?;
        let bos = config.bos.or(other_bos);
        let ids = SpecialIds::new(vocabulary, bos, eos, ends);
        tokenizer.ids = SpecialIds { pad: config.pad, ..ids };
        config.check(&tokenizer, other_bos).map_err(Error::in_file(file))?;
        tokenizer.chat_template = match read(&folder.join("chat_template.jinja"))? {
            Some(template) => Some(String::from_utf8_lossy(&template).into_owned()),
            None => config.chat_template,
        };
        Ok(tokenizer)
    }
}

/// What is read of `tokenizer_config.json`.
struct Settings {
    bos: Option<u32>,
    eos: Option<u32>,
    pad: Option<u32>,
    add_bos: Option<bool>,
    add_eos: Option<bool>,
    chat_template: Option<String>,
}

impl Settings {
    fn read(keys: &Keys<'_>, vocabulary: &Vocabulary) -> Result<Self> {
        let token = |key: &str| {
            let Some(text) = keys.read(key, "a string, or an object with `content`", token_text)?
            else {
                return Ok(None);
            };
            // An id without a token has an empty text.
            match vocabulary.find(text).filter(|_| !text.is_empty()) {
                Some(id) => Ok(Some(id)),
                None => {
                    let reason = format!(
                        "{text:?} is none of the {} tokens of tokenizer.json",
                        vocabulary.len()
                    );
                    Err(keys.bad(key, reason))
                }
            }
        };
        // No text needs it, and one that is not there is a mistake all the same.
        token("unk_token")?;
        let expected = "a string, or an array of objects with `name` and `template`";
        let template = keys.read("chat_template", expected, chat_template)?;
        Ok(Settings {
            bos: token("bos_token")?,
            eos: token("eos_token")?,
            pad: token("pad_token")?,
            add_bos: keys.flag("add_bos_token")?,
            add_eos: keys.flag("add_eos_token")?,
            chat_template: template.flatten().map(str::to_owned),
        })
    }
}

impl Settings {
    /// What stands in tokenizer.json as well, which is what is run, says the same there: of two that differ, versions
    /// of `transformers` take the one or the other. `other_bos` is what the model's own files call BOS.
    fn check(&self, tokenizer: &Tokenizer, other_bos: Option<u32>) -> Result<()> {
        let around = tokenizer.encode("", true, false)?;
        let texts: Vec<_> = around.iter().filter_map(|id| tokenizer.token(*id)).collect();
        let differ = |says: String| {
            let reason = format!(
                "tokenizer_config.json says {says}, but tokenizer.json puts {texts:?} around a text \
                 (post_processor): one of the two is wrong"
            );
            Err(Error::BadTokenizer { reason })
        };
        let text = |id: Option<u32>| id.and_then(|id| tokenizer.token(id)).unwrap_or("none");
        for (key, flag, found, role, id) in [
            ("add_bos_token", self.add_bos, tokenizer.adds_bos(), "bos_token", tokenizer.bos()),
            ("add_eos_token", self.add_eos, tokenizer.adds_eos(), "eos_token", tokenizer.eos()),
        ] {
            if let Some(flag) = flag.filter(|flag| *flag != found) {
                return differ(format!("{key} = {flag} ({role} is {:?})", text(id)));
            }
        }
        // A name for another id than the one that is put there matters only there.
        let named = self.bos.filter(|id| other_bos.is_some_and(|other| other != *id));
        match named {
            Some(id) if around.first().copied() == other_bos => {
                differ(format!("bos_token = {:?}", text(Some(id))))
            }
            _ => Ok(()),
        }
    }
}

pub(super) fn from_json(json: &[u8]) -> Result<Tokenizer> {
    stand_in::refuse(json)?;
    // Before the crate, which panics on a file that is cut short.
    let file: AddedTokens = serde_json::from_slice(json)
        .map_err(|e| Error::BadTokenizer { reason: format!("tokenizer.json: {e}") })?;
    // The crate indexes a buffer by what the file says about merges, so a hostile file makes it
    // panic. The state that a panic leaves behind is dropped here.
    let parsed = std::panic::catch_unwind(|| tokenizers::Tokenizer::from_bytes(json));
    let mut tokenizer = parsed
        .map_err(|_| Error::BadTokenizer {
            reason: "the tokenizers crate panicked on tokenizer.json".to_owned(),
        })?
        .map_err(|e| match refused_part(json) {
            Some(reason) => Error::BadTokenizer { reason },
            None => bad("tokenizer.json")(e),
        })?;
    // Files keep the settings of whoever saved them last; here a text is never cut or padded.
    tokenizer.with_truncation(None).map_err(bad("tokenizer.json"))?;
    tokenizer.with_padding(None);

    check_added(&file, &tokenizer)?;
    let (spelling, space_prefix) = decoder(&tokenizer)?;
    let vocabulary = vocabulary(&tokenizer, spelling)?;
    check_around(&tokenizer, &vocabulary)?;
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

/// The part of the file that the crate refuses, where it does not say so itself: it tries every kind that a part may
/// be of, and of none says why it is not that.
fn refused_part(json: &[u8]) -> Option<String> {
    type Check = fn(&Value) -> Result<(), serde_json::Error>;
    const PARTS: [(&str, Check); 5] = [
        ("normalizer", |v| tokenizers::NormalizerWrapper::deserialize(v).map(drop)),
        ("pre_tokenizer", |v| tokenizers::PreTokenizerWrapper::deserialize(v).map(drop)),
        ("post_processor", |v| tokenizers::PostProcessorWrapper::deserialize(v).map(drop)),
        ("decoder", |v| tokenizers::DecoderWrapper::deserialize(v).map(drop)),
        ("model", |v| tokenizers::ModelWrapper::deserialize(v).map(drop)),
    ];
    let file: Value = serde_json::from_slice(json).ok()?;
    let part = |(name, check): (&'static str, Check)| {
        let value = file.get(name).filter(|v| !v.is_null())?;
        Some((name, value, check(value).err()?.to_string()))
    };
    let Some((name, value, error)) = PARTS.into_iter().find_map(part) else {
        let missing = file.get("model").is_none_or(Value::is_null);
        return missing.then(|| "tokenizer.json has no model".to_owned());
    };
    let kind = match value.get("type") {
        Some(kind) => format!(" of the type {kind}"),
        None => " without a type".to_owned(),
    };
    let error = match error.contains("untagged enum") {
        true => "it is of no kind that the tokenizers crate knows, or lacks what its kind needs",
        false => &error,
    };
    Some(format!("{name} of tokenizer.json{kind}: {error}"))
}

/// The ids that the file's `post_processor` puts around every text are of the vocabulary, under the same names.
fn check_around(tokenizer: &tokenizers::Tokenizer, vocabulary: &Vocabulary) -> Result<()> {
    let around = tokenizer.encode("", true).map_err(bad("tokenizer.json"))?;
    for (id, token) in around.get_ids().iter().zip(around.get_tokens()) {
        let found = vocabulary.text(*id).unwrap_or_default();
        if found != token {
            let reason = format!(
                "post_processor of tokenizer.json puts {token:?} with the id {id} around texts, but of the {} \
                 tokens of the vocabulary that is {found:?}",
                vocabulary.len()
            );
            return Err(Error::BadTokenizer { reason });
        }
    }
    Ok(())
}

/// The crate gives an added token the next free id, whatever the file says: where the two differ, the model was
/// trained on another id than a text would get.
fn check_added(file: &AddedTokens, tokenizer: &tokenizers::Tokenizer) -> Result<()> {
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

/// A template, or a list of named ones of which "default" is meant, if it is there.
fn chat_template(template: &Value) -> Option<Option<&str>> {
    if let Some(one) = template.as_str() {
        return Some(Some(one));
    }
    let named = |t: &'_ Value| t["name"].is_string() && t["template"].is_string();
    let list = template.as_array().filter(|list| list.iter().all(named))?;
    Some(list.iter().find(|t| t["name"] == "default").and_then(|t| t["template"].as_str()))
}

fn read(path: &Path) -> Result<Option<Vec<u8>>> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Error::io(path)(e)),
    }
}

/// An error of the crate, with what it was about.
fn bad(what: &'static str) -> impl FnOnce(tokenizers::Error) -> Error {
    move |e| Error::BadTokenizer { reason: format!("{what}: {e}") }
}
