//! Models for `tritlab-kernels`: GGUF files and Hugging Face folders, tokenizers, one generic transformer
//! and its evaluation.
//!
//! A file becomes a [`config::Config`] (what the architecture is, as data) and a [`decoder::Decoder`] (its
//! weights, each matrix in its own format); [`model::Model`] is both with a tokenizer. Everything else asks
//! the decoder for hidden states and logits: [`generate`], [`eval`], [`speed`], [`fingerprint`]; or looks into
//! it through an [`observe::Observer`]: [`capture`], [`imatrix`].

#![deny(unsafe_code)]

pub mod bitlinear;
pub mod buffers;
pub mod cache;
pub mod cancel;
pub mod capture;
pub mod chat;
pub mod config;
pub mod convert;
pub mod decoder;
pub mod error;
pub mod eval;
pub mod fingerprint;
pub mod generate;
pub mod gguf;
pub mod hugging_face;
pub mod imatrix;
pub mod linear;
mod memory;
pub mod mmap;
pub mod model;
pub mod observe;
pub mod overrides;
pub mod quantize;
mod requantize;
pub mod rope;
pub mod rounding;
pub mod sample;
pub mod source;
pub mod speed;
mod stand_in;
pub mod stop;
pub mod tensors;
pub mod tokenizer;
pub mod verify;

pub use cache::Cache;
pub use cancel::Cancel;
pub use config::Config;
pub use error::{Error, Result};
pub use model::{Model, Options};
