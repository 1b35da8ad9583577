//! What differs between the supported models, as data.
//!
//! One decoder runs all of them ([`crate::decoder`]); an architecture is a [`Config`] and the set of
//! optional tensors that its file carries. Facts about the families: the model cards and the
//! `transformers` sources; the keys of GGUF: llama.cpp `llama-arch.cpp`.

use tritlab_kernels::op::Activation;

use crate::error::{Error, Result};
use crate::gguf::{Array, Gguf, Value};
use crate::rope::{Rope, Scaling};

/// Everything a decoder needs to know besides its weights.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// The architecture, as the file names it: `llama`, `qwen3`, `phi3`, `gemma3`, `bitnet`, ...
    pub architecture: String,
    /// The model's own name, if the file has one.
    pub name: Option<String>,
    /// Rows of the embedding matrix.
    pub vocab: usize,
    /// Width of the residual stream.
    pub hidden: usize,
    /// Width of the feed-forward layer.
    pub ffn: usize,
    /// Number of layers.
    pub layers: usize,
    /// Query heads.
    pub heads: usize,
    /// Key-value heads; each serves `heads / kv_heads` query heads.
    pub kv_heads: usize,
    /// Width of a head; not always `hidden / heads`.
    pub head_dim: usize,
    /// The eps of every RMSNorm.
    pub norm_eps: f32,
    /// The gate of the feed-forward layer.
    pub activation: Activation,
    /// Factor on the embeddings (Gemma: the root of `hidden`).
    pub embedding_scale: Option<f32>,
    /// Factor on the attention scores.
    pub score_scale: f32,
    /// Soft cap of the attention scores (GGUF `gemma3` with `attn_logit_softcapping`, which llama.cpp leaves out;
    /// Gemma 3's own `config.json` has such a key too, and its class never applies it).
    pub score_cap: Option<f32>,
    /// Soft cap of the logits (Gemma 3's `final_logit_softcapping`).
    pub logit_cap: Option<f32>,
    /// RoPE of the global layers (all layers, where there is no window).
    pub rope: Rope,
    /// Sliding window and RoPE of the local layers.
    pub local: Option<Local>,
    /// Positions the model was made for.
    pub context: usize,
    /// Whether linear layers are BitLinear: ternary weights with int8 activations per token.
    pub bitlinear: bool,
    /// The eps of the norms that linear layers have on their own inputs.
    pub input_norm_eps: f32,
    /// Whether query and key rows are stored for interleaved RoPE (GGUF `llama`).
    pub interleaved: bool,
}

/// Sliding-window layers.
#[derive(Clone, Debug, PartialEq)]
pub struct Local {
    /// A query sees itself and `window - 1` earlier positions.
    pub window: usize,
    /// Which layers are local.
    pub layers: Vec<bool>,
    /// Their RoPE.
    pub rope: Rope,
}

/// The architectures that [`Config::from_gguf`] knows.
pub const ARCHITECTURES: [&str; 7] =
    ["llama", "qwen3", "phi3", "gemma3", "bitnet", "bitnet-25", "bitnet-b1.58"];

/// What files call the functions of a gate; the first name of each is the one that is written. `gelu` alone is the
/// form with the error function, which no model here has.
const ACTIVATIONS: [(&str, Activation); 5] = [
    ("silu", Activation::Silu),
    ("swish", Activation::Silu),
    ("relu2", Activation::Relu2),
    ("relu_sqr", Activation::Relu2),
    ("gelu_pytorch_tanh", Activation::GeluTanh),
];

/// The function of this name, or what is wrong with the name.
pub(crate) fn activation(name: &str) -> Result<Activation, String> {
    let known = || ACTIVATIONS.map(|(name, _)| name).join(", ");
    let found = ACTIVATIONS.into_iter().find(|(known, _)| *known == name);
    found
        .map(|(_, act)| act)
        .ok_or_else(|| format!("{name:?} is not supported; known are {}", known()))
}

