//! Models of published shapes with random weights, to load and run what is too large to keep.
//!
//! ```text
//! cargo run --release -p tritlab-model --example random_model -- bitnet-2b-4t /tmp/model
//! cargo run --release -p tritlab-model --example random_model -- run /tmp/model [FORMAT]
//! ```
//!
//! The first writes the model, a tensor at a time: BitNet 2B-4T as its own folder has it (uint8 of four
//! codes, scales that multiply, bf16 embedding), the others as GGUF files with linear layers in Q4_K and
//! the embedding in Q6_K. The second loads it, in a format if one is named, generates eight tokens, and
//! reports the sizes and the peak of resident memory (Linux), which must stay under 1.3 times the final
//! size and one tensor.

use std::borrow::Cow;
use std::error::Error;
use std::path::Path;
use std::time::Instant;

use half::{bf16, f16};
use safetensors::{Dtype, View};
use serde_json::{Value, json};
use tritlab_kernels::op::CacheType;
use tritlab_kernels::{Format, Weights};
use tritlab_model::convert::write_config;
use tritlab_model::gguf::{TensorType, WriteError, Writer};
use tritlab_model::sample::Sampling;
use tritlab_model::{Config, Model, Options};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Bytes that are made and written together.
const BUFFER: usize = 1 << 20;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["run", path] => run(path, None),
        ["run", path, format] => run(path, Some(Format::from_name(format)?)),
        ["bitnet-2b-4t", path] => write_folder(&bitnet(), Path::new(path)),
        [name, path] => match published(name) {
            Some(config) => write_gguf(&config, Path::new(path)),
            None => Err("names: bitnet-2b-4t, qwen3-0.6b, qwen3-4b, phi-4-mini, gemma-3-4b".into()),
        },
        _ => Err("use: random_model NAME PATH, or random_model run PATH [FORMAT]".into()),
    }
}

fn bitnet() -> Value {
    json!({
        "architectures": ["BitNetForCausalLM"], "model_type": "bitnet", "hidden_size": 2560,
        "intermediate_size": 6912, "num_hidden_layers": 30, "num_attention_heads": 20,
        "num_key_value_heads": 5, "vocab_size": 128_256, "hidden_act": "relu2",
        "max_position_embeddings": 4096, "rms_norm_eps": 1e-5, "rope_theta": 500_000.0,
        "tie_word_embeddings": true, "quantization_config": {
            "quant_method": "bitnet", "linear_class": "autobitlinear", "quantization_mode": "offline"
        }
    })
}

/// The parts of published `config.json` files that are not their class's defaults.
fn published(name: &str) -> Option<Value> {
    let qwen = |hidden: usize, ffn: usize, layers: usize, heads: usize| {
        json!({
            "model_type": "qwen3", "hidden_size": hidden, "intermediate_size": ffn,
            "num_hidden_layers": layers, "num_attention_heads": heads, "num_key_value_heads": 8,
            "head_dim": 128, "rope_theta": 1_000_000, "max_position_embeddings": 40_960,
            "tie_word_embeddings": true
        })
    };
    Some(match name {
        "qwen3-0.6b" => qwen(1024, 3072, 28, 16),
        "qwen3-4b" => qwen(2560, 9728, 36, 32),
        "phi-4-mini" => json!({
            "model_type": "phi3", "hidden_size": 3072, "intermediate_size": 8192,
            "num_hidden_layers": 32, "num_attention_heads": 24, "num_key_value_heads": 8,
            "vocab_size": 200_064, "max_position_embeddings": 131_072,
            "original_max_position_embeddings": 4096, "partial_rotary_factor": 0.75,
            "rope_scaling": {
                "type": "longrope", "short_factor": vec![1.0; 48],
                "long_factor": (0..48).map(|i| 1.0 + f64::from(i)).collect::<Vec<_>>()
            },
            "sliding_window": 262_144, "tie_word_embeddings": true
        }),
        "gemma-3-4b" => json!({
            "model_type": "gemma3", "text_config": {
                "model_type": "gemma3_text", "hidden_size": 2560, "intermediate_size": 10_240,
                "num_hidden_layers": 34, "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
                "sliding_window": 1024
            }
        }),
        _ => return None,
    })
}

/// Rows and columns of the linear layers of a block, under their two names.
fn linear(c: &Config) -> Vec<(&'static str, &'static str, usize, usize)> {
    let (q, kv) = (c.heads * c.head_dim, c.kv_heads * c.head_dim);
    let attention = match c.architecture.as_str() {
        "phi3" => vec![("attn_qkv", "self_attn.qkv_proj", q + 2 * kv, c.hidden)],
        _ => vec![
            ("attn_q", "self_attn.q_proj", q, c.hidden),
            ("attn_k", "self_attn.k_proj", kv, c.hidden),
            ("attn_v", "self_attn.v_proj", kv, c.hidden),
        ],
    };
    let gate = match c.architecture.as_str() {
        "phi3" => vec![("ffn_up", "mlp.gate_up_proj", 2 * c.ffn, c.hidden)],
        _ => vec![
            ("ffn_gate", "mlp.gate_proj", c.ffn, c.hidden),
            ("ffn_up", "mlp.up_proj", c.ffn, c.hidden),
        ],
    };
    let last = [
        ("attn_output", "self_attn.o_proj", c.hidden, q),
        ("ffn_down", "mlp.down_proj", c.hidden, c.ffn),
    ];
    [attention, gate, last.to_vec()].concat()
}

