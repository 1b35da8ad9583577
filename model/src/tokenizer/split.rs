//! Pre-tokenizers: the patterns that split a text before BPE, one row per family.
//!
//! The published patterns end in `\s+(?!\S)|\s+`: a run of white space gives its last character to
//! the word that follows. Look-ahead costs a backtracking engine, which can fail on long runs. Here
//! the pattern ends in `\s+` and the last character is given back by [`Splitter::split`], so that
//! any text is split in linear time. The tests compare with the published patterns.

use crate::error::{Error, Result};
use regex::Regex;

/// One family of pre-tokenizers.
#[derive(Debug)]
pub(super) struct Family {
    /// The values of `tokenizer.ggml.pre`.
    names: &'static [&'static str],
    /// The published pattern without its look-ahead alternative.
    pattern: &'static str,
    /// Whether numerals are first split off, one by one.
    digits: bool,
    /// Whether a piece that is a token is taken whole.
    pub(super) ignore_merges: bool,
    /// Whether BOS is added if the file does not say.
    pub(super) add_bos: bool,
}

const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+";

/// All families, in no order that matters.
pub(super) const FAMILIES: &[Family] = &[
    Family {
        names: &["llama-bpe", "llama3", "llama-v3", "falcon3"],
        pattern: r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+",
        digits: false,
        ignore_merges: true,
        add_bos: true,
    },
    Family {
        names: &["qwen2"],
        pattern: r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+",
        digits: false,
        ignore_merges: false,
        add_bos: false,
    },
    Family {
        names: &["smollm"],
        pattern: GPT2,
        digits: true,
        ignore_merges: false,
        add_bos: false,
    },
    Family {
        names: &["gpt-4o"],
        pattern: r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+",
        digits: false,
        ignore_merges: false,
        add_bos: false,
    },
    Family {
        names: &["gpt-2", "gpt2"],
        pattern: GPT2,
        digits: false,
        ignore_merges: false,
        add_bos: false,
    },
];

/// A family as `tokenizer.json` describes it.
#[derive(Debug)]
pub(crate) struct PreTokenizer {
    /// Its names in GGUF, the usual one first.
    pub names: &'static [&'static str],
    /// The published pattern; `None` where it is the one of `ByteLevel`.
    pub pattern: Option<String>,
    /// Whether numerals are first split off, one by one.
    pub digits: bool,
    /// Whether a piece that is a token is taken whole.
    pub ignore_merges: bool,
}

/// All families.
pub(crate) fn pre_tokenizers() -> impl Iterator<Item = PreTokenizer> {
    FAMILIES.iter().map(|f| PreTokenizer {
        names: f.names,
        pattern: (f.pattern != GPT2).then(|| {
            let before = f.pattern.strip_suffix(r"|\s+").unwrap_or(f.pattern);
            format!(r"{before}|\s+(?!\S)|\s+")
        }),
        digits: f.digits,
        ignore_merges: f.ignore_merges,
    })
}

impl Family {
    /// The family with this name.
    pub(super) fn named(name: &str) -> Result<&'static Self> {
        FAMILIES.iter().find(|f| f.names.contains(&name)).ok_or_else(|| {
            let known: Vec<&str> = FAMILIES.iter().flat_map(|f| f.names).copied().collect();
            Error::UnsupportedPreTokenizer { name: name.to_owned(), known: known.join(", ") }
        })
    }

    pub(super) fn splitter(&self) -> Result<Splitter> {
        let pattern = Regex::new(self.pattern).map_err(|e| Error::BadTokenizer {
            reason: format!("the pattern of {:?} does not compile: {e}", self.names),
        })?;
        Ok(Splitter {
            // Patterns with a branch for newlines never see one at the end of a `\s+` match.
            newlines: self.pattern.contains(r"\s*[\r\n]+"),
            pattern,
            digits: self.digits,
        })
    }
}

/// A family's pattern, compiled.
#[derive(Debug)]
pub(super) struct Splitter {
    pattern: Regex,
    digits: bool,
    newlines: bool,
}

impl Splitter {
    /// Hands the pieces of a text to `piece`, in order. They cover the text.
    pub(super) fn split<'a>(&self, text: &'a str, mut piece: impl FnMut(&'a str)) {
        if !self.digits {
            return self.split_words(text, &mut piece);
        }
        let mut done = 0;
        for (i, c) in text.char_indices().filter(|(_, c)| c.is_numeric()) {
            self.split_words(&text[done..i], &mut piece);
            done = i + c.len_utf8();
            piece(&text[i..done]);
        }
        self.split_words(&text[done..], &mut piece);
    }

