//! tritlab's side of `benches/peers/kernels.py`: one matrix product, timed when told to.
//!
//! Commands come as lines on stdin, and each is answered by one line on stdout. Files are little-endian.
//!
//! ```text
//! load FORMAT ROWS COLS TOKENS COPIES WEIGHTS X Y    packs the format's bytes WEIGHTS [rows], COPIES times; multiplies
//!                                                    with the f32 X [tokens][cols]; writes the f32 Y [tokens][rows]
//! time THREADS                                       multiplies with every copy in turn
//! limits THREADS                                     measures memory and the int8 dot product
//!
//! ok NUMBER...                                       load: bytes of a copy; time: ns; limits: bytes/s and products/s
//! error TEXT
//! ```
//!
//! `load` compares sampled outputs with the oracle, bit for bit. The time includes quantising the activations.

use std::io::{BufRead, Write};
use std::time::Duration;

use tritlab_benches::check_rows;
use tritlab_kernels::{Acts, Format, Matrix, Panels, backend, matmul, roofline, speed, threads};

type Answer = Result<String, Box<dyn std::error::Error>>;

/// How long each limit is measured.
const LIMIT: Duration = Duration::from_millis(300);

struct Product {
    copies: Vec<Panels>,
    x: Vec<f32>,
    tokens: usize,
    y: Vec<f32>,
}

fn load(words: &[&str]) -> Result<Product, Box<dyn std::error::Error>> {
    let &[format, rows, cols, tokens, copies, weights, x, y] = words else {
        return Err("load takes FORMAT ROWS COLS TOKENS COPIES WEIGHTS X Y".into());
    };
    let format = Format::from_name(format)?;
    let (rows, cols): (usize, usize) = (rows.parse()?, cols.parse()?);
    let (tokens, copies): (usize, usize) = (tokens.parse()?, copies.parse()?);
    let bytes = std::fs::read(weights)?;
    let matrix = Matrix::new(format, rows, cols, bytes, Vec::new())?;
    // Packed and not cloned: a clone would not ask for large pages.
    let copies: Result<_, _> = (0..copies.max(1)).map(|_| Panels::pack(&matrix)).collect();
    let x: Vec<f32> =
        std::fs::read(x)?.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
    let mut product = Product { copies: copies?, x, tokens, y: vec![0.0; tokens * rows] };
    matmul(&product.copies[0], &product.x, tokens, &mut product.y)?;
    let acts = Acts::quantize(format.info().activation, &product.x, tokens, cols)?;
    check_rows(format.name(), &matrix, &acts, &product.y);
    let bytes: Vec<u8> = product.y.iter().flat_map(|v| v.to_le_bytes()).collect();
    std::fs::write(y, bytes)?;
    Ok(product)
}

fn time(product: &mut Product, threads: usize) -> Answer {
    threads::set(threads)?;
    let copies: Vec<&Panels> = product.copies.iter().collect();
    let elapsed = speed::products(&copies, &product.x, product.tokens, &mut product.y)?;
    Ok(format!("{}", elapsed.as_nanos()))
}

fn limits(threads: usize) -> Answer {
    let read = roofline::read_bandwidth(threads, LIMIT);
    let peak = roofline::dot_peak(backend::current()?, threads, LIMIT)?;
    Ok(format!("{read} {peak}"))
}

fn main() -> std::io::Result<()> {
    let mut product = None;
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        let words: Vec<&str> = line.split(' ').collect();
        let answer = match (words[0], &words[1..], &mut product) {
            ("load", rest, slot) => {
                *slot = None;
                load(rest).map(|p| {
                    let bytes = p.copies[0].nbytes();
                    *slot = Some(p);
                    bytes.to_string()
                })
            }
            ("time", [threads], Some(product)) => {
                threads.parse().map_err(Into::into).and_then(|n| time(product, n))
            }
            ("limits", [threads], _) => threads.parse().map_err(Into::into).and_then(limits),
            ("backend", [], _) => Ok(backend::current().map_or("none", |b| b.name()).to_owned()),
            _ => Err("load, time THREADS after load, limits THREADS, or backend".into()),
        };
        let mut out = std::io::stdout().lock();
        match answer {
            Ok(text) => writeln!(out, "ok {text}")?,
            Err(error) => writeln!(out, "error {error}")?,
        }
        out.flush()?;
    }
    Ok(())
}