/// The norms of a block and their lengths.
fn norms(c: &Config) -> Vec<(&'static str, usize)> {
    let mut norms = vec![("attn_norm", c.hidden), ("ffn_norm", c.hidden)];
    if matches!(c.architecture.as_str(), "qwen3" | "gemma3") {
        norms.extend([("attn_q_norm", c.head_dim), ("attn_k_norm", c.head_dim)]);
    }
    if c.architecture == "gemma3" {
        norms.extend([("post_attention_norm", c.hidden), ("post_ffw_norm", c.hidden)]);
    }
    norms
}

// ---- random weights ----

/// SplitMix64: any stream of bits will do.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn fill(&mut self, out: &mut [u8]) {
        for chunk in out.chunks_mut(8) {
            chunk.copy_from_slice(&self.next().to_le_bytes()[..chunk.len()]);
        }
    }
}

/// Makes one block with the scale `d`.
type MakeBlock = fn(&mut Random, f32, &mut [u8]);

/// A block of Q4_K with random codes: scale 32, minimum 30, so that weights lie evenly about 0.
fn q4_k(random: &mut Random, d: f32, block: &mut [u8]) {
    random.fill(&mut block[16..]);
    block[..2].copy_from_slice(&f16::from_f32(d).to_le_bytes());
    block[2..4].copy_from_slice(&f16::from_f32(8.0 * d).to_le_bytes());
    block[4..8].fill(2 << 6 | 32);
    block[8..12].fill(1 << 6 | 30);
    block[12..16].fill(14 << 4);
}

/// A block of Q6_K with random codes and scales of 16.
fn q6_k(random: &mut Random, d: f32, block: &mut [u8]) {
    random.fill(&mut block[..192]);
    block[192..208].fill(16);
    block[208..].copy_from_slice(&f16::from_f32(d).to_le_bytes());
}

// ---- GGUF ----

fn write_gguf(json: &Value, path: &Path) -> Result<()> {
    let config = Config::from_hugging_face(json.to_string().as_bytes())?;
    let mut writer = Writer::new();
    writer.set("general.architecture", config.architecture.clone())?;
    writer.set("tokenizer.ggml.model", "no_vocab".to_owned())?;
    let tables = write_config(&mut writer, &config)?;
    for (name, table) in &tables {
        writer.tensor(name, TensorType::F32, &[table.len() as u64])?;
    }
    let dims = |rows: usize, cols: usize| [cols as u64, rows as u64];
    writer.tensor("token_embd.weight", TensorType::Q6_K, &dims(config.vocab, config.hidden))?;
    writer.tensor("output_norm.weight", TensorType::F32, &[config.hidden as u64])?;
    for i in 0..config.layers {
        for (name, _, rows, cols) in linear(&config) {
            writer.tensor(
                &format!("blk.{i}.{name}.weight"),
                TensorType::Q4_K,
                &dims(rows, cols),
            )?;
        }
        for (name, len) in norms(&config) {
            writer.tensor(&format!("blk.{i}.{name}.weight"), TensorType::F32, &[len as u64])?;
        }
    }
    let mut random = Random(1);
    writer.write(path, |info, out| -> std::result::Result<(), WriteError> {
        if let Some((_, table)) = tables.iter().find(|(name, _)| *name == info.name()) {
            return Ok(table.iter().try_for_each(|x| out.write_all(&x.to_le_bytes()))?);
        }
        let root = (info.cols() as f32).sqrt();
        let (block, d): (MakeBlock, f32) = match info.tensor_type() {
            TensorType::Q4_K => (q4_k, 1.0 / (148.0 * root)),
            TensorType::Q6_K => (q6_k, 1.0 / (296.0 * root)),
            _ => {
                return Ok(
                    (0..info.elements()).try_for_each(|_| out.write_all(&1f32.to_le_bytes()))?
                );
            }
        };
        let bytes = info.tensor_type().layout().bytes as usize;
        let mut buffer = vec![0; BUFFER / bytes * bytes];
        let mut left = info.nbytes() as usize;
        while left > 0 {
            let n = left.min(buffer.len());
            buffer[..n].chunks_mut(bytes).for_each(|b| block(&mut random, d, b));
            out.write_all(&buffer[..n])?;
            left -= n;
        }
        Ok(())
    })?;
    Ok(())
}

// ---- the folder ----

/// A tensor of random contents, made when it is written.
struct Lazy {
    seed: u64,
    dtype: Dtype,
    shape: Vec<usize>,
}