/// The name of a function.
pub(crate) fn activation_name(activation: Activation) -> &'static str {
    ACTIVATIONS.iter().find(|(_, act)| *act == activation).map_or("", |(name, _)| name)
}

/// Keys that llama.cpp has for graphs of other models and that nothing here reads, with the value that says nothing.
const UNREAD: [(&str, f64); 6] = [
    ("expert_count", 0.0),
    ("attention.scale", 0.0),
    ("attention.clamp_kqv", 0.0),
    ("embedding_scale", 1.0),
    ("residual_scale", 1.0),
    ("logit_scale", 1.0),
];

impl Config {
    /// Reads a configuration from the metadata of a GGUF file.
    ///
    /// # Errors
    /// An architecture that is not in [`ARCHITECTURES`], keys that are missing or of another type,
    /// numbers that contradict each other.
    pub fn from_gguf(gguf: &Gguf) -> Result<Self> {
        Self::of_metadata(gguf).map_err(gguf.blame())
    }

    fn of_metadata(gguf: &Gguf) -> Result<Self> {
        let meta = gguf.metadata();
        let arch: String = meta.require("general.architecture")?;
        if !ARCHITECTURES.contains(&arch.as_str()) {
            return Err(Error::UnsupportedArchitecture {
                name: arch,
                known: ARCHITECTURES.join(", "),
            });
        }
        Self::of_architecture(gguf, arch.clone()).map_err(|e| in_gguf_words(&arch, e))
    }

    fn of_architecture(gguf: &Gguf, arch: String) -> Result<Self> {
        let meta = gguf.metadata();
        let key = |name: &str| format!("{arch}.{name}");
        let need = |name: &str| {
            count(gguf, &key(name))?.ok_or_else(|| Error::MissingKey { key: key(name) })
        };
        let float = |name: &str| meta.optional::<f32>(&key(name));

        for (name, neutral) in UNREAD {
            let value = meta.get(&key(name)).filter(|v| v.as_number() != Some(neutral));
            if let Some(value) = value {
                let reason = format!("it is {value}, and models that need it are not supported");
                return Err(bad(&key(name), reason));
            }
        }
        let causal_key = key("attention.causal");
        if meta.optional::<bool>(&causal_key)? == Some(false) {
            let reason = "it is false, and models that look ahead are not supported".to_owned();
            return Err(bad(&causal_key, reason));
        }
        let (hidden, layers, heads) =
            (need("embedding_length")?, need("block_count")?, need("attention.head_count")?);
        let ffn = need("feed_forward_length")?;
        // Before anything is made per layer.
        limit("block_count", layers, 4096)?;
        let kv_heads = count(gguf, &key("attention.head_count_kv"))?.unwrap_or(heads);
        let head_dim = match count(gguf, &key("attention.key_length"))? {
            Some(dim) => dim,
            None => hidden / heads.max(1),
        };
        let values = count(gguf, &key("attention.value_length"))?.unwrap_or(head_dim);
        let vocab = match gguf.tensor("token_embd.weight") {
            Some(t) => t.rows() as usize,
            None => return Err(Error::MissingTensor { name: "token_embd.weight".to_owned() }),
        };
        if let Some(stated) = count(gguf, &key("vocab_size"))?.filter(|n| *n != vocab) {
            let reason = format!("it is {stated}, but token_embd.weight has {vocab} rows");
            return Err(bad(&key("vocab_size"), reason));
        }
        let bitnet = arch.starts_with("bitnet");
        let gemma = arch == "gemma3";
        // 0 means none.
        let cap = |name: &str| match float(name)?.filter(|cap| *cap != 0.0) {
            Some(cap) if !gemma => {
                let reason =
                    format!("it is {cap}, and of the architectures here only gemma3 has soft caps");
                Err(bad(&key(name), reason))
            }
            cap => Ok(cap),
        };
        let activation_key = key("hidden_activation");
        let activation = match meta.optional::<String>(&activation_key)? {
            Some(name) => activation(&name).map_err(|reason| bad(&activation_key, reason))?,
            None if gemma => Activation::GeluTanh,
            // Mainline's `bitnet` is the older SiLU flavour, except for the 2B-4T geometry; the two other
            // names always mean the squared ReLU.
            None if bitnet && (arch != "bitnet" || (layers == 30 && hidden == 2560)) => {
                Activation::Relu2
            }
            None => Activation::Silu,
        };
        let context = need("context_length")?;
        let rope = gguf_rope(gguf, &arch, head_dim, context)?;
        let local = match arch.as_str() {
            "gemma3" => Some(gemma_local(gguf, &key, layers, &rope)?),
            // Phi-3 has one window for all layers, 0 where it has none. No text is longer than the rest.
            "phi3" => count(gguf, &key("attention.sliding_window"))?
                .filter(|w| (1..1 << 30).contains(w))
                .map(|window| Local { window, layers: vec![true; layers], rope: rope.clone() }),
            _ => None,
        };
        let norm_eps = float("attention.layer_norm_rms_epsilon")?
            .ok_or_else(|| Error::MissingKey { key: key("attention.layer_norm_rms_epsilon") })?;
        let config = Config {
            name: meta.optional("general.name")?,
            vocab,
            hidden,
            ffn,
            layers,
            heads,
            kv_heads,
            head_dim,
            norm_eps,
            activation,
            embedding_scale: gemma.then(|| (hidden as f32).sqrt()),
            score_scale: score_scale(score_divisor(&arch, layers, (hidden, heads), head_dim) as f32),
            score_cap: cap("attn_logit_softcapping")?,
            logit_cap: cap("final_logit_softcapping")?,
            rope,
            local,
            context,
            bitlinear: bitnet,
            input_norm_eps: norm_eps,
            interleaved: arch == "llama",
            architecture: arch,
        };
        if values != head_dim {
            let reason = format!(
                "it is {values}, but attention.key_length is {head_dim}, stated or as embedding_length / head_count"
            );
            return Err(bad("attention.value_length", reason));
        }
        config.check()?;
        Ok(config)
    }

