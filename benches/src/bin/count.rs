//! One product, so many times over, for whoever counts instructions from outside: `benches/neon.py`.
//!
//! ```text
//! count BACKEND FORMAT TOKENS TIMES          64 rows x 1280 columns, painted
//! ```

use tritlab_benches::{check_rows, paint};
use tritlab_kernels::{Backend, Format, Matrix, Panels};

/// A panel, of whole groups of 256 and whole lines of 20.
const SHAPE: (usize, usize) = (64, 1280);

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [backend, format, tokens, times] = &args[..] else {
        return Err("usage: count BACKEND FORMAT TOKENS TIMES".into());
    };
    let ops = Backend::from_name(backend)?.ops()?;
    let (format, (rows, cols)) = (Format::from_name(format)?, SHAPE);
    let (tokens, times): (usize, usize) = (tokens.parse()?, times.parse()?);
    let painted = |n| (0..n).map(paint).collect::<Vec<f32>>();
    let matrix = Matrix::quantize(format, rows, cols, &painted(rows * cols))?;
    let panels = Panels::pack(&matrix)?;
    let acts =
        ops.quantize_acts(format.info().activation, &painted(tokens * cols), tokens, cols)?;
    let mut out = vec![0.0; tokens * rows];
    for _ in 0..times {
        ops.matmul(&panels, &acts, std::hint::black_box(&mut out));
    }
    check_rows(format.name(), &matrix, &acts, &out);
    Ok(())
}