impl View for Lazy {
    fn dtype(&self) -> Dtype {
        self.dtype
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data_len(&self) -> usize {
        self.shape.iter().product::<usize>() * self.dtype.bitsize() / 8
    }

    fn data(&self) -> Cow<'_, [u8]> {
        let mut random = Random(self.seed);
        let mut out = vec![0; self.data_len()];
        match self.dtype {
            // Codes 0, 1 and 2: a 3 becomes a 1.
            Dtype::U8 => {
                random.fill(&mut out);
                out.iter_mut().for_each(|b| *b &= !((*b & (*b >> 1) & 0x55) << 1));
            }
            Dtype::BF16 if self.shape.len() == 2 => {
                for two in out.chunks_exact_mut(2) {
                    let x = random.next() as f32 / u64::MAX as f32 - 0.5;
                    two.copy_from_slice(&bf16::from_f32(x).to_le_bytes());
                }
            }
            // Norms of 1; scales that keep sums of 2560 small.
            _ => {
                let x = if self.shape == [1] { 0.02 } else { 1.0 };
                out.chunks_exact_mut(2)
                    .for_each(|two| two.copy_from_slice(&bf16::from_f32(x).to_le_bytes()));
            }
        }
        Cow::Owned(out)
    }
}

fn write_folder(json: &Value, path: &Path) -> Result<()> {
    let config = Config::from_hugging_face(json.to_string().as_bytes())?;
    std::fs::create_dir_all(path)?;
    std::fs::write(path.join("config.json"), serde_json::to_vec_pretty(json)?)?;
    let mut tensors: Vec<(String, Lazy)> = Vec::new();
    let mut add = |name: String, dtype: Dtype, shape: &[usize]| {
        let seed = tensors.len() as u64;
        tensors.push((name, Lazy { seed, dtype, shape: shape.to_vec() }));
    };
    add("model.embed_tokens.weight".to_owned(), Dtype::BF16, &[config.vocab, config.hidden]);
    add("model.norm.weight".to_owned(), Dtype::BF16, &[config.hidden]);
    for i in 0..config.layers {
        let layer = |part: &str| format!("model.layers.{i}.{part}.weight");
        for (_, name, rows, cols) in linear(&config) {
            add(layer(name), Dtype::U8, &[rows / 4, cols]);
            add(format!("{}_scale", layer(name)), Dtype::BF16, &[1]);
        }
        for (name, len) in [
            ("input_layernorm", config.hidden),
            ("post_attention_layernorm", config.hidden),
            ("self_attn.attn_sub_norm", config.hidden),
            ("mlp.ffn_sub_norm", config.ffn),
        ] {
            add(layer(name), Dtype::BF16, &[len]);
        }
    }
    safetensors::serialize_to_file(tensors, None, &path.join("model.safetensors"))?;
    Ok(())
}

// ---- loading and running ----

fn run(path: &str, format: Option<Format>) -> Result<()> {
    let before = peak();
    let start = Instant::now();
    let options = Options { format, ..Options::default() };
    let model = Model::load(path, options, &mut |_, _, _| true)?;
    let (loaded, after) = (start.elapsed(), peak());
    let c = model.config();
    let size: usize = model.tensors.iter().map(|t| t.nbytes).sum();
    let weights: usize = model.tensors.iter().map(|t| t.params()).sum();
    let largest = model.tensors.iter().max_by_key(|t| t.params()).ok_or("no tensors")?;
    let embedding = &model.decoder.embedding.weight;
    println!("{}: {:.2} G weights, {} layers", c.architecture, weights as f64 / 1e9, c.layers);
    println!(
        "in memory: {} MB; cache of 64 positions: {} MB",
        mb(size),
        mb(c.cache_bytes(64, CacheType::F32) as usize)
    );
    println!("embedding {} x {} {}", embedding.rows(), embedding.cols(), embedding.format());
    // Of the largest tensor, in f32: what re-quantising one needs.
    let one = largest.params() * 4;
    let bound = size * 13 / 10 + one;
    println!(
        "loaded in {:.1} s; peak {} MB; before {} MB",
        loaded.as_secs_f64(),
        mb(after),
        mb(before)
    );
    println!("bound: 1.3 x {} + {} = {} MB", mb(size), mb(one), mb(bound));
    println!("peak / size: {:.3}", after as f64 / size as f64);
    let start = Instant::now();
    let ids = model.generate_ids(&[1, 2, 3, 4], 8, Sampling::default(), 64, &[], &mut |_| true)?;
    println!("8 tokens in {:.1} s: {ids:?}; peak {} MB", start.elapsed().as_secs_f64(), mb(peak()));
    match ids.len() == 8 && after <= bound {
        true => Ok(()),
        false => Err("more memory than the bound, or fewer tokens".into()),
    }
}

fn mb(bytes: usize) -> usize {
    bytes / 1_000_000
}

/// The peak of resident memory so far, in bytes; 0 where the system does not tell.
fn peak() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"));
    line.and_then(|l| l.trim().split(' ').next()?.parse::<usize>().ok()).unwrap_or(0) * 1024
}
