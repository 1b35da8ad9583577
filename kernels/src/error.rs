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
    /// A kernel whose machine code cannot be shown.
    #[error("{kernel} cannot be disassembled: {why}")]
    Disassembly {
        /// The kernel's name.
        kernel: String,
        /// What is in the way.
        why: String,
    },
    /// Two matrices that should have one shape.
    #[error("the first matrix is {} x {}, the second {} x {}", first.0, first.1, second.0, second.1)]
    Shapes {
        /// Rows and columns of the first.
        first: (usize, usize),
        /// Rows and columns of the second.
        second: (usize, usize),
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
    /// An importance that cannot weigh an error.
    #[error("importance: column {column} is {value}, not a finite number of 0 or more")]
    Importance {
        /// First such column.
        column: usize,
        /// The importance, as text (so that errors can be compared).
        value: String,
    },
    /// A relative tolerance that allows nothing, or everything.
    #[error("rtol is {value}, but must be 0 or more, below 1")]
    Tolerance {
        /// The tolerance, as text (so that errors can be compared).
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
    /// Weights that should be ternary and are not.
    #[error("row {row}, column {col} is {value}, not {expected}")]
    NotTernary {
        /// Row of the first such weight.
        row: usize,
        /// Its column.
        col: usize,
        /// The weight or code, as text (so that errors can be compared).
        value: String,
        /// What it could have been.
        expected: String,
    },
    /// A dense format was asked for its codes or scales.
    #[error("{format} has no codes and no scales: its weights are numbers as stored")]
    NoCodes {
        /// The format.
        format: &'static str,
    },
    /// Ternary weights that a format or packing cannot hold as they are.
    #[error("{format} cannot hold these ternary weights exactly: row {row}, column {col}: {why}")]
    NotExact {
        /// The format or packing.
        format: &'static str,
        /// Row of the first weight that it cannot hold.
        row: usize,
        /// Its column.
        col: usize,
        /// Why not.
        why: String,
    },
    /// The name of a packing that is not in the table.
    #[error("unknown packing {name:?}; the known ones are {known}")]
    UnknownPacking {
        /// The name that was asked for.
        name: String,
        /// All names of the table, comma separated.
        known: String,
    },
    /// A shape that a packing cannot hold.
    #[error("{packing} cannot hold {rows} x {cols} weights: {why}")]
    PackingShape {
        /// The packing.
        packing: &'static str,
        /// Rows.
        rows: usize,
        /// Columns.
        cols: usize,
        /// What it needs.
        why: &'static str,
    },
    /// A scale that is beside the bytes of a packing and was not given, or in them and was.
    #[error("{packing} {}", if *.needed { "has its scale outside the bytes: give it" } else { "has its scales in its bytes: give none" })]
    PackingScale {
        /// The packing.
        packing: &'static str,
        /// Whether one should have been given.
        needed: bool,
    },
    /// A scale that codes are divided by, and cannot be.
    #[error(
        "{packing} holds codes divided by their scale: {value} is not a finite number whose inverse is finite too"
    )]
    Divisor {
        /// The packing.
        packing: &'static str,
        /// The scale, as text (so that errors can be compared).
        value: String,
    },
    /// The name of a projection that is not in the table.
    #[error("unknown projection {name:?}; the known ones are {known}")]
    UnknownProjection {
        /// The name that was asked for.
        name: String,
        /// All names, comma separated.
        known: String,
    },
    /// An activation code that kernels do not multiply with.
    #[error("activation code {index} is {code}; codes are -127 to 127")]
    CodeRange {
        /// Index of the first such code.
        index: usize,
        /// The code.
        code: i8,
    },
    /// A Q8_K block whose stored sums are not those of its codes.
    #[error("Q8_K block {block}: sum {sum} is stored as {stored}, its codes sum to {actual}")]
    BlockSum {
        /// The block.
        block: usize,
        /// Which of its 16 sums.
        sum: usize,
        /// What the block says.
        stored: i16,
        /// What it is.
        actual: i16,
    },
    /// Bits of a packing that stand for no weight.
    #[error(
        "{packing}: byte {byte:#04x} at row {row}, column {col} holds no ternary code; is this another packing?"
    )]
    BadCode {
        /// The packing.
        packing: &'static str,
        /// Row of the first such weight.
        row: usize,
        /// Its column.
        col: usize,
        /// The byte it lies in.
        byte: u8,
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

/// `Ok` when every element of `x` is finite; `what` names it in the message.
///
/// # Errors
/// [`Error::NotFinite`] for the first that is not.
pub fn check_finite(what: &'static str, x: &[f32]) -> Result<()> {
    if all_finite(x) {
        return Ok(());
    }
    match x.iter().position(|v| !v.is_finite()) {
        None => Ok(()),
        Some(index) => Err(Error::NotFinite { what, index, value: x[index].to_string() }),
    }
}

/// Whether no number is NaN or infinite.
pub fn all_finite(x: &[f32]) -> bool {
    // The largest number less the magnitude, as integers, is negative only for infinity and NaN; the OR of all keeps a
    // sign.
    let left = |v: &f32| f32::MAX.to_bits() as i32 - (v.to_bits() & 0x7fff_ffff) as i32;
    // Chunks without a branch inside: the compiler vectorises the usual, all-finite case.
    x.chunks(256).all(|chunk| chunk.iter().fold(0, |all, v| all | left(v)) >= 0)
}
