//! Loading: from a file to a decoder, each tensor in its own format or in one that was asked for.

use std::cell::RefCell;
use std::collections::HashSet;
use std::path::{Path, PathBuf};

use tritlab_kernels::{Format, Matrix, Packing, Panels, Weights, threads};

use crate::config::Config;
use crate::decoder::{Decoder, Layer};
use crate::error::{Error, Result};
use crate::eval::Runs;
use crate::gguf::{Gguf, TensorInfo};
use crate::linear::Linear;
use crate::source::{exact_ternary, gather, halves, matrix, one_scale_ternary, vector};
use crate::tokenizer::Tokenizer;

/// What a tensor is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Role {
    /// A linear layer of a block: what a requested format applies to.
    Linear,
    /// The embedding; where it is tied it is the head too.
    Embedding,
    /// The output head.
    Head,
    /// A norm, a bias, a table.
    Norm,
}

impl Role {
    /// `linear`, `embedding`, `head`, `norm`
    pub const fn name(self) -> &'static str {
        match self {
            Role::Linear => "linear",
            Role::Embedding => "embedding",
            Role::Head => "head",
            Role::Norm => "norm",
        }
    }
}

/// What became of a tensor.
#[derive(Clone, Debug, PartialEq)]
pub struct TensorReport {
    /// Its name in the file.
    pub name: String,
    /// What it is for.
    pub role: Role,
    /// Its type in the file.
    pub file_type: &'static str,
    /// Its format in memory.
    pub format: &'static str,
    /// Rows and columns; one number for a vector.
    pub shape: Vec<usize>,
    /// Bytes in its packed form: blocks and scales (padding of panels not counted).
    pub nbytes: usize,
    /// `|W - Q(W)| / |W|` in the Frobenius norm, W the file's own weights; 0 where they were kept.
    pub rel_error: f64,
}

impl TensorReport {
    /// Weights.
    pub fn params(&self) -> usize {
        self.shape.iter().product()
    }
}

/// How to load.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Format of every linear layer of the blocks; `None` keeps the file's own types. Norms stay f32.
    pub format: Option<Format>,
    /// Format of the embedding and the output head; `None` keeps the file's own types, whatever `format`
    /// is: the two are usually a model's most sensitive matrices, and are not what it is about.
    pub head: Option<Format>,
    /// The order of the codes of I2_S tensors: I2_S (the default), I2_S_64 or I2_S_ROWS4. A file does not
    /// tell, and a wrong one gives a model that talks nonsense.
    pub i2_s: Packing,
}

/// Called with (tensors done, tensors in all, name of the next); `false` cancels the load.
pub type Progress<'a> = dyn FnMut(usize, usize, &str) -> bool + 'a;

/// A model ready to run.
#[derive(Debug)]
pub struct Model {
    /// Where it came from.
    pub path: PathBuf,
    /// The weights.
    pub decoder: Decoder,
    /// The file's tokenizer, or why there is none.
    tokenizer: Result<Tokenizer>,
    /// What became of each tensor.
    pub tensors: Vec<TensorReport>,
    /// The format that was asked for.
    pub format: Option<Format>,
    /// Windows that were scored already.
    pub(crate) runs: Runs,
}

impl Model {
    /// Loads a GGUF file.
    ///
    /// # Errors
    /// Whatever is wrong with the file, an unsupported architecture or tensor type, a format that a tensor's
    /// shape does not fit, weights that are not finite, a tensor that the architecture has no use for.
    pub fn load(
        path: impl AsRef<Path>,
        options: Options,
        progress: &mut Progress<'_>,
    ) -> Result<Self> {
        let path = path.as_ref();
        let gguf = Gguf::open(path)?;
        let config = Config::from_gguf(&gguf)?;
        // The backend is chosen (and checks itself) now, so that a forced one that the CPU lacks is
        // reported before the work.
        tritlab_kernels::backend::current()?;
        let mut loader = Loader {
            gguf: &gguf,
            config: &config,
            options,
            progress,
            tensors: Vec::new(),
            used: RefCell::default(),
        };
        let decoder = loader.decoder()?;
        loader.check_all_used()?;
        let tensors = loader.tensors;
        let tokenizer = Tokenizer::from_gguf(&gguf);
        Ok(Model {
            path: path.to_owned(),
            decoder,
            tokenizer,
            tensors,
            format: options.format,
            runs: Runs::default(),
        })
    }

