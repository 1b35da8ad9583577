//! What a kernel is run on to be counted.

use crate::activation::Acts;
use crate::backend::{Backend, Kernel, Ops};
use crate::error::Result;
use crate::format::{Format, Grouping};
use crate::matrix::Matrix;
use crate::op::outputs::Outputs;
use crate::op::{CacheType, KeyValues, Queries, Query};
use crate::oracle::Activation;
use crate::panel::{Panels, ROWS};

/// A call of a kernel.
pub(super) struct Work {
    pub run: Box<dyn FnMut()>,
    /// Weights times tokens, or numbers.
    pub units: usize,
    /// Tokens of a product, otherwise 1.
    pub tokens: usize,
}

/// Numbers of an operation without weights, of the smaller work.
const NUMBERS: usize = 1024;
/// Dimensions of an attention head.
const HEAD: usize = 64;
/// Keys and values, of the smaller work: whole blocks of 16, and so many that clearing the scores, which the C library
/// does in another way for each length, is little beside them.
const POSITIONS: usize = 256;

fn painted(n: usize) -> Vec<f32> {
    (0..n).map(|i| ((i * 37 % 251) as f32 - 125.0) / 64.0).collect()
}

/// The work, once or twice (`times`).
pub(super) fn prepare(kernel: &Kernel, ops: &'static Ops, times: usize) -> Result<Work> {
    match kernel.format {
        Some(format) => product(kernel, ops, format, times),
        None => Ok(plain(kernel.op, ops, times)),
    }
}

/// Columns of the smaller product: whole groups, whole lines, and enough of them for loops that the compiler unrolled.
fn columns(format: Format) -> usize {
    match (format.info().activation.len(), format.codes()) {
        (Some(256), _) => 256,
        // Lines of 20 columns, chunks of 32.
        (_, Some(codes)) if codes.base3 => 160,
        _ => 128,
    }
}

fn product(kernel: &Kernel, ops: &'static Ops, format: Format, times: usize) -> Result<Work> {
    let whole = ops.whole(format).filter(|_| kernel.op == "gemm");
    let (rows, cols, tokens) = match (whole, kernel.op) {
        // Whole matrices: so many rows and tokens that what is done once for either does not hide the rest.
        (Some(_), _) => (256, times * 256, 40),
        // A panel; the oracle, which takes rows one by one and its time, gets one.
        (None, op) => {
            let rows = if kernel.backend == Backend::Oracle { 1 } else { ROWS };
            (rows, times * columns(format), if op == "gemv" { 1 } else { ops.gemm(format).full })
        }
    };
    let panels = Panels::pack(&Matrix::quantize(format, rows, cols, &painted(rows * cols))?)?;
    let acts = Acts::quantize(format.info().activation, &painted(tokens * cols), tokens, cols)?;
    let mut out = vec![0.0; tokens * rows.max(ROWS)];
    let run: Box<dyn FnMut()> = match whole {
        Some(whole) => Box::new(move || _ = whole(&panels, &acts, 0, &mut out)),
        None => {
            let by_panel = if tokens == 1 { ops.gemv(format) } else { ops.gemm(format) };
            Box::new(move || (by_panel.run)(&panels, 0, &acts, 0, Outputs::block(&mut out)))
        }
    };
    Ok(Work { run, units: rows * cols * tokens, tokens })
}

fn plain(op: &str, ops: &'static Ops, times: usize) -> Work {
    let n = times * NUMBERS;
    let (x, mut out) = (painted(n), painted(n));
    let run: Box<dyn FnMut()> = match op {
        "quantize_row" => {
            let (mut q, mut scale, mut sum) = (vec![0; n], vec![0.0; n / 256], vec![0; n / 256]);
            let grouping = Grouping::Group256;
            Box::new(move || ops.quantize_row(grouping, &x, &mut q, &mut scale, &mut sum))
        }
        "rms_norm" => Box::new(move || ops.rms_norm(&x, &x, 1e-5, &mut out)),
        "gated" => Box::new(move || ops.gated(Activation::Silu, &mut out, &x)),
        "tanh_cap" => Box::new(move || ops.tanh_cap(&mut out, 30.0)),
        "softmax" => Box::new(move || ops.softmax(&mut out)),
        "rope" => Box::new(move || ops.rope(&mut out, &x[..n / 2], &x[n / 2..])),
        _ => return attention(ops, times * POSITIONS),
    };
    Work { run, units: n, tokens: 1 }
}

/// One query over `positions` keys and values: the numbers are those of the cache.
fn attention(ops: &'static Ops, positions: usize) -> Work {
    let mut cache = KeyValues::new(HEAD, positions, CacheType::F32);
    let (q, mut out, mut scores) = (painted(HEAD), vec![0.0; HEAD], Vec::new());
    for _ in 0..positions {
        cache.push(&q, &q);
    }
    let each = [Query { at: 0, range: 0..positions }];
    let run = move || {
        let queries = Queries { vectors: &q, each: &each, scale: 0.125, cap: None };
        ops.attention(&queries, &cache, &mut scores, &mut out);
    };
    Work { run: Box::new(run), units: 2 * positions * HEAD, tokens: 1 }
}
