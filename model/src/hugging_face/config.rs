//! `config.json`, in the two dialects that `transformers` has written: RoPE at the top level and in
//! `rope_scaling` (version 4), or in `rope_parameters` (version 5).
//!
//! Files leave out what equals the default of their class, so every family has its defaults here
//! (`transformers` `configuration_*.py`, version 5). A value in `rope_parameters` wins over one at the top
//! level, and that over the default.

use serde_json::{Map, Value};
use tritlab_kernels::op::Activation;

use super::bitlinear::Quantization;
use super::keys::Keys;
use crate::config::{Config, Local, bad};
use crate::error::{Error, Result};
use crate::rope::{Rope, Scaling, llama3_divisors};
use crate::tensors::assumed;

/// What `config.json` says beyond a [`Config`].
#[derive(Clone, Debug)]
pub(super) struct Description {
    pub config: Config,
    /// Whether the embedding is the head: the config says so, or says nothing and `None` decides by the file.
    pub tied: Option<bool>,
    /// Whether query, key, value and output layers have biases.
    pub attention_bias: bool,
    /// Whether the feed-forward layers have biases.
    pub mlp_bias: bool,
    /// BitLinear layers, if there are any.
    pub quantization: Option<Quantization>,
    /// Sizes that tensors have and the file does not state, with what stands for them.
    pub assumed: Vec<(&'static str, usize)>,
    /// What comes before those keys: `text_config.`, or nothing.
    pub prefix: &'static str,
}

/// Defaults of a `transformers` configuration class.
struct Family {
    model_type: &'static str,
    vocab: usize,
    hidden: usize,
    ffn: usize,
    layers: usize,
    heads: usize,
    /// `None`: as many as query heads.
    kv_heads: Option<usize>,
    /// `None`: hidden / heads.
    head_dim: Option<usize>,
    activation: &'static str,
    context: usize,
    eps: f32,
    theta: f32,
    tied: bool,
}

const LLAMA: Family = Family {
    model_type: "llama",
    vocab: 32_000,
    hidden: 4096,
    ffn: 11_008,
    layers: 32,
    heads: 32,
    kv_heads: None,
    head_dim: None,
    activation: "silu",
    context: 2048,
    eps: 1e-6,
    theta: 1e4,
    tied: false,
};
const QWEN3: Family = Family {
    model_type: "qwen3",
    vocab: 151_936,
    ffn: 22_016,
    kv_heads: Some(32),
    head_dim: Some(128),
    context: 32_768,
    ..LLAMA
};
const PHI3: Family = Family {
    model_type: "phi3",
    vocab: 32_064,
    hidden: 3072,
    ffn: 8192,
    context: 4096,
    eps: 1e-5,
    ..LLAMA
};
const GEMMA3: Family = Family {
    model_type: "gemma3_text",
    vocab: 262_208,
    hidden: 2304,
    ffn: 9216,
    layers: 26,
    heads: 8,
    kv_heads: Some(4),
    head_dim: Some(256),
    activation: "gelu_pytorch_tanh",
    context: 131_072,
    eps: 1e-6,
    theta: 1e6,
    tied: true,
};
const BITNET: Family = Family {
    model_type: "bitnet",
    vocab: 128_256,
    hidden: 2560,
    ffn: 6912,
    layers: 30,
    heads: 20,
    kv_heads: Some(5),
    head_dim: None,
    activation: "relu2",
    context: 2048,
    eps: 1e-5,
    theta: 5e5,
    tied: false,
};

/// The model types that are known.
pub const MODEL_TYPES: [&str; 6] = ["llama", "qwen3", "phi3", "gemma3", "gemma3_text", "bitnet"];

impl Config {
    /// Reads a `config.json`, given as its contents.
    ///
    /// # Errors
    /// JSON that is none, a `model_type` that is not in [`MODEL_TYPES`], keys of another type, numbers that
    /// contradict each other, settings that the decoder does not have.
    pub fn from_hugging_face(json: &[u8]) -> Result<Self> {
        Description::parse(json).map(|d| d.config)
    }
}

impl Description {
    pub fn parse(json: &[u8]) -> Result<Self> {
        let root: Map<String, Value> =
            serde_json::from_slice(json).map_err(|e| Error::BadJson { reason: e.to_string() })?;
        let root = Keys::of(&root);
        let model_type = root.text("model_type")?.ok_or_else(|| root.missing("model_type"))?;
        // Gemma 3 with a vision tower keeps the language model's settings in an object of their own.
        let keys =
            if model_type == "gemma3" { root.object("text_config", "text_config.")? } else { root };
        let family = match model_type {
            "llama" => &LLAMA,
            "qwen3" => &QWEN3,
            "phi3" => &PHI3,
            "gemma3" | "gemma3_text" => &GEMMA3,
            "bitnet" => &BITNET,
            other => {
                return Err(Error::UnsupportedModelType {
                    found: other.to_owned(),
                    known: MODEL_TYPES.join(", "),
                });
            }
        };
        // 1bitLLM's models call themselves llama; what says otherwise is the class.
        let old_bitnet =
            root.texts("architectures")?.is_some_and(|a| a.contains(&"BitnetForCausalLM"))
                && model_type != "bitnet";
        let description = family
            .describe(root, keys, old_bitnet)
            .map_err(|e| family.assuming(keys, in_hugging_face_words(e)))?;
        // The tokenizer reads them: a wrong one is found before there is one.
        root.ends(description.config.vocab)?;
        Ok(description)
    }
}

impl Family {
    /// A contradiction between keys may be one with a default that stands for an absent one.
    fn assuming(&self, keys: Keys<'_>, error: Error) -> Error {
        let sizes = [
            ("hidden_size", self.hidden),
            ("num_attention_heads", self.heads),
            ("num_hidden_layers", self.layers),
        ];
        let absent = sizes.into_iter().filter(|(key, _)| keys.get(key).is_none());
        match (&error, assumed(absent.map(|(key, size)| (key.to_owned(), size)))) {
            (Error::BadConfig { .. }, Some(assumed)) => {
                Error::Assumed { source: Box::new(error), assumed }
            }
            _ => error,
        }
    }

