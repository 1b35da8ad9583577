//! The one error type of this crate.
//!
//! Every variant carries the numbers and names that a reader needs to find the fault: which tensor,
//! which key, how many bytes were needed and how many were there. Input is checked where it enters
//! (opening a file, building a tokenizer, building a model); what runs afterwards cannot fail for
//! the same reason twice.

use std::path::{Path, PathBuf};

/// What every fallible call of this crate returns.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Everything that can go wrong in this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused to open, read or write a file.
    #[error("cannot read or write {}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },

    // ---- GGUF: the container ----
    /// The file does not start with `GGUF`.
    #[error(
        "not a GGUF file: it starts with the bytes {found:02x?}, not 47 47 55 46 (\"GGUF\"); \
         was the download complete?"
    )]
    BadMagic {
        /// The first bytes of the file, four at most.
        found: Vec<u8>,
    },
    /// The file was written for big-endian machines.
    #[error(
        "the GGUF file is big-endian (version bytes read {version:#010x}); only little-endian files \
         are supported: convert it with gguf-convert-endian from the gguf Python package"
    )]
    BigEndian {
        /// The version field, read as a little-endian integer.
        version: u32,
    },
    /// A container version this reader does not know.
    #[error(
        "GGUF version {version} is not supported, only 2 and 3 are: convert the model again with a current converter"
    )]
    UnsupportedVersion {
        /// The version the file states.
        version: u32,
    },
    /// The file ends before something it promises.
    #[error("the file is truncated: {what} at byte {at} needs {needed} bytes, {have} are left")]
    Truncated {
        /// What was being read.
        what: String,
        /// Where it starts, in bytes from the start of the file.
        at: u64,
        /// How many bytes it needs (saturating).
        needed: u64,
        /// How many bytes the file still has there.
        have: u64,
    },
    /// A count is larger than the format, or the file itself, allows.
    #[error("too many {what}: the file states {count}, at most {limit} are possible here")]
    TooMany {
        /// What is counted.
        what: String,
        /// The count in the file.
        count: u64,
        /// The largest possible count.
        limit: u64,
    },
    /// A string is not UTF-8.
    #[error("{what} at byte {at} is not valid UTF-8")]
    NotUtf8 {
        /// Which string.
        what: String,
        /// Where its first byte is, from the start of the file.
        at: u64,
    },
    /// A metadata value has a type number outside the specification.
    #[error("the metadata key `{key}` has the unknown value type {id} (0 to 12 exist)")]
    UnknownValueType {
        /// The key.
        key: String,
        /// The type number in the file.
        id: u32,
    },
    /// An array of arrays, which no GGUF reader accepts.
    #[error("the metadata key `{key}` is an array of arrays, which GGUF does not allow")]
    NestedArray {
        /// The key.
        key: String,
    },
    /// A key or tensor name that is empty, too long or not allowed here.
    #[error("{what} `{name}` is not a possible name: {reason}")]
    BadName {
        /// "metadata key" or "tensor name".
        what: &'static str,
        /// The name.
        name: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The same metadata key or tensor name twice.
    #[error("the {what} `{name}` appears twice")]
    DuplicateName {
        /// "metadata key" or "tensor name".
        what: &'static str,
        /// The name.
        name: String,
    },
    /// `general.alignment` is not a power of two.
    #[error("general.alignment is {alignment}; it must be a power of two stored as u32")]
    BadAlignment {
        /// The value in the file.
        alignment: u64,
    },
    /// A tensor's type number is unknown, or was withdrawn from ggml.
    #[error(
        "the tensor `{tensor}` has the type number {id}, which is unknown or was withdrawn from ggml; \
         the file may come from a fork or a newer version"
    )]
    UnknownTensorType {
        /// The tensor.
        tensor: String,
        /// The type number in the file.
        id: u32,
    },
    /// A tensor's dimensions cannot be.
    #[error("the tensor `{tensor}` has the impossible shape {}: {reason}", rows_first(dims.iter().rev()))]
    BadShape {
        /// The tensor.
        tensor: String,
        /// Its dimensions, fastest-varying first, as the file states them.
        dims: Vec<u64>,
        /// What is wrong with them.
        reason: String,
    },
    /// A tensor's data does not start at a multiple of the alignment.
    #[error(
        "the data of tensor `{tensor}` starts at offset {offset}, which is not a multiple of the alignment {alignment}"
    )]
    BadOffset {
        /// The tensor.
        tensor: String,
        /// Its offset in the data section.
        offset: u64,
        /// The file's alignment.
        alignment: u64,
    },
    /// Two tensors claim the same bytes.
    #[error(
        "the data of tensor `{tensor}` starts at offset {offset}, inside that of `{other}`, which ends at {end}"
    )]
    OverlappingData {
        /// The tensor that starts too early.
        tensor: String,
        /// Where it starts in the data section.
        offset: u64,
        /// The tensor before it.
        other: String,
        /// Where that one ends.
        end: u64,
    },
    /// A tensor of type 39 in a file whose data does not fit it.
    #[error(
        "the tensor `{tensor}` has the type number 39, which is MXFP4 in ggml and TL2 in bitnet.cpp; the file's data \
         does not fit MXFP4 ({reason}), and TL2 is not supported: convert the original model to I2_S, TQ1_0 or TQ2_0"
    )]
    NotMxfp4 {
        /// The first tensor of the type.
        tensor: String,
        /// What does not fit.
        reason: String,
    },
    /// One part of a model that was split into several files.
    #[error(
        "this GGUF file is part {part} of {count} of a split model; join the parts first with \
         llama-gguf-split --merge FIRST-PART OUTPUT"
    )]
    SplitFile {
        /// The part's number, from 1.
        part: u64,
        /// How many parts there are.
        count: u64,
    },
    /// A metadata key that is needed is absent.
    #[error("the metadata key `{key}` is missing")]
    MissingKey {
        /// The key.
        key: String,
    },
    /// A metadata value is of another type, or out of range.
    #[error("the metadata key `{key}` should be {expected}, but is {found}")]
    WrongType {
        /// The key.
        key: String,
        /// What was asked for.
        expected: &'static str,
        /// What the file holds.
        found: String,
    },
    /// A tensor was given more or fewer bytes than its type and shape need, while writing a file.
    #[error("the tensor `{tensor}` needs {expected} bytes of data, but {got} were written")]
    TensorSize {
        /// The tensor.
        tensor: String,
        /// Bytes its type and shape need.
        expected: u64,
        /// Bytes given.
        got: u64,
    },

    // ---- models in files and folders ----
    /// Something is wrong in this file. Whatever is wrong with a model comes in it.
    #[error("{}: {source}", path.display())]
    InFile {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: Box<Error>,
    },
    /// A tensor that is missing, of another shape or of no use, where the reason may be a size that the
    /// configuration does not state.
    #[error("{source} ({assumed})")]
    Assumed {
        /// What is wrong.
        source: Box<Error>,
        /// Keys that are absent, with the values that were taken instead.
        assumed: String,
    },
    /// A folder without weights that can be read.
    #[error(
        "the folder {} holds no model: there is no {expected} in it (weights in pytorch_model.bin cannot \
         be read: save them as safetensors)", folder.display()
    )]
    NotAModel {
        /// The folder.
        folder: PathBuf,
        /// The files that were looked for.
        expected: &'static str,
    },
    /// A file of weights that the index names is absent.
    #[error(
        "the shard {shard} is not in the folder, but the index says that it holds {tensors} tensors, `{first}` first"
    )]
    MissingShard {
        /// The file's name.
        shard: String,
        /// How many tensors it should hold.
        tensors: usize,
        /// One of them.
        first: String,
    },
    /// What a download left in place of the file.
    #[error("it is {what}, not the file itself: {remedy}")]
    StandIn {
        /// "a Git LFS pointer" or a page.
        what: &'static str,
        /// How to get the file.
        remedy: &'static str,
    },
    /// A file that is not JSON.
    #[error("it is not valid JSON: {reason}")]
    BadJson {
        /// What the parser says.
        reason: String,
    },
    /// A file that is not safetensors, or a damaged one.
    #[error("it is not a whole safetensors file: {reason}")]
    BadSafetensors {
        /// What is wrong with it.
        reason: String,
    },
    /// A `model_type` that the decoder does not know.
    #[error("model_type is `{found}`, which is not supported; supported are {known}")]
    UnsupportedModelType {
        /// The value.
        found: String,
        /// The supported ones, comma-separated.
        known: String,
    },
    /// A tokenizer made for another vocabulary.
    #[error(
        "the tokenizer does not fit the model: it has the token id {id} (`{token}`), but the embedding has \
         only {vocab} rows"
    )]
    VocabularyMismatch {
        /// The first id without a row.
        id: u32,
        /// Its text.
        token: String,
        /// Rows of the embedding.
        vocab: usize,
    },

    /// A destination that cannot be written to.
    #[error("{} cannot be written: {reason}", path.display())]
    BadDestination {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        reason: &'static str,
    },

    // ---- tokenizers ----
    /// The file holds no tokenizer, or only half of one.
    #[error(
        "the model carries no usable tokenizer: {what} is missing; load it from a tokenizer.json, or pass token ids"
    )]
    MissingTokenizer {
        /// The key or file that is absent.
        what: String,
    },
    /// A tokenizer family this crate cannot rebuild.
    #[error(
        "the tokenizer model `{model}` is not supported; supported are gpt2 (byte-level BPE) and llama (SentencePiece)"
    )]
    UnsupportedTokenizer {
        /// The value of `tokenizer.ggml.model`.
        model: String,
    },
    /// A pre-tokenizer this crate does not know. Guessing one would give wrong ids silently.
    #[error(
        "the pre-tokenizer `{name}` is not known; known are {known}. A tokenizer.json beside the model would do instead"
    )]
    UnsupportedPreTokenizer {
        /// The value of `tokenizer.ggml.pre`.
        name: String,
        /// The names in the table, comma-separated.
        known: String,
    },
    /// The tokenizer's parts contradict each other.
    #[error("the tokenizer is inconsistent: {reason}")]
    BadTokenizer {
        /// What is wrong, with the numbers.
        reason: String,
    },
    /// A piece of text for which the vocabulary has no token at all.
    #[error(
        "the vocabulary has no token for {text:?}, and no byte or unknown token to fall back to"
    )]
    Unencodable {
        /// The piece of text.
        text: String,
    },
    /// A text too long to encode in one call.
    #[error(
        "the text has {bytes} bytes, more than the {limit} that can be encoded at once: encode it in parts"
    )]
    TextTooLong {
        /// The text's length.
        bytes: usize,
        /// The greatest length.
        limit: usize,
    },
    /// A token id outside the vocabulary.
    #[error("token id {id} is outside the vocabulary of {vocab} tokens")]
    UnknownToken {
        /// The id.
        id: u32,
        /// The size of the vocabulary.
        vocab: usize,
    },

    // ---- models and evaluation ----
    /// A tensor that the architecture needs is absent.
    #[error("the tensor `{name}` is missing")]
    MissingTensor {
        /// The tensor's name in the file.
        name: String,
    },
    /// A tensor has another shape than the configuration implies.
    #[error(
        "the tensor `{tensor}` has the shape {}, but the configuration implies {}",
        rows_first(found),
        rows_first(expected)
    )]
    ShapeMismatch {
        /// The tensor.
        tensor: String,
        /// The shape the configuration implies.
        expected: Vec<u64>,
        /// The shape in the file.
        found: Vec<u64>,
    },
    /// A tensor that the architecture has no use for: running the model without it would give other answers.
    #[error(
        "the tensor `{tensor}` has no place in the architecture {architecture} as it is supported here: \
         the model would silently give other answers without it"
    )]
    UnusedTensor {
        /// The tensor.
        tensor: String,
        /// The architecture.
        architecture: String,
    },
    /// An architecture that the decoder does not know.
    #[error("the architecture `{name}` is not supported; supported are {known}")]
    UnsupportedArchitecture {
        /// The value of `general.architecture`.
        name: String,
        /// The supported ones, comma-separated.
        known: String,
    },
    /// A tensor type that no kernel reads.
    #[error(
        "the tensor `{tensor}` has the type {found}{note}, which no kernel reads yet; readable are {known}"
    )]
    UnsupportedTensorType {
        /// The tensor.
        tensor: String,
        /// Its type.
        found: &'static str,
        /// What else there is to say about the type; may be empty.
        note: &'static str,
        /// The readable types, comma-separated.
        known: String,
    },
    /// A format that GGUF has no tensor type for.
    #[error("GGUF has no tensor type for {format}; it can hold {known}")]
    NotInGguf {
        /// The format.
        format: &'static str,
        /// The formats it has types for, comma-separated.
        known: String,
    },
    /// A projection beside an importance matrix, which it would not use.
    #[error("a projection does not use importance: give one of the two")]
    TwoRules,
    /// A configuration value that cannot be.
    #[error("the model's configuration is impossible: {key}: {reason}")]
    BadConfig {
        /// The key.
        key: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A tensor whose contents cannot be.
    #[error("the tensor `{tensor}` cannot be used: {reason}")]
    BadTensor {
        /// The tensor.
        tensor: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A tensor that the kernels refuse.
    #[error("the tensor `{tensor}`: {source}")]
    Tensor {
        /// The tensor.
        tensor: String,
        /// The kernels' reason.
        source: tritlab_kernels::Error,
    },
    /// An operation that the kernels refuse.
    #[error(transparent)]
    Kernel(#[from] tritlab_kernels::Error),
    /// The model's file has no tokenizer that can be used.
    #[error("this model has no tokenizer that can be used: {reason}")]
    NoTokenizer {
        /// Why.
        reason: String,
    },
    /// More positions than the cache has room for.
    #[error(
        "the sequence needs {needed} positions, but the context has room for {capacity}: load the model with a larger context"
    )]
    ContextOverflow {
        /// Positions needed.
        needed: usize,
        /// Positions there are.
        capacity: usize,
    },
    /// Nothing to continue from.
    #[error("the prompt has no tokens: give at least one")]
    EmptyPrompt,
    /// A number given by the caller that is outside its range.
    #[error("{name} is {value}, but must be {range}")]
    OutOfRange {
        /// The parameter.
        name: &'static str,
        /// Its value.
        value: f64,
        /// What it may be.
        range: &'static str,
    },
    /// A stop string that every text contains.
    #[error("a stop string is empty: it would end every text before it begins")]
    EmptyStop,
    /// A key or value that the cache's type cannot hold.
    #[error(
        "layer {layer}: a key or value is {value}, which a cache in f16 cannot hold: use one in f32"
    )]
    CacheOverflow {
        /// The layer.
        layer: usize,
        /// The value.
        value: f32,
    },
    /// A model without a chat template.
    #[error(
        "the model has no chat template: use generate with a prompt in the form it was trained on"
    )]
    NoChatTemplate,
    /// A chat template that cannot be read or rendered, or that refuses the messages.
    #[error("the chat template: {reason}")]
    ChatTemplate {
        /// The template's or the engine's own words.
        reason: String,
    },
    /// A name of something to capture that the model does not have.
    #[error("nothing to capture is called {name:?}; there are {known}")]
    UnknownCapture {
        /// The name or pattern.
        name: String,
        /// What could be asked for.
        known: String,
    },
    /// An override of a tensor's format that means no tensor.
    #[error("the override {pattern:?} of a tensor's format: {reason}")]
    Override {
        /// The name or pattern.
        pattern: String,
        /// What is wrong with it.
        reason: String,
    },
    /// An importance matrix that cannot be read or does not fit the model.
    #[error("the importance matrix: {reason}")]
    Imatrix {
        /// What is wrong, with the names and numbers.
        reason: String,
    },
    /// An evaluation that cannot be done.
    #[error("{reason}")]
    Evaluation {
        /// Why.
        reason: String,
    },
    /// More memory than there is.
    #[error("{what} would need {bytes} bytes of memory, which cannot be had")]
    Memory {
        /// What the memory is for.
        what: &'static str,
        /// How much.
        bytes: u128,
    },
    /// A callback, or a [`crate::Cancel`], asked to stop.
    #[error("cancelled")]
    Cancelled,
    /// A text is too short to evaluate.
    #[error(
        "the text has {tokens} tokens, but at least {needed} are needed: use a longer text or a shorter context"
    )]
    TextTooShort {
        /// Tokens in the text.
        tokens: usize,
        /// Tokens needed.
        needed: usize,
    },
}

