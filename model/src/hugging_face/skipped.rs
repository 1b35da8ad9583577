//! `modules_to_not_convert` of `quantization_config`: the linear layers of a BitNet model that stay as they are.
//!
//! The rule is that of `transformers` 5 (`quantizers_utils.should_convert_module`). An entry means a layer in three
//! ways: as the beginning of its name, up to the end of a part; as a regular expression for such a beginning; as the
//! end of its name. Entries that mean nothing, which `transformers` passes over, are refused here.

use fancy_regex::Regex;

use super::keys::Keys;
use crate::error::{Error, Result};

const KEY: &str = "modules_to_not_convert";

/// The entries; none at all where the file has no list, and the head alone is left out.
#[derive(Clone, Debug, Default)]
pub(super) struct Skipped {
    /// The key as messages name it.
    key: String,
    entries: Option<Vec<Entry>>,
}

#[derive(Clone, Debug)]
struct Entry {
    text: String,
    beginning: Regex,
}

impl Skipped {
    /// Reads the list.
    ///
    /// # Errors
    /// Another type than a list of strings, a string that is no regular expression.
    pub fn read(keys: &Keys<'_>) -> Result<Self> {
        let entry = |(i, text): (usize, &&str)| {
            // Up to a boundary of names: behind a point, before one, or at the end.
            let pattern = format!(r"\A(?:{text})(?:(?<=\.)|(?=\.|\z))");
            let beginning = Regex::new(&pattern).map_err(|e| {
                let reason =
                    format!("{text:?} is no regular expression, as each entry is one: {e}");
                keys.bad(&format!("{KEY}[{i}]"), reason)
            })?;
            Ok(Entry { text: (*text).to_owned(), beginning })
        };
        let texts = keys.texts(KEY)?;
        let entries = texts.map(|all| all.iter().enumerate().map(entry).collect::<Result<_>>());
        Ok(Skipped { key: keys.name(KEY), entries: entries.transpose()? })
    }

    /// Whether the layer `module` (`model.layers.0.mlp.up_proj`) is left out.
    pub fn has(&self, module: &str) -> bool {
        self.entries.iter().flatten().any(|entry| entry.is(module))
    }

    /// Every entry means one of the `modules`, and one means the head.
    pub fn check(&self, modules: &[&str], head: &str) -> Result<()> {
        let Some(entries) = &self.entries else { return Ok(()) };
        let all = || modules.iter().copied().chain([head]);
        for (i, entry) in entries.iter().enumerate() {
            if !all().any(|module| entry.is(module)) {
                let reason = format!(
                    "{:?} means none of the model's modules: an entry is the beginning of a name up to a point or \
                     its end, a regular expression for that, or the end of a name; names are as {:?}",
                    entry.text,
                    all().find(|module| module.contains("proj")).unwrap_or(head),
                );
                return Err(Error::BadConfig { key: format!("{}[{i}]", self.key), reason });
            }
        }
        if !self.has(head) {
            let reason = format!(
                "{head:?} is not in it, so that transformers makes the output head BitLinear too, which is not \
                 supported: add it, or leave the list out"
            );
            return Err(Error::BadConfig { key: self.key.clone(), reason });
        }
        Ok(())
    }
}

impl Entry {
    fn is(&self, module: &str) -> bool {
        // An expression that takes too long for a name matches nothing, and then means nothing.
        module.ends_with(&self.text) || self.beginning.is_match(module).unwrap_or(false)
    }
}
