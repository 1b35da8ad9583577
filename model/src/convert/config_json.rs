//! A [`Config`] as `config.json`, in the dialect of version 4, which all versions read.

use serde_json::{Map, Number, Value, json};

use crate::config::{Config, activation_name, bad, score_divisor};
use crate::error::{Error, Result};
use crate::rope::{Rope, Scaling, llama3_divisors};
use crate::tensors::Roles;

/// What the tensors say about the model.
pub(super) struct Found {
    pub tied: bool,
    pub attention_bias: bool,
    pub mlp_bias: bool,
    /// Modules that are not BitLinear, where some are.
    pub not_ternary: Option<Vec<String>>,
    /// How their scales are meant.
    pub linear_class: &'static str,
    /// Whether the scales are the factors themselves.
    pub exact_scales: bool,
    /// Phi-3's window, also where it is none.
    pub window: Option<usize>,
    pub roles: Roles,
}

/// Ids with a role, as `config.json` and `generation_config.json` have them.
pub(super) fn ids(roles: &Roles) -> Value {
    let ends = match roles.ends.as_slice() {
        [] => Value::Null,
        [one] => json!(one),
        several => json!(several),
    };
    json!({"bos_token_id": roles.bos, "eos_token_id": ends, "pad_token_id": roles.pad})
}

/// Refuses what the classes of `transformers` have no key for, or do not read.
fn check(c: &Config) -> Result<()> {
    let gemma = c.architecture == "gemma3";
    let long = matches!(c.rope.scaling, Scaling::Long { .. });
    let lost = [
        ("attn_logit_softcapping", c.score_cap),
        ("final_logit_softcapping", c.logit_cap.filter(|_| !gemma)),
        (
            "rope.scaling.attn_factor",
            Some(c.rope.attention_factor).filter(|f| (gemma || !long) && *f != 1.0),
        ),
    ];
    match lost.into_iter().find_map(|(key, value)| Some((key, value?))) {
        None => Ok(()),
        Some((key, value)) => {
            let reason = format!("it is {value}, and config.json has no key for that here");
            Err(bad(&format!("{}.{key}", c.architecture), reason))
        }
    }
}

pub(super) fn write(c: &Config, found: &Found) -> Result<Value> {
    check(c)?;
    let (class, model_type) = match c.architecture.as_str() {
        "llama" => ("LlamaForCausalLM", "llama"),
        "qwen3" => ("Qwen3ForCausalLM", "qwen3"),
        "phi3" => ("Phi3ForCausalLM", "phi3"),
        "gemma3" => ("Gemma3ForCausalLM", "gemma3_text"),
        _ => ("BitNetForCausalLM", "bitnet"),
    };
    let mut out = json!({
        "architectures": [class],
        "model_type": model_type,
        "vocab_size": c.vocab,
        "hidden_size": c.hidden,
        "intermediate_size": c.ffn,
        "num_hidden_layers": c.layers,
        "num_attention_heads": c.heads,
        "num_key_value_heads": c.kv_heads,
        "head_dim": c.head_dim,
        "max_position_embeddings": c.context,
        "rms_norm_eps": number(c.norm_eps),
        "rope_theta": number(c.rope.base),
        "rope_scaling": scaling(c)?,
        "tie_word_embeddings": found.tied,
        "attention_bias": found.attention_bias,
    });
    let mut set = |key: &str, value: Value| out[key] = value;
    let roles = ids(&found.roles);
    for (key, id) in roles.as_object().into_iter().flatten().filter(|(_, id)| !id.is_null()) {
        set(key, id.clone());
    }
    let word = if model_type == "gemma3_text" { "hidden_activation" } else { "hidden_act" };
    set(word, json!(activation_name(c.activation)));
    if model_type == "llama" {
        set("mlp_bias", json!(found.mlp_bias));
    }
    if model_type == "phi3" {
        set("partial_rotary_factor", share(&c.rope, c.head_dim)?);
        set("sliding_window", json!(found.window));
        if let Scaling::Long { original, .. } = c.rope.scaling {
            set("original_max_position_embeddings", json!(original));
        }
    } else if c.rope.dims != c.head_dim {
        let reason = format!(
            "it is {}, but a folder's {model_type} turns whole heads of {}",
            c.rope.dims, c.head_dim
        );
        return Err(bad(&format!("{}.rope.dimension_count", c.architecture), reason));
    }
    if let (true, Some(local)) = (model_type == "gemma3_text", &c.local) {
        let name = |l: &bool| if *l { "sliding_attention" } else { "full_attention" };
        set("sliding_window", json!(local.window));
        set("rope_local_base_freq", number(local.rope.base));
        set("layer_types", local.layers.iter().map(name).collect());
        let sizes = (c.hidden, c.heads);
        set("query_pre_attn_scalar", json!(score_divisor("gemma3", c.layers, sizes, c.head_dim)));
        set("final_logit_softcapping", c.logit_cap.map_or(Value::Null, number));
    }
    if let Some(modules) = &found.not_ternary {
        let mut quantization = json!({
            "quant_method": "bitnet",
            "linear_class": found.linear_class,
            "quantization_mode": "offline",
            "modules_to_not_convert": modules,
        });
        if found.exact_scales {
            quantization["exact_weight_scale"] = json!(true);
        }
        set("quantization_config", quantization);
    }
    Ok(out)
}