    fn describe(&self, root: Keys<'_>, keys: Keys<'_>, old_bitnet: bool) -> Result<Description> {
        let gemma = self.model_type == GEMMA3.model_type;
        let bitnet = self.model_type == BITNET.model_type || old_bitnet;
        let count = |key: &str, default: usize| Ok::<_, Error>(keys.count(key)?.unwrap_or(default));
        let (hidden, heads) =
            (count("hidden_size", self.hidden)?, count("num_attention_heads", self.heads)?);
        let layers = count("num_hidden_layers", self.layers)?;
        // Before anything is made per layer.
        crate::config::limit("block_count", layers, 4096)?;
        crate::config::limit("attention.head_count", heads, 4096)?;
        crate::config::limit("embedding_length", hidden, 1 << 20)?;
        // Null is not absent here: it means as many as query heads.
        let kv_heads = match (keys.count("num_key_value_heads")?, self.kv_heads) {
            (Some(n), _) => n,
            (None, Some(n)) if !keys.has("num_key_value_heads") => n,
            (None, _) => heads,
        };
        let head_dim = match keys.count("head_dim")?.or(self.head_dim) {
            Some(dim) => dim,
            None if hidden.is_multiple_of(heads) => hidden / heads,
            None => {
                let reason = format!(
                    "{hidden} is not a multiple of num_attention_heads = {heads}, and there is no head_dim"
                );
                return Err(keys.bad("hidden_size", reason));
            }
        };
        // Before anything is made per frequency.
        crate::config::limit("attention.key_length", head_dim, 1 << 16)?;
        let context = count("max_position_embeddings", self.context)?;
        let eps = keys.number("rms_norm_eps")?.unwrap_or(self.eps);
        let activation_key =
            if keys.has("hidden_activation") { "hidden_activation" } else { "hidden_act" };
        let activation = match keys.text(activation_key)?.unwrap_or(self.activation) {
            "silu" | "swish" => Activation::Silu,
            "relu2" => Activation::Relu2,
            "gelu_pytorch_tanh" => Activation::GeluTanh,
            other => {
                let known = "silu, relu2 and gelu_pytorch_tanh are supported";
                return Err(
                    keys.bad(activation_key, format!("{other:?} is not supported: {known}"))
                );
            }
        };
        let ropes = Ropes { keys, family: self, head_dim, context };
        let (rope, local) =
            if gemma { ropes.gemma(layers)? } else { self.plain_ropes(&ropes, layers)? };
        let quantization = Quantization::read(root, old_bitnet)?;
        let scalar = match gemma {
            true => keys.number("query_pre_attn_scalar")?.unwrap_or(256.0),
            false => head_dim.max(1) as f32,
        };
        if !(scalar.is_finite() && scalar > 0.0) {
            return Err(keys.bad("query_pre_attn_scalar", format!("{scalar} is not positive")));
        }
        // Never applied by Gemma 3, though its configuration has it.
        keys.number("attn_logit_softcapping")?;
        let relu = activation == Activation::Relu2;
        let config = Config {
            architecture: match self.model_type {
                "gemma3_text" => "gemma3",
                _ if bitnet && relu => "bitnet-b1.58",
                _ if bitnet => "bitnet",
                other => other,
            }
            .to_owned(),
            name: None,
            vocab: count("vocab_size", self.vocab)?,
            hidden,
            ffn: count("intermediate_size", self.ffn)?,
            layers,
            heads,
            kv_heads,
            head_dim,
            norm_eps: eps,
            activation,
            embedding_scale: gemma.then(|| (hidden as f32).sqrt()),
            score_scale: (1.0 / f64::from(scalar).sqrt()) as f32,
            score_cap: None,
            logit_cap: keys.number("final_logit_softcapping")?.filter(|cap| gemma && *cap != 0.0),
            rope,
            local,
            context,
            bitlinear: quantization.is_some(),
            input_norm_eps: quantization.as_ref().and_then(|q| q.norm_eps).unwrap_or(eps),
            interleaved: false,
        };
        config.check()?;
        let sizes = [
            ("hidden_size", hidden),
            ("intermediate_size", config.ffn),
            ("num_hidden_layers", layers),
            ("num_attention_heads", heads),
            ("num_key_value_heads", kv_heads),
            ("head_dim", head_dim),
            ("vocab_size", config.vocab),
        ];
        let flag = |key: &str| Ok::<_, Error>(keys.flag(key)?.unwrap_or(false));
        let tied = match keys.flag("tie_word_embeddings")? {
            None => root.flag("tie_word_embeddings")?,
            tied => tied,
        };
        Ok(Description {
            config,
            // What says nothing and has no head is tied, whatever the class would make up.
            tied: tied.or(self.tied.then_some(true)),
            attention_bias: flag("attention_bias")?,
            mlp_bias: flag("mlp_bias")?,
            quantization,
            assumed: sizes.into_iter().filter(|(key, _)| keys.get(key).is_none()).collect(),
            prefix: if root.has("text_config") && gemma { "text_config." } else { "" },
        })
    }

