//! One small error type. Everything is checked at a boundary (construction of a matrix, choice of a
//! backend, entry of an operation); the loops below the boundary cannot fail.

/// What can go wrong in this crate. Messages carry the numbers needed to act on them.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A format name that is not in the table.
    #[error("unknown format {name:?}; the known ones are {known}")]
    UnknownFormat {
        /// The name that was asked for.
        name: String,
        /// All names of the table, comma separated.
        known: String,
    },
    /// A backend name that is not in the table.
    #[error("unknown backend {name:?}; the known ones are {known}")]
    UnknownBackend {
        /// The name that was asked for.
        name: String,
        /// All names of the table, comma separated.
        known: String,
    },
    /// A backend that this CPU (or this build) cannot run.
    #[error("backend {name:?} was forced, but this CPU lacks it; available here: {available}")]
    BackendUnavailable {
        /// The name that was asked for.
        name: String,
        /// The backends that would work, comma separated.
        available: String,
    },
    /// A kernel that disagreed with the oracle when it checked itself on first use.
    #[error(
        "kernel {kernel} disagrees with the oracle on this machine (row {row}: {got:#010x}, expected {expected:#010x})"
    )]
    SelfCheck {
        /// The kernel's name.
        kernel: String,
        /// First row that differs.
        row: usize,
        /// The bits it computed.
        got: u32,
        /// The bits the oracle computed.
        expected: u32,
    },
    /// A buffer whose length does not fit the shape.
    #[error("{what}: expected {expected} elements, got {got}")]
    Length {
        /// Which buffer.
        what: &'static str,
        /// The length that the shape asks for.
        expected: usize,
        /// The length that was given.
        got: usize,
    },
    /// A row length that the format cannot hold.
    #[error("{format} stores rows in blocks of {block} weights; {cols} columns are not a multiple")]
    Columns {
        /// The format.
        format: &'static str,
        /// Weights per block.
        block: usize,
        /// Row length that was asked for.
        cols: usize,
    },
    /// A shape whose integer sums could overflow, or whose size does not fit in memory.
    #[error("a {rows} x {cols} matrix in {format} is too large: {why}")]
    TooLarge {
        /// The format.
        format: &'static str,
        /// Rows.
        rows: usize,
        /// Columns.
        cols: usize,
        /// Which limit is passed.
        why: &'static str,
    },
    /// An index beyond the end.
    #[error("{what} {index}: there are {len}, counted from 0")]
    OutOfRange {
        /// What was asked for.
        what: &'static str,
        /// Its index.
        index: usize,
        /// How many there are.
        len: usize,
    },
    /// A value that is NaN or infinite where arithmetic needs a number.
    #[error("{what}: element {index} is {value}, not a finite number")]
    NotFinite {
        /// Which buffer.
        what: &'static str,
        /// First offending index.
        index: usize,
        /// The value, as text (so that errors can be compared).
        value: String,
    },
    /// A block scale outside the range of the format's f16.
    #[error("{format}: block {block} needs a number outside the range of the format (f16: ±65504)")]
    ScaleOverflow {
        /// The format.
        format: &'static str,
        /// Index of the block in the matrix.
        block: usize,
    },
    /// Activations grouped for another format.
    #[error("{format} reads activations grouped per {expected}, got {got}")]
    Grouping {
        /// The format.
        format: &'static str,
        /// The grouping it reads.
        expected: &'static str,
        /// The grouping of the activations.
        got: &'static str,
    },
    /// A thread whose floating-point control register would change answers.
    #[error(
        "this thread {what}, which changes results: some library of this process has set it so (one linked with \
         -ffast-math, or torch.set_flush_denormal); switch it off, or use tritlab in a process of its own"
    )]
    Environment {
        /// What it does.
        what: &'static str,
    },
    /// A thread count of zero, or a pool that could not be built.
    #[error("threads: {0}")]
    Threads(String),
}

/// Result of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// `Ok` when `got == expected`.
pub(crate) fn check_len(what: &'static str, expected: usize, got: usize) -> Result<()> {
    if got == expected { Ok(()) } else { Err(Error::Length { what, expected, got }) }
}

/// `Ok` when every element is finite.
pub(crate) fn check_finite(what: &'static str, x: &[f32]) -> Result<()> {
    // Chunks without a branch inside: the compiler vectorises the usual, all-finite case.
    let finite = |chunk: &[f32]| chunk.iter().fold(true, |ok, v| ok & v.is_finite());
    if x.chunks(64).all(finite) {
        return Ok(());
    }
    match x.iter().position(|v| !v.is_finite()) {
        None => Ok(()),
        Some(index) => Err(Error::NotFinite { what, index, value: x[index].to_string() }),
    }
}
