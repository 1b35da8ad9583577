//! The table of tokens: how each is spelled, what kind it is, and which bytes of text it stands for.
//!
//! Spelling and bytes differ. Byte-level BPE spells every byte as a printable character (` ` is
//! `Ġ`); SentencePiece spells a space as `▁` and has tokens such as `<0x0A>` for single bytes. The
//! bytes are computed once, here, so that encoding works on text as it is and decoding is a look-up.

use crate::error::{Error, Result};
use std::collections::HashMap;

/// What a token is for. The order is that of the numbers 1 to 6 in a GGUF file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Normal,
    Unknown,
    Control,
    UserDefined,
    Unused,
    Byte,
}

impl Kind {
    /// The kind with a GGUF file's number. Unknown numbers are not used for text.
    pub(super) fn from_id(id: i32) -> Self {
        match id {
            1 => Self::Normal,
            2 => Self::Unknown,
            3 => Self::Control,
            4 => Self::UserDefined,
            6 => Self::Byte,
            _ => Self::Unused,
        }
    }

    /// Whether the token is no text of its own.
    pub(super) fn is_special(self) -> bool {
        matches!(self, Self::Control | Self::Unknown)
    }
}

/// How spellings stand for bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Spelling {
    /// One character per byte, GPT-2's alphabet.
    ByteLevel,
    /// `▁` for a space, `<0xNN>` for a byte.
    SentencePiece,
}

/// All tokens of a model.
#[derive(Debug)]
pub(super) struct Vocabulary {
    texts: Table,
    pieces: Table,
    kinds: Vec<Kind>,
    /// From the bytes of normal tokens to their ids; of two with the same bytes, the later.
    by_piece: HashMap<Box<[u8]>, u32>,
}

impl Vocabulary {
    pub(super) fn new<'a>(
        tokens: impl Iterator<Item = &'a str>,
        kinds: Vec<Kind>,
        spelling: Spelling,
    ) -> Result<Self> {
        let (mut texts, mut pieces) = (Table::default(), Table::default());
        let mut by_piece = HashMap::with_capacity(kinds.len());
        let alphabet = Alphabet::new();
        let mut piece = Vec::new();
        for (text, &kind) in tokens.zip(&kinds) {
            piece.clear();
            match (kind, spelling) {
                (Kind::Unused, _) => {}
                (Kind::Normal, Spelling::ByteLevel) => alphabet.decode(text, &mut piece),
                (Kind::Normal, Spelling::SentencePiece) => {
                    piece.extend_from_slice(text.replace('▁', " ").as_bytes());
                }
                (Kind::Byte, _) => piece.push(byte_of(text).ok_or_else(|| bad_byte(text))?),
                _ => piece.extend_from_slice(text.as_bytes()),
            }
            if kind == Kind::Normal && !piece.is_empty() {
                by_piece.insert(piece.as_slice().into(), texts.len() as u32);
            }
            texts.push(text.as_bytes())?;
            pieces.push(&piece)?;
        }
        if texts.len() != kinds.len() {
            let (tokens, kinds) = (texts.len(), kinds.len());
            let reason = format!("{tokens} tokens can be read, but there are {kinds} token types");
            return Err(Error::BadTokenizer { reason });
        }
        let vocabulary = Self { texts, pieces, kinds, by_piece };
        vocabulary.check()?;
        Ok(vocabulary)
    }

    /// Refuses tables that no text can be made of.
    fn check(&self) -> Result<()> {
        let n = self.len();
        let first = self.texts.get(0);
        if n > 1 && (1..n as u32).all(|id| self.texts.get(id) == first) {
            let text = self.text(0).unwrap_or_default();
            let reason = format!("all {n} tokens are {text:?}");
            return Err(Error::BadTokenizer { reason });
        }
        let is_text = |kind: &Kind| matches!(kind, Kind::Normal | Kind::UserDefined | Kind::Byte);
        if n > 0 && !self.kinds.iter().any(is_text) {
            let [unknown, control] = [Kind::Unknown, Kind::Control]
                .map(|kind| self.kinds.iter().filter(|k| **k == kind).count());
            let reason = format!(
                "none of the {n} tokens is text (normal, user-defined or a byte): {control} are control tokens, \
                 {unknown} unknown, {} unused or of no type",
                n - control - unknown
            );
            return Err(Error::BadTokenizer { reason });
        }
        Ok(())
    }

    pub(super) fn len(&self) -> usize {
        self.kinds.len()
    }

    pub(super) fn kind(&self, id: u32) -> Option<Kind> {
        self.kinds.get(id as usize).copied()
    }

    /// The spelling of a token.
    pub(super) fn text(&self, id: u32) -> Option<&str> {
        std::str::from_utf8(self.texts.get(id)?).ok()
    }

    /// The bytes of text that a token stands for.
    pub(super) fn piece(&self, id: u32) -> Option<&[u8]> {
        self.pieces.get(id)
    }

    /// The normal token with these bytes.
    pub(super) fn by_piece(&self, bytes: &[u8]) -> Option<u32> {
        self.by_piece.get(bytes).copied()
    }

    /// The first token with this spelling.
    pub(super) fn find(&self, text: &str) -> Option<u32> {
        (0..self.len() as u32).find(|&id| self.texts.get(id) == Some(text.as_bytes()))
    }

    /// All ids with their kinds.
    pub(super) fn kinds(&self) -> impl Iterator<Item = (u32, Kind)> {
        (0..).zip(self.kinds.iter().copied())
    }
}

