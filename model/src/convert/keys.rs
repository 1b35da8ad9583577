//! A [`Config`] as GGUF's metadata and tables, as llama.cpp's converter writes them.

use crate::config::{Config, activation_name, score_divisor, score_scale};
use crate::error::{Error, Result};
use crate::gguf::{Array, Value, Writer};
use crate::rope::{Rope, Scaling};
use tritlab_kernels::op::Activation;

/// A table of f32 that is part of the configuration.
pub type Table<'a> = (&'static str, &'a [f32]);

/// Sets the keys of `config`; returns the tables that go with them, as tensors.
///
/// # Errors
/// What GGUF has no key for.
pub fn write<'a>(writer: &mut Writer<'_>, config: &'a Config) -> Result<Vec<Table<'a>>> {
    let c = config;
    let arch = c.architecture.as_str();
    let gemma = arch == "gemma3";
    let divisor = score_divisor(arch, c.layers, (c.hidden, c.heads), c.head_dim);
    if c.score_scale != score_scale(divisor as f32) {
        let reason = format!(
            "GGUF has no key for it: for {arch} with {} layers it means {divisor}, and here it is {}",
            c.layers,
            1.0 / f64::from(c.score_scale).powi(2)
        );
        return Err(Error::BadConfig { key: "query_pre_attn_scalar".to_owned(), reason });
    }
    if c.input_norm_eps != c.norm_eps {
        let reason = format!(
            "GGUF has one eps for all norms: {}, and the norms of the linear layers' inputs have {}",
            c.norm_eps, c.input_norm_eps
        );
        return Err(Error::BadConfig {
            key: "quantization_config.rms_norm_eps".to_owned(),
            reason,
        });
    }
    if !activations(arch).contains(&c.activation) {
        let reason = format!(
            "GGUF has no key for another activation than {arch}'s own, and so none for {}",
            activation_name(c.activation)
        );
        return Err(Error::BadConfig { key: "hidden_act".to_owned(), reason });
    }
    if let Some(local) = &c.local {
        let plain = Rope { base: local.rope.base, ..Rope::clone(&c.rope) };
        let plain = match gemma {
            true => Rope { scaling: Scaling::None, ..plain },
            false => plain,
        };
        if local.rope != plain {
            let reason = "GGUF has no key for the RoPE of layers with a window, except its base \
                          (rope_theta)";
            let key = "rope_parameters.sliding_attention".to_owned();
            return Err(Error::BadConfig { key, reason: reason.to_owned() });
        }
    }
    let mut set =
        |key: &str, value: Value<'static>| writer.set(&format!("{arch}.{key}"), value).map(|_| ());
    set("block_count", number(c.layers))?;
    set("context_length", number(c.context))?;
    set("embedding_length", number(c.hidden))?;
    set("feed_forward_length", number(c.ffn))?;
    set("attention.head_count", number(c.heads))?;
    set("attention.head_count_kv", number(c.kv_heads))?;
    set("attention.layer_norm_rms_epsilon", Value::F32(c.norm_eps))?;
    set("attention.key_length", number(c.head_dim))?;
    set("attention.value_length", number(c.head_dim))?;
    set("vocab_size", number(c.vocab))?;
    set("rope.freq_base", Value::F32(c.rope.base))?;
    set("rope.dimension_count", number(c.rope.dims))?;
    if let Some(cap) = c.logit_cap {
        set("final_logit_softcapping", Value::F32(cap))?;
    }
    if c.architecture.starts_with("bitnet") {
        set("hidden_activation", Value::from(activation_name(c.activation)))?;
    }
    if let Some(local) = &c.local {
        match arch {
            "gemma3" => {
                set("attention.sliding_window", number(local.window))?;
                set("rope.freq_base_swa", Value::F32(local.rope.base))?;
                let flags: Vec<i32> = local.layers.iter().map(|l| i32::from(*l)).collect();
                set("attention.sliding_window_pattern", Array::from_i32(&flags).into())?;
            }
            "phi3" => set("attention.sliding_window", number(local.window))?,
            _ => {
                let reason = format!("GGUF has no windows for {arch}");
                return Err(Error::BadConfig { key: "sliding_window".to_owned(), reason });
            }
        }
    } else if arch == "phi3" {
        set("attention.sliding_window", number(0))?;
    }
    debug_assert!(gemma || c.embedding_scale.is_none(), "a scale that only Gemma implies");
    Ok(match &c.rope.scaling {
        Scaling::None => Vec::new(),
        Scaling::Linear(factor) => {
            set("rope.scaling.type", Value::from("linear".to_owned()))?;
            set("rope.scaling.factor", Value::F32(*factor))?;
            Vec::new()
        }
        Scaling::Divisors(divisors) => vec![("rope_freqs.weight", divisors)],
        Scaling::Long { short, long, original } => {
            set("rope.scaling.original_context_length", number(*original))?;
            set("rope.scaling.attn_factor", Value::F32(c.rope.attention_factor))?;
            vec![("rope_factors_long.weight", long), ("rope_factors_short.weight", short)]
        }
    })
}

/// What an architecture's name says of the gate of its feed-forward layers; BitNet's files have a key for the rest.
fn activations(architecture: &str) -> &'static [Activation] {
    match architecture {
        "gemma3" => &[Activation::GeluTanh],
        bitnet if bitnet.starts_with("bitnet") => &[Activation::Relu2, Activation::Silu],
        _ => &[Activation::Silu],
    }
}

/// As the u32 that llama.cpp reads; larger numbers, which no model has, as u64.
pub(super) fn number(n: usize) -> Value<'static> {
    u32::try_from(n).map_or(Value::U64(n as u64), Value::U32)
}
