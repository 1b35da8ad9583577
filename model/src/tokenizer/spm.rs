//! SentencePiece: `tokenizer.ggml.model = "llama"` (Llama 2, Gemma, Phi-3, the first BitNets).
//!
//! The text starts as its characters. The adjacent pair whose concatenation is the normal token of
//! highest score is merged, the leftmost of equals, until no concatenation is a token. A character
//! that is no token then becomes its UTF-8 bytes (`<0xNN>`), or the unknown token where the
//! vocabulary has no bytes; a run of unknown characters is one unknown token.
//!
//! Spaces are spelled `▁` in the vocabulary. Both are read as a space here, so that text need not be
//! rewritten.

use super::{
    merge::{Merger, NO_TOKEN},
    vocabulary::{Kind, Vocabulary},
};
use crate::error::{Error, Result};

/// A SentencePiece tokenizer, without its vocabulary.
#[derive(Debug)]
pub(super) struct Spm {
    /// The rank of each token: the higher the score, the lower the rank.
    ranks: Vec<u32>,
    /// The token of each byte.
    bytes: [u32; 256],
    unknown: Option<u32>,
}

impl Spm {
    pub(super) fn new(vocabulary: &Vocabulary, scores: &[f32], unknown: Option<u32>) -> Self {
        let mut bytes = [NO_TOKEN; 256];
        for (id, kind) in vocabulary.kinds() {
            if let (Kind::Byte, Some(&[byte])) = (kind, vocabulary.piece(id)) {
                bytes[usize::from(byte)] = id;
            }
        }
        Self { ranks: scores.iter().map(|&score| rank(score)).collect(), bytes, unknown }
    }

    /// Appends the ids of a text without added tokens, after a space if `prefix`.
    pub(super) fn encode(
        &self,
        vocabulary: &Vocabulary,
        text: &str,
        prefix: bool,
        ids: &mut Vec<u32>,
    ) -> Result<()> {
        let mut bytes = Vec::with_capacity(text.len() + 1);
        bytes.extend(prefix.then_some(b' '));
        bytes.extend_from_slice(text.replace('▁', " ").as_bytes());
        let mut merger = Merger::default();
        for character in characters(&bytes) {
            merger.push(character.len(), vocabulary.by_piece(character).unwrap_or(NO_TOKEN));
        }
        let mut after_unknown = false;
        for symbol in merger.run(|l, r| {
            let id = vocabulary.by_piece(&bytes[l.start as usize..][..(l.len + r.len) as usize])?;
            Some((self.ranks[id as usize], id))
        }) {
            let was_unknown = std::mem::take(&mut after_unknown);
            if symbol.id != NO_TOKEN {
                ids.push(symbol.id);
                continue;
            }
            let character = &bytes[symbol.start as usize..][..symbol.len as usize];
            let tokens = character.iter().map(|&byte| self.bytes[usize::from(byte)]);
            if tokens.clone().all(|id| id != NO_TOKEN) {
                ids.extend(tokens);
            } else if let Some(unknown) = self.unknown {
                after_unknown = true;
                if !was_unknown {
                    ids.push(unknown);
                }
            } else {
                let text = String::from_utf8_lossy(character).into_owned();
                return Err(Error::Unencodable { text });
            }
        }
        Ok(())
    }
}

/// The characters of UTF-8 text, as bytes.
fn characters(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    // A character is a byte that is no continuation, with the continuations after it.
    bytes.chunk_by(|_, next| next & 0xc0 == 0x80)
}

/// An integer that falls as the score rises: the bits of a float order like a sign and a magnitude.
fn rank(score: f32) -> u32 {
    let bits = (score + 0.0).to_bits(); // −0 becomes +0, so that equal scores have equal ranks
    if bits >> 31 == 0 { !bits & 0x7fff_ffff } else { bits }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_fall_as_scores_rise() {
        let scores =
            [f32::INFINITY, 2.0, 1.0, 1e-40, 0.0, -1e-40, -1.0, -1000.0, f32::NEG_INFINITY];
        assert!(scores.windows(2).all(|w| rank(w[0]) < rank(w[1])));
        assert_eq!(rank(-0.0), rank(0.0));
    }
}