/// The byte that a token such as `<0x0A>` stands for.
pub(super) fn byte_of(text: &str) -> Option<u8> {
    let digits = text.strip_prefix("<0x")?.strip_suffix('>')?;
    let exact = digits.len() == 2 && digits.bytes().all(|b| b.is_ascii_hexdigit());
    exact.then(|| u8::from_str_radix(digits, 16).ok())?
}

fn bad_byte(text: &str) -> Error {
    Error::BadTokenizer {
        reason: format!("the token {text:?} is marked as a byte, but is not spelled <0xNN>"),
    }
}

/// Byte strings one after another.
#[derive(Debug, Default)]
struct Table {
    bytes: Vec<u8>,
    /// Where each ends.
    ends: Vec<u32>,
}

impl Table {
    fn len(&self) -> usize {
        self.ends.len()
    }

    fn push(&mut self, bytes: &[u8]) -> Result<()> {
        self.bytes.extend_from_slice(bytes);
        let end = u32::try_from(self.bytes.len()).map_err(|_| Error::BadTokenizer {
            reason: "the vocabulary has more than 4 GiB of text".to_owned(),
        })?;
        self.ends.push(end);
        Ok(())
    }

    fn get(&self, id: u32) -> Option<&[u8]> {
        let i = id as usize;
        let end = *self.ends.get(i)? as usize;
        let start = if i == 0 { 0 } else { self.ends[i - 1] as usize };
        Some(&self.bytes[start..end])
    }
}

/// GPT-2's alphabet: printable Latin-1 characters stand for themselves, the other bytes, in order,
/// for the characters from U+0100 on.
#[derive(Debug)]
struct Alphabet {
    /// From characters below U+0144 to bytes.
    bytes: [Option<u8>; 0x144],
}

impl Alphabet {
    fn new() -> Self {
        let mut bytes = [None; 0x144]; // 256 + 68 bytes that are not printable
        let mut next = 0x100;
        for byte in 0..=255u8 {
            let printable = matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
            let character = if printable { usize::from(byte) } else { next };
            next += usize::from(!printable);
            bytes[character] = Some(byte);
        }
        Self { bytes }
    }

    /// Appends the bytes of a spelling; one with foreign characters stands for itself.
    fn decode(&self, text: &str, out: &mut Vec<u8>) {
        let start = out.len();
        for c in text.chars() {
            match self.bytes.get(c as usize).copied().flatten() {
                Some(byte) => out.push(byte),
                None => {
                    out.truncate(start);
                    out.extend_from_slice(text.as_bytes());
                    return;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_alphabet_is_a_bijection() {
        let alphabet = Alphabet::new();
        let mut bytes: Vec<u8> = alphabet.bytes.iter().flatten().copied().collect();
        bytes.sort_unstable();
        assert_eq!(bytes, (0..=255).collect::<Vec<u8>>());
        assert_eq!(alphabet.bytes['Ġ' as usize], Some(b' ')); // GPT-2's famous one
        assert_eq!(alphabet.bytes['Ċ' as usize], Some(b'\n'));
    }

    #[test]
    fn byte_tokens() {
        assert_eq!(byte_of("<0x0A>"), Some(10));
        assert_eq!(byte_of("<0xff>"), Some(255));
        for wrong in ["<0x0A", "<0x+A>", "<0x0AB>", "<0x>", "0A", ""] {
            assert_eq!(byte_of(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn kinds_and_tokens_must_agree() {
        let new = |kinds| Vocabulary::new(["a", "b"].into_iter(), kinds, Spelling::ByteLevel);
        assert!(matches!(new(vec![Kind::Normal; 3]), Err(Error::BadTokenizer { .. })));
        assert_eq!(new(vec![Kind::Normal; 2]).unwrap().by_piece(b"b"), Some(1));
    }
}
