//! Text to token ids and back.
//!
//! A GGUF file holds a tokenizer as tables (tokens, kinds, merges or scores) and two names; Hugging
//! Face folders hold a `tokenizer.json`. Both become one [`Tokenizer`]:
//!
//! 1. **Added tokens** are cut out of the text first: user-defined ones always, control tokens only
//!    where the caller asks for it (`parse_special`), so that text from outside cannot forge them.
//! 2. What lies between is encoded: byte-level BPE splits it by a pattern and merges each piece;
//!    SentencePiece merges it as it is. Both are one loop with different rules for which pair comes
//!    first.
//! 3. BOS and EOS are added where the file says so, else by the family's default.
//!
//! Decoding is a table: every token is some bytes, text is their concatenation. [`DecodeStream`]
//! therefore needs no re-decoding to give a generated text piece by piece.
//!
//! A tokenizer that came as `tokenizer.json` (beside the model, or inside the GGUF file as
//! `tokenizer.huggingface.json`) is run by the `tokenizers` crate, which is the reference for such
//! files; only its decoding goes through the table here. For the tables of a GGUF file the
//! merging is done here rather than by that crate: it wants a list of merges, which SentencePiece
//! vocabularies do not have (Gemma's would be half a million pairs, seconds to derive). The tests
//! compare both on the same vocabularies.
//!
//! The keys are described in ggml's `docs/gguf.md`; patterns and defaults that are in no description
//! follow llama.cpp's `llama-vocab.cpp`, and its test vectors are this module's tests.

mod added;
mod bpe;
mod from_gguf;
mod hugging_face;
mod ids;
mod merge;
mod split;
mod spm;
mod stream;
mod vocabulary;

pub(crate) use from_gguf::roles;
pub(crate) use split::{PreTokenizer, pre_tokenizers};
pub use stream::DecodeStream;
pub(crate) use stream::State as DecodeState;

use crate::error::{Error, Result};
use added::{AddedTokens, Fragment};
use ids::SpecialIds;
use vocabulary::Vocabulary;

/// The longest text for one call: positions are kept in 32 bits, with room for a prefix.
const MAX_TEXT: usize = 1 << 31;

/// A tokenizer: a vocabulary, and a way to cut text into it.
#[derive(Debug)]
pub struct Tokenizer {
    vocabulary: Vocabulary,
    encoder: Encoder,
    /// Whether the encoder puts a space before the text, which decoding takes away again.
    space_prefix: bool,
    ids: SpecialIds,
    chat_template: Option<String>,
}

#[derive(Debug)]
enum Encoder {
    Tables(Box<Tables>),
    HuggingFace(Box<hugging_face::Encoder>),
}

/// The tables of a GGUF file.
#[derive(Debug)]
struct Tables {
    added: AddedTokens,
    model: Model,
    add_bos: bool,
    add_eos: bool,
}

#[derive(Debug)]
enum Model {
    Bpe(bpe::Bpe),
    Spm(spm::Spm),
}

impl Tokenizer {
    /// The ids of a text.
    ///
    /// `add_special` adds BOS and EOS as the model wants them. `parse_special` turns control tokens
    /// that are spelled out in the text (`<|im_end|>`) into their ids; without it they are plain
    /// text. A rendered chat template wants `(false, true)`, a user's text `(true, false)`.
    ///
    /// # Errors
    /// [`Error::Unencodable`] if the vocabulary cannot express the text at all, which a complete
    /// vocabulary always can; [`Error::TextTooLong`] for more than 2 GiB.
    pub fn encode(&self, text: &str, add_special: bool, parse_special: bool) -> Result<Vec<u32>> {
        if text.len() > MAX_TEXT {
            let (bytes, limit) = (text.len(), MAX_TEXT);
            return Err(Error::TextTooLong { bytes, limit });
        }
        match &self.encoder {
            Encoder::Tables(tables) => self.encode_tables(tables, text, add_special, parse_special),
            Encoder::HuggingFace(encoder) => encoder.encode(text, add_special, parse_special),
        }
    }

