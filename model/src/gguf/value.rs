//! Metadata values: thirteen types, read in place.
//!
//! Numbers and booleans are held, strings and arrays are borrowed from the file. An array of 150 000
//! token strings is therefore one range of bytes, walked when it is asked for.

use super::cursor::Cursor;
use crate::error::{Error, Result};
use std::{borrow::Cow, fmt, io};

/// The types, in the order of their numbers: variant, name, bytes per value (0: variable).
macro_rules! value_types {
    ($($variant:ident $name:literal $bytes:literal),*) => {
        /// The type of a metadata value. The discriminant is the number in the file.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[allow(missing_docs)] // the names are the documentation
        #[repr(u32)]
        pub enum ValueType { $($variant),* }

        impl ValueType {
            /// All types, in the order of their numbers.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// The type's name, such as `u32`.
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $name),* }
            }

            /// Bytes per value; `None` for strings and arrays.
            pub fn bytes(self) -> Option<usize> {
                match self { $(Self::$variant => ($bytes > 0).then_some($bytes)),* }
            }
        }
    };
}

value_types! {
    U8 "u8" 1, I8 "i8" 1, U16 "u16" 2, I16 "i16" 2, U32 "u32" 4, I32 "i32" 4, F32 "f32" 4,
    Bool "bool" 1, String "string" 0, Array "array" 0, U64 "u64" 8, I64 "i64" 8, F64 "f64" 8
}

impl ValueType {
    /// The type with this number.
    pub fn from_id(id: u32) -> Option<Self> {
        Self::ALL.get(usize::try_from(id).ok()?).copied()
    }
}

/// A metadata value.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)] // the names are the documentation
pub enum Value<'a> {
    U8(u8),
    I8(i8),
    U16(u16),
    I16(i16),
    U32(u32),
    I32(i32),
    F32(f32),
    Bool(bool),
    String(Cow<'a, str>),
    Array(Array<'a>),
    U64(u64),
    I64(i64),
    F64(f64),
}

impl<'a> Value<'a> {
    /// The value's type.
    pub fn value_type(&self) -> ValueType {
        match self {
            Self::U8(_) => ValueType::U8,
            Self::I8(_) => ValueType::I8,
            Self::U16(_) => ValueType::U16,
            Self::I16(_) => ValueType::I16,
            Self::U32(_) => ValueType::U32,
            Self::I32(_) => ValueType::I32,
            Self::F32(_) => ValueType::F32,
            Self::Bool(_) => ValueType::Bool,
            Self::String(_) => ValueType::String,
            Self::Array(_) => ValueType::Array,
            Self::U64(_) => ValueType::U64,
            Self::I64(_) => ValueType::I64,
            Self::F64(_) => ValueType::F64,
        }
    }

    /// The value of any integer type.
    pub fn as_integer(&self) -> Option<i128> {
        Some(match *self {
            Self::U8(v) => v.into(),
            Self::I8(v) => v.into(),
            Self::U16(v) => v.into(),
            Self::I16(v) => v.into(),
            Self::U32(v) => v.into(),
            Self::I32(v) => v.into(),
            Self::U64(v) => v.into(),
            Self::I64(v) => v.into(),
            _ => return None,
        })
    }

    /// The value of any number type, rounded to f64 where that is needed.
    pub fn as_number(&self) -> Option<f64> {
        match *self {
            Self::F32(v) => Some(v.into()),
            Self::F64(v) => Some(v),
            _ => self.as_integer().map(|v| v as f64),
        }
    }

    /// A number or boolean from exactly its bytes. `None` if the type has no fixed size or the
    /// bytes are not of that size.
    pub(super) fn scalar(ty: ValueType, bytes: &[u8]) -> Option<Value<'static>> {
        Some(match ty {
            ValueType::U8 => Value::U8(u8::from_le_bytes(bytes.try_into().ok()?)),
            ValueType::I8 => Value::I8(i8::from_le_bytes(bytes.try_into().ok()?)),
            ValueType::U16 => Value::U16(u16::from_le_bytes(bytes.try_into().ok()?)),
            ValueType::I16 => Value::I16(i16::from_le_bytes(bytes.try_into().ok()?)),
            ValueType::U32 => Value::U32(u32::from_le_bytes(bytes.try_into().ok()?)),
            ValueType::I32 => Value::I32(i32::from_le_bytes(bytes.try_into().ok()?)),
            ValueType::F32 => Value::F32(f32::from_le_bytes(bytes.try_into().ok()?)),
            ValueType::Bool => Value::Bool(bytes != [0]),
            ValueType::U64 => Value::U64(u64::from_le_bytes(bytes.try_into().ok()?)),
            ValueType::I64 => Value::I64(i64::from_le_bytes(bytes.try_into().ok()?)),
            ValueType::F64 => Value::F64(f64::from_le_bytes(bytes.try_into().ok()?)),
            ValueType::String | ValueType::Array => return None,
        })
    }

    /// Writes the value as a file holds it, without its type number.
    pub(super) fn write(&self, out: &mut dyn io::Write) -> io::Result<()> {
        match self {
            Self::U8(v) => out.write_all(&v.to_le_bytes()),
            Self::I8(v) => out.write_all(&v.to_le_bytes()),
            Self::U16(v) => out.write_all(&v.to_le_bytes()),
            Self::I16(v) => out.write_all(&v.to_le_bytes()),
            Self::U32(v) => out.write_all(&v.to_le_bytes()),
            Self::I32(v) => out.write_all(&v.to_le_bytes()),
            Self::F32(v) => out.write_all(&v.to_le_bytes()),
            Self::Bool(v) => out.write_all(&[u8::from(*v)]),
            Self::U64(v) => out.write_all(&v.to_le_bytes()),
            Self::I64(v) => out.write_all(&v.to_le_bytes()),
            Self::F64(v) => out.write_all(&v.to_le_bytes()),
            Self::String(v) => {
                out.write_all(&(v.len() as u64).to_le_bytes())?;
                out.write_all(v.as_bytes())
            }
            Self::Array(v) => {
                out.write_all(&(v.element as u32).to_le_bytes())?;
                out.write_all(&(v.len as u64).to_le_bytes())?;
                out.write_all(&v.bytes)
            }
        }
    }

    /// The same value, owning what it held by reference.
    pub fn into_owned(self) -> Value<'static> {
        match self {
            Self::U8(v) => Value::U8(v),
            Self::I8(v) => Value::I8(v),
            Self::U16(v) => Value::U16(v),
            Self::I16(v) => Value::I16(v),
            Self::U32(v) => Value::U32(v),
            Self::I32(v) => Value::I32(v),
            Self::F32(v) => Value::F32(v),
            Self::Bool(v) => Value::Bool(v),
            Self::String(v) => Value::String(v.into_owned().into()),
            Self::Array(v) => Value::Array(v.into_owned()),
            Self::U64(v) => Value::U64(v),
            Self::I64(v) => Value::I64(v),
            Self::F64(v) => Value::F64(v),
        }
    }
}

