//! Loading: from a file to a decoder, each tensor in its own format or in one that was asked for.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tritlab_kernels::{Format, Matrix, Packing, Panels, Projection, Scales, Weights};

use crate::config::Config;
use crate::decoder::{Decoder, Layer};
use crate::error::{Error, Result};
use crate::eval::Runs;
use crate::gguf::Gguf;
use crate::hugging_face::Folder;
use crate::hugging_face::names::has_part;
use crate::imatrix::Imatrix;
use crate::linear::{InputNorm, Linear};
use crate::overrides::{Chosen, Overrides, is_matrix};
use crate::quantize::Fallback;
use crate::requantize::{Rule, check_rules, requantize};
use crate::rope::LongRope;
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
    /// GGUF's name for it, which overrides go by; parts of one matrix (`name[0]`) have it in common.
    pub gguf_name: String,
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
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Format of every linear layer of the blocks; `None` keeps the file's own types. Norms stay f32.
    pub format: Option<Format>,
    /// Format of the embedding and the output head; `None` keeps the file's own types, whatever `format`
    /// is: the two are usually a model's most sensitive matrices, and are not what it is about.
    pub head: Option<Format>,
    /// Formats of single tensors, which go before both.
    pub overrides: Overrides,
    /// What happens to a tensor whose rows a format cannot hold.
    pub fallback: Fallback,
    /// The order of the codes of I2_S tensors: I2_S (the default), I2_S_64 or I2_S_ROWS4. A file does not
    /// tell, and a wrong one gives a model that talks nonsense.
    pub i2_s: Packing,
    /// What makes the linear layers ternary, where `format` is and has another rule of its own.
    pub projection: Option<Projection>,
    /// What chooses between the two sets of frequencies of longrope (Phi-3 and Phi-4-mini).
    pub longrope: LongRope,
    /// Whether linear layers of the blocks multiply with f32 activations, whatever their format: rounded weights
    /// are then kept decoded, as F32. Reports are of the rounded ones.
    pub f32_activations: bool,
}