/// A shape as `inspect` prints it: columns last.
fn rows_first<'a>(shape: impl IntoIterator<Item = &'a u64>) -> String {
    shape.into_iter().map(u64::to_string).collect::<Vec<_>>().join(" x ")
}

impl Error {
    /// An I/O error with the path it happened at.
    pub(crate) fn io(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { path, source }
    }

    /// An I/O error of a temporary file in `folder`: the folder is what the caller named.
    pub(crate) fn temporary_in(folder: &Path) -> impl FnOnce(std::io::Error) -> Self + '_ {
        move |e| {
            let real = std::fs::metadata(folder).err();
            Self::io(folder)(real.unwrap_or_else(|| e.kind().into()))
        }
    }

    /// Says in which file something is wrong, where the error does not say so itself.
    pub(crate) fn in_file(path: impl Into<PathBuf>) -> impl FnOnce(Self) -> Self {
        let path = path.into();
        move |source| match source {
            Self::Io { .. }
            | Self::InFile { .. }
            | Self::NotAModel { .. }
            | Self::BadDestination { .. }
            | Self::Imatrix { .. }
            | Self::Memory { .. }
            | Self::Cancelled => source,
            source => Self::InFile { path, source: Box::new(source) },
        }
    }

    /// The error without the file it is in.
    pub fn cause(&self) -> &Self {
        match self {
            Self::InFile { source, .. } | Self::Assumed { source, .. } => source.cause(),
            error => error,
        }
    }

    /// The tensor that something is wrong with, by the file's name for it.
    pub(crate) fn tensor(&self) -> Option<&str> {
        match self {
            Self::InFile { source, .. } | Self::Assumed { source, .. } => source.tensor(),
            Self::MissingTensor { name: tensor }
            | Self::ShapeMismatch { tensor, .. }
            | Self::UnusedTensor { tensor, .. }
            | Self::UnsupportedTensorType { tensor, .. }
            | Self::BadTensor { tensor, .. }
            | Self::Tensor { tensor, .. } => Some(tensor),
            _ => None,
        }
    }
}
