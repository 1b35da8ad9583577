//! Whether two models hold the same weights, whatever files and packings they are in.

use std::path::Path;

use tritlab_kernels::verify::{first_difference, same};
use tritlab_kernels::{Matrix, Packing, Weights};

use crate::config::Config;
use crate::error::{Error, Result};
use crate::model::{self, Progress};
use crate::source::{gather, halves};
use crate::tensors::{Source, Stored};

/// What [`models`] looked at, and what it found.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// Tensors that were compared and are the same.
    pub tensors: usize,
    /// Weights in them.
    pub weights: u64,
    /// The first difference, in the order of the first model's tensors.
    pub difference: Option<Difference>,
}

/// How two models differ. Tensors have GGUF's names.
#[derive(Clone, Debug, PartialEq)]
pub enum Difference {
    /// A tensor that only one of them has.
    Missing {
        /// Its name.
        tensor: String,
        /// Whether it is the first model that has it.
        in_first: bool,
    },
    /// A tensor of two shapes.
    Shape {
        /// Its name.
        tensor: String,
        /// Rows and columns in the first model.
        first: [usize; 2],
        /// Rows and columns in the second.
        second: [usize; 2],
    },
    /// A weight of two values.
    Value {
        /// Its tensor.
        tensor: String,
        /// Its row; where query and key rows are interleaved in one model only, in the other's order.
        row: usize,
        /// Its column.
        col: usize,
        /// Its value in the first model, and the type that it is stored in there.
        first: (f32, &'static str),
        /// The same in the second model.
        second: (f32, &'static str),
    },
}

/// A model and what its tensors' places mean.
struct Side {
    source: Box<dyn Source>,
    /// `None` where the file is of no architecture that is known here: its tensors still have values.
    config: Option<Config>,
}

impl Side {
    fn open(path: &Path, i2_s: Packing) -> Result<Self> {
        let source = model::open(path, i2_s)?;
        let config = source.config().ok();
        Ok(Side { source, config })
    }

    /// The tensor; a head that is tied is the embedding.
    fn find(&self, name: &str) -> Option<Stored> {
        let tied = || match name {
            "output.weight" => self.source.find("token_embd.weight"),
            _ => None,
        };
        self.source.find(name).or_else(tied)
    }

    /// The configuration, where this side keeps rows (or biases) of this tensor interleaved.
    fn interleaved(&self, name: &str) -> Option<&Config> {
        let rotated = name.contains(".attn_q.") || name.contains(".attn_k.");
        self.config.as_ref().filter(|c| c.interleaved && rotated)
    }

    /// The elements of a vector; biases in the order of halves if `reorder`.
    fn vector(&self, tensor: &Stored, reorder: bool) -> Result<Vec<f32>> {
        let x = self.source.vector(tensor)?;
        Ok(match self.interleaved(&tensor.name).filter(|_| reorder) {
            Some(c) => halves(x.len(), c.head_dim, c.rope.dims).map(|i| x[i]).collect(),
            None => x,
        })
    }

    /// The weights of a matrix, the factor beside it drawn in; rows in the order of halves if `reorder`.
    fn matrix(&self, tensor: &Stored, reorder: bool) -> Result<Scaled<'_>> {
        let m = self.source.matrix(tensor)?;
        let m = match self.interleaved(&tensor.name).filter(|_| reorder) {
            Some(c) => gather(&m, halves(tensor.rows, c.head_dim, c.rope.dims))?,
            None => m,
        };
        let beside = tensor.name.strip_suffix(".weight").map(|stem| format!("{stem}.scale"));
        let factor = match beside.and_then(|name| self.source.find(&name)) {
            Some(scale) => self.source.vector(&scale)?.first().copied(),
            None => None,
        };
        let (m, factor) = model::fold(m, factor)?;
        Ok(Scaled { m, factor })
    }
}

/// A matrix times a factor.
struct Scaled<'a> {
    m: Matrix<'a>,
    factor: Option<f32>,
}