    /// RoPE and windows of the families with one kind of layer, or nearly.
    fn plain_ropes(&self, ropes: &Ropes<'_>, layers: usize) -> Result<(Rope, Option<Local>)> {
        let keys = ropes.keys;
        let parameters = keys.object("rope_parameters", "rope_parameters.")?;
        let rope =
            ropes.read(parameters, keys.number("rope_theta")?.unwrap_or(self.theta), true)?;
        let window = keys.count("sliding_window")?;
        let local = match (self.model_type, window) {
            ("phi3", Some(window)) if (1..ropes.context).contains(&window) => {
                Some(Local { window, layers: vec![true; layers], rope: rope.clone() })
            }
            ("qwen3", window) if keys.flag("use_sliding_window")? == Some(true) => {
                let full = keys.count("max_window_layers")?.unwrap_or(28);
                let by_number = || (0..layers).map(|i| i >= full).collect();
                let layers = layer_types(keys, layers)?.unwrap_or_else(by_number);
                Some(Local { window: window.unwrap_or(4096), layers, rope: rope.clone() })
            }
            _ => None,
        };
        Ok((rope, local))
    }
}

/// What RoPE depends on.
struct Ropes<'a> {
    keys: Keys<'a>,
    family: &'a Family,
    head_dim: usize,
    context: usize,
}

