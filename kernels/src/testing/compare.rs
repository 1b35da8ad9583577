//! Equality of bits that names the first difference.

use super::failure::Finding;
use super::guarded::{Guarded, Number};
use crate::oracle::Answer;

/// Equal bits everywhere, and nothing written beside. `axes` names the two indices and says how many
/// elements the second counts.
pub(super) fn same<T: Number>(
    output: &'static str,
    axes: (&'static [&'static str; 2], usize),
    out: &Guarded<T>,
    expected: &[T],
) -> Result<(), Finding> {
    intact(output, out)?;
    let differs = |i: &usize| !out.get()[*i].same(expected[*i]);
    let bad: Vec<usize> = (0..expected.len()).filter(differs).collect();
    let Some(&first) = bad.first() else { return Ok(()) };
    let index = [first / axes.1, first % axes.1];
    let (found, expected) = (out.get()[first].show(), expected[first].show());
    let (differing, of) = (bad.len(), out.get().len());
    Err(Finding::Differs { output, axes: axes.0, index, found, expected, differing, of })
}

/// As [`same`], near a sum in f64.
pub(super) fn near(
    output: &'static str,
    axes: (&'static [&'static str; 2], usize),
    out: &Guarded<f32>,
    tolerance: f64,
    answer: impl Fn(usize, usize) -> Answer,
) -> Result<(), Finding> {
    intact(output, out)?;
    let (mut first, mut differing) = (None, 0);
    for (i, &found) in out.get().iter().enumerate() {
        let exact = answer(i / axes.1, i % axes.1);
        let allowed = exact.bound + tolerance * exact.mass;
        let error = (f64::from(found) - exact.value).abs();
        // A NaN is near nothing.
        if error <= allowed {
            continue;
        }
        differing += 1;
        first.get_or_insert((i, exact.value, allowed, error));
    }
    let Some((i, value, allowed, error)) = first else { return Ok(()) };
    Err(Finding::Differs {
        output,
        axes: axes.0,
        index: [i / axes.1, i % axes.1],
        found: out.get()[i].show(),
        expected: format!("{value:?} in f64, within {allowed:.3e} of it; the error is {error:.3e}"),
        differing,
        of: out.get().len(),
    })
}

fn intact<T: Number>(output: &'static str, out: &Guarded<T>) -> Result<(), Finding> {
    let Some((index, found)) = out.outside() else { return Ok(()) };
    Err(Finding::Outside { output, len: out.get().len(), index, found: found.show() })
}

/// What differs, where, and the bits of both: two f32 slices must be equal bit for bit, except that any
/// NaN equals any NaN (its sign and payload are the CPU's, not ours).
///
/// # Panics
/// With the first difference.
#[track_caller]
pub fn assert_bits(what: &str, got: &[f32], expected: &[f32]) {
    assert_eq!(got.len(), expected.len(), "{what}: lengths");
    for (i, (g, e)) in got.iter().zip(expected).enumerate() {
        assert!(
            g.to_bits() == e.to_bits() || (g.is_nan() && e.is_nan()),
            "{what}: first difference at {i}: got {:#010x} ({g:e}), expected {:#010x} ({e:e})",
            g.to_bits(),
            e.to_bits(),
        );
    }
}
