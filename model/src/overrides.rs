//! Formats of single tensors, beside the one that a whole model is put into.
//!
//! An override is a pattern and a format, which a projection may follow. It is read as
//! `llama-quantize --tensor-type-file` reads its lines
//! (`tools/quantize/quantize.cpp`, `src/llama-quant.cpp`): a regular expression, searched for anywhere in GGUF's name
//! of a tensor, without regard to case; the first override that matches a tensor decides. One thing is stricter: the
//! full name of a tensor means that tensor alone, though `output.weight` is also found in `attn_output.weight`.

use std::collections::HashMap;

use regex::RegexBuilder;
use tritlab_kernels::{Format, Projection};

use crate::error::{Error, Result};
use crate::rounding::Rounding;

/// Overrides in the order in which they are tried.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Overrides(Vec<(String, Option<Rounding>)>);

impl Overrides {
    /// From pairs of a pattern and a format or [`Rounding`]; `None` keeps the tensor's own type.
    pub fn new<R: Into<Rounding>>(rules: impl IntoIterator<Item = (String, Option<R>)>) -> Self {
        let rules = rules.into_iter().map(|(pattern, to)| (pattern, to.map(R::into)));
        Overrides(rules.collect())
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The formats, in order.
    pub fn formats(&self) -> impl Iterator<Item = Format> {
        self.0.iter().filter_map(|(_, to)| to.map(|r| r.format))
    }

    /// The first projection, if there is one.
    pub(crate) fn projection(&self) -> Option<Projection> {
        self.0.iter().find_map(|(_, to)| to.and_then(|r| r.projection))
    }

    /// These, and behind them `others`.
    pub fn before(&self, others: &Self) -> Self {
        Overrides(self.0.iter().chain(&others.0).cloned().collect())
    }

    /// What each of the weight matrices `names` is to be in; matrices that no override names are left out.
    ///
    /// # Errors
    /// [`Error::Override`] for a pattern that is no regular expression, or that no matrix matches.
    pub fn resolve<'n>(&self, names: &[&'n str]) -> Result<Chosen<'n>> {
        let mut chosen = HashMap::new();
        for (pattern, to) in &self.0 {
            let refuse = |reason: String| Error::Override { pattern: pattern.clone(), reason };
            let named = names.iter().find(|n| n.eq_ignore_ascii_case(pattern));
            if let Some(name) = named {
                chosen.entry(*name).or_insert(*to);
                continue;
            }
            let regex = RegexBuilder::new(pattern)
                .case_insensitive(true)
                .build()
                .map_err(|e| refuse(format!("it is no regular expression: {}", one_line(&e))))?;
            let mut found = false;
            for name in names.iter().filter(|n| regex.is_match(n)) {
                chosen.entry(*name).or_insert(*to);
                found = true;
            }
            if !found {
                let some: Vec<_> = names.iter().take(3).map(|n| format!("`{n}`")).collect();
                return Err(refuse(format!(
                    "it matches none of the model's {} weight matrices ({}, …)",
                    names.len(),
                    some.join(", ")
                )));
            }
        }
        Ok(Chosen(chosen))
    }
}

/// What [`Overrides`] say about the tensors of one model.
#[derive(Clone, Debug, Default)]
pub struct Chosen<'n>(HashMap<&'n str, Option<Rounding>>);

impl Chosen<'_> {
    /// What the tensor `name` is to be put into (`None`: it stays as it is): by its override, or else `otherwise`.
    pub(crate) fn rounding(&self, name: &str, otherwise: Option<Rounding>) -> Option<Rounding> {
        self.0.get(name).copied().unwrap_or(otherwise)
    }
}

/// Whether a tensor is a matrix that overrides may name: a linear layer, the embedding or the head.
pub(crate) fn is_matrix(name: &str, rows: u64) -> bool {
    rows > 1 && name.ends_with(".weight") && !name.contains("norm")
}

/// A message of several lines, whose last says what is wrong.
fn one_line(error: &regex::Error) -> String {
    let text = error.to_string();
    text.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAMES: [&str; 5] = [
        "token_embd.weight",
        "output.weight",
        "blk.0.attn_output.weight",
        "blk.1.ffn_down.weight",
        "blk.11.ffn_down.weight",
    ];

    fn resolve(rules: &[(&str, Option<Format>)]) -> Result<Vec<Option<Format>>> {
        let rules = rules.iter().map(|(p, f)| ((*p).to_owned(), *f));
        let chosen = Overrides::new(rules).resolve(&NAMES)?;
        let found = |n: &&str| chosen.rounding(n, Some(Format::F32.into())).map(|r| r.format);
        Ok(NAMES.iter().map(found).collect())
    }

    #[test]
    fn the_first_that_matches_decides() {
        let (f32, q8, q4) = (Some(Format::F32), Some(Format::Q8_0), Some(Format::Q4_0));
        assert_eq!(resolve(&[]).unwrap(), [f32; 5]);
        assert_eq!(
            resolve(&[("BLK\\.1\\.", q8), ("ffn_down", q4)]).unwrap(),
            [f32, f32, f32, q8, q4]
        );
        assert_eq!(
            resolve(&[("ffn_down", q4), ("blk\\.1\\.", q8)]).unwrap(),
            [f32, f32, f32, q4, q4]
        );
        // A tensor's name means that tensor, a part of it is a pattern.
        assert_eq!(resolve(&[("output.weight", q8)]).unwrap(), [f32, q8, f32, f32, f32]);
        assert_eq!(resolve(&[("output", q8)]).unwrap(), [f32, q8, q8, f32, f32]);
        assert_eq!(resolve(&[("^output", q8)]).unwrap(), [f32, q8, f32, f32, f32]);
        // Kept, although all others change.
        assert_eq!(resolve(&[("embd", None), (".", q4)]).unwrap(), [None, q4, q4, q4, q4]);
        // One that an earlier one leaves nothing to do is no mistake.
        assert_eq!(resolve(&[(".", q4), ("embd", q8)]).unwrap(), [q4; 5]);
    }

    #[test]
    fn what_matches_nothing_is_refused() {
        for (pattern, why) in [
            ("blk.0.ffn_gate.weight", "none of the model's 5"),
            ("blk.(", "no regular expression: unclosed group"),
            ("(?=blk)", "no regular expression: look-around"),
        ] {
            match resolve(&[("ffn", None), (pattern, None)]) {
                Err(Error::Override { pattern: named, reason }) => {
                    assert_eq!(named, pattern);
                    assert!(reason.contains(why), "{reason}");
                }
                other => panic!("{other:?}"),
            }
        }
    }
}
