//! `config.json`, in the two dialects that `transformers` has written: RoPE at the top level and in
//! `rope_scaling` (version 4), or in `rope_parameters` (version 5).
//!
//! Files leave out what equals the default of their class, so every family has its defaults here
//! (`transformers` `configuration_*.py`, version 5). A value in `rope_parameters` wins over one at the top
//! level, and that over the default.

use tritlab_kernels::op::Activation;

use super::bitlinear::Quantization;
use super::keys::{self, Keys};
use super::ropes::Ropes;
use crate::config::{Config, activation, score_scale};
use crate::error::{Error, Result};
use crate::tensors::{Size, assuming};

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
    /// The window that is stated, used or not.
    pub window: Option<usize>,
    /// BitLinear layers, if there are any.
    pub quantization: Option<Quantization>,
    /// Sizes that tensors have and the file does not state, with what stands for them.
    pub assumed: Vec<(Size, usize)>,
    /// The key of the activation.
    pub activation_key: &'static str,
    /// What comes before the keys of the language model: `text_config.`, or nothing.
    pub prefix: String,
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
        let root = keys::object(json)?;
        let root = Keys::of(&root);
        let model_type = root.text("model_type")?.ok_or_else(|| root.missing("model_type"))?;
        // Gemma 3 with a vision tower keeps the language model's settings in an object of their own.
        let keys = match model_type {
            "gemma3" => root.object("text_config")?,
            _ => root.clone(),
        };
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
        // 1bitLLM's models call themselves llama, or bitnet; what says otherwise is the class.
        let old_bitnet =
            root.texts("architectures")?.is_some_and(|a| a.contains(&"BitnetForCausalLM"));
        check_bits(&root)?;
        let description =
            family.describe(&root, &keys, old_bitnet).map_err(|e| family.assuming(&keys, e))?;
        // Those of generation_config.json come first, and these may be what another program reads.
        let vocab = description.config.vocab;
        root.ends(vocab)?;
        root.bos(vocab)?;
        root.pad(vocab)?;
        Ok(description)
    }
}

impl Family {
    /// A contradiction between keys may be one with a default that stands for an absent one.
    fn assuming(&self, keys: &Keys<'_>, error: Error) -> Error {
        let sizes =
            [(Size::Hidden, self.hidden), (Size::Heads, self.heads), (Size::Layers, self.layers)];
        let absent = sizes.into_iter().filter(|(size, _)| keys.get(size.word()).is_none());
        match &error {
            Error::BadConfig { .. } => {
                assuming(error, absent.map(|(size, value)| (keys.name(size.word()), value)))
            }
            _ => error,
        }
    }

    fn describe(&self, root: &Keys<'_>, keys: &Keys<'_>, old_bitnet: bool) -> Result<Description> {
        let gemma = self.model_type == GEMMA3.model_type;
        let bitnet = self.model_type == BITNET.model_type || old_bitnet;
        let count = |key: &str, default: usize| Ok::<_, Error>(keys.count(key)?.unwrap_or(default));
        let (hidden, heads) =
            (count("hidden_size", self.hidden)?, count("num_attention_heads", self.heads)?);
        let layers = count("num_hidden_layers", self.layers)?;
        // Before anything is made per layer.
        let limit =
            |key, n, max| crate::config::limit(key, n, max).map_err(|e| in_own_words(keys, e));
        limit("block_count", layers, 4096)?;
        limit("attention.head_count", heads, 4096)?;
        limit("embedding_length", hidden, 1 << 20)?;
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
        limit("attention.key_length", head_dim, 1 << 16)?;
        let context = count("max_position_embeddings", self.context)?;
        // Before scalings are made of it.
        limit("context_length", context, usize::MAX)?;
        let eps = keys.number("rms_norm_eps")?.unwrap_or(self.eps);
        let activation_key = match gemma && keys.has("hidden_activation") {
            true => "hidden_activation",
            false => "hidden_act",
        };
        let name = keys.text(activation_key)?.unwrap_or(self.activation);
        if gemma && activation_key == "hidden_act" && name != self.activation {
            let reason = format!(
                "it is {name:?}, but Gemma 3's class reads hidden_activation, which is absent and {:?} then",
                self.activation
            );
            return Err(keys.bad(activation_key, reason));
        }
        let activation = activation(name).map_err(|reason| keys.bad(activation_key, reason))?;
        let (model_type, theta) = (self.model_type, self.theta);
        let ropes = Ropes { keys: keys.clone(), model_type, theta, head_dim, context };
        let (rope, local) = if gemma { ropes.gemma(layers)? } else { ropes.plain(layers)? };
        let holder = if root.has("quantization_config") { root } else { keys };
        let quantization = Quantization::read(holder, old_bitnet)?;
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
            score_scale: score_scale(scalar),
            score_cap: None,
            logit_cap: keys.number("final_logit_softcapping")?.filter(|cap| gemma && *cap != 0.0),
            rope,
            local,
            context,
            bitlinear: quantization.is_some(),
            input_norm_eps: quantization.as_ref().and_then(|q| q.norm_eps).unwrap_or(eps),
            interleaved: false,
        };
        config.check().map_err(|e| in_own_words(keys, e))?;
        let sizes = [
            (Size::Hidden, hidden),
            (Size::Ffn, config.ffn),
            (Size::Layers, layers),
            (Size::Heads, heads),
            (Size::KvHeads, kv_heads),
            (Size::HeadDim, head_dim),
            (Size::Vocab, config.vocab),
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
            window: keys.count("sliding_window")?,
            quantization,
            assumed: sizes.into_iter().filter(|(s, _)| keys.get(s.word()).is_none()).collect(),
            activation_key,
            prefix: keys.name(""),
        })
    }
}

/// Bits of 1bitLLM's models: ternary weights, int8 activations. Other numbers are other models.
fn check_bits(root: &Keys<'_>) -> Result<()> {
    for (key, bits, what) in [
        ("weight_bits", 1, "1 stands for ternary weights"),
        ("input_bits", 8, "activations have 8"),
    ] {
        if let Some(found) = root.count(key)?.filter(|found| *found != bits) {
            return Err(root.bad(key, format!("it is {found}, which is not supported: {what}")));
        }
    }
    Ok(())
}

/// The checks that all files share speak of GGUF's keys. What [`Ropes`] reads is checked there, where it stands.
fn in_own_words(keys: &Keys<'_>, error: Error) -> Error {
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
        "context_length" => "max_position_embeddings",
        other => other,
    };
    keys.bad(word, reason.replace("attention.head_count", "num_attention_heads"))
}
