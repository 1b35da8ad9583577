//! Loading: from a file to a decoder, each tensor in its own format or in one that was asked for.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use tritlab_kernels::{Format, Matrix, Packing, Panels, Projection, Scales, Weights};

use crate::config::Config;
use crate::decoder::{Decoder, Layer};
use crate::error::{Error, Result};
use crate::eval::Runs;
use crate::gguf::Gguf;
use crate::hugging_face::Folder;
use crate::imatrix::Imatrix;
use crate::linear::{InputNorm, Linear};
use crate::requantize::{Rule, requantize};
use crate::rounding::Rounding;
use crate::source::{gather, halves};
use crate::tensors::{File, Source, Stored, check_all_used, located, missing};
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
    /// What makes the linear layers ternary, where `format` is and has another rule of its own.
    pub projection: Option<Projection>,
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
    /// The format that was asked for, and the rule.
    pub rounding: Option<Rounding>,
    /// Windows that were scored already.
    pub(crate) runs: Runs,
}

impl Model {
    /// Loads a GGUF file, or a Hugging Face folder (`config.json` and safetensors).
    ///
    /// # Errors
    /// Whatever is wrong with the file, an unsupported architecture or tensor type, a format that a tensor's
    /// shape does not fit, weights that are not finite, a tensor that the architecture has no use for.
    pub fn load(
        path: impl AsRef<Path>,
        options: Options,
        progress: &mut Progress<'_>,
    ) -> Result<Self> {
        Self::load_weighted(path, options, None, progress)
    }

