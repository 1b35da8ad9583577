//! Each product kernel of a backend, before it is used.

use std::sync::OnceLock;

use super::{Backend, FORMAT_OPS, Ops};
use crate::activation::Acts;
use crate::error::{Error, Result};
use crate::format::Format;
use crate::matrix::Matrix;
use crate::oracle;
use crate::panel::Panels;

/// Tokens that the oracle multiplies: tiles of six and one, and of four, two and one.
const TOKENS: usize = 7;

/// Runs every product kernel of a backend once on a small matrix and compares bits with the oracle:
/// miscompilations, and machines whose instructions do something else, end here.
pub(super) fn self_check(ops: &'static Ops) -> Result<()> {
    static CHECKED: [OnceLock<Result<()>>; Backend::ALL.len()] =
        [const { OnceLock::new() }; Backend::ALL.len()];
    CHECKED[ops.backend as usize].get_or_init(|| check_products(ops)).clone()
}

fn check_products(ops: &Ops) -> Result<()> {
    let (rows, cols) = (65, 256);
    // Painted with period 251, the largest prime below 256: swapped blocks or rows change the answer.
    let paint = |i: usize| ((i * 37 % 251) as f32 - 125.0) / 64.0;
    let weights: Vec<f32> = (0..rows * cols).map(paint).collect();
    for &format in Format::ALL {
        let grouping = format.info().activation;
        let matrix = Matrix::quantize(format, rows, cols, &weights)?;
        let panels = Panels::pack(&matrix)?;
        // More tokens than these are these again: the oracle takes its time.
        let x: Vec<f32> = (0..TOKENS * cols).map(|i| paint(i + 1)).collect();
        let acts = Acts::quantize_with(grouping, &x, TOKENS, cols, oracle::quantize_row)?;
        let mut expected = vec![0.0; TOKENS * rows];
        oracle::matmul(&matrix, &acts, &mut expected);
        // A matrix unit leaves a few tokens to the vectors; its last tile here overlaps the one before.
        let many = if ops.backend == Backend::Amx { 28 } else { ops.gemm(format).full + 1 };
        for n in [1, TOKENS, many] {
            let x: Vec<f32> = x.iter().copied().cycle().take(n * cols).collect();
            let acts = ops.quantize_acts(grouping, &x, n, cols)?;
            let mut got = vec![0.0; n * rows];
            ops.matmul_panels(&panels, &acts, &mut got);
            if n > 1
                && let Some(whole) = ops.whole(format)
            {
                let by_panels = got.clone();
                whole(&panels, &acts, 0, &mut got);
                got.extend(by_panels);
            }
            let outputs =
                got.chunks(n * rows).flat_map(|got| got.iter().zip(expected.iter().cycle()));
            for (row, (g, e)) in outputs.enumerate() {
                if e.to_bits() != g.to_bits() {
                    let op = FORMAT_OPS[usize::from(n > 1)];
                    let format = format.name().to_lowercase();
                    return Err(Error::SelfCheck {
                        kernel: format!("{op}-{format}-{}", ops.backend),
                        row: row % (n * rows),
                        got: g.to_bits(),
                        expected: e.to_bits(),
                    });
                }
            }
        }
    }
    Ok(())
}
