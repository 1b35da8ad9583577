//! What a kernel costs in instructions: the machine code of its hot loop, and how many loads, dot products and
//! shuffles 256 weights take.
//!
//! # Method
//!
//! Nothing is guessed from the source or from the shape of the code. The function in the table is called with some
//! work, then with twice that work, and the processor stops after every instruction that it executes ([`crate::isa`]
//! `steps`). Per address, the second count less the first is what the additional work took: calls, the set-up of
//! loops and everything else that happens once cancels, scales and loop counters do not. Divided by the additional
//! weights, and for products of several tokens by the tokens, that is [`Counts`].
//!
//! The hot loop is, among the innermost loops that were executed (a loop is a branch backwards inside a function), the
//! one that executed most dot products (or look-ups of their sums), or most instructions where there are none.
//!
//! # Caveats
//!
//! Instructions are not cycles: they differ in ports and in what they wait for. It is the code of this build; another
//! compiler, or a build with debug assertions, has other code. Products of several tokens are of two tiles, or of the fewest
//! tokens with which codes are unpacked once for all of them. A matrix of 64 rows that lies in cache is multiplied:
//! what comes once per row is among the costs as it is there.

mod decode;
mod draw;
mod work;

use std::collections::BTreeMap;

use crate::backend::{Kernel, Ops};
use crate::error::{Error, Result};
use crate::isa::{image::Image, steps};

/// Which compiler made this crate: `rustc 1.95.0 (…)`.
pub const COMPILER: &str = env!("TRITLAB_COMPILER");

/// What an instruction is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Multiplies and adds neighbours: `vpdpbusd`, `vpmaddubsw`, `vpmaddwd`, …
    Dot,
    /// Moves numbers between lanes: shuffles, permutes, packs, widenings, broadcasts from a register.
    Shuffle,
    /// Other multiplications, fused or not.
    Multiply,
    /// None of these, and reads memory.
    Load,
    /// None of these, and writes memory.
    Store,
    /// Everything else: logic, shifts, additions, addresses, branches.
    Other,
}

impl Kind {
    /// `dot`, `shuffle`, `multiply`, `load`, `store`, `other`
    pub const fn name(self) -> &'static str {
        match self {
            Kind::Dot => "dot",
            Kind::Shuffle => "shuffle",
            Kind::Multiply => "multiply",
            Kind::Load => "load",
            Kind::Store => "store",
            Kind::Other => "other",
        }
    }
}

/// One instruction of the hot loop.
#[derive(Clone, PartialEq, Debug)]
pub struct Instruction {
    /// Offset in its function.
    pub at: usize,
    /// In Intel's syntax; targets of branches are offsets too.
    pub text: String,
    /// What it is for.
    pub kind: Kind,
    /// Bytes of memory that it reads.
    pub bytes_read: usize,
    /// Bytes of memory that it writes.
    pub bytes_written: usize,
    /// How often it was executed, as the [`Counts`].
    pub executed: f64,
}

/// Executed instructions per 256 weights and token, or 256 numbers.
///
/// The kinds are disjoint; loads and stores count whatever touches memory, so a dot product with an operand in memory
/// is among [`Counts::dots`] and among [`Counts::loads`].
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct Counts {
    /// All.
    pub total: f64,
    /// Those that read memory.
    pub loads: f64,
    /// Those that write memory.
    pub stores: f64,
    /// [`Kind::Dot`].
    pub dots: f64,
    /// [`Kind::Shuffle`].
    pub shuffles: f64,
    /// [`Kind::Multiply`].
    pub multiplies: f64,
    /// [`Kind::Other`], and what was executed outside this library.
    pub other: f64,
    /// Bytes that the loads read, of weights, activations and the stack.
    pub bytes_read: f64,
}

impl Counts {
    fn add(&mut self, of: &Instruction) {
        let n = of.executed;
        self.total += n;
        self.loads += if of.bytes_read > 0 { n } else { 0.0 };
        self.stores += if of.bytes_written > 0 { n } else { 0.0 };
        self.bytes_read += n * of.bytes_read as f64;
        match of.kind {
            Kind::Dot => self.dots += n,
            Kind::Shuffle => self.shuffles += n,
            Kind::Multiply => self.multiplies += n,
            Kind::Other => self.other += n,
            Kind::Load | Kind::Store => {}
        }
    }
}

