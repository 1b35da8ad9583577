//! The pages: what a format's source file says, what its description and the kernel table say, and what is
//! measured. `main.rs` writes them; a test holds the files equal to this.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::{fs, io};

use super::measure::{self, KINDS, Loss, SHAPE};
use tritlab_kernels::format::{Grouping, Kind};
use tritlab_kernels::{Backend, Format, Matrix, Scales, backend};

/// Where the pages are.
pub fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/formats")
}

/// Names and texts of all pages.
pub fn all() -> io::Result<Vec<(String, String)>> {
    let inputs: Vec<_> = (0..KINDS.len()).map(measure::weights).collect();
    let mut out = Vec::new();
    let mut index = Vec::new();
    for &format in Format::ALL {
        let quantise = |weights: &Vec<f32>| {
            let matrix =
                Matrix::quantize(format, SHAPE.0, SHAPE.1, weights).expect("finite weights");
            let loss = measure::loss(&matrix, weights);
            (matrix, loss)
        };
        let made: Vec<_> = inputs.iter().map(quantise).collect();
        let losses: Vec<Loss> = made.iter().map(|(_, loss)| *loss).collect();
        out.push((format!("{format}.md"), page(format, &made[0].0, &losses)?));
        index.push((format, losses));
    }
    out.push(("README.md".to_owned(), index_page(&index)));
    Ok(out)
}

const GENERATED: &str =
    "<!-- Made by `make docs` from the sources and measurements; edit those. -->\n";

fn page(format: Format, gaussian: &Matrix<'_>, losses: &[Loss]) -> io::Result<String> {
    let info = format.info();
    let source = format.source();
    let docs = module_docs(&source)?;
    let mut out = format!("{GENERATED}\n# {format}\n\n{}.\n\n", capital(info.summary));
    out += &facts(format, gaussian);
    let _ = write!(
        out,
        "\n## Bytes, formula, encoding\n\n[{source}](../../src/{source}) says:\n\n{docs}"
    );
    if docs.contains("kquant.rs") {
        let shared = module_docs("format/kquant.rs")?;
        let _ = write!(
            out,
            "\n[format/kquant.rs](../../src/format/kquant.rs), which it refers to:\n\n{shared}"
        );
    }
    if format.codes().is_some_and(|codes| codes.base3) {
        out += &other_bytes(format);
    }
    out += &errors(losses);
    out += &kernels(format);
    let explained = gaussian.explain(0, 0).expect("there is a first block");
    let _ = write!(
        out,
        "\n## A block\n\nThe first of the Gaussian weights, as `tl.explain` draws it.\n\n```text\n{}```\n",
        explained.to_string().lines().map(|l| format!("{}\n", l.trim_end())).collect::<String>()
    );
    Ok(out)
}

/// The text of a file's `//!` lines, without rustdoc's links.
fn module_docs(source: &str) -> io::Result<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src").join(source);
    let text = fs::read_to_string(path)?;
    let lines = text.lines().map_while(|line| line.strip_prefix("//!"));
    let lines = lines.map(|line| line.strip_prefix(' ').unwrap_or(line));
    let text: String = lines.map(|line| format!("{line}\n")).collect();
    Ok(text.replace("[`", "`").replace("`]", "`"))
}