impl Weights for Scaled<'_> {
    fn format(&self) -> tritlab_kernels::Format {
        self.m.format()
    }

    fn rows(&self) -> usize {
        self.m.rows()
    }

    fn cols(&self) -> usize {
        self.m.cols()
    }

    fn blocks(
        &self,
        r: usize,
        blocks: std::ops::Range<usize>,
        out: &mut tritlab_kernels::format::Plain,
    ) {
        self.m.blocks(r, blocks, out);
    }

    fn element(&self, r: usize, k: usize) -> f32 {
        self.factor.unwrap_or(1.0) * self.m.element(r, k)
    }

    fn row_scale(&self, r: usize) -> f32 {
        self.factor.unwrap_or(1.0) * self.m.row_scale(r)
    }
}

/// Compares the weights of two models, each a GGUF file or a Hugging Face folder, by value and in any packing;
/// `rtol` as in [`first_difference`]. Only weights count: not names, keys, tokenizers. `i2_s` is the order of I2_S
/// codes. `progress` is called with (tensors done, tensors, name of the next) and returns `false` to cancel.
///
/// # Errors
/// Whatever is wrong with the files; a tolerance that is not 0 or more and below 1.
pub fn models(
    first: impl AsRef<Path>,
    second: impl AsRef<Path>,
    rtol: f32,
    i2_s: Packing,
    progress: &mut Progress<'_>,
) -> Result<Report> {
    if !(0.0..1.0).contains(&rtol) {
        let value = f64::from(rtol);
        return Err(Error::OutOfRange { name: "rtol", value, range: "0 or more, below 1" });
    }
    let a = Side::open(first.as_ref(), i2_s)?;
    let b = Side::open(second.as_ref(), i2_s)?;
    let mut names = a.source.names();
    let more = b.source.names();
    names.extend(more.into_iter().filter(|name| a.source.find(name).is_none()));
    // Factors are drawn into their matrices; tables of angles stand in the configuration of a folder.
    names.retain(|name| !name.ends_with(".scale") && !name.starts_with("rope_"));
    let mut report = Report { tensors: 0, weights: 0, difference: None };
    for (i, name) in names.iter().enumerate() {
        if !progress(i, names.len(), name) {
            return Err(Error::Cancelled);
        }
        report.difference = match (a.find(name), b.find(name)) {
            (Some(x), Some(y)) => compare(&a, &b, name, [&x, &y], rtol)?,
            (x, _) => Some(Difference::Missing { tensor: name.clone(), in_first: x.is_some() }),
        };
        if report.difference.is_some() {
            break;
        }
        report.tensors += 1;
        report.weights += a.find(name).map_or(0, |t| t.rows as u64 * t.cols as u64);
    }
    Ok(report)
}

fn compare(
    a: &Side,
    b: &Side,
    name: &str,
    [x, y]: [&Stored; 2],
    rtol: f32,
) -> Result<Option<Difference>> {
    let tensor = name.to_owned();
    let shapes = [[x.rows, x.cols], [y.rows, y.cols]];
    if shapes[0] != shapes[1] {
        return Ok(Some(Difference::Shape { tensor, first: shapes[0], second: shapes[1] }));
    }
    let types = [x.file_type, y.file_type];
    let value = |row, col, first: f32, second: f32| {
        let (first, second) = ((first, types[0]), (second, types[1]));
        Difference::Value { tensor, row, col, first, second }
    };
    // In one order, whichever it is, unless the two have different ones.
    let reorder = a.interleaved(name).is_some() != b.interleaved(name).is_some();
    let found = if x.rows == 1 {
        let (x, y) = (a.vector(x, reorder)?, b.vector(y, reorder)?);
        let at = x.iter().zip(&y).position(|(x, y)| !same(*x, *y, rtol));
        at.map(|i| value(0, i, x[i], y[i]))
    } else {
        let (mx, my) = (a.matrix(x, reorder)?, b.matrix(y, reorder)?);
        first_difference(&mx, &my, rtol)?.map(|d| value(d.row, d.col, d.first, d.second))
    };
    a.source.release(x);
    b.source.release(y);
    Ok(found)
}