/// A kernel's code as it ran.
#[derive(Clone, PartialEq, Debug)]
pub struct Disassembly {
    /// The kernel's name.
    pub kernel: String,
    /// What 256 of are counted: `weights`, or `numbers` for operations without weights.
    pub unit: &'static str,
    /// Tokens of the product that was run.
    pub tokens: usize,
    /// All that was executed.
    pub counts: Counts,
    /// The hot loop, in the order of addresses.
    pub instructions: Vec<Instruction>,
    /// Its part of [`Counts::total`].
    pub share: f64,
}

impl Kernel {
    /// Runs the kernel instruction by instruction and shows its code.
    ///
    /// ```
    /// use tritlab_kernels::backend;
    /// let kernel = backend::kernels().into_iter().find(|k| k.name == "gemv-q8_0-portable").unwrap();
    /// match kernel.disassemble() {
    ///     Ok(code) => println!("{code}"),
    ///     Err(why) => println!("{why}"), // another processor than x86-64, for example
    /// }
    /// ```
    ///
    /// # Errors
    /// [`Error::Disassembly`]: another architecture than x86-64, a backend that this CPU lacks, a system without single
    /// steps.
    pub fn disassemble(&self) -> Result<Disassembly> {
        let refuse =
            |why: &str| Error::Disassembly { kernel: self.name.clone(), why: why.to_owned() };
        let arch = std::env::consts::ARCH;
        if arch != "x86_64" {
            return Err(refuse(&format!("disassembly is for x86-64, and this is {arch}")));
        }
        if !self.available {
            return Err(refuse(&format!("this CPU lacks the backend {}", self.backend)));
        }
        let image = Image::own().ok_or_else(|| {
            refuse(&format!("{} does not say where a program's code is", std::env::consts::OS))
        })?;
        let ops = self.backend.ops()?;
        let more = self.marginal(ops, &image)?.ok_or_else(|| {
            refuse("no single steps: this system does not stop after each instruction")
        })?;
        let executed = decode::executed(&image, &more.executed).ok_or_else(|| {
            refuse("what ran is not what its bytes say: code that changes itself?")
        })?;
        let mut counts =
            Counts { total: more.elsewhere, other: more.elsewhere, ..Counts::default() };
        executed.iter().flat_map(|f| &f.instructions).for_each(|i| counts.add(i));
        let instructions =
            decode::hot_loop(&executed).ok_or_else(|| refuse("nothing that ran is a loop"))?;
        let inside: f64 = instructions.iter().map(|i| i.executed).sum();
        Ok(Disassembly {
            kernel: self.name.clone(),
            unit: if self.format.is_some() { "weights" } else { "numbers" },
            tokens: more.tokens,
            counts,
            share: inside / counts.total,
            instructions,
        })
    }

    /// Executions per 256 units of additional work; `None` where there are no single steps.
    fn marginal(&self, ops: &'static Ops, image: &Image) -> Result<Option<Marginal>> {
        let run = |times| -> Result<_> {
            let mut work = work::prepare(self, ops, times)?;
            // Once without counting: what is set up on first use is not the kernel's.
            (work.run)();
            let steps = steps::count(&image.range(), &mut work.run);
            Ok(steps.map(|steps| (steps, work.units, work.tokens)))
        };
        let (Some((once, units, tokens)), Some((twice, more, _))) = (run(1)?, run(2)?) else {
            return Ok(None);
        };
        let per_256 = 256.0 / (more - units) as f64;
        let change = |a: i64, b: i64| (b - a) as f64 * per_256;
        let executed = once.counts.iter().zip(&twice.counts).enumerate();
        let executed = executed.filter(|(_, (a, b))| a != b).map(|(offset, (&a, &b))| {
            (image.range().start + offset, change(i64::from(a), i64::from(b)))
        });
        Ok(Some(Marginal {
            executed: executed.collect(),
            elsewhere: change(once.elsewhere as i64, twice.elsewhere as i64),
            tokens,
        }))
    }
}

struct Marginal {
    /// By address.
    executed: BTreeMap<usize, f64>,
    elsewhere: f64,
    tokens: usize,
}