    fn split_words<'a>(&self, text: &'a str, piece: &mut impl FnMut(&'a str)) {
        let mut done = 0;
        while let Some(found) = self.pattern.find_at(text, done) {
            if found.is_empty() {
                break; // no alternative matches the empty string; this is for the reader
            }
            if done < found.start() {
                piece(&text[done..found.start()]);
            }
            done = found.end() - self.given_back(found.as_str(), found.end() == text.len());
            piece(&text[found.start()..done]);
        }
        if done < text.len() {
            piece(&text[done..]);
        }
    }

    /// `\s+(?!\S)`: how many bytes at the end of a match belong to the word that follows.
    fn given_back(&self, found: &str, at_end: bool) -> usize {
        let Some(last) = found.chars().next_back().filter(|c| c.is_whitespace()) else {
            return 0;
        };
        let by_newline_branch = self.newlines && matches!(last, '\r' | '\n');
        let single = found.len() == last.len_utf8();
        let blank = || found.chars().all(char::is_whitespace);
        if at_end || by_newline_branch || single || !blank() { 0 } else { last.len_utf8() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::sync::LazyLock;
    use tokenizers::{
        OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer, SplitDelimiterBehavior,
        pre_tokenizers::{
            digits::Digits,
            split::{Split, SplitPattern},
        },
    };

    /// Each family with its splitter, and its published pattern in HF `tokenizers`.
    static COMPILED: LazyLock<Vec<(&Family, Splitter, Split)>> = LazyLock::new(|| {
        let compile = |family: &'static Family| {
            let pattern = family.pattern.strip_suffix(r"\s+").unwrap();
            let pattern = SplitPattern::Regex(pattern.to_owned() + r"\s+(?!\S)|\s+");
            let split = Split::new(pattern, SplitDelimiterBehavior::Isolated, false).unwrap();
            (family, family.splitter().unwrap(), split)
        };
        FAMILIES.iter().map(compile).collect()
    });

    fn ours<'a>(splitter: &Splitter, text: &'a str) -> Vec<&'a str> {
        let mut pieces = Vec::new();
        splitter.split(text, |piece| pieces.push(piece));
        pieces
    }

    fn published(family: &Family, split: &Split, text: &str) -> Vec<String> {
        let mut pieces = PreTokenizedString::from(text);
        if family.digits {
            Digits::new(true).pre_tokenize(&mut pieces).unwrap();
        }
        split.pre_tokenize(&mut pieces).unwrap();
        let pieces = pieces.get_splits(OffsetReferential::Original, OffsetType::Byte);
        pieces.into_iter().map(|(s, _, _)| s.to_owned()).collect()
    }

    #[test]
    fn names_are_unique_and_found() {
        let names: Vec<&str> = FAMILIES.iter().flat_map(|f| f.names).copied().collect();
        let unique: std::collections::HashSet<_> = names.iter().collect();
        assert_eq!(names.len(), unique.len());
        for name in names {
            assert!(Family::named(name).unwrap().names.contains(&name));
        }
        match Family::named("tekken").unwrap_err() {
            Error::UnsupportedPreTokenizer { name, known } => {
                assert_eq!(name, "tekken");
                assert!(known.contains("llama-bpe") && known.contains("smollm"));
            }
            other => panic!("{other}"),
        }
    }

    #[test]
    fn a_million_spaces_are_one_piece() {
        let text = " ".repeat(1 << 20) + "x"; // a backtracking engine runs out of stack here
        for (_, splitter, _) in COMPILED.iter() {
            let pieces = ours(splitter, &text);
            assert_eq!(pieces.iter().map(|p| p.len()).collect::<Vec<_>>(), [(1 << 20) - 1, 2]);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]
        // Letters of several classes, marks, numerals, newlines, odd spaces, quotes, emoji.
        #[test]
        fn pieces_equal_the_published_patterns(
            text in r"[ aA'sTlDé\u{0301}中1²Ⅷ٣\n\r\t\u{a0}\u{3000}\u{2028}/!_🚀\u{200d}]{0,40}"
        ) {
            for (family, splitter, split) in COMPILED.iter() {
                let published = published(family, split, &text);
                prop_assert_eq!(ours(splitter, &text), published, "{:?}", family.names);
            }
        }

        #[test]
        fn pieces_cover_any_text(text in ".{0,60}") {
            for (_, splitter, _) in COMPILED.iter() {
                prop_assert_eq!(&ours(splitter, &text).concat(), &text);
            }
        }
    }
}
