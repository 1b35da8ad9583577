//! `quantization_config` of BitNet models: which layers are BitLinear, and how their scales are meant.

use super::keys::Keys;
use super::skipped::Skipped;
use crate::error::Result;

/// BitLinear layers of a folder.
#[derive(Clone, Debug)]
pub(super) struct Quantization {
    /// Whether the stored `weight_scale` multiplies (`autobitlinear`) or divides (`bitlinear`).
    pub multiply: bool,
    /// Whether it is the factor itself, not a mean that takes its way through an inverse: a key of this project's
    /// own, in folders made of GGUF files.
    pub exact: bool,
    /// Whether float weights are masters that are made ternary when the model is loaded.
    pub online: bool,
    /// Modules that stay as they are.
    pub skipped: Skipped,
    /// Where every BitLinear layer has a norm of its own, its eps.
    pub norm_eps: Option<f32>,
}

/// Every key of `quantization_config`: a misspelt one would leave its default, and another model.
const KEYS: [&str; 7] = [
    "quant_method",
    "linear_class",
    "quantization_mode",
    "modules_to_not_convert",
    "use_rms_norm",
    "rms_norm_eps",
    "exact_weight_scale",
];

impl Quantization {
    /// Reads `quantization_config`; `None` where a model is not quantised. 1bitLLM's models have none, and
    /// are all BitLinear with master weights.
    pub fn read(root: &Keys<'_>, old_bitnet: bool) -> Result<Option<Self>> {
        let keys = root.object("quantization_config")?;
        if root.get("quantization_config").is_none() {
            return Ok(old_bitnet.then(|| Quantization {
                multiply: true,
                exact: false,
                online: true,
                skipped: Skipped::default(),
                norm_eps: None,
            }));
        }
        let method = keys.text("quant_method")?.ok_or_else(|| keys.missing("quant_method"))?;
        if method != "bitnet" {
            let reason = format!("{method:?} is not supported, only bitnet is");
            return Err(keys.bad("quant_method", reason));
        }
        if let Some(key) = keys.other_than(&KEYS) {
            let reason = format!("it is no key of a BitNet model; known are {}", KEYS.join(", "));
            return Err(keys.bad(key, reason));
        }
        let choice = |key: &str, first: &'static str, second: &'static str| match keys
            .text(key)?
            .unwrap_or(first)
        {
            v if v == first => Ok(false),
            v if v == second => Ok(true),
            other => Err(keys.bad(key, format!("{other:?} is neither {first} nor {second}"))),
        };
        let multiply = choice("linear_class", "bitlinear", "autobitlinear")?;
        let online = choice("quantization_mode", "offline", "online")?;
        let exact = keys.flag("exact_weight_scale")?.unwrap_or(false);
        let skipped = Skipped::read(&keys)?;
        let norm_eps = match keys.flag("use_rms_norm")? {
            Some(true) => Some(keys.number("rms_norm_eps")?.unwrap_or(1e-6)),
            _ => None,
        };
        Ok(Some(Quantization { multiply, exact, online, skipped, norm_eps }))
    }

    /// Whether the linear layer `module` (`model.layers.0.mlp.up_proj`) is BitLinear.
    pub fn applies_to(&self, module: &str) -> bool {
        let is_head = module.ends_with("lm_head") || module.ends_with("embed_tokens");
        !is_head && !self.skipped.has(module)
    }
}