fn facts(format: Format, gaussian: &Matrix<'_>) -> String {
    let info = format.info();
    let activations = match info.activation {
        Grouping::Dense => "f32".to_owned(),
        Grouping::Token => "int8, one scale per token".to_owned(),
        group => format!("int8, one scale per {}", group.name()),
    };
    let scales = match info.scales {
        Scales::None => "none",
        Scales::Block => "in the block",
        Scales::Row => "outside the block: one f32 per row",
        Scales::Tensor => "outside the block: one f32 per matrix",
    };
    let fields: Vec<_> = info
        .fields
        .iter()
        .map(|f| match f.len {
            1 => format!("`{}` {}", f.name, f.at),
            n => format!("`{}` {}-{}", f.name, f.at, f.at + n - 1),
        })
        .collect();
    let plural = if info.bytes == 1 { "" } else { "s" };
    let weights = if info.block == 1 { "" } else { "s" };
    let mut rows = vec![
        ("bits per weight", format!("{}", format.bits_per_weight())),
        ("block", format!("{} weight{weights} in {} byte{plural}", info.block, info.bytes)),
        ("fields, by byte", fields.join(", ")),
        ("formula", format!("`{}`", gaussian.explain(0, 0).expect("a block").formula())),
        ("activations", activations),
        ("scales", scales.to_owned()),
    ];
    rows.extend(ranges(format, gaussian));
    let mut out = "| | |\n| --- | --- |\n".to_owned();
    for (name, value) in rows {
        let _ = writeln!(out, "| {name} | {value} |");
    }
    out
}

/// Codes, integer scales, and the numbers that can be reached with them.
fn ranges(format: Format, gaussian: &Matrix<'_>) -> Vec<(&'static str, String)> {
    let Kind::Coded(codes) = &format.info().kind else { return dense_range(format) };
    let found = measure::ranges(format);
    let written = measure::codes_written(gaussian);
    let mut q =
        format!("{} to {}, {} levels", found.codes.low(), found.codes.high(), found.codes.levels());
    if (written.low(), written.high()) != (found.codes.low(), found.codes.high()) {
        let _ = write!(q, "; encoders write {} to {}", written.low(), written.high());
    }
    let mut rows = vec![("codes", q)];
    if let Some(n) = codes.sub_len {
        let mut text = format!("scales {} to {}", found.sub.low(), found.sub.high());
        if codes.min {
            let _ = write!(text, ", minima {} to {}", found.sub_min.low(), found.sub_min.high());
        }
        rows.push(("sub-blocks", format!("{} weights each; {text}", n)));
    }
    let (top, least) = (found.codes.magnitude(), found.codes.smallest());
    if format.info().scales != Scales::Block {
        rows.push(("largest weight", format!("{top} × the scale")));
        rows.push(("smallest above 0", format!("{least} × the scale")));
        return rows;
    }
    // An f16 scale reaches from 2^-24 to 65504.
    let f16 = half::f16::MAX.to_f32();
    let min = if codes.min { f16 * found.sub_min.magnitude() } else { 0.0 };
    rows.push(("largest weight", format!("±{}", f16 * found.sub.magnitude() * top + min)));
    let smallest = 2f32.powi(-24) * found.sub.smallest() * least;
    rows.push(("smallest above 0", format!("{smallest:e}")));
    rows
}

/// Largest and smallest of all finite numbers of a dense type: those of its upper two bytes, the lower ones
/// all set or all clear but one.
fn dense_range(format: Format) -> Vec<(&'static str, String)> {
    let Kind::Dense { read, .. } = &format.info().kind else { return Vec::new() };
    let n = format.info().bytes;
    let (mut largest, mut smallest) = (0.0f32, f32::INFINITY);
    for upper in 0..=u16::MAX {
        for (first, middle) in [(0, 0), (1, 0), (255, 255)] {
            let mut bytes = [first, middle, 0, 0];
            bytes[n - 2..n].copy_from_slice(&upper.to_le_bytes());
            let value = read(&bytes[..n]);
            if value.is_finite() && value > 0.0 {
                largest = largest.max(value);
                smallest = smallest.min(value);
            }
        }
    }
    vec![("largest weight", format!("±{largest:e}")), ("smallest above 0", format!("{smallest:e}"))]
}

/// The bytes that stand for no value below 3^5 of their own, and what they decode to.
fn other_bytes(format: Format) -> String {
    let decoded = measure::base3_bytes(format);
    let same = |byte: usize| decoded[..byte].iter().position(|d| *d == decoded[byte]);
    let others: Vec<_> = (0..256).filter_map(|byte| Some((byte, same(byte)?))).collect();
    let mut out = format!(
        "\n## The {} other bytes\n\nOf 256 byte values {} have digits of their own. The others are read too, \
         by the same rule:\n\n| byte | digits - 1 | the same as |\n| --- | --- | --- |\n",
        others.len(),
        256 - others.len()
    );
    for (byte, like) in others {
        let digits: Vec<_> = decoded[byte].iter().map(i16::to_string).collect();
        let _ = writeln!(out, "| 0x{byte:02x} | {} | 0x{like:02x} |", digits.join(" "));
    }
    out
}

