//! The key-value section, as a typed view.
//!
//! Converters disagree about integer widths, so a getter accepts any width whose value fits:
//! `metadata.require::<usize>("llama.block_count")?` reads a u32, an i32 or a u64.

use super::{
    Gguf,
    value::{Array, Value, ValueType},
};
use crate::error::{Error, Result};
use std::{borrow::Cow, ops::Range};

/// One key and where its value is.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) key: String,
    pub(super) stored: Stored,
}

/// A value as it is kept: numbers held, the rest as ranges of the file.
#[derive(Debug)]
pub(super) enum Stored {
    Scalar(Value<'static>),
    String(Range<usize>),
    Array(ValueType, usize, Range<usize>),
}

/// The metadata of a [`Gguf`] file.
#[derive(Clone, Copy, Debug)]
pub struct Metadata<'a>(pub(super) &'a Gguf);

impl<'a> Metadata<'a> {
    /// How many keys there are.
    pub fn len(self) -> usize {
        self.0.entries.len()
    }

    /// Whether there are none.
    pub fn is_empty(self) -> bool {
        self.0.entries.is_empty()
    }

    /// All keys with their values, in file order.
    pub fn iter(self) -> impl ExactSizeIterator<Item = (&'a str, Value<'a>)> {
        self.0.entries.iter().map(move |e| (e.key.as_str(), self.value(&e.stored)))
    }

    /// The value of a key, if it is there.
    pub fn get(self, key: &str) -> Option<Value<'a>> {
        let entry = self.0.entries.iter().find(|e| e.key == key)?;
        Some(self.value(&entry.stored))
    }

    /// The value of a key as `T`, or `None` if the key is absent.
    ///
    /// # Errors
    /// [`Error::WrongType`] if the key is there with another type or out of `T`'s range.
    pub fn optional<T: FromValue<'a>>(self, key: &str) -> Result<Option<T>> {
        let Some(value) = self.get(key) else {
            return Ok(None);
        };
        match T::from_value(value.clone()) {
            Some(value) => Ok(Some(value)),
            None => Err(Error::WrongType {
                key: key.to_owned(),
                expected: T::EXPECTED,
                found: value.to_string(),
            }),
        }
    }

    /// The value of a key as `T`.
    ///
    /// # Errors
    /// [`Error::MissingKey`] if the key is absent, [`Error::WrongType`] as in [`Self::optional`].
    pub fn require<T: FromValue<'a>>(self, key: &str) -> Result<T> {
        self.optional(key)?.ok_or_else(|| Error::MissingKey { key: key.to_owned() })
    }

    fn value(self, stored: &Stored) -> Value<'a> {
        match stored {
            Stored::Scalar(value) => value.clone(),
            // Checked at opening; checked again because a mapped file can change.
            Stored::String(range) => String::from_utf8_lossy(&self.0.bytes[range.clone()]).into(),
            Stored::Array(element, len, range) => {
                Array::checked(*element, *len, &self.0.bytes[range.clone()]).into()
            }
        }
    }
}

impl<'a> From<Cow<'a, str>> for Value<'a> {
    fn from(v: Cow<'a, str>) -> Self {
        Self::String(v)
    }
}

/// A Rust type that a metadata value can be read as.
pub trait FromValue<'a>: Sized {
    /// What the value should be, for the error message.
    const EXPECTED: &'static str;

    /// The value as this type, if it is one and fits.
    fn from_value(value: Value<'a>) -> Option<Self>;
}

macro_rules! integers_from_value {
    ($($ty:ident $expected:literal),*) => {
        $(impl FromValue<'_> for $ty {
            const EXPECTED: &'static str = $expected;
            fn from_value(value: Value<'_>) -> Option<Self> {
                value.as_integer()?.try_into().ok()
            }
        })*
    };
}

integers_from_value!(
    u16 "an integer from 0 to 65535",
    u32 "an integer from 0 to 2^32 - 1",
    i32 "an integer from -2^31 to 2^31 - 1",
    u64 "a non-negative integer",
    usize "a non-negative integer"
);

impl FromValue<'_> for f32 {
    const EXPECTED: &'static str = "a number";
    fn from_value(value: Value<'_>) -> Option<Self> {
        value.as_number().map(|v| v as Self)
    }
}

impl FromValue<'_> for bool {
    const EXPECTED: &'static str = "a boolean";
    fn from_value(value: Value<'_>) -> Option<Self> {
        match value {
            Value::Bool(v) => Some(v),
            _ => None,
        }
    }
}

impl<'a> FromValue<'a> for Cow<'a, str> {
    const EXPECTED: &'static str = "a string";
    fn from_value(value: Value<'a>) -> Option<Self> {
        match value {
            Value::String(v) => Some(v),
            _ => None,
        }
    }
}

impl FromValue<'_> for String {
    const EXPECTED: &'static str = "a string";
    fn from_value(value: Value<'_>) -> Option<Self> {
        Cow::from_value(value).map(Cow::into_owned)
    }
}

impl<'a> FromValue<'a> for Array<'a> {
    const EXPECTED: &'static str = "an array";
    fn from_value(value: Value<'a>) -> Option<Self> {
        match value {
            Value::Array(v) => Some(v),
            _ => None,
        }
    }
}

/// One number, or one per layer: a scalar reads as a vector of length 1.
impl FromValue<'_> for Vec<usize> {
    const EXPECTED: &'static str = "a non-negative integer or an array of them";
    fn from_value(value: Value<'_>) -> Option<Self> {
        match value {
            Value::Array(v) => v.integers(),
            _ => usize::from_value(value).map(|v| vec![v]),
        }
    }
}

/// An array of numbers; a scalar reads as a vector of length 1.
impl FromValue<'_> for Vec<f32> {
    const EXPECTED: &'static str = "a number or an array of them";
    fn from_value(value: Value<'_>) -> Option<Self> {
        match value {
            Value::Array(v) => v.floats(),
            _ => f32::from_value(value).map(|v| vec![v]),
        }
    }
}
