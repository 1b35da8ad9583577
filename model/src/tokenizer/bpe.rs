//! Byte-level BPE: `tokenizer.ggml.model = "gpt2"`.
//!
//! A text is split by a pattern; each piece starts as its bytes and is merged in the order in which
//! the merges were learned. The reference is HF `tokenizers`' `BPE` with `ByteLevel`.

use super::{
    merge::{Merger, NO_TOKEN},
    split::Splitter,
    vocabulary::Vocabulary,
};
use crate::error::{Error, Result};
use std::collections::HashMap;

/// A byte-level BPE tokenizer, without its vocabulary.
#[derive(Debug)]
pub(super) struct Bpe {
    splitter: Splitter,
    /// A piece that is a token as a whole is not merged, even if merging would not lead to it.
    ignore_merges: bool,
    /// The token of each byte.
    bytes: [u32; 256],
    /// From the ids of a pair to its rank and the merged id.
    merges: HashMap<(u32, u32), (u32, u32)>,
}

impl Bpe {
    /// `merges` are spelled `left right`; `tokens` are the spellings of the vocabulary, in order.
    pub(super) fn new<'a>(
        vocabulary: &Vocabulary,
        tokens: impl Iterator<Item = &'a str>,
        merges: impl Iterator<Item = &'a str>,
        splitter: Splitter,
        ignore_merges: bool,
    ) -> Result<Self> {
        let ids: HashMap<&str, u32> = tokens.zip(0..).collect();
        let mut bytes = [NO_TOKEN; 256];
        for (byte, id) in (0..=255u8).zip(&mut bytes) {
            *id = vocabulary.by_piece(&[byte]).unwrap_or(NO_TOKEN);
        }
        let mut pairs = HashMap::with_capacity(ids.len());
        let mut joined = String::new();
        for (rank, merge) in (0u32..).zip(merges) {
            let bad = |reason: String| Error::BadTokenizer {
                reason: format!("merge {rank} is {merge:?}, {reason}"),
            };
            let (left, right) = halves(merge)
                .ok_or_else(|| bad("not two tokens with a space between them".to_owned()))?;
            joined.clear();
            joined.push_str(left);
            joined.push_str(right);
            let id = |token: &str| {
                let id = ids.get(token).copied();
                id.ok_or_else(|| bad(format!("but {token:?} is not in the vocabulary")))
            };
            // Of the same merge twice, the earlier counts: it would have happened already.
            pairs.entry((id(left)?, id(right)?)).or_insert((rank, id(&joined)?));
        }
        Ok(Self { splitter, ignore_merges, bytes, merges: pairs })
    }

    /// Appends the ids of a text without added tokens.
    pub(super) fn encode(
        &self,
        vocabulary: &Vocabulary,
        text: &str,
        ids: &mut Vec<u32>,
    ) -> Result<()> {
        let mut merger = Merger::default();
        let mut result = Ok(());
        self.splitter.split(text, |piece| {
            if result.is_ok() {
                result = self.piece(vocabulary, piece, &mut merger, ids);
            }
        });
        result
    }

    fn piece(
        &self,
        vocabulary: &Vocabulary,
        piece: &str,
        merger: &mut Merger,
        ids: &mut Vec<u32>,
    ) -> Result<()> {
        if self.ignore_merges
            && let Some(id) = vocabulary.by_piece(piece.as_bytes())
        {
            ids.push(id);
            return Ok(());
        }
        merger.clear();
        for byte in piece.bytes() {
            merger.push(1, self.bytes[usize::from(byte)]);
        }
        for symbol in merger.run(|l, r| self.merges.get(&(l.id, r.id)).copied()) {
            if symbol.id == NO_TOKEN {
                let text = piece.to_owned();
                return Err(Error::Unencodable { text });
            }
            ids.push(symbol.id);
        }
        Ok(())
    }
}

/// The two sides of a merge: split at the first space after the first character, because a token
/// may itself begin with a character that looks like one.
fn halves(merge: &str) -> Option<(&str, &str)> {
    let first = merge.chars().next()?.len_utf8();
    let space = first + merge[first..].find(' ')?;
    let (left, right) = (&merge[..space], &merge[space + 1..]);
    (!right.is_empty()).then_some((left, right))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn merges_split_after_the_first_character() {
        assert_eq!(halves("a b"), Some(("a", "b")));
        assert_eq!(halves("  b"), Some((" ", "b")));
        assert_eq!(halves("Ġ Ġ"), Some(("Ġ", "Ġ")));
        for wrong in ["", "a", "a ", " a"] {
            assert_eq!(halves(wrong), None, "{wrong:?}");
        }
    }
}