    /// Sizes that everything later relies on.
    pub(crate) fn check(&self) -> Result<()> {
        limit("embedding_length", self.hidden, 1 << 20)?;
        limit("feed_forward_length", self.ffn, 1 << 22)?;
        limit("block_count", self.layers, 4096)?;
        limit("attention.head_count", self.heads, 4096)?;
        limit("attention.head_count_kv", self.kv_heads, 4096)?;
        limit("attention.key_length", self.head_dim, 1 << 16)?;
        limit("vocab_size", self.vocab, 1 << 24)?;
        limit("context_length", self.context, usize::MAX)?;
        if !self.heads.is_multiple_of(self.kv_heads) {
            let reason = format!(
                "attention.head_count = {} is not a multiple of {}",
                self.heads, self.kv_heads
            );
            return Err(bad("attention.head_count_kv", reason));
        }
        if !(self.norm_eps.is_finite() && self.norm_eps >= 0.0) {
            return Err(bad(
                "attention.layer_norm_rms_epsilon",
                format!("{} is no eps", self.norm_eps),
            ));
        }
        for (key, cap) in [
            ("attn_logit_softcapping", self.score_cap),
            ("final_logit_softcapping", self.logit_cap),
        ] {
            if let Some(cap) = cap
                && !(cap.is_finite() && cap > 0.0)
            {
                return Err(bad(key, format!("{cap} is not positive")));
            }
        }
        self.rope.check(self.head_dim)?;
        if let Some(local) = &self.local {
            limit("attention.sliding_window", local.window, 1 << 30)?;
            local.rope.check(self.head_dim)?;
        }
        Ok(())
    }
}

/// What GGUF means by a score scale, which it has no key for: attention scores are divided by the root of this. As in
/// llama.cpp, it is the width of a head, and `hidden / heads` for the 62 layers of Gemma 3 27B.
pub(crate) fn score_divisor(
    architecture: &str,
    layers: usize,
    (hidden, heads): (usize, usize),
    head_dim: usize,
) -> usize {
    let divisor = match (architecture, layers) {
        ("gemma3", 62) => hidden / heads.max(1),
        _ => head_dim,
    };
    divisor.max(1)
}