/// Short, for error messages and listings: long strings and arrays are cut.
impl fmt::Display for Value<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bool(v) => write!(f, "bool {v}"),
            Self::F32(v) => write!(f, "f32 {v}"),
            Self::F64(v) => write!(f, "f64 {v}"),
            Self::String(v) if v.chars().count() > 60 => {
                write!(f, "string {:?}…", v.chars().take(60).collect::<String>())
            }
            Self::String(v) => write!(f, "string {v:?}"),
            Self::Array(v) => write!(f, "array of {} {}", v.len, v.element.name()),
            _ => write!(f, "{} {}", self.value_type().name(), self.as_integer().unwrap_or(0)),
        }
    }
}

/// An array of one element type, as the bytes of the file.
#[derive(Clone, Debug, PartialEq)]
pub struct Array<'a> {
    element: ValueType,
    len: usize,
    bytes: Cow<'a, [u8]>,
}

impl<'a> Array<'a> {
    /// An array whose bytes have been checked by [`skip_array`].
    pub(super) fn checked(element: ValueType, len: usize, bytes: &'a [u8]) -> Self {
        let bytes = Cow::Borrowed(bytes);
        Self { element, len, bytes }
    }

    /// An array of u32.
    pub fn from_u32(values: &[u32]) -> Self {
        Self::collect(ValueType::U32, values.iter().map(|v| v.to_le_bytes()))
    }

    /// An array of i32.
    pub fn from_i32(values: &[i32]) -> Self {
        Self::collect(ValueType::I32, values.iter().map(|v| v.to_le_bytes()))
    }

    /// An array of f32.
    pub fn from_f32(values: &[f32]) -> Self {
        Self::collect(ValueType::F32, values.iter().map(|v| v.to_le_bytes()))
    }

    fn collect(element: ValueType, values: impl ExactSizeIterator<Item = [u8; 4]>) -> Self {
        let len = values.len();
        let bytes = Cow::Owned(values.flatten().collect());
        Self { element, len, bytes }
    }