/// The share of a head that is rotated.
fn share(rope: &Rope, head_dim: usize) -> Result<Value> {
    let share = rope.dims as f64 / head_dim as f64;
    // As it will be read.
    match (head_dim as f64 * f64::from(share as f32)) as usize == rope.dims {
        true => Ok(json!(share)),
        false => {
            let reason = format!("{} of {head_dim} is no share that an f32 holds", rope.dims);
            Err(Error::BadConfig { key: "rope.dimension_count".to_owned(), reason })
        }
    }
}

fn scaling(c: &Config) -> Result<Value> {
    Ok(match &c.rope.scaling {
        Scaling::None => Value::Null,
        Scaling::Linear(factor) => json!({"rope_type": "linear", "factor": number(*factor)}),
        Scaling::Divisors(divisors) => llama3(&c.rope, divisors)?,
        Scaling::Long { short, long, original } => {
            let list = |x: &[f32]| x.iter().map(|v| number(*v)).collect::<Value>();
            let mut out = Map::new();
            out.insert("rope_type".to_owned(), json!("longrope"));
            out.insert("short_factor".to_owned(), list(short));
            out.insert("long_factor".to_owned(), list(long));
            out.insert("original_max_position_embeddings".to_owned(), json!(original));
            out.insert("attention_factor".to_owned(), number(c.rope.attention_factor));
            Value::Object(out)
        }
    })
}

/// GGUF keeps only what Llama 3's rule makes: the rule is found again among those of published models.
fn llama3(rope: &Rope, divisors: &[f32]) -> Result<Value> {
    let (low, high) = (1.0, 4.0);
    let factor = divisors.iter().fold(1.0f32, |m, d| m.max(*d));
    let fits = |original: usize| {
        let rule = llama3_divisors((rope.dims, rope.base), factor, (low, high), original);
        // Its converter computes in f32.
        rule.iter().zip(divisors).all(|(a, b)| (a / b - 1.0).abs() < 1e-6)
    };
    match (4..=20).map(|n| 1 << n).find(|n| fits(*n)) {
        Some(original) => Ok(json!({
            "rope_type": "llama3",
            "factor": number(factor),
            "low_freq_factor": number(low),
            "high_freq_factor": number(high),
            "original_max_position_embeddings": original,
        })),
        None => {
            let reason =
                "they are not those of Llama 3's rule, and config.json has no other".to_owned();
            Err(Error::BadConfig { key: "rope_freqs.weight".to_owned(), reason })
        }
    }
}

/// The shortest decimal that is read back as the same f32.
fn number(x: f32) -> Value {
    let short: f64 = x.to_string().parse().unwrap_or_else(|_| f64::from(x));
    let exact = if short as f32 == x { short } else { f64::from(x) };
    Number::from_f64(exact).map_or(Value::Null, Value::Number)
}