    /// The configuration.
    pub fn config(&self) -> &Config {
        &self.decoder.config
    }

    /// The tokenizer.
    ///
    /// # Errors
    /// [`Error::MissingTokenizer`] and others: why the file's tokenizer cannot be used.
    pub fn tokenizer(&self) -> Result<&Tokenizer> {
        self.tokenizer.as_ref().map_err(|e| Error::NoTokenizer { reason: e.to_string() })
    }

    /// Bytes of weights that one decode step reads, in their packed form: everything except an embedding
    /// that is not the head, of which a step reads one row.
    pub fn bytes_per_token(&self) -> usize {
        let untied = self.decoder.head.is_some();
        let read = |t: &&TensorReport| !(untied && t.role == Role::Embedding);
        self.tensors.iter().filter(read).map(|t| t.nbytes).sum()
    }
}

/// Reads tensors in the order of the decoder.
struct Loader<'a, 'p> {
    gguf: &'a Gguf,
    config: &'a Config,
    options: Options,
    progress: &'a mut Progress<'p>,
    tensors: Vec<TensorReport>,
    /// Names of the file's tensors that have been asked for.
    used: RefCell<HashSet<&'a str>>,
}

impl<'a> Loader<'a, '_> {
    fn decoder(&mut self) -> Result<Decoder> {
        let c = self.config;
        let embedding = self.linear("token_embd", c.vocab, c.hidden, Role::Embedding)?;
        let final_norm = self.norm("output_norm", c.hidden)?;
        let head = match self.gguf.tensor("output.weight") {
            Some(_) => Some(self.linear("output", c.vocab, c.hidden, Role::Head)?),
            None => None,
        };
        let layers = (0..c.layers).map(|i| self.layer(i)).collect::<Result<_>>()?;
        Ok(Decoder { config: c.clone(), embedding, layers, final_norm, head })
    }

    fn layer(&mut self, i: usize) -> Result<Layer> {
        let c = self.config;
        let (d, e, f) = (c.head_dim, c.hidden, c.ffn);
        let (q_rows, kv_rows) = (c.heads * d, c.kv_heads * d);
        let name = |part: &str| format!("blk.{i}.{part}");
        let gemma = c.architecture == "gemma3";
        let [q, k, v] = if self.gguf.tensor(&name("attn_qkv.weight")).is_some() {
            self.split(&name("attn_qkv"), [q_rows, kv_rows, kv_rows], e)?
        } else {
            [
                self.linear(&name("attn_q"), q_rows, e, Role::Linear)?,
                self.linear(&name("attn_k"), kv_rows, e, Role::Linear)?,
                self.linear(&name("attn_v"), kv_rows, e, Role::Linear)?,
            ]
        };
        let [gate, up] = if self.gguf.tensor(&name("ffn_gate.weight")).is_some() {
            [
                self.linear(&name("ffn_gate"), f, e, Role::Linear)?,
                self.linear(&name("ffn_up"), f, e, Role::Linear)?,
            ]
        } else {
            self.split(&name("ffn_up"), [f, f], e)?
        };
        Ok(Layer {
            attn_norm: self.norm(&name("attn_norm"), e)?,
            q,
            k,
            v,
            q_norm: self.norm_if(&name("attn_q_norm"), d)?,
            k_norm: self.norm_if(&name("attn_k_norm"), d)?,
            attn_sub_norm: self.norm_if(&name("attn_sub_norm"), q_rows)?,
            o: self.linear(&name("attn_output"), e, q_rows, Role::Linear)?,
            post_attn_norm: if gemma {
                Some(self.norm(&name("post_attention_norm"), e)?)
            } else {
                None
            },
            ffn_norm: self.norm(&name("ffn_norm"), e)?,
            gate,
            up,
            ffn_sub_norm: self.norm_if(&name("ffn_sub_norm"), f)?,
            down: self.linear(&name("ffn_down"), e, f, Role::Linear)?,
            post_ffn_norm: if gemma { Some(self.norm(&name("post_ffw_norm"), e)?) } else { None },
        })
    }

    /// A tensor that a model does without (biases of norms, gates of experts, an adapter) would change its
    /// answers silently: better no model than another one.
    fn check_all_used(&self) -> Result<()> {
        // Read with the configuration; the last is a table of angles in files of 2023.
        let known =
            |name: &str| name.starts_with("rope_f") || name.ends_with(".attn_rot_embd.weight");
        let used = self.used.borrow();
        match self.gguf.tensors().iter().find(|t| !used.contains(t.name()) && !known(t.name())) {
            None => Ok(()),
            Some(t) => Err(Error::UnusedTensor {
                tensor: t.name().to_owned(),
                architecture: self.config.architecture.clone(),
            }),
        }
    }

    /// The tensor, its shape checked.
    fn find(&self, name: &str, rows: usize, cols: usize) -> Result<&'a TensorInfo> {
        let info =
            self.gguf.tensor(name).ok_or_else(|| Error::MissingTensor { name: name.to_owned() })?;
        self.used.borrow_mut().insert(info.name());
        let expected = [rows as u64, cols as u64];
        let found = [info.rows(), info.cols()];
        if found != expected {
            return Err(Error::ShapeMismatch {
                tensor: name.to_owned(),
                expected: expected.to_vec(),
                found: found.to_vec(),
            });
        }
        Ok(info)
    }

    fn norm_if(&mut self, name: &str, len: usize) -> Result<Option<Vec<f32>>> {
        match self.gguf.tensor(&format!("{name}.weight")) {
            Some(_) => self.norm(name, len).map(Some),
            None => Ok(None),
        }
    }

    fn norm(&mut self, name: &str, len: usize) -> Result<Vec<f32>> {
        self.vector(&format!("{name}.weight"), len)
    }

    fn vector(&mut self, name: &str, len: usize) -> Result<Vec<f32>> {
        let info = self.find(name, 1, len)?;
        let x = vector(self.gguf, info)?;
        self.tensors.push(TensorReport {
            name: name.to_owned(),
            role: Role::Norm,
            file_type: info.tensor_type().name(),
            format: "F32",
            shape: vec![len],
            nbytes: len * 4,
            rel_error: 0.0,
        });
        Ok(x)
    }

    fn step(&mut self, name: &str) -> Result<()> {
        let done = self.used.borrow().len();
        match (self.progress)(done, self.gguf.tensors().len(), name) {
            true => Ok(()),
            false => Err(Error::Cancelled),
        }
    }

    /// A matrix and its bias; query and key rows in the order of halves.
    fn linear(&mut self, name: &str, rows: usize, cols: usize, role: Role) -> Result<Linear> {
        let weight = format!("{name}.weight");
        self.step(&weight)?;
        let info = self.find(&weight, rows, cols)?;
        let m = matrix(self.gguf, info, self.options.i2_s)?;
        let order = || halves(rows, self.config.head_dim, self.config.rope.dims);
        let reorder =
            self.config.interleaved && (name.ends_with("attn_q") || name.ends_with("attn_k"));
        let m = if reorder { gather(&m, order())? } else { m };
        let weight = self.pack(&weight, info.tensor_type().name(), &m, role)?;
        let mut bias = self.bias(name, rows)?;
        if let (true, Some(b)) = (reorder, &mut bias) {
            *b = order().map(|r| b[r]).collect();
        }
        Ok(Linear { weight, bias })
    }

    fn bias(&mut self, name: &str, rows: usize) -> Result<Option<Vec<f32>>> {
        let bias = format!("{name}.bias");
        match self.gguf.tensor(&bias) {
            Some(_) => self.vector(&bias, rows).map(Some),
            None => Ok(None),
        }
    }

    /// A matrix whose rows are several layers (fused query, key and value; gate and up).
    fn split<const M: usize>(
        &mut self,
        name: &str,
        rows: [usize; M],
        cols: usize,
    ) -> Result<[Linear; M]> {
        let weight = format!("{name}.weight");
        self.step(&weight)?;
        let total = rows.iter().sum();
        let info = self.find(&weight, total, cols)?;
        let m = matrix(self.gguf, info, self.options.i2_s)?;
        let bias = self.bias(name, total)?;
        let mut parts = Vec::with_capacity(M);
        let mut first = 0;
        for (i, n) in rows.into_iter().enumerate() {
            let part = gather(&m, first..first + n)?;
            let name = format!("{weight}[{i}]");
            let weight = self.pack(&name, info.tensor_type().name(), &part, Role::Linear)?;
            let bias = bias.as_ref().map(|b| b[first..first + n].to_vec());
            parts.push(Linear { weight, bias });
            first += n;
        }
        Ok(parts.try_into().expect("one part per entry of rows"))
    }

    /// Puts a matrix into the format it should have, into panels, and on the list.
    fn pack(
        &mut self,
        name: &str,
        file_type: &'static str,
        m: &Matrix<'_>,
        role: Role,
    ) -> Result<Panels> {
        let wanted = match role {
            Role::Linear => self.options.format,
            _ => self.options.head,
        };
        let bitnet = if self.config.bitlinear { one_scale_ternary(m) } else { None };
        let m = bitnet.as_ref().unwrap_or(m);
        let (kept, changed);
        let (m, rel_error) = match wanted {
            Some(format) if format != m.format() => {
                (changed, kept) = requantize(name, m, format)?;
                (&changed, kept.relative())
            }
            _ => (m, 0.0),
        };
        let panels =
            Panels::pack(m).map_err(|source| Error::Tensor { tensor: name.to_owned(), source })?;
        self.tensors.push(TensorReport {
            name: name.to_owned(),
            role,
            file_type,
            format: m.format().name(),
            shape: vec![m.rows(), m.cols()],
            nbytes: m.nbytes(),
            rel_error,
        });
        Ok(panels)
    }
}