impl Ropes<'_> {
    /// Gemma 3: one RoPE for global layers, another for those with a window.
    fn gemma(&self, layers: usize) -> Result<(Rope, Option<Local>)> {
        let keys = self.keys;
        if keys.flag("use_bidirectional_attention")? == Some(true) {
            let reason = "embedding models, which look ahead, are not supported".to_owned();
            return Err(keys.bad("use_bidirectional_attention", reason));
        }
        let both = keys.object("rope_parameters", "rope_parameters.")?;
        let global = both.object("full_attention", "rope_parameters.full_attention.")?;
        let local = both.object("sliding_attention", "rope_parameters.sliding_attention.")?;
        let rope =
            self.read(global, keys.number("rope_theta")?.unwrap_or(self.family.theta), true)?;
        let base = keys.number("rope_local_base_freq")?.unwrap_or(10_000.0);
        let local_rope = self.read(local, base, false)?;
        let pattern = match keys.count("sliding_window_pattern")? {
            Some(n) => n,
            None => keys.count("_sliding_window_pattern")?.unwrap_or(6),
        };
        if pattern == 0 {
            return Err(keys.bad("sliding_window_pattern", "it is 0".to_owned()));
        }
        let by_pattern = || (0..layers).map(|i| !(i + 1).is_multiple_of(pattern)).collect();
        let window = keys.count("sliding_window")?.unwrap_or(4096);
        let layers = layer_types(keys, layers)?.unwrap_or_else(by_pattern);
        Ok((rope, Some(Local { window, layers, rope: local_rope })))
    }

    /// One RoPE: `parameters` (version 5) before `rope_scaling` (version 4, where `scaled`) before the
    /// defaults.
    fn read(&self, parameters: Keys<'_>, base: f32, scaled: bool) -> Result<Rope> {
        let top = self.keys;
        let scaling = if parameters.is_none() && scaled {
            top.object("rope_scaling", "rope_scaling.")?
        } else {
            parameters
        };
        let base = parameters.number("rope_theta")?.unwrap_or(base);
        let partial = match parameters.number("partial_rotary_factor")? {
            Some(factor) => factor,
            None => top.number("partial_rotary_factor")?.unwrap_or(1.0),
        };
        if !(partial > 0.0 && partial <= 1.0) {
            let reason = format!("{partial} is not a share of a head");
            return Err(top.bad("partial_rotary_factor", reason));
        }
        let dims = (self.head_dim as f64 * f64::from(partial)) as usize;
        let kind = match scaling.text("rope_type")? {
            Some(kind) => kind,
            None => scaling.text("type")?.unwrap_or("default"),
        };
        // The top level wins where Phi-3 has it.
        let original = match top.count("original_max_position_embeddings")? {
            Some(n) => n,
            None => scaling
                .count("original_max_position_embeddings")?
                .unwrap_or(if self.family.model_type == "phi3" { 4096 } else { self.context }),
        };
        let need = |key: &str| scaling.number(key)?.ok_or_else(|| scaling.missing(key));
        let mut attention_factor = 1.0;
        let scaling = match kind {
            "default" => Scaling::None,
            "linear" => Scaling::Linear(need("factor")?),
            "llama3" => {
                let (factor, low, high) =
                    (need("factor")?, need("low_freq_factor")?, need("high_freq_factor")?);
                for (key, value, least, what) in [
                    ("factor", factor, 0.0, "0"),
                    ("low_freq_factor", low, 0.0, "0"),
                    ("high_freq_factor", high, low, "low_freq_factor"),
                ] {
                    if value <= least {
                        return Err(scaling.bad(key, format!("{value} is not more than {what}")));
                    }
                }
                Scaling::Divisors(llama3_divisors((dims, base), factor, (low, high), original))
            }
            // Old names; `yarn` was one in Phi-3's first files.
            "longrope" | "su" => self.long(scaling, dims, original, &mut attention_factor)?,
            "yarn" if self.family.model_type == "phi3" => {
                self.long(scaling, dims, original, &mut attention_factor)?
            }
            other => {
                let known = "default, linear, llama3 and longrope are supported";
                return Err(
                    scaling.bad("rope_type", format!("{other:?} is not supported: {known}"))
                );
            }
        };
        Ok(Rope { dims, base, attention_factor, scaling })
    }

    fn long(
        &self,
        scaling: Keys<'_>,
        dims: usize,
        original: usize,
        attention_factor: &mut f32,
    ) -> Result<Scaling> {
        let factors = |key: &str| {
            let factors = scaling.numbers(key)?.ok_or_else(|| scaling.missing(key))?;
            match factors.len() == dims / 2 {
                true => Ok(factors),
                false => {
                    let reason = format!(
                        "{} factors for half of the {dims} elements that are rotated \
                         (partial_rotary_factor of head_dim, or of hidden_size / num_attention_heads)",
                        factors.len()
                    );
                    Err(scaling.bad(key, reason))
                }
            }
        };
        let (short, long) = (factors("short_factor")?, factors("long_factor")?);
        let ratio = match scaling.number("factor")? {
            Some(factor) => f64::from(factor),
            None => self.context as f64 / original.max(1) as f64,
        };
        *attention_factor = match scaling.number("attention_factor")? {
            Some(factor) => factor,
            None if ratio <= 1.0 => 1.0,
            None => (1.0 + libm::log(ratio) / libm::log(original as f64)).sqrt() as f32,
        };
        Ok(Scaling::Long { short, long, original })
    }
}