/// The factor on attention scores that divides by the root of `divisor`.
pub(crate) fn score_scale(divisor: f32) -> f32 {
    (1.0 / f64::from(divisor).sqrt()) as f32
}

/// A size that is not 0 and not absurd.
pub(crate) fn limit(key: &str, n: usize, max: usize) -> Result<()> {
    match n {
        0 => Err(bad(key, "it is 0".to_owned())),
        n if n > max => Err(bad(key, format!("{n} is more than {max}, larger than any model"))),
        _ => Ok(()),
    }
}

/// A configuration value that cannot be.
pub(crate) fn bad(key: &str, reason: String) -> Error {
    Error::BadConfig { key: key.to_owned(), reason }
}

/// The checks that all files share speak of keys without the architecture that they begin with in a file.
fn in_gguf_words(arch: &str, error: Error) -> Error {
    match error {
        Error::BadConfig { key, reason } if !key.starts_with(&format!("{arch}.")) => {
            let key = match key.as_str() {
                "vocab_size" => "the rows of token_embd.weight".to_owned(),
                tensor if tensor.ends_with(".weight") => tensor.to_owned(),
                key => format!("{arch}.{key}"),
            };
            Error::BadConfig { key, reason }
        }
        error => error,
    }
}

/// An integer, or an array of equal integers (per-layer keys of uniform models).
pub(crate) fn count(gguf: &Gguf, key: &str) -> Result<Option<usize>> {
    let Some(all) = gguf.metadata().optional::<Vec<usize>>(key)? else { return Ok(None) };
    match all.split_first() {
        None => Err(bad(key, "the array is empty".to_owned())),
        Some((first, rest)) if rest.iter().all(|n| n == first) => Ok(Some(*first)),
        Some((first, rest)) => {
            let other = rest.iter().find(|n| *n != first).unwrap_or(first);
            Err(bad(key, format!("layers differ ({first} and {other}), which is not supported")))
        }
    }
}

/// RoPE of the global layers.
fn gguf_rope(gguf: &Gguf, arch: &str, head_dim: usize, context: usize) -> Result<Rope> {
    let meta = gguf.metadata();
    let key = |name: &str| format!("{arch}.{name}");
    Ok(Rope {
        dims: count(gguf, &key("rope.dimension_count"))?.unwrap_or(head_dim),
        base: meta.optional(&key("rope.freq_base"))?.unwrap_or(10_000.0),
        attention_factor: meta.optional(&key("rope.scaling.attn_factor"))?.unwrap_or(1.0),
        scaling: gguf_scaling(gguf, &key, context)?,
    })
}