impl Options {
    /// Format and rule of the linear layers; `None` keeps the file's own types.
    pub fn rounding(&self) -> Option<Rounding> {
        self.format.map(|format| Rounding { format, projection: self.projection })
    }
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
    tokenizer: Arc<Result<Tokenizer>>,
    /// What became of each tensor.
    pub tensors: Vec<TensorReport>,
    /// How it was loaded.
    pub options: Options,
    /// The same, for [`Self::requantize`].
    imatrix: Option<Arc<Imatrix>>,
    source: Arc<dyn Source>,
    /// Its matrices by [`TensorReport::name`].
    packed: HashMap<String, Packed>,
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
        check_rules(options.projection, &options.overrides, imatrix)?;
        let path = path.as_ref();
        let source: Arc<dyn Source> = open(path, options.i2_s)?.into();
        let imatrix = imatrix.cloned().map(Arc::new);
        Self::build(path, source, options, imatrix, None, progress)
    }

    /// The same model with `overrides` before its own. Tensors whose format stays are shared with this one, and
    /// only the others are read again: what [`Self::load`] gives with those overrides, bit for bit.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn requantize(&self, overrides: &Overrides, progress: &mut Progress<'_>) -> Result<Self> {
        let overrides = overrides.before(&self.options.overrides);
        let options = Options { overrides, ..self.options.clone() };
        let (source, imatrix) = (self.source.clone(), self.imatrix.clone());
        check_rules(options.projection, &options.overrides, imatrix.as_deref())?;
        Self::build(&self.path, source, options, imatrix, Some(self), progress)
    }

    /// The matrix of a tensor, named as in [`Self::tensors`], in the format that the model has it in: read and
    /// rounded again. Its rows are the outputs, in the order of the decoder.
    ///
    /// # Errors
    /// [`Error::MissingTensor`] for a name that no matrix of the model has; as [`Self::load`].
    pub fn matrix(&self, name: &str) -> Result<Matrix<'static>> {
        let missing = || located(&*self.source, Error::MissingTensor { name: name.to_owned() });
        let mut others = self.packed.clone();
        // The only matrix that is then read.
        others.remove(name).ok_or_else(missing)?;
        let matrices = matrices(&*self.source);
        let matrices: Vec<_> = matrices.iter().map(String::as_str).collect();
        let chosen = self.options.overrides.resolve(&matrices)?;
        let mut progress = |_: usize, _: usize, _: &str| true;
        let mut loader = Loader {
            like: Some(&others),
            imatrix: self.imatrix.as_deref(),
            copy: Some((name, None)),
            ..Loader::new(&*self.source, self.config(), &self.options, chosen, &mut progress)
        };
        loader.decoder().map_err(|e| located(&*self.source, e))?;
        loader.copy.and_then(|(_, found)| found).ok_or_else(missing)
    }

    fn build(
        path: &Path,
        source: Arc<dyn Source>,
        options: Options,
        imatrix: Option<Arc<Imatrix>>,
        like: Option<&Self>,
        progress: &mut Progress<'_>,
    ) -> Result<Self> {
        let config = match like {
            Some(model) => model.decoder.config.clone(),
            None => {
                let mut config = source.config()?;
                source.roles()?;
                config.rope.settle(options.longrope);
                config.local.iter_mut().for_each(|l| l.rope.settle(options.longrope));
                config
            }
        };
        // The backend is chosen (and checks itself) now, so that a forced one that the CPU lacks is
        // reported before the work.
        tritlab_kernels::backend::current()?;
        let matrices = matrices(&*source);
        let matrices: Vec<_> = matrices.iter().map(String::as_str).collect();
        let chosen = options.overrides.resolve(&matrices).map_err(|e| located(&*source, e))?;
        let mut loader = Loader {
            imatrix: imatrix.as_deref(),
            like: like.map(|model| &model.packed),
            ..Loader::new(&*source, &config, &options, chosen, progress)
        };
        if let Some(imatrix) = &imatrix {
            imatrix.check_layers(|name| source.find(name).is_some())?;
        }
        let decoder = loader.decoder().and_then(|decoder| {
            check_all_used(&*source, &loader.used, &config.architecture).map(|()| decoder)
        });
        let decoder = decoder.map_err(|e| located(&*source, e))?;
        let (tensors, packed) = (loader.tensors, loader.packed);
        let tokenizer = match like {
            Some(model) => model.tokenizer.clone(),
            None => Arc::new(source.tokenizer()),
        };
        Ok(Model {
            path: path.to_owned(),
            decoder,
            tokenizer,
            tensors,
            options,
            imatrix,
            source,
            packed,
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
        self.tokenizer.as_ref().as_ref().map_err(|e| Error::NoTokenizer { reason: e.to_string() })
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

/// GGUF's names of the matrices that overrides may name.
fn matrices(source: &dyn Source) -> Vec<String> {
    let is_one = |name: &String| source.find(name).is_some_and(|t| is_matrix(name, t.rows as u64));
    source.names().into_iter().filter(is_one).collect()
}

/// A matrix as a decoder has it, and what it was made by.
#[derive(Clone, Debug)]
struct Packed {
    panels: Arc<Panels>,
    /// The factor beside it, if that is not inside.
    scale: Option<f32>,
    /// What was asked for.
    wanted: Option<Rounding>,
    report: TensorReport,
}

/// Reads tensors in the order of the decoder.
struct Loader<'a, 'p> {
    source: &'a dyn Source,
    config: &'a Config,
    options: &'a Options,
    chosen: Chosen<'a>,
    imatrix: Option<&'a Imatrix>,
    /// Matrices of a model of the same source, loaded in the same way but for its overrides.
    like: Option<&'a HashMap<String, Packed>>,
    progress: &'a mut Progress<'p>,
    tensors: Vec<TensorReport>,
    packed: HashMap<String, Packed>,
    /// The file's names of the tensors that have been read.
    used: HashSet<String>,
    /// A matrix that is wanted as it is before it is packed, and that matrix.
    copy: Option<(&'a str, Option<Matrix<'static>>)>,
}

impl<'a, 'p> Loader<'a, 'p> {
    fn new(
        source: &'a dyn Source,
        config: &'a Config,
        options: &'a Options,
        chosen: Chosen<'a>,
        progress: &'a mut Progress<'p>,
    ) -> Self {
        Loader {
            source,
            config,
            options,
            chosen,
            imatrix: None,
            like: None,
            progress,
            tensors: Vec::new(),
            packed: HashMap::new(),
            used: HashSet::new(),
            copy: None,
        }
    }

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
            q_norm: self.norm_of(i, "attn_q_norm", d)?,
            k_norm: self.norm_of(i, "attn_k_norm", d)?,
            attn_sub_norm: self.norm_of(i, "attn_sub_norm", q_rows)?,
            o: self.linear(&name("attn_output"), e, q_rows, Role::Linear)?,
            post_attn_norm: self.norm_of(i, "post_attention_norm", e)?,
            ffn_norm: self.norm(&name("ffn_norm"), e)?,
            gate,
            up,
            ffn_sub_norm: self.norm_of(i, "ffn_sub_norm", f)?,
            down: self.linear(&name("ffn_down"), e, f, Role::Linear)?,
            post_ffn_norm: self.norm_of(i, "post_ffw_norm", e)?,
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

    /// A norm of layer `i` that only some architectures have.
    fn norm_of(&mut self, i: usize, part: &str, len: usize) -> Result<Option<Vec<f32>>> {
        match has_part(&self.config.architecture, part) {
            true => self.norm(&format!("blk.{i}.{part}"), len).map(Some),
            false => Ok(None),
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
            gguf_name: tensor.name,
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
        let order = || halves(rows, self.config.head_dim, self.config.rope.dims);
        let reorder =
            self.config.interleaved && (name.ends_with("attn_q") || name.ends_with("attn_k"));
        let wanted = self.wanted(&tensor, role)?;
        let (weight, scale) = match self.kept(&tensor.own_name, wanted) {
            Some(same) => {
                if role != Role::Embedding {
                    self.scale(name)?;
                }
                self.share(same)
            }
            None => {
                let m = self.source.matrix(&tensor)?;
                let m = if reorder { gather(&m, order())? } else { m };
                // A factor on an embedding would be one on its look-ups too: no file has it.
                let scale = if role == Role::Embedding { None } else { self.scale(name)? };
                let (m, scale) = fold(m, scale)?;
                self.pack(tensor.own_name.clone(), &tensor, m, role, wanted, scale)?
            }
        };
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
        let wanted = self.wanted(&tensor, Role::Linear)?;
        let own = |i: usize| format!("{}[{i}]", tensor.own_name);
        let kept: Option<Vec<_>> = (0..M).map(|i| self.kept(&own(i), wanted)).collect();
        // Read only where a part of it is not there already.
        let m = match &kept {
            Some(_) => None,
            None => Some(self.source.matrix(&tensor)?),
        };
        let scale = self.scale(name)?;
        let whole = m.map(|m| fold(m, scale)).transpose()?;
        let bias = self.vector_if(&format!("{name}.bias"), total)?;
        let input_norm = self.input_norm(name, cols)?;
        let mut parts = Vec::with_capacity(M);
        let mut first = 0;
        for (i, n) in rows.into_iter().enumerate() {
            let (weight, scale) = match (&kept, &whole) {
                (Some(same), _) => self.share(same[i].clone()),
                (None, Some((m, scale))) => {
                    let part = gather(m, first..first + n)?;
                    self.pack(own(i), &tensor, part, Role::Linear, wanted, *scale)?
                }
                (None, None) => unreachable!("it was read"),
            };
            let bias = bias.as_ref().map(|b| b[first..first + n].to_vec());
            parts.push(Linear { weight, scale, bias, input_norm: input_norm.clone() });
            first += n;
        }
        Ok(parts.try_into().expect("one part per entry of rows"))
    }

    /// What a matrix is to be put into, and by which rule; `None` leaves it as it is.
    fn wanted(&self, tensor: &Stored, role: Role) -> Result<Option<Rounding>> {
        let by_role = match role {
            Role::Linear => self.options.rounding(),
            _ => self.options.head.map(Rounding::from),
        };
        let wanted = self.chosen.rounding(&tensor.name, by_role);
        match (wanted, self.options.fallback) {
            (Some(Rounding { format, projection }), fallback) if fallback != Fallback::Refuse => {
                let blame = |source| Error::Tensor { tensor: tensor.own_name.clone(), source };
                let format = fallback.choose(format, tensor.cols).map_err(blame)?;
                Ok(Some(Rounding { format, projection }))
            }
            // A misfit that needs no change is none.
            (wanted, _) => Ok(wanted),
        }
    }

    /// The matrix of the other model, if it is what is wanted.
    fn kept(&self, name: &str, wanted: Option<Rounding>) -> Option<Packed> {
        self.like?.get(name).filter(|p| p.wanted == wanted).cloned()
    }

    /// Takes a matrix of the other model, and puts it on the list.
    fn share(&mut self, same: Packed) -> (Arc<Panels>, Option<f32>) {
        self.tensors.push(same.report.clone());
        let both = (same.panels.clone(), same.scale);
        self.packed.insert(same.report.name.clone(), same);
        both
    }

    /// Puts a matrix into the format it should have, into panels, and on the list.
    fn pack(
        &mut self,
        name: String,
        tensor: &Stored,
        m: Matrix<'_>,
        role: Role,
        wanted: Option<Rounding>,
        scale: Option<f32>,
    ) -> Result<(Arc<Panels>, Option<f32>)> {
        let (m, rel_error) = match wanted {
            Some(Rounding { format, projection })
                if format != m.format() || projection.is_some() =>
            {
                let importance = match self.imatrix.filter(|_| role == Role::Linear) {
                    Some(i) => Some(i.importance(&tensor.name, m.cols())?),
                    None => None,
                };
                let rule = Rule::new(projection, importance.as_deref());
                let (q, cost) = requantize(&name, &m, format, rule)?;
                (q, cost.relative())
            }
            _ => (m, 0.0),
        };
        let blame = |source| Error::Tensor { tensor: name.clone(), source };
        let decode = self.options.f32_activations && role == Role::Linear;
        let panels = match decode && m.format().codes().is_some() {
            true => Matrix::quantize(Format::F32, m.rows(), m.cols(), &m.dequantize())
                .and_then(|decoded| Panels::pack(&decoded)),
            false => Panels::pack(&m),
        }
        .map_err(blame)?;
        self.source.release(tensor);
        let report = TensorReport {
            name,
            gguf_name: tensor.name.clone(),
            role,
            file_type: tensor.file_type,
            format: m.format().name(),
            shape: vec![m.rows(), m.cols()],
            nbytes: m.nbytes(),
            rel_error,
        };
        if let Some((_, copy)) = self.copy.as_mut().filter(|(wanted, _)| *wanted == report.name) {
            *copy = Some(m.into_owned());
        }
        Ok(self.share(Packed { panels: Arc::new(panels), scale, wanted, report }))
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
