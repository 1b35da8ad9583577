//! What a kit says about a kernel that is wrong.

use std::fmt;

use super::case::Case;
use super::check::Check;

/// What is wrong with one case.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Finding {
    /// An output with another value than it must have.
    Differs {
        /// Which output: `y`, `weights`, `bytes`, `codes`, `scales`, `sums`.
        output: &'static str,
        /// What the two indices count: `["token", "row"]`, `["row", "column"]`, ...
        axes: &'static [&'static str; 2],
        /// The first that differs.
        index: [usize; 2],
        /// What the kernel wrote, with its bits.
        found: String,
        /// What the definition says, with its bits, or the sum in f64 and how far from it is allowed.
        expected: String,
        /// How many differ.
        differing: usize,
        /// How many there are.
        of: usize,
    },
    /// A write beside an output.
    Outside {
        /// Which output.
        output: &'static str,
        /// Its elements.
        len: usize,
        /// Where, from the output's first element.
        index: isize,
        /// What was written there.
        found: String,
    },
    /// The kernel panicked.
    Panicked(String),
    /// The case does not fit the check; the kernel was not run.
    Unfit(String),
}

/// A kernel that is wrong: which, in what, where, and how to see it again.
#[derive(Clone, Debug, PartialEq)]
pub struct Failure {
    /// The kernel's name.
    pub kernel: String,
    /// What it should compute, and for what format.
    pub check: Check,
    /// The case, as small as the kit could make it; `None` if the name that was asked for is no case.
    pub case: Option<Case>,
    /// What is wrong.
    pub finding: Finding,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Failure { kernel, check, case, finding } = self;
        let mut lines = case.as_ref().map(inputs).unwrap_or_default();
        let headline = match finding {
            Finding::Unfit(why) => {
                lines.clear();
                let case = case.map(|case| format!("the case {case} does not fit {check}: "));
                format!("{kernel} was not run: {}{why}", case.unwrap_or_default())
            }
            Finding::Panicked(message) => format!("{kernel}, as {check}, panicked: {message}"),
            Finding::Outside { output, len, index, found } => {
                let side = if *index < 0 { "before" } else { "behind" };
                lines.push(("wrote", format!("{found} at index {index} of {len} {output}")));
                format!("{kernel}, as {check}, wrote {side} its output")
            }
            Finding::Differs { output, axes, index, found, expected, differing, of } => {
                let [(a, i), (b, j)] = [(axes[0], index[0]), (axes[1], index[1])];
                let count = format!("{differing} of {of} {output} differ");
                lines.push(("first bad", format!("{a} {i}, {b} {j} ({count})")));
                lines.push(("found", found.clone()));
                lines.push(("expected", expected.clone()));
                format!("{kernel} is not {check}")
            }
        };
        if let Some(case) = case.filter(|_| !lines.is_empty()) {
            lines.push(("rerun", rerun(&case)));
        }
        f.write_str(&headline)?;
        lines.iter().try_for_each(|(name, text)| write!(f, "\n  {name:<9}  {text}"))
    }
}

/// What goes in, line by line.
fn inputs(case: &Case) -> Vec<(&'static str, String)> {
    let mut lines = vec![("case", case.to_string()), ("shape", shape(case))];
    if let Some(bytes) = case.bytes {
        lines.push(("weights", bytes.describe()));
    }
    if let Some(values) = case.values {
        lines.push(("numbers", values.describe().to_owned()));
    }
    lines
}

/// The shape in words.
fn shape(case: &Case) -> String {
    let Case { rows, cols, n, .. } = *case;
    let tokens = match (case.bytes, case.values) {
        (Some(_), Some(_)) => format!(", {n} token{}", if n == 1 { "" } else { "s" }),
        _ => String::new(),
    };
    format!("{rows} x {cols}{tokens}")
}

/// How to run this case alone. libtest names a test's thread after the test.
fn rerun(case: &Case) -> String {
    let current = std::thread::current();
    let command = match current.name() {
        Some(test) if test != "main" => format!("cargo test {test}"),
        _ => "and the same command".to_owned(),
    };
    format!("TRITLAB_CASE='{case}' {command}; or .only(\"{case}\") on the kit")
}

impl std::error::Error for Failure {}
