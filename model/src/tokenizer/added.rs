//! Cutting added tokens out of a text, before anything else sees it.
//!
//! User-defined tokens (Gemma's runs of newlines, Qwen's `<think>`) always match. Control and
//! unknown tokens match only if the caller says so. Of several matches the leftmost is taken, and of
//! those the longest.

use super::vocabulary::{Kind, Vocabulary};
use crate::error::{Error, Result};
use aho_corasick::{AhoCorasick, MatchKind};

/// A part of a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fragment<'a> {
    /// Text to encode; never empty.
    Text(&'a str),
    /// An added token.
    Token(u32),
}

/// The added tokens of a vocabulary.
#[derive(Debug)]
pub(super) struct AddedTokens {
    always: Matcher,
    with_special: Matcher,
}

impl AddedTokens {
    pub(super) fn new(vocabulary: &Vocabulary) -> Result<Self> {
        let matcher = |wanted: fn(Kind) -> bool| {
            let ids = vocabulary.kinds().filter(|(_, kind)| wanted(*kind));
            Matcher::new(vocabulary, ids.map(|(id, _)| id))
        };
        Ok(Self {
            always: matcher(|kind| kind == Kind::UserDefined)?,
            with_special: matcher(|kind| kind == Kind::UserDefined || kind.is_special())?,
        })
    }

    /// The parts of a text, in order.
    pub(super) fn split<'a>(&self, text: &'a str, parse_special: bool) -> Vec<Fragment<'a>> {
        let matcher = if parse_special { &self.with_special } else { &self.always };
        matcher.split(text)
    }
}

#[derive(Debug)]
struct Matcher {
    automaton: AhoCorasick,
    /// From the automaton's patterns to ids.
    ids: Vec<u32>,
}

impl Matcher {
    fn new(vocabulary: &Vocabulary, ids: impl Iterator<Item = u32>) -> Result<Self> {
        let (ids, texts): (Vec<u32>, Vec<&str>) = ids
            .filter_map(|id| Some((id, vocabulary.text(id).filter(|text| !text.is_empty())?)))
            .unzip();
        let automaton = AhoCorasick::builder()
            .match_kind(MatchKind::LeftmostLongest)
            .build(texts)
            .map_err(|e| Error::BadTokenizer {
                reason: format!("the added tokens cannot be searched for: {e}"),
            })?;
        Ok(Self { automaton, ids })
    }

    fn split<'a>(&self, text: &'a str) -> Vec<Fragment<'a>> {
        let mut fragments = Vec::new();
        let mut done = 0;
        // An automaton without patterns still walks the text; most calls have none.
        let matches = (!self.ids.is_empty()).then(|| self.automaton.find_iter(text));
        for found in matches.into_iter().flatten() {
            if done < found.start() {
                fragments.push(Fragment::Text(&text[done..found.start()]));
            }
            fragments.push(Fragment::Token(self.ids[found.pattern().as_usize()]));
            done = found.end();
        }
        if done < text.len() {
            fragments.push(Fragment::Text(&text[done..]));
        }
        fragments
    }
}

#[cfg(test)]
mod tests {
    use super::{super::vocabulary::Spelling, Fragment::*, *};

    #[test]
    fn control_only_on_request_and_longest_first() {
        let tokens = ["a", "<s>", "<s>>", "\n\n", "\n", ""];
        use Kind::*;
        let kinds = vec![Normal, Control, Control, UserDefined, UserDefined, UserDefined];
        let vocabulary =
            Vocabulary::new(tokens.into_iter(), kinds, Spelling::SentencePiece).unwrap();
        let added = AddedTokens::new(&vocabulary).unwrap();
        let text = "<s>>a\n\n\nb<s>";
        let plain = [Text("<s>>a"), Token(3), Token(4), Text("b<s>")];
        assert_eq!(added.split(text, false), plain);
        let special = [Token(2), Text("a"), Token(3), Token(4), Text("b"), Token(1)];
        assert_eq!(added.split(text, true), special);
        assert_eq!(added.split("", true), []);
    }
}
