//! GGUF's names of tensors and those of `transformers`, which differ from family to family in a few places.

use crate::config::Config;

/// Parts of a layer, GGUF's name first.
const PARTS: [(&str, &str); 14] = [
    ("attn_norm", "input_layernorm"),
    ("attn_q", "self_attn.q_proj"),
    ("attn_k", "self_attn.k_proj"),
    ("attn_v", "self_attn.v_proj"),
    ("attn_qkv", "self_attn.qkv_proj"),
    ("attn_output", "self_attn.o_proj"),
    ("attn_q_norm", "self_attn.q_norm"),
    ("attn_k_norm", "self_attn.k_norm"),
    ("attn_sub_norm", "self_attn.attn_sub_norm"),
    ("ffn_norm", "post_attention_layernorm"),
    ("ffn_gate", "mlp.gate_proj"),
    ("ffn_up", "mlp.up_proj"),
    ("ffn_down", "mlp.down_proj"),
    ("ffn_sub_norm", "mlp.ffn_sub_norm"),
];

/// Where Gemma 3 differs: it norms what comes out of a block too.
const GEMMA: [(&str, &str); 3] = [
    ("ffn_norm", "pre_feedforward_layernorm"),
    ("post_attention_norm", "post_attention_layernorm"),
    ("post_ffw_norm", "post_feedforward_layernorm"),
];

/// Where Phi-3 differs: gate and up are one tensor.
const PHI: [(&str, &str); 1] = [("ffn_up", "mlp.gate_up_proj")];

/// Where 1bitLLM's BitNet differs.
const OLD_BITNET: [(&str, &str); 2] =
    [("attn_sub_norm", "self_attn.inner_attn_ln"), ("ffn_sub_norm", "mlp.ffn_layernorm")];

/// Norms that only some architectures have. `transformers` leaves them unread in a model of another type, which then
/// gives other answers: there they are tensors without a place.
const NORMS: [(&str, &[&str]); 6] = [
    ("attn_q_norm", &["qwen3", "gemma3"]),
    ("attn_k_norm", &["qwen3", "gemma3"]),
    ("attn_sub_norm", &["bitnet", "bitnet-25", "bitnet-b1.58"]),
    ("ffn_sub_norm", &["bitnet", "bitnet-25", "bitnet-b1.58"]),
    ("post_attention_norm", &["gemma3"]),
    ("post_ffw_norm", &["gemma3"]),
];

/// Whether an architecture has the part (GGUF's name) of a layer, as far as that is no question of the single model.
pub(crate) fn has_part(architecture: &str, part: &str) -> bool {
    NORMS.iter().all(|(norm, of)| *norm != part || of.contains(&architecture))
}

/// The parts that are linear layers.
const LINEAR: [&str; 8] =
    ["attn_q", "attn_k", "attn_v", "attn_qkv", "attn_output", "ffn_gate", "ffn_up", "ffn_down"];

/// What decides the names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(crate) enum Style {
    #[default]
    Plain,
    Gemma,
    Phi,
    OldBitnet,
}

impl Style {
    pub fn of(architecture: &str) -> Self {
        match architecture {
            "gemma3" => Style::Gemma,
            "phi3" => Style::Phi,
            _ => Style::Plain,
        }
    }
}

/// The names of one folder.
#[derive(Clone, Debug, Default)]
pub(crate) struct Names {
    pub style: Style,
    /// Before `layers.0`: `model.`, or what models with a vision tower have.
    pub prefix: String,
    /// The output head.
    pub head: String,
    /// The norm of a linear layer's own inputs: `rms_norm` or `norm`.
    pub input_norm: &'static str,
}

impl Names {
    /// The names that a folder of this architecture has when it is written.
    pub fn of_architecture(architecture: &str) -> Self {
        Names {
            style: Style::of(architecture),
            prefix: "model.".to_owned(),
            head: "lm_head".to_owned(),
            input_norm: "norm",
        }
    }

    /// The folder's name for GGUF's `name`; unknown names stay as they are.
    pub fn own(&self, name: &str) -> String {
        self.try_own(name).unwrap_or_else(|| name.to_owned())
    }

    fn try_own(&self, name: &str) -> Option<String> {
        let (stem, suffix) = name.rsplit_once('.')?;
        let prefix = &self.prefix;
        match stem {
            "token_embd" => return Some(format!("{prefix}embed_tokens.{suffix}")),
            "output_norm" => return Some(format!("{prefix}norm.{suffix}")),
            "output" => return Some(format!("{}.{suffix}", self.head)),
            _ => {}
        }
        let (layer, part) = stem.strip_prefix("blk.")?.split_once('.')?;
        let layer = format!("{prefix}layers.{layer}");
        if let Some(part) = part.strip_suffix("_norm_in") {
            return Some(format!("{layer}.{}.{}.{suffix}", self.part(part)?, self.input_norm));
        }
        Some(format!("{layer}.{}.{suffix}", self.part(part)?))
    }

    fn part(&self, part: &str) -> Option<&'static str> {
        let special: &[(&str, &str)] = match self.style {
            Style::Plain => &[],
            Style::Gemma => &GEMMA,
            Style::Phi => &PHI,
            Style::OldBitnet => &OLD_BITNET,
        };
        special.iter().chain(&PARTS).find(|(gguf, _)| *gguf == part).map(|(_, own)| *own)
    }
}

/// Every name that GGUF may have for a tensor of such a model, in the order of its files.
pub(crate) fn all(config: &Config) -> impl Iterator<Item = String> {
    let (layers, architecture) = (config.layers, config.architecture.clone());
    let outer = ["token_embd.weight", "output_norm.weight", "output.weight", "output.bias"];
    let parts = PARTS.iter().chain(&GEMMA[1..]).map(|(gguf, _)| *gguf);
    let parts: Vec<_> = parts.filter(|part| has_part(&architecture, part)).collect();
    let of_part = |part: &'static str| {
        let mut names = vec![format!("{part}.weight")];
        if LINEAR.contains(&part) {
            let more = [".scale", ".bias", "_norm_in.weight"];
            names.extend(more.map(|end| format!("{part}{end}")));
        }
        names
    };
    let of_layer = move |i: usize| {
        let names = parts.iter().flat_map(|part| of_part(part));
        names.map(|name| format!("blk.{i}.{name}")).collect::<Vec<_>>()
    };
    outer.into_iter().map(str::to_owned).chain((0..layers).flat_map(of_layer))
}

/// Whether GGUF's `name` is the weight of a linear layer of a block.
pub(crate) fn is_linear_weight(name: &str) -> bool {
    let part = name.strip_prefix("blk.").and_then(|n| n.split_once('.')).map(|(_, part)| part);
    part.and_then(|p| p.strip_suffix(".weight")).is_some_and(|part| LINEAR.contains(&part))
}