fn relative(loss: &Loss) -> String {
    let percent = 100.0 * loss.relative;
    match percent {
        0.0 => "0".to_owned(),
        p if p >= 10.0 => format!("{p:.1} %"),
        p if p >= 1.0 => format!("{p:.2} %"),
        p if p >= 0.1 => format!("{p:.3} %"),
        p => format!("{p:.4} %"),
    }
}

fn decibel(loss: &Loss) -> String {
    if loss.relative == 0.0 { "exact".to_owned() } else { format!("{:.2}", loss.sqnr) }
}

fn errors(losses: &[Loss]) -> String {
    let mut out = format!(
        "\n## Error\n\n{} × {} weights of each kind, from fixed seeds, by the reference encoder without \
         importance. Relative error is the root of (sum of squared errors / sum of squares); SQNR is -20 log10 \
         of it.\n\n| weights | relative error | SQNR, dB |\n| --- | ---: | ---: |\n",
        SHAPE.0, SHAPE.1
    );
    for ((name, what), loss) in KINDS.iter().zip(losses) {
        let _ = writeln!(out, "| {name}: {what} | {} | {} |", relative(loss), decibel(loss));
    }
    out
}

/// The kernel table's rows of this format.
fn kernels(format: Format) -> String {
    let table: Vec<_> =
        backend::kernels().into_iter().filter(|k| k.format == Some(format)).collect();
    let mut ops: Vec<&str> = Vec::new();
    for kernel in &table {
        if !ops.contains(&kernel.op) {
            ops.push(kernel.op);
        }
    }
    let mut out = format!(
        "\n## Kernels\n\nAll return the same bits.\n\n| backend | {} |\n| --- |{}\n",
        ops.join(" | "),
        " --- |".repeat(ops.len())
    );
    for backend in Backend::ALL {
        let name = |op: &&str| {
            let kernel = table.iter().find(|k| k.backend == backend && k.op == *op);
            kernel.map_or("-".to_owned(), |k| format!("`{}`", k.name))
        };
        let names: Vec<_> = ops.iter().map(name).collect();
        let _ = writeln!(out, "| {backend} | {} |", names.join(" | "));
    }
    out
}

fn index_page(formats: &[(Format, Vec<Loss>)]) -> String {
    let mut out = format!(
        "{GENERATED}\n# Formats\n\nA page for each, with its bytes, formula, range, errors and kernels, and a \
         block drawn field by field. The columns below are SQNR in dB (higher is better) on {} × {} weights of \
         each kind, from fixed seeds:\n\n",
        SHAPE.0, SHAPE.1
    );
    for (name, what) in KINDS {
        let _ = writeln!(out, "- {name}: {what}");
    }
    let names: Vec<_> = KINDS.iter().map(|(name, _)| *name).collect();
    let _ = write!(
        out,
        "\nTQ1_0 and TQ2_0 expect weights that are ternary already, and SIGN and ternary formats models that \
         were trained for them: their errors here are those of rounding weights that were not.\n\n\
         | format | bits/weight | {} | |\n| --- | ---: |{} --- |\n",
        names.join(" | "),
        " ---: |".repeat(KINDS.len())
    );
    for (format, losses) in formats {
        let columns: Vec<_> = losses.iter().map(decibel).collect();
        let _ = writeln!(
            out,
            "| [{format}]({format}.md) | {} | {} | {} |",
            format.bits_per_weight(),
            columns.join(" | "),
            format.info().summary
        );
    }
    out
}

fn capital(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or(String::new(), |c| c.to_uppercase().chain(chars).collect())
}