/// What changes the frequencies: tables of factors, or one factor.
fn gguf_scaling(gguf: &Gguf, key: &impl Fn(&str) -> String, context: usize) -> Result<Scaling> {
    const FREQS: &str = "rope_freqs.weight";
    const SHORT: &str = "rope_factors_short.weight";
    const LONG: &str = "rope_factors_long.weight";
    let meta = gguf.metadata();
    let table = |name: &str| -> Result<Option<Vec<f32>>> {
        gguf.tensor(name).map(|t| crate::source::vector(gguf, t)).transpose()
    };
    let missing = |name: &str| Error::MissingTensor { name: name.to_owned() };
    let tables = match (table(FREQS)?, table(SHORT)?, table(LONG)?) {
        (None, None, None) => Scaling::None,
        (Some(divisors), None, None) => Scaling::Divisors(divisors),
        (None, Some(short), Some(long)) => {
            let original = count(gguf, &key("rope.scaling.original_context_length"))?;
            Scaling::Long { short, long, original: original.unwrap_or(context) }
        }
        (None, None, Some(_)) => return Err(missing(SHORT)),
        (None, Some(_), None) => return Err(missing(LONG)),
        (Some(_), ..) => {
            let reason = format!("there are {SHORT} and {LONG} too: only one can count");
            return Err(bad(FREQS, reason));
        }
    };
    let type_key = key("rope.scaling.type");
    let kind = meta.optional::<String>(&type_key)?;
    // The second is an older name of the first.
    let factor_keys = [key("rope.scaling.factor"), key("rope.scale_linear")];
    let mut factors = Vec::new();
    for key in &factor_keys {
        factors.extend(meta.optional::<f32>(key)?.map(|factor| (key, factor)));
    }
    // In llama.cpp, linear is the type that an absent one stands for, and 0 the same as 1.
    let factor = factors.first().copied();
    match (kind.as_deref(), factor.filter(|(_, f)| kind.is_some() || *f != 0.0)) {
        (Some("none"), _) | (None, None) => Ok(tables),
        (Some("longrope"), _) if !matches!(tables, Scaling::Long { .. }) => Err(missing(SHORT)),
        (Some("longrope"), None) => Ok(tables),
        (Some("linear"), None) => Err(Error::MissingKey { key: factor_keys[0].clone() }),
        (None | Some("linear"), Some((_, factor))) if tables == Scaling::None => {
            Ok(Scaling::Linear(factor))
        }
        (None | Some("linear" | "longrope"), Some((key, factor))) => match factor == 1.0 {
            true => Ok(tables),
            false => {
                let reason = format!(
                    "it is {factor} beside a table of factors for each frequency, and both at once are not supported"
                );
                Err(bad(key, reason))
            }
        },
        (Some(other), _) => {
            let reason = format!("{other:?} is not supported: none, linear and longrope are");
            Err(bad(&type_key, reason))
        }
    }
}

/// Gemma 3: five local layers, then a global one, unless the file says otherwise.
fn gemma_local(
    gguf: &Gguf,
    key: &impl Fn(&str) -> String,
    layers: usize,
    global: &Rope,
) -> Result<Local> {
    let meta = gguf.metadata();
    // As llama.cpp reads it: 0 makes all layers local, 1 none.
    let every = |pattern: usize| {
        (0..layers).map(|i| pattern == 0 || !(i + 1).is_multiple_of(pattern)).collect()
    };
    let pattern_key = key("attention.sliding_window_pattern");
    let local: Vec<bool> = match meta.get(&pattern_key) {
        None => every(6),
        Some(Value::Array(array)) => {
            let flags = flags(&array).ok_or_else(|| Error::WrongType {
                key: pattern_key.clone(),
                expected: "an integer, or an array of integers or booleans",
                found: Value::from(array.clone()).to_string(),
            })?;
            if flags.len() != layers {
                return Err(bad(
                    &pattern_key,
                    format!("{} entries for {layers} layers", flags.len()),
                ));
            }
            flags
        }
        Some(_) => every(meta.require(&pattern_key)?),
    };
    // The first is an older name of the second.
    let mut base = 10_000.0;
    for name in ["rope.local_freq_base", "rope.freq_base_swa"] {
        base = meta.optional(&key(name))?.unwrap_or(base);
        if !(base.is_finite() && base > 0.0) {
            return Err(bad(&key(name), format!("{base} is not positive")));
        }
    }
    let window_key = key("attention.sliding_window");
    // Without it there are no local layers for llama.cpp, which no Gemma 3 was trained as.
    let window = count(gguf, &window_key)?.ok_or(Error::MissingKey { key: window_key })?;
    Ok(Local {
        window,
        layers: local,
        rope: Rope { base, scaling: Scaling::None, ..global.clone() },
    })
}

/// Which layers are local, where each has an entry: a boolean, or an integer that is not 0.
fn flags(array: &Array<'_>) -> Option<Vec<bool>> {
    let flag = |v: Value<'_>| match v {
        Value::Bool(is_local) => Some(is_local),
        number => number.as_integer().map(|n| n != 0),
    };
    array.scalars()?.map(flag).collect()
}
