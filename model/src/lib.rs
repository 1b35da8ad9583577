//! Models for `tritlab-kernels`: GGUF files, tokenizers, one generic transformer and its evaluation.

#![deny(unsafe_code)]

pub mod error;
pub mod gguf;
pub mod mmap;
pub mod tokenizer;

pub use error::{Error, Result};