    /// As [`Self::load`]; an importance matrix says which columns matter where linear layers change their format.
    ///
    /// # Errors
    /// As [`Self::load`]; an importance matrix that lacks a linear layer or has another width, or beside a
    /// projection.
    pub fn load_weighted(
        path: impl AsRef<Path>,
        options: Options,
        imatrix: Option<&Imatrix>,
        progress: &mut Progress<'_>,
    ) -> Result<Self> {
        if options.projection.is_some() && imatrix.is_some() {
            return Err(Error::TwoRules);
        }
        let path = path.as_ref();
        let source = open(path, options.i2_s)?;
        let config = source.config()?;
        source.roles()?;
        // The backend is chosen (and checks itself) now, so that a forced one that the CPU lacks is
        // reported before the work.
        tritlab_kernels::backend::current()?;
        let mut loader = Loader {
            source: &*source,
            config: &config,
            options,
            imatrix,
            progress,
            tensors: Vec::new(),
            used: HashSet::new(),
        };
        let decoder = loader.decoder().and_then(|decoder| {
            check_all_used(&*source, &loader.used, &config.architecture).map(|()| decoder)
        });
        let decoder = decoder.map_err(|e| located(&*source, e))?;
        let tensors = loader.tensors;
        let tokenizer = source.tokenizer();
        Ok(Model {
            path: path.to_owned(),
            decoder,
            tokenizer,
            tensors,
            rounding: options
                .format
                .map(|format| Rounding { format, projection: options.projection }),
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

/// The tensors at `path`: a GGUF file, whose I2_S codes have the order `i2_s`, or a Hugging Face folder.
///
/// # Errors
/// Whatever is wrong with the file's or folder's structure.
pub fn open(path: &Path, i2_s: Packing) -> Result<Box<dyn Source>> {
    Ok(match path.is_dir() {
        true => Box::new(Folder::open(path)?),
        false => Box::new(File { gguf: Gguf::open(path)?, i2_s }),
    })
}

/// Reads tensors in the order of the decoder.
struct Loader<'a, 'p> {
    source: &'a dyn Source,
    config: &'a Config,
    options: Options,
    imatrix: Option<&'a Imatrix>,
    progress: &'a mut Progress<'p>,
    tensors: Vec<TensorReport>,
    /// The file's names of the tensors that have been read.
    used: HashSet<String>,
}

impl<'a> Loader<'a, '_> {
    fn decoder(&mut self) -> Result<Decoder> {
        let c = self.config;
        let embedding = self.linear("token_embd", c.vocab, c.hidden, Role::Embedding)?;
        let final_norm = self.norm("output_norm", c.hidden)?;
        let head = match self.source.find("output.weight") {
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
        let arch = c.architecture.as_str();
        let gemma = arch == "gemma3";
        let (head_norms, sub_norms) = (gemma || arch == "qwen3", arch.starts_with("bitnet"));
        // Where a family's tensor is missing, it is that which is missing and not what others have instead.
        let has = |part: &str| self.source.find(&name(part)).is_some();
        let fused_qkv = has("attn_qkv.weight") || (arch == "phi3" && !has("attn_q.weight"));
        let fused_up = arch == "phi3" && !has("ffn_gate.weight");
        let [q, k, v] = if fused_qkv {
            self.split(&name("attn_qkv"), [q_rows, kv_rows, kv_rows], e)?
        } else {
            [
                self.linear(&name("attn_q"), q_rows, e, Role::Linear)?,
                self.linear(&name("attn_k"), kv_rows, e, Role::Linear)?,
                self.linear(&name("attn_v"), kv_rows, e, Role::Linear)?,
            ]
        };
        let [gate, up] = if fused_up {
            self.split(&name("ffn_up"), [f, f], e)?
        } else {
            [
                self.linear(&name("ffn_gate"), f, e, Role::Linear)?,
                self.linear(&name("ffn_up"), f, e, Role::Linear)?,
            ]
        };
        Ok(Layer {
            attn_norm: self.norm(&name("attn_norm"), e)?,
            q,
            k,
            v,
            q_norm: self.norm_where(head_norms, &name("attn_q_norm"), d)?,
            k_norm: self.norm_where(head_norms, &name("attn_k_norm"), d)?,
            attn_sub_norm: self.norm_where(sub_norms, &name("attn_sub_norm"), q_rows)?,
            o: self.linear(&name("attn_output"), e, q_rows, Role::Linear)?,
            post_attn_norm: self.norm_where(gemma, &name("post_attention_norm"), e)?,
            ffn_norm: self.norm(&name("ffn_norm"), e)?,
            gate,
            up,
            ffn_sub_norm: self.norm_where(sub_norms, &name("ffn_sub_norm"), f)?,
            down: self.linear(&name("ffn_down"), e, f, Role::Linear)?,
            post_ffn_norm: self.norm_where(gemma, &name("post_ffw_norm"), e)?,
        })
    }

    /// The tensor, its shape (columns last) checked.
    fn find(&mut self, name: &str, shape: &[usize]) -> Result<Stored> {
        let tensor = self.source.find(name).ok_or_else(|| missing(self.source, name))?;
        self.used.insert(tensor.own_name.clone());
        let expected = self.source.shape_in_file(&tensor, shape);
        let in_file = |shape: &[usize]| shape.iter().map(|n| *n as u64).collect();
        match tensor.shape == expected {
            true => Ok(tensor),
            false => Err(Error::ShapeMismatch {
                expected: in_file(&expected),
                found: in_file(&tensor.shape),
                tensor: tensor.own_name,
            }),
        }
    }

    /// A norm that a family `needs`, and another may have.
    fn norm_where(&mut self, needs: bool, name: &str, len: usize) -> Result<Option<Vec<f32>>> {
        match needs {
            true => self.norm(name, len).map(Some),
            false => self.vector_if(&format!("{name}.weight"), len),
        }
    }

    fn norm(&mut self, name: &str, len: usize) -> Result<Vec<f32>> {
        self.vector(&format!("{name}.weight"), len)
    }

    fn vector_if(&mut self, name: &str, len: usize) -> Result<Option<Vec<f32>>> {
        match self.source.find(name) {
            Some(_) => self.vector(name, len).map(Some),
            None => Ok(None),
        }
    }

    fn vector(&mut self, name: &str, len: usize) -> Result<Vec<f32>> {
        let tensor = self.find(name, &[len])?;
        let x = self.source.vector(&tensor)?;
        self.tensors.push(TensorReport {
            name: tensor.own_name,
            role: Role::Norm,
            file_type: tensor.file_type,
            format: "F32",
            shape: vec![len],
            nbytes: len * 4,
            rel_error: 0.0,
        });
        Ok(x)
    }

    fn step(&mut self, name: &str) -> Result<()> {
        match (self.progress)(self.used.len(), self.source.count(), name) {
            true => Ok(()),
            false => Err(Error::Cancelled),
        }
    }

    /// A matrix with what its file puts around it; query and key rows in the order of halves.
    fn linear(&mut self, name: &str, rows: usize, cols: usize, role: Role) -> Result<Linear> {
        let weight = format!("{name}.weight");
        self.step(&self.source.own_name(&weight))?;
        let tensor = self.find(&weight, &[rows, cols])?;
        let m = self.source.matrix(&tensor)?;
        let order = || halves(rows, self.config.head_dim, self.config.rope.dims);
        let reorder =
            self.config.interleaved && (name.ends_with("attn_q") || name.ends_with("attn_k"));
        let m = if reorder { gather(&m, order())? } else { m };
        // A factor on an embedding would be one on its look-ups too: no file has it.
        let scale = if role == Role::Embedding { None } else { self.scale(name)? };
        let (m, scale) = fold(m, scale)?;
        let weight = self.pack(&tensor.own_name, &tensor, m, role)?;
        let mut bias = self.vector_if(&format!("{name}.bias"), rows)?;
        if let (true, Some(b)) = (reorder, &mut bias) {
            *b = order().map(|r| b[r]).collect();
        }
        let input_norm = self.input_norm(name, cols)?;
        Ok(Linear { weight, scale, bias, input_norm })
    }

    /// The factor on a layer's products.
    fn scale(&mut self, name: &str) -> Result<Option<f32>> {
        Ok(self.vector_if(&format!("{name}.scale"), 1)?.map(|s| s[0]))
    }

    fn input_norm(&mut self, name: &str, cols: usize) -> Result<Option<InputNorm>> {
        let eps = self.config.input_norm_eps;
        let weight = self.vector_if(&format!("{name}_norm_in.weight"), cols)?;
        Ok(weight.map(|weight| InputNorm { weight, eps }))
    }

    /// A matrix whose rows are several layers (fused query, key and value; gate and up).
    fn split<const M: usize>(
        &mut self,
        name: &str,
        rows: [usize; M],
        cols: usize,
    ) -> Result<[Linear; M]> {
        let weight = format!("{name}.weight");
        self.step(&self.source.own_name(&weight))?;
        let total = rows.iter().sum();
        let tensor = self.find(&weight, &[total, cols])?;
        let m = self.source.matrix(&tensor)?;
        let scale = self.scale(name)?;
        let (m, scale) = fold(m, scale)?;
        let bias = self.vector_if(&format!("{name}.bias"), total)?;
        let input_norm = self.input_norm(name, cols)?;
        let mut parts = Vec::with_capacity(M);
        let mut first = 0;
        for (i, n) in rows.into_iter().enumerate() {
            let part = gather(&m, first..first + n)?;
            let name = format!("{}[{i}]", tensor.own_name);
            let weight = self.pack(&name, &tensor, part, Role::Linear)?;
            let bias = bias.as_ref().map(|b| b[first..first + n].to_vec());
            parts.push(Linear { weight, scale, bias, input_norm: input_norm.clone() });
            first += n;
        }
        Ok(parts.try_into().expect("one part per entry of rows"))
    }

    /// Puts a matrix into the format it should have, into panels, and on the list.
    fn pack(&mut self, name: &str, tensor: &Stored, m: Matrix<'_>, role: Role) -> Result<Panels> {
        let wanted = match role {
            Role::Linear => self.options.format,
            _ => self.options.head,
        };
        let linear = role == Role::Linear;
        let projection = self.options.projection.filter(|_| linear);
        let (m, rel_error) = match wanted {
            Some(format) if format != m.format() || projection.is_some() => {
                let importance = match self.imatrix.filter(|_| linear) {
                    Some(i) => Some(i.importance(&tensor.name, m.cols())?),
                    None => None,
                };
                let rule = match projection {
                    Some(projection) => Rule::Projected(projection),
                    None => Rule::Own(importance.as_deref()),
                };
                let (q, cost) = requantize(name, &m, format, rule)?;
                (q, cost.relative())
            }
            _ => (m, 0.0),
        };
        let panels =
            Panels::pack(&m).map_err(|source| Error::Tensor { tensor: name.to_owned(), source })?;
        self.source.release(tensor);
        self.tensors.push(TensorReport {
            name: name.to_owned(),
            role,
            file_type: tensor.file_type,
            format: m.format().name(),
            shape: vec![m.rows(), m.cols()],
            nbytes: m.nbytes(),
            rel_error,
        });
        Ok(panels)
    }
}

/// A factor of 1 inside a matrix makes room for the one outside: the same numbers, one product less.
pub(crate) fn fold<'a>(m: Matrix<'a>, scale: Option<f32>) -> Result<(Matrix<'a>, Option<f32>)> {
    match scale {
        Some(s) if m.scales() == [1.0] && m.format().info().scales == Scales::Tensor => {
            let bytes = m.bytes().to_vec();
            Ok((Matrix::new(m.format(), m.rows(), m.cols(), bytes, vec![s])?, None))
        }
        scale => Ok((m, scale)),
    }
}
