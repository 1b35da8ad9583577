//! JSON objects with the errors that a configuration needs. A key that is null counts as absent.

use std::io::ErrorKind;
use std::path::Path;

use serde_json::{Map, Value};

use crate::error::{Error, Result};
use crate::stand_in;

/// The most bytes of a line that a message shows, before the place that it is about.
const LINE: usize = 40;

/// The object that a JSON file is, given as its contents.
pub(crate) fn object(json: &[u8]) -> Result<Map<String, Value>> {
    stand_in::refuse(json)?;
    serde_json::from_slice(json).map_err(|e| Error::BadJson { reason: reason(json, &e) })
}

/// What the parser says, with the line that it says it of: that has the key (`"rms_norm_eps": NaN`).
fn reason(json: &[u8], error: &serde_json::Error) -> String {
    let line = json.split(|b| *b == b'\n').nth(error.line().saturating_sub(1)).unwrap_or_default();
    // In a file of one line, what comes before the place.
    let place = error.column().min(line.len());
    let line = &line[place.saturating_sub(LINE)..(place + LINE / 2).min(line.len())];
    match String::from_utf8_lossy(line).trim() {
        "" => error.to_string(),
        line => format!("{error}: {line}"),
    }
}

/// The object in a JSON file; an empty one if the file is not there.
pub(crate) fn read_object(path: &Path) -> Result<Map<String, Value>> {
    match std::fs::read(path) {
        Ok(bytes) => object(&bytes).map_err(Error::in_file(path)),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(Map::new()),
        Err(e) => Err(Error::io(path)(e)),
    }
}

/// An object of `config.json`.
#[derive(Clone, Debug)]
pub(crate) struct Keys<'a> {
    object: Option<&'a Map<String, Value>>,
    /// What comes before a key in messages: `text_config.rope_scaling.`, or nothing.
    prefix: String,
}

impl<'a> Keys<'a> {
    /// The keys of `object`.
    pub fn of(object: &'a Map<String, Value>) -> Self {
        Keys { object: Some(object), prefix: String::new() }
    }

    /// Whether there is no such object, or nothing in it.
    pub fn is_empty(&self) -> bool {
        self.object.is_none_or(Map::is_empty)
    }

    /// The key as messages name it.
    pub fn name(&self, key: &str) -> String {
        format!("{}{key}", self.prefix)
    }

    /// Whether the key is there, be it as null.
    pub fn has(&self, key: &str) -> bool {
        self.object.is_some_and(|o| o.contains_key(key))
    }