    fn encode_tables(
        &self,
        tables: &Tables,
        text: &str,
        add_special: bool,
        parse_special: bool,
    ) -> Result<Vec<u32>> {
        let mut ids = Vec::with_capacity(text.len() / 3 + 2); // English has some four bytes per token
        if add_special && tables.add_bos {
            ids.extend(self.ids.bos);
        }
        for fragment in tables.added.split(text, parse_special) {
            match (fragment, &tables.model) {
                (Fragment::Token(id), _) => ids.push(id),
                (Fragment::Text(text), Model::Bpe(bpe)) => {
                    bpe.encode(&self.vocabulary, text, &mut ids)?;
                }
                // As llama.cpp does, the prefix comes again after every added token.
                (Fragment::Text(text), Model::Spm(spm)) => {
                    spm.encode(&self.vocabulary, text, self.space_prefix, &mut ids)?;
                }
            }
        }
        if add_special && tables.add_eos {
            ids.extend(self.ids.eos);
        }
        Ok(ids)
    }

    /// The text of some ids. `skip_special` leaves out control tokens.
    ///
    /// Bytes that are not UTF-8, which a model can generate, become U+FFFD. If this tokenizer puts a
    /// space before a text, the one at the start is taken away.
    ///
    /// # Errors
    /// [`Error::UnknownToken`] for an id outside the vocabulary.
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> Result<String> {
        let mut stream = self.decode_stream(skip_special);
        let mut text = String::new();
        for &id in ids {
            text.push_str(stream.push(id)?);
        }
        text.push_str(stream.finish());
        Ok(text)
    }

    /// Decodes id by id. The pieces, joined, are what [`Self::decode`] gives for all ids.
    pub fn decode_stream(&self, skip_special: bool) -> DecodeStream<'_> {
        DecodeStream::new(self, skip_special, self.space_prefix)
    }

    /// Decodes id by id a text that goes on after another, so that a space at its start is kept:
    /// what a model generates after its prompt.
    pub fn continue_stream(&self, skip_special: bool) -> DecodeStream<'_> {
        DecodeStream::new(self, skip_special, false)
    }

    /// How many tokens there are.
    pub fn vocab_size(&self) -> usize {
        self.vocabulary.len()
    }

    /// Whether a text begins with BOS when special tokens are added.
    pub fn adds_bos(&self) -> bool {
        let empty = self.encode("", true, false).unwrap_or_default();
        self.bos().is_some() && empty.first().copied() == self.bos()
    }

    /// Whether a text ends with EOS when special tokens are added.
    pub fn adds_eos(&self) -> bool {
        let empty = self.encode("", true, false).unwrap_or_default();
        let ends = &empty[usize::from(self.adds_bos())..];
        self.eos().is_some() && ends.last().copied() == self.eos()
    }

    /// The id that begins a text, if the model has one. It may have one and not use it.
    pub fn bos(&self) -> Option<u32> {
        self.ids.bos
    }

    /// The id that ends a text.
    pub fn eos(&self) -> Option<u32> {
        self.ids.eos
    }

    /// The id of padding that `tokenizer_config.json` names.
    pub(crate) fn pad(&self) -> Option<u32> {
        self.ids.pad
    }

    /// The ids after which generation stops, ascending: EOS, end of turn, end of message, and tokens
    /// with a spelling that has that meaning in a known model.
    pub fn eog(&self) -> &[u32] {
        &self.ids.eog
    }

    /// Whether a token ends a generation by its spelling, whatever the files say of it.
    pub(crate) fn ends_by_name(&self, id: u32) -> bool {
        ids::ends_by_name(&self.vocabulary, id)
    }

    /// How a token is spelled in the vocabulary (byte-level BPE writes a space as `Ġ`,
    /// SentencePiece as `▁`).
    pub fn token(&self, id: u32) -> Option<&str> {
        self.vocabulary.text(id)
    }

    /// The id of a token by its spelling. A search through the vocabulary.
    pub fn token_id(&self, text: &str) -> Option<u32> {
        self.vocabulary.find(text)
    }

    /// Whether a token is a control token, such as BOS.
    pub fn is_control(&self, id: u32) -> bool {
        self.vocabulary.kind(id).is_some_and(vocabulary::Kind::is_special)
    }

    /// The model's chat template, in Jinja2.
    pub fn chat_template(&self) -> Option<&str> {
        self.chat_template.as_deref()
    }

    fn unknown(&self, id: u32) -> Error {
        Error::UnknownToken { id, vocab: self.vocab_size() }
    }
}
