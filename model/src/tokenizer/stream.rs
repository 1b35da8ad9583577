//! Decoding id by id, without ever splitting a character.

use super::{Tokenizer, vocabulary::Kind};
use crate::error::Result;

/// A text that grows by ids. Made by [`Tokenizer::decode_stream`] or
/// [`Tokenizer::continue_stream`].
///
/// An emoji may be four tokens; the first three give nothing and the last gives the emoji. Bytes
/// that cannot become a character give U+FFFD as soon as that is certain, or at [`Self::finish`].
#[derive(Clone, Debug)]
pub struct DecodeStream<'a> {
    tokenizer: &'a Tokenizer,
    state: State,
}

impl<'a> DecodeStream<'a> {
    pub(super) fn new(tokenizer: &'a Tokenizer, skip_special: bool, strip: bool) -> Self {
        Self { tokenizer, state: State::new(skip_special, strip) }
    }

    /// Takes an id, returns the text that is now certain; often it is empty.
    ///
    /// # Errors
    /// [`Error::UnknownToken`](crate::Error::UnknownToken) for an id outside the vocabulary; the
    /// stream is then as it was.
    pub fn push(&mut self, id: u32) -> Result<&str> {
        self.state.push(self.tokenizer, id)
    }

    /// The end of the text: what was held back is no character.
    pub fn finish(&mut self) -> &str {
        self.state.finish()
    }
}

/// A [`DecodeStream`] without its tokenizer, for those that live longer than a borrow.
#[derive(Clone, Debug)]
pub(crate) struct State {
    skip_special: bool,
    /// Whether a space at the start of the next piece is to be taken away.
    strip: bool,
    /// At most three bytes that may still become a character, and room for what follows.
    bytes: Vec<u8>,
    text: String,
}

impl State {
    pub(crate) fn new(skip_special: bool, strip: bool) -> Self {
        Self { skip_special, strip, bytes: Vec::new(), text: String::new() }
    }

    /// [`DecodeStream::push`]
    pub(crate) fn push(&mut self, tokenizer: &Tokenizer, id: u32) -> Result<&str> {
        let vocabulary = &tokenizer.vocabulary;
        let (Some(mut piece), Some(kind)) = (vocabulary.piece(id), vocabulary.kind(id)) else {
            return Err(tokenizer.unknown(id));
        };
        self.text.clear();
        if kind.is_special() && self.skip_special {
            return Ok("");
        }
        // The encoder's space comes before the first text, which control tokens may precede.
        if self.strip && kind != Kind::Control {
            self.strip = false;
            piece = piece.strip_prefix(b" ").unwrap_or(piece);
        }
        self.bytes.extend_from_slice(piece);
        self.drain();
        Ok(&self.text)
    }

    /// [`DecodeStream::finish`]
    pub(crate) fn finish(&mut self) -> &str {
        self.text.clear();
        self.text.push_str(&String::from_utf8_lossy(&self.bytes));
        self.bytes.clear();
        &self.text
    }

    /// Moves whole characters from `bytes` to `text`.
    fn drain(&mut self) {
        let (mut done, mut held) = (0, 0);
        for chunk in self.bytes.utf8_chunks() {
            self.text.push_str(chunk.valid());
            let invalid = chunk.invalid();
            done += chunk.valid().len() + invalid.len();
            // Only at the very end can bytes be a character's beginning; elsewhere they are wrong.
            match std::str::from_utf8(invalid) {
                Err(e) if e.error_len().is_none() && done == self.bytes.len() => {
                    held = invalid.len();
                }
                Err(_) => self.text.push(char::REPLACEMENT_CHARACTER),
                Ok(_) => {}
            }
        }
        self.bytes.drain(..done - held);
    }
}