    /// The first key that is none of `known`; those that are null do not count.
    pub fn other_than(&self, known: &[&str]) -> Option<&'a str> {
        let is_other = |(key, value): &(&'a String, &'a Value)| {
            !known.contains(&key.as_str()) && !value.is_null()
        };
        self.object?.iter().find(is_other).map(|(key, _)| key.as_str())
    }

    pub fn get(&self, key: &str) -> Option<&'a Value> {
        self.object?.get(key).filter(|v| !v.is_null())
    }

    /// The object at `key`, without keys where there is none.
    pub fn object(&self, key: &str) -> Result<Keys<'a>> {
        let object = self.read(key, "an object", Value::as_object)?;
        Ok(Keys { object, prefix: format!("{}.", self.name(key)) })
    }

    pub fn count(&self, key: &str) -> Result<Option<usize>> {
        let read = |v: &Value| v.as_u64()?.try_into().ok();
        self.read(key, "a non-negative integer", read)
    }

    pub fn number(&self, key: &str) -> Result<Option<f32>> {
        self.read(key, "a number", number)
    }

    /// A number that must be more than 0.
    pub fn positive(&self, key: &str) -> Result<Option<f32>> {
        match self.number(key)? {
            Some(x) if x <= 0.0 => Err(self.bad(key, format!("{x} is not more than 0"))),
            found => Ok(found),
        }
    }

    pub fn numbers(&self, key: &str) -> Result<Option<Vec<f32>>> {
        self.list(key, "an array of numbers", "a number", number)
    }

    pub fn text(&self, key: &str) -> Result<Option<&'a str>> {
        self.read(key, "a string", Value::as_str)
    }

    pub fn texts(&self, key: &str) -> Result<Option<Vec<&'a str>>> {
        self.list(key, "an array of strings", "a string", Value::as_str)
    }

    /// What `read` makes of each entry of an array; an error names the entry.
    fn list<T>(
        &self,
        key: &str,
        expected: &'static str,
        entry: &'static str,
        read: impl Fn(&'a Value) -> Option<T>,
    ) -> Result<Option<Vec<T>>> {
        let Some(all) = self.read(key, expected, Value::as_array)? else { return Ok(None) };
        let one = |(i, v)| read(v).ok_or_else(|| self.wrong(&format!("{key}[{i}]"), entry, v));
        all.iter().enumerate().map(one).collect::<Result<_>>().map(Some)
    }

    /// The ids that end a text, of a vocabulary of `vocab` tokens: one or several, here or in `text_config`.
    pub fn ends(&self, vocab: usize) -> Result<Option<Vec<u32>>> {
        const KEY: &str = "eos_token_id";
        let several = |v: &Value| match v {
            Value::Array(all) => all.iter().map(token_id).collect(),
            one => token_id(one).map(|id| vec![id]),
        };
        let keys = self.holder_of(KEY)?;
        let ids = keys.read(KEY, "a token id or an array of them", several)?;
        ids.iter().flatten().try_for_each(|id| keys.inside(KEY, *id, vocab))?;
        Ok(ids)
    }

    /// The id that begins a text, here or in `text_config`.
    pub fn bos(&self, vocab: usize) -> Result<Option<u32>> {
        const KEY: &str = "bos_token_id";
        let keys = self.holder_of(KEY)?;
        let id = keys.read(KEY, "a token id", token_id)?;
        id.map_or(Ok(()), |id| keys.inside(KEY, id, vocab))?;
        Ok(id)
    }

    /// The id of padding, here or in `text_config`; -1, which old files have, is none.
    pub fn pad(&self, vocab: usize) -> Result<Option<u32>> {
        const KEY: &str = "pad_token_id";
        let keys = self.holder_of(KEY)?;
        let none = keys.get(KEY).is_some_and(|v| v.as_i64() == Some(-1));
        if none {
            return Ok(None);
        }
        let id = keys.read(KEY, "a token id", token_id)?;
        id.map_or(Ok(()), |id| keys.inside(KEY, id, vocab))?;
        Ok(id)
    }

    /// Where a key of the language model is: here, or in `text_config`.
    fn holder_of(&self, key: &str) -> Result<Self> {
        match self.get(key) {
            Some(_) => Ok(self.clone()),
            None => self.object("text_config"),
        }
    }

    fn inside(&self, key: &str, id: u32, vocab: usize) -> Result<()> {
        match (id as usize) < vocab {
            true => Ok(()),
            false => {
                let reason = format!("token id {id} is outside the vocabulary of {vocab} tokens");
                Err(self.bad(key, reason))
            }
        }
    }

    pub fn flag(&self, key: &str) -> Result<Option<bool>> {
        self.read(key, "true or false", Value::as_bool)
    }

    /// A value that has the right type and cannot be.
    pub fn bad(&self, key: &str, reason: String) -> Error {
        Error::BadConfig { key: self.name(key), reason }
    }

    pub fn missing(&self, key: &str) -> Error {
        Error::MissingKey { key: self.name(key) }
    }

    /// What `read` makes of the value; an error where it makes nothing of it.
    pub fn read<T>(
        &self,
        key: &str,
        expected: &'static str,
        read: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<Option<T>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        match read(value) {
            Some(value) => Ok(Some(value)),
            None => Err(self.wrong(key, expected, value)),
        }
    }

    fn wrong(&self, key: &str, expected: &'static str, found: &Value) -> Error {
        let mut found = found.to_string();
        if let Some((end, _)) = found.char_indices().nth(60) {
            found.truncate(end);
            found.push('…');
        }
        Error::WrongType { key: self.name(key), expected, found }
    }
}

/// A number that an f32 holds.
fn number(value: &Value) -> Option<f32> {
    value.as_f64().map(|v| v as f32).filter(|v| v.is_finite())
}

fn token_id(value: &Value) -> Option<u32> {
    u32::try_from(value.as_u64()?).ok()
}