/// Which layers have a window, by name.
fn layer_types(keys: Keys<'_>, layers: usize) -> Result<Option<Vec<bool>>> {
    let Some(types) = keys.texts("layer_types")? else { return Ok(None) };
    if types.len() != layers {
        let reason = format!("{} entries for {layers} layers", types.len());
        return Err(keys.bad("layer_types", reason));
    }
    let local = |name: &&str| match *name {
        "sliding_attention" => Ok(true),
        "full_attention" => Ok(false),
        other => Err(keys.bad("layer_types", format!("{other:?} is not supported"))),
    };
    types.iter().map(local).collect::<Result<_>>().map(Some)
}

/// The checks that all files share speak of GGUF's keys.
fn in_hugging_face_words(error: Error) -> Error {
    let Error::BadConfig { key, reason } = error else { return error };
    let word = match key.as_str() {
        "block_count" => "num_hidden_layers",
        "embedding_length" => "hidden_size",
        "feed_forward_length" => "intermediate_size",
        "attention.head_count" => "num_attention_heads",
        "attention.head_count_kv" => "num_key_value_heads",
        "attention.key_length" => "head_dim",
        "attention.layer_norm_rms_epsilon" => "rms_norm_eps",
        "attention.sliding_window" => "sliding_window",
        "final_logit_softcapping" => "final_logit_softcapping",
        "rope.dimension_count" => "partial_rotary_factor",
        "rope.freq_base" => "rope_theta",
        "rope.freq_base_swa" => "rope_local_base_freq",
        "rope.scaling.factor" => "rope_scaling.factor",
        "rope.scaling.attn_factor" => "rope_scaling.attention_factor",
        "rope_freqs.weight" => "rope_scaling",
        "rope_factors_short.weight" => "rope_scaling.short_factor",
        "rope_factors_long.weight" => "rope_scaling.long_factor",
        other => other,
    };
    let reason = reason
        .replace("attention.head_count", "num_attention_heads")
        .replace("attention.key_length", "head_dim")
        .replace("rope.dimension_count", "partial_rotary_factor * head_dim");
    bad(word, reason)
}
