//! The kit itself: runs a kernel through its cases and says what is wrong with it.

use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::case::Case;
use super::check::Check;
use super::compare;
use super::failure::{Failure, Finding};
use super::guarded::Guarded;
use super::strategies;
use crate::activation::{Acts, floor};
use crate::format::{Format, Grouping, Scales};
use crate::matrix::{Matrix, Weights};
use crate::oracle;

/// Random cases beside the listed ones, unless `PROPTEST_CASES` says otherwise.
const RANDOM: u32 = 32;

type Product<'k> = dyn Fn(&Matrix<'_>, &Acts, &mut [f32]) + 'k;
type ProductF32<'k> = dyn Fn(&Matrix<'_>, &[f32], usize, &mut [f32]) + 'k;
type Decode<'k> = dyn Fn(&[u8], f32, &mut [f32]) + 'k;
type Encode<'k> = dyn Fn(&[f32], usize, &mut [u8], &mut [f32]) + 'k;
type QuantizeRow<'k> = dyn Fn(&[f32], &mut [i8], &mut [f32], &mut [i32]) + 'k;

enum Kernel<'k> {
    Product(Box<Product<'k>>),
    ProductF32(Box<ProductF32<'k>>),
    Decode(Box<Decode<'k>>),
    Encode(Box<Encode<'k>>),
    QuantizeRow(Box<QuantizeRow<'k>>),
}

/// Cases to try, at most, to make one that fails smaller.
const SHRINKS: u32 = 300;

/// How near the answer must be.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Judge {
    /// Equal bits.
    Bits,
    /// This fraction of the sum of absolute terms from the sum in f64, beside what f32 rounding can do.
    Within(f64),
}

/// A kernel of yours, what it should compute, and how to judge it.
///
/// The kernel runs in this thread. Its outputs lie between painted margins, and a panic is caught and
/// reported with the case.
#[must_use = "a kit does nothing until it runs"]
pub struct Kit<'k> {
    name: String,
    check: Check,
    kernel: Kernel<'k>,
    judge: Judge,
    only: Option<String>,
    random: u32,
    empty: bool,
}

impl<'k> Kit<'k> {
    fn new(name: &str, check: Check, kernel: Kernel<'k>) -> Self {
        let name = name.to_owned();
        Kit { name, check, kernel, judge: Judge::Bits, only: None, random: RANDOM, empty: true }
    }

    /// `y = W x`, from packed weights and quantised activations; `out` is `[rows]`.
    pub fn gemv(
        format: Format,
        name: &str,
        kernel: impl Fn(&Matrix<'_>, &Acts, &mut [f32]) + 'k,
    ) -> Self {
        Self::new(name, Check::Gemv(format), Kernel::Product(Box::new(kernel)))
    }

    /// `Y = W X` for several vectors, from packed weights and quantised activations; `out` is `[n][rows]`.
    pub fn gemm(
        format: Format,
        name: &str,
        kernel: impl Fn(&Matrix<'_>, &Acts, &mut [f32]) + 'k,
    ) -> Self {
        Self::new(name, Check::Gemm(format), Kernel::Product(Box::new(kernel)))
    }

    /// As [`Kit::gemv`] for a kernel that reads f32 activations, `[cols]`.
    ///
    /// Compared by bits, it must quantise them itself as the format says. With [`Kit::within`] it must not:
    /// its answer is the product of the decoded weights with the activations as they are.
    pub fn gemv_f32(
        format: Format,
        name: &str,
        kernel: impl Fn(&Matrix<'_>, &[f32], &mut [f32]) + 'k,
    ) -> Self {
        let kernel = move |w: &Matrix<'_>, x: &[f32], _: usize, out: &mut [f32]| kernel(w, x, out);
        Self::new(name, Check::Gemv(format), Kernel::ProductF32(Box::new(kernel)))
    }

    /// As [`Kit::gemm`] for a kernel that reads f32 activations, `[n][cols]`: `kernel(w, x, n, out)`; see
    /// [`Kit::gemv_f32`].
    pub fn gemm_f32(
        format: Format,
        name: &str,
        kernel: impl Fn(&Matrix<'_>, &[f32], usize, &mut [f32]) + 'k,
    ) -> Self {
        Self::new(name, Check::Gemm(format), Kernel::ProductF32(Box::new(kernel)))
    }

    /// One row of bytes to f32: `kernel(row, scale, out)`, where `scale` is the row's scale outside the
    /// blocks, 1 for formats without one, and `out` is `[cols]`.
    pub fn decode(
        format: Format,
        name: &str,
        kernel: impl Fn(&[u8], f32, &mut [f32]) + 'k,
    ) -> Self {
        Self::new(name, Check::Decode(format), Kernel::Decode(Box::new(kernel)))
    }

    /// A matrix of f32 to bytes: `kernel(weights, cols, bytes, scales)`, where `scales` are those outside the
    /// blocks: `[rows]`, `[1]` or none.
    pub fn encode(
        format: Format,
        name: &str,
        kernel: impl Fn(&[f32], usize, &mut [u8], &mut [f32]) + 'k,
    ) -> Self {
        Self::new(name, Check::Encode(format), Kernel::Encode(Box::new(kernel)))
    }

    /// One vector of activations to int8: `kernel(x, codes, scales, sums)`, with a scale and a sum of codes
    /// per group.
    ///
    /// # Panics
    /// For [`Grouping::Dense`], which is not quantised.
    pub fn quantize_row(
        grouping: Grouping,
        name: &str,
        kernel: impl Fn(&[f32], &mut [i8], &mut [f32], &mut [i32]) + 'k,
    ) -> Self {
        assert!(grouping != Grouping::Dense, "dense activations are not quantised");
        Self::new(name, Check::QuantizeRow(grouping), Kernel::QuantizeRow(Box::new(kernel)))
    }

    /// Judges a product by the sum in f64 instead of by bits, for kernels with another order of summation:
    /// it may be off by what f32 rounding can do ([`oracle::Answer::bound`]) and by `tolerance` times the sum
    /// of the absolute terms. 0 is right for kernels that sum in f32, 2^-11 for a kernel that rounds its
    /// terms to f16.
    pub fn within(mut self, tolerance: f64) -> Self {
        self.judge = Judge::Within(tolerance);
        self
    }

    /// Runs this case alone, in place of all others; `TRITLAB_CASE` does the same from outside.
    pub fn only(mut self, case: &str) -> Self {
        self.only = Some(case.to_owned());
        self
    }

    /// How many random cases to run beside the listed ones (32; `PROPTEST_CASES` wins over both).
    pub fn random(mut self, cases: u32) -> Self {
        self.random = cases;
        self
    }

    /// Leaves out shapes without rows, columns or tokens, for kernels that need not handle them.
    pub fn skip_empty(mut self) -> Self {
        self.empty = false;
        self
    }

    /// Runs every case; the number of them.
    ///
    /// # Errors
    /// The first failure, made as small as it still fails.
    pub fn run(&self) -> Result<usize, Box<Failure>> {
        let only = self.only.clone().or_else(|| std::env::var("TRITLAB_CASE").ok());
        if let Some(name) = only {
            let parsed = name.parse::<Case>();
            let case = parsed.map_err(|why| self.failure(None, Finding::Unfit(why)))?;
            // Past the test harness: one case instead of all is said aloud, also where it passes.
            let line = format!("{}: the case {case} alone, and no other", self.name);
            let _ = writeln!(std::io::stderr(), "{line}");
            return match self.examine(&case) {
                Ok(()) => Ok(1),
                Err(finding) => Err(self.failure(Some(case), finding)),
            };
        }
        let mut cases = self.check.cases();
        let config = strategies::config(self.random);
        let count = config.cases;
        cases.extend(self.check.draw(count, &mut proptest::test_runner::TestRunner::new(config)));
        cases.retain(|c| self.empty || c.rows * c.cols * c.n > 0);
        for case in &cases {
            if let Err(finding) = self.examine(case) {
                let (case, finding) = self.shrink(*case, finding);
                return Err(self.failure(Some(case), finding));
            }
        }
        Ok(cases.len())
    }

    /// As [`Kit::run`] in a test.
    ///
    /// # Panics
    /// With the failure.
    #[track_caller]
    pub fn assert(&self) {
        if let Err(failure) = self.run() {
            panic!("{failure}");
        }
    }

    /// The smallest case on the way down that still fails.
    fn shrink(&self, mut case: Case, mut finding: Finding) -> (Case, Finding) {
        let mut tries = 0..SHRINKS;
        'smaller: loop {
            for simpler in self.check.simpler(&case) {
                if tries.next().is_none() {
                    break;
                }
                match self.examine(&simpler) {
                    Ok(()) | Err(Finding::Unfit(_)) => {}
                    Err(found) => {
                        (case, finding) = (simpler, found);
                        continue 'smaller;
                    }
                }
            }
            return (case, finding);
        }
    }

    fn failure(&self, case: Option<Case>, finding: Finding) -> Box<Failure> {
        Box::new(Failure { kernel: self.name.clone(), check: self.check, case, finding })
    }

    /// Runs one case.
    fn examine(&self, case: &Case) -> Result<(), Finding> {
        if let Some(why) = self.check.refuses(case) {
            return Err(Finding::Unfit(why));
        }
        match (self.check, &self.kernel) {
            (Check::Gemv(format) | Check::Gemm(format), Kernel::Product(kernel)) => {
                self.product(format, case, |w, _, acts, out| kernel(w, acts, out))
            }
            (Check::Gemv(format) | Check::Gemm(format), Kernel::ProductF32(kernel)) => {
                self.product(format, case, |w, x, _, out| kernel(w, x, case.n, out))
            }
            (Check::Decode(format), Kernel::Decode(kernel)) => decode(format, case, kernel),
            (Check::Encode(format), Kernel::Encode(kernel)) => encode(format, case, kernel),
            (Check::QuantizeRow(grouping), Kernel::QuantizeRow(kernel)) => {
                quantize_row(grouping, case, kernel)
            }
            _ => unreachable!("every constructor pairs a check with its kernel"),
        }
    }

    fn product(
        &self,
        format: Format,
        case: &Case,
        kernel: impl Fn(&Matrix<'_>, &[f32], &Acts, &mut [f32]),
    ) -> Result<(), Finding> {
        let w = case.matrix(format).map_err(unfit)?;
        let x = case.activations().map_err(unfit)?;
        let acts = quantized(format.info().activation, &x, case)?;
        let mut out = Guarded::new(case.n * case.rows);
        call(|| kernel(&w, &x, &acts, out.slice()))?;
        let axes = (&["token", "row"], case.rows);
        match self.judge {
            Judge::Bits => {
                let mut expected = vec![0.0; case.n * case.rows];
                oracle::matmul(&w, &acts, &mut expected);
                compare::same("y", axes, &out, &expected)
            }
            Judge::Within(tolerance) => {
                let acts = match self.kernel {
                    Kernel::ProductF32(_) => quantized(Grouping::Dense, &x, case)?,
                    _ => acts,
                };
                compare::near("y", axes, &out, tolerance, |t, r| {
                    oracle::matmul_f64(&w, &acts, t, r)
                })
            }
        }
    }
}

/// Activations by the definition, whatever the current backend is.
pub(super) fn quantized(grouping: Grouping, x: &[f32], case: &Case) -> Result<Acts, Finding> {
    Acts::quantize_with(grouping, x, case.n, case.cols, oracle::quantize_row).map_err(unfit)
}

fn unfit(error: crate::Error) -> Finding {
    Finding::Unfit(error.to_string())
}

/// Calls the kernel; a panic becomes a finding.
fn call(kernel: impl FnOnce()) -> Result<(), Finding> {
    catch_unwind(AssertUnwindSafe(kernel)).map_err(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
        Finding::Panicked(text.unwrap_or("with something that is no text").to_owned())
    })
}

fn decode(format: Format, case: &Case, kernel: &Decode<'_>) -> Result<(), Finding> {
    let w = case.matrix(format).map_err(unfit)?;
    let mut expected = vec![0.0; case.cols];
    for r in 0..case.rows {
        let mut out = Guarded::new(case.cols);
        call(|| kernel(w.row(r), w.row_scale(r), out.slice()))?;
        w.dequantize_row(r, &mut expected);
        compare::same("weights", (&["row", "column"], case.cols), &out, &expected)
            .map_err(|finding| in_row(finding, r))?;
    }
    Ok(())
}

/// A finding in a row that was compared alone.
fn in_row(mut finding: Finding, r: usize) -> Finding {
    if let Finding::Differs { index, .. } = &mut finding {
        index[0] = r;
    }
    finding
}

fn encode(format: Format, case: &Case, kernel: &Encode<'_>) -> Result<(), Finding> {
    let weights = case.weights().map_err(unfit)?;
    let expected = Matrix::quantize(format, case.rows, case.cols, &weights).map_err(unfit)?;
    let mut bytes = Guarded::new(expected.bytes().len());
    let mut scales = Guarded::new(expected.scales().len());
    call(|| kernel(&weights, case.cols, bytes.slice(), scales.slice()))?;
    let axis = match format.info().scales {
        Scales::Row => &["row", "scale"],
        _ => &["matrix", "scale"],
    };
    compare::same("scales", (axis, 1), &scales, expected.scales())?;
    let row = expected.bytes().len() / case.rows.max(1);
    compare::same("bytes", (&["row", "byte"], row), &bytes, expected.bytes())
}

fn quantize_row(grouping: Grouping, case: &Case, kernel: &QuantizeRow<'_>) -> Result<(), Finding> {
    let x = case.weights().map_err(unfit)?;
    let group = grouping.len().unwrap_or(x.len()).max(1);
    let groups = x.len().div_ceil(group);
    let mut expected = (vec![0i8; x.len()], vec![0.0f32; groups], vec![0i32; groups]);
    let (q, s, sum) = (&mut expected.0, &mut expected.1, &mut expected.2);
    oracle::quantize_row(&x, group, floor(grouping), q, s, sum);
    let (mut q, mut s, mut sum) =
        (Guarded::new(x.len()), Guarded::new(groups), Guarded::new(groups));
    call(|| kernel(&x, q.slice(), s.slice(), sum.slice()))?;
    compare::same("scales", (&["group", "scale"], 1), &s, &expected.1)?;
    compare::same("codes", (&["group", "element"], group), &q, &expected.0)?;
    compare::same("sums", (&["group", "sum"], 1), &sum, &expected.2)
}

impl std::fmt::Debug for Kit<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Kit { name, check, judge, only, random, empty, .. } = self;
        f.debug_struct("Kit")
            .field("name", name)
            .field("check", check)
            .field("judge", judge)
            .field("only", only)
            .field("random", random)
            .field("empty", empty)
            .finish_non_exhaustive()
    }
}