    /// An array of strings.
    pub fn from_strings<S: AsRef<str>>(values: impl IntoIterator<Item = S>) -> Self {
        let (mut bytes, mut len) = (Vec::new(), 0);
        for value in values {
            let value = value.as_ref();
            bytes.extend_from_slice(&(value.len() as u64).to_le_bytes());
            bytes.extend_from_slice(value.as_bytes());
            len += 1;
        }
        Self { element: ValueType::String, len, bytes: bytes.into() }
    }

    /// The type of the elements.
    pub fn element(&self) -> ValueType {
        self.element
    }

    /// How many elements there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The strings, in order; `None` if the elements are not strings.
    pub fn strings(&self) -> Option<Strings<'_>> {
        (self.element == ValueType::String)
            .then_some(Strings { bytes: &self.bytes, left: self.len })
    }

    /// The numbers or booleans, in order; `None` if the elements are strings.
    pub fn scalars(&self) -> Option<impl ExactSizeIterator<Item = Value<'static>>> {
        let chunks = self.bytes.chunks_exact(self.element.bytes()?);
        let zero = Value::U8(0); // unreachable: chunks have exactly the size that `scalar` needs
        Some(chunks.map(move |b| Value::scalar(self.element, b).unwrap_or(zero.clone())))
    }

    /// The elements as integers of one type; `None` if one is no integer or does not fit.
    pub fn integers<T: TryFrom<i128>>(&self) -> Option<Vec<T>> {
        self.scalars()?.map(|v| T::try_from(v.as_integer()?).ok()).collect()
    }

    /// The elements as f32, from any number type; `None` if the elements are no numbers.
    pub fn floats(&self) -> Option<Vec<f32>> {
        self.scalars()?.map(|v| v.as_number().map(|v| v as f32)).collect()
    }

    fn into_owned(self) -> Array<'static> {
        Array { bytes: self.bytes.into_owned().into(), ..self }
    }
}

/// The strings of an [`Array`].
#[derive(Clone, Debug)]
pub struct Strings<'a> {
    bytes: &'a [u8],
    left: usize,
}

impl<'a> Iterator for Strings<'a> {
    type Item = &'a str;

    /// Bytes were checked when the file was opened. They are read as if they had not been, because
    /// a mapped file can change: the iterator then ends early, and a string that is no longer UTF-8
    /// reads as U+FFFD.
    fn next(&mut self) -> Option<&'a str> {
        self.left = self.left.checked_sub(1)?;
        let (length, rest) = self.bytes.split_first_chunk()?;
        let length = usize::try_from(u64::from_le_bytes(*length)).ok()?;
        let (string, rest) = rest.split_at_checked(length)?;
        self.bytes = rest;
        Some(std::str::from_utf8(string).unwrap_or("\u{fffd}"))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (0, Some(self.left))
    }
}

/// Reads an array's header, checks its elements, and leaves the cursor behind it.
pub(super) fn skip_array(
    cursor: &mut Cursor<'_>,
    key: &str,
) -> Result<(ValueType, usize, std::ops::Range<usize>)> {
    let what = format_args!("the array of metadata key `{key}`");
    let id = cursor.u32(&what)?;
    let element = ValueType::from_id(id)
        .ok_or_else(|| Error::UnknownValueType { key: key.to_owned(), id })?;
    if element == ValueType::Array {
        let key = key.to_owned();
        return Err(Error::NestedArray { key });
    }
    const STRING_HEADER: u64 = 8; // an empty string is its length alone
    let size = element.bytes().map_or(STRING_HEADER, |bytes| bytes as u64);
    let elements = format_args!("elements of metadata key `{key}`");
    let len = cursor.count(size, &elements)?;
    let start = cursor.at();
    if element == ValueType::String {
        for _ in 0..len {
            cursor.string(&what)?;
        }
    } else {
        cursor.skip(len as u64 * size, &what)?; // no overflow: `count` bounded it by the file
    }
    Ok((element, len, start..cursor.at()))
}

macro_rules! value_from {
    ($($from:ty => $variant:ident),*) => {
        $(impl From<$from> for Value<'_> {
            fn from(v: $from) -> Self {
                Self::$variant(v)
            }
        })*
    };
}

value_from!(u8 => U8, i8 => I8, u16 => U16, i16 => I16, u32 => U32, i32 => I32, f32 => F32,
            bool => Bool, u64 => U64, i64 => I64, f64 => F64);

impl<'a> From<&'a str> for Value<'a> {
    fn from(v: &'a str) -> Self {
        Self::String(v.into())
    }
}

impl From<String> for Value<'_> {
    fn from(v: String) -> Self {
        Self::String(v.into())
    }
}

impl<'a> From<Array<'a>> for Value<'a> {
    fn from(v: Array<'a>) -> Self {
        Self::Array(v)
    }
}
