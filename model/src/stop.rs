//! Stop strings in a text that arrives in pieces.

use crate::error::{Error, Result};

/// Holds back what may become a stop string, and nothing else.
///
/// The text ends before the stop string that is complete first (of several that are complete with the same
/// character, the longest), so the cut of the text into pieces never matters.
#[derive(Clone, Debug, Default)]
pub struct StopFilter {
    strings: Vec<String>,
    /// Text that is not out yet: less than the longest stop string.
    held: String,
    stopped: bool,
}

impl StopFilter {
    /// A filter for some strings, or none.
    ///
    /// # Errors
    /// [`Error::EmptyStop`]
    pub fn new(strings: &[String]) -> Result<Self> {
        match strings.iter().any(String::is_empty) {
            true => Err(Error::EmptyStop),
            false => Ok(StopFilter { strings: strings.to_vec(), ..Self::default() }),
        }
    }

    /// Whether a stop string was met.
    pub fn stopped(&self) -> bool {
        self.stopped
    }

    /// Takes more text; appends to `out` what can no longer be part of a stop string. After one, nothing comes.
    pub fn push(&mut self, text: &str, out: &mut String) {
        if self.stopped {
            return;
        }
        if self.strings.is_empty() {
            out.push_str(text);
            return;
        }
        self.held.push_str(text);
        let found = self.strings.iter().filter_map(|s| {
            let start = self.held.find(s.as_str())?;
            Some((start + s.len(), start))
        });
        if let Some((_, start)) = found.min() {
            self.stopped = true;
            out.push_str(&self.held[..start]);
            self.held.clear();
            return;
        }
        let keep = self.strings.iter().map(|s| overlap(&self.held, s)).max().unwrap_or(0);
        out.extend(self.held.drain(..self.held.len() - keep));
    }

    /// The end of the text: what was held back was no stop string.
    pub fn finish(&mut self, out: &mut String) {
        out.push_str(&self.held);
        self.held.clear();
    }
}

/// Length of the longest end of `text` that is a beginning of `stop`, and not all of it.
fn overlap(text: &str, stop: &str) -> usize {
    let longest = text.len().min(stop.len() - 1);
    (1..=longest)
        .rev()
        .find(|&n| text.as_bytes()[text.len() - n..] == stop.as_bytes()[..n])
        .unwrap_or(0)
}