/// What a change of format cost: sums of squares over the weights.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Cost {
    /// Of the differences.
    pub error: f64,
    /// Of the weights themselves.
    pub norm: f64,
}

impl Cost {
    /// `|w - q| / |w|`; 0 where all weights are 0.
    pub fn relative(&self) -> f64 {
        if self.norm > 0.0 { (self.error / self.norm).sqrt() } else { 0.0 }
    }
}

/// `m` in another format, and what that cost. Weights that are ternary stay as they are in another ternary
/// format that can hold them: absmean would shrink their scale.
pub(crate) fn requantize(
    name: &str,
    m: &Matrix<'_>,
    format: Format,
) -> Result<(Matrix<'static>, Cost)> {
    let blame = |source| Error::Tensor { tensor: name.to_owned(), source };
    if let Some(same) = exact_ternary(format, m) {
        return Ok((same, Cost::default()));
    }
    let cols = m.cols().max(1);
    let decode = |m: &Matrix<'_>| {
        let mut w = vec![0.0; m.rows() * m.cols()];
        threads::for_each_chunk(&mut w, cols, |r, row| m.dequantize_row(r, row));
        w
    };
    let w = decode(m);
    let q = Matrix::quantize(format, m.rows(), m.cols(), &w).map_err(blame)?;
    let (mut error, mut norm) = (0.0, 0.0);
    for (w, q) in w.iter().zip(decode(&q)) {
        error += f64::from(w - q).powi(2);
        norm += f64::from(*w).powi(2);
    }
    Ok((q, Cost { error, norm }))
}
