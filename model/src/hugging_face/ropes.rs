//! RoPE and windows of a `config.json`, from `rope_scaling` (version 4) or `rope_parameters` (version 5).
//!
//! Both are objects that a model does without where they are misspelt, and then turns by other angles: a key
//! that is not known is an error here, and so is one that stands where the family has it otherwise.

use super::keys::Keys;
use crate::config::Local;
use crate::error::Result;
use crate::rope::{Rope, Scaling, llama3_divisors};

/// What [`Ropes::read`] reads of one object.
const READ: [&str; 11] = [
    "rope_type",
    "type",
    "rope_theta",
    "partial_rotary_factor",
    "factor",
    "original_max_position_embeddings",
    "low_freq_factor",
    "high_freq_factor",
    "short_factor",
    "long_factor",
    "attention_factor",
];

/// Keys of `transformers` for types that are not supported, and what published files have beside them.
const OTHERS: [&str; 8] = [
    "beta_fast",
    "beta_slow",
    "mscale",
    "mscale_all_dim",
    "truncate",
    "short_mscale",
    "long_mscale",
    "finetuned",
];

/// Types of layers that have parameters of their own in Gemma 3.
const LAYER_TYPES: [&str; 2] = ["full_attention", "sliding_attention"];

/// The key of the share of a head that turns.
const SHARE: &str = "partial_rotary_factor";

const TYPES: &str = "default, linear, llama3 and longrope are supported";

/// What RoPE depends on.
pub(super) struct Ropes<'a> {
    pub keys: Keys<'a>,
    pub model_type: &'static str,
    /// The family's base.
    pub theta: f32,
    pub head_dim: usize,
    pub context: usize,
}

impl Ropes<'_> {
    /// The families with one kind of layer, or nearly.
    pub fn plain(&self, layers: usize) -> Result<(Rope, Option<Local>)> {
        let keys = &self.keys;
        let parameters = keys.object("rope_parameters")?;
        let rope = self.read(&parameters, self.base()?, true)?;
        self.check_whole(&rope, &[&keys.object("rope_scaling")?, &parameters])?;
        let window = keys.count("sliding_window")?;
        let local = match (self.model_type, window) {
            // No text is longer than the rest.
            ("phi3", Some(window)) if (1..1 << 30).contains(&window) => {
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

    /// Gemma 3: one RoPE for global layers, another for those with a window.
    pub fn gemma(&self, layers: usize) -> Result<(Rope, Option<Local>)> {
        let keys = &self.keys;
        if keys.flag("use_bidirectional_attention")? == Some(true) {
            let reason = "embedding models, which look ahead, are not supported".to_owned();
            return Err(keys.bad("use_bidirectional_attention", reason));
        }
        let both = keys.object("rope_parameters")?;
        if let Some(key) = both.other_than(&LAYER_TYPES) {
            let reason = "it is no type of layer: Gemma 3 has an object each for full_attention and \
                          sliding_attention here";
            return Err(both.bad(key, reason.to_owned()));
        }
        let [full, sliding] = LAYER_TYPES;
        let base = keys.positive("rope_local_base_freq")?.unwrap_or(10_000.0);
        let (sliding, full) = (both.object(sliding)?, both.object(full)?);
        let local_rope = self.read(&sliding, base, false)?;
        let rope = self.read(&full, self.base()?, true)?;
        self.check_whole(&local_rope, &[&sliding])?;
        self.check_whole(&rope, &[&keys.object("rope_scaling")?, &full])?;
        if keys.has("sliding_window") && keys.get("sliding_window").is_none() {
            let reason = "it is null: Gemma 3 has no layers without a window but the global ones (layer_types)";
            return Err(keys.bad("sliding_window", reason.to_owned()));
        }
        let window = keys.count("sliding_window")?.unwrap_or(4096);
        let layers = self.gemma_layers(layers)?;
        Ok((rope, Some(Local { window, layers, rope: local_rope })))
    }

    /// Which layers have a window: by name, or all but every sixth, unless the file says otherwise.
    fn gemma_layers(&self, layers: usize) -> Result<Vec<bool>> {
        // The second is what `transformers` writes beside the names of the layers, and never reads.
        const KEYS: [&str; 2] = ["sliding_window_pattern", "_sliding_window_pattern"];
        let keys = &self.keys;
        let [read, written] = KEYS.map(|key| keys.count(key));
        let (read, written) = (read?, written?);
        for (key, pattern) in KEYS.into_iter().zip([read, written]) {
            if pattern == Some(0) {
                return Err(keys.bad(key, "it is 0".to_owned()));
            }
        }
        if let Some(named) = layer_types(keys, layers)? {
            return Ok(named);
        }
        let pattern = read.unwrap_or(6);
        if let Some(other) = written.filter(|other| *other != pattern) {
            let reason = format!(
                "it is {other}, but transformers does not read this key: without layer_types, {} says which \
                 layers have a window, and here that is {pattern}",
                KEYS[0]
            );
            return Err(keys.bad(KEYS[1], reason));
        }
        Ok((0..layers).map(|i| !(i + 1).is_multiple_of(pattern)).collect())
    }

    fn base(&self) -> Result<f32> {
        Ok(self.keys.positive("rope_theta")?.unwrap_or(self.theta))
    }

    /// One RoPE: of `parameters` (version 5), of `rope_scaling` (version 4, where `scaled`), or of the defaults.
    /// Where there are both, version 4 reads the one, and version 5 takes it for the other: then they must agree.
    fn read(&self, parameters: &Keys<'_>, base: f32, scaled: bool) -> Result<Rope> {
        let scaling = self.keys.object("rope_scaling")?;
        if !scaled || scaling.is_empty() {
            return self.of(parameters, base);
        }
        let rope = self.of(&scaling, base)?;
        if !parameters.is_empty() {
            let other = self.of(parameters, base)?;
            if other != rope {
                let what = match (rope.base, other.base) {
                    (a, b) if a != b => format!("the base is {a} with it, and {b} with that"),
                    _ => "they do not scale alike".to_owned(),
                };
                let reason = format!(
                    "it disagrees with {}, where versions of transformers read the one or the other: {what}",
                    parameters.name("").trim_end_matches('.')
                );
                return Err(self.keys.bad("rope_scaling", reason));
            }
        }
        Ok(rope)
    }

    /// The RoPE that one object says.
    fn of(&self, scaling: &Keys<'_>, base: f32) -> Result<Rope> {
        check_keys(scaling)?;
        let base = scaling.positive("rope_theta")?.unwrap_or(base);
        let dims = self.dims(scaling)?;
        let (type_key, kind) = kind(scaling)?;
        if type_key == "type" && self.model_type == "gemma3_text" && kind != "default" {
            let reason = format!(
                "it is {kind:?}, but for Gemma 3 versions of transformers differ in whether they read this old \
                 name: call it rope_type"
            );
            return Err(scaling.bad(type_key, reason));
        }
        let original = self.original(scaling, kind)?;
        let need = |key: &str| scaling.positive(key)?.ok_or_else(|| scaling.missing(key));
        let mut attention_factor = 1.0;
        let scaling = match kind {
            "default" => Scaling::None,
            "linear" => Scaling::Linear(need("factor")?),
            "llama3" => {
                let (factor, low, high) =
                    (need("factor")?, need("low_freq_factor")?, need("high_freq_factor")?);
                if high <= low {
                    let reason = format!("{high} is not more than low_freq_factor = {low}");
                    return Err(scaling.bad("high_freq_factor", reason));
                }
                Scaling::Divisors(llama3_divisors((dims, base), factor, (low, high), original))
            }
            // Old names; `yarn` was one in Phi-3's first files.
            "longrope" | "su" => self.long(scaling, dims, original, &mut attention_factor)?,
            "yarn" if self.model_type == "phi3" => {
                self.long(scaling, dims, original, &mut attention_factor)?
            }
            other => {
                return Err(scaling.bad(type_key, format!("{other:?} is not supported: {TYPES}")));
            }
        };
        Ok(Rope { dims, base, attention_factor, scaling })
    }

    /// Elements of a head that are rotated.
    fn dims(&self, scaling: &Keys<'_>) -> Result<usize> {
        const KEY: &str = SHARE;
        let (head_dim, top) = (self.head_dim, &self.keys);
        let keys = if scaling.get(KEY).is_some() { scaling } else { top };
        let Some(share) = keys.number(KEY)? else {
            if !head_dim.is_multiple_of(2) {
                let key = if top.get("head_dim").is_some() { "head_dim" } else { "hidden_size" };
                let reason = format!(
                    "a head (head_dim, or hidden_size / num_attention_heads) has {head_dim} elements, which \
                     RoPE cannot turn in pairs"
                );
                return Err(top.bad(key, reason));
            }
            return Ok(head_dim);
        };
        let dims = (head_dim as f64 * f64::from(share)) as usize;
        if !(share > 0.0 && share <= 1.0) {
            return Err(keys.bad(KEY, format!("{share} is not a share of a head")));
        }
        if dims == 0 || !dims.is_multiple_of(2) {
            let reason = format!(
                "{share} of a head of head_dim = {head_dim} is {dims} elements, not an even number of them"
            );
            return Err(keys.bad(KEY, reason));
        }
        Ok(dims)
    }

    /// Refuses a part of a head where the class turns whole ones; `objects` may say so.
    fn check_whole(&self, rope: &Rope, objects: &[&Keys<'_>]) -> Result<()> {
        if rope.dims == self.head_dim || self.model_type == "phi3" {
            return Ok(());
        }
        let says = |keys: &&&Keys<'_>| keys.get(SHARE).is_some();
        let keys = objects.iter().find(says).map_or(&self.keys, |keys| keys);
        let reason = format!(
            "of the classes of transformers only Phi-3's turns a part of a head: {} would ignore it, or fail",
            self.model_type
        );
        Err(keys.bad(SHARE, reason))
    }

    /// Positions before scaling. The top level wins, and Phi-3's class reads it only there.
    fn original(&self, scaling: &Keys<'_>, kind: &str) -> Result<usize> {
        const KEY: &str = "original_max_position_embeddings";
        const PHI3: usize = 4096;
        let long = self.model_type == "phi3" && matches!(kind, "longrope" | "su" | "yarn");
        let inside = scaling.count(KEY)?.filter(|n| *n != PHI3 && long);
        if let (Some(n), None) = (inside, self.keys.count(KEY)?) {
            let reason = format!(
                "it is {n}, but Phi-3's class reads this key at the top level, where it is absent and {PHI3} \
                 stands for it: state it there"
            );
            return Err(scaling.bad(KEY, reason));
        }
        for keys in [&self.keys, scaling] {
            match keys.count(KEY)? {
                None => {}
                Some(0) => return Err(keys.bad(KEY, "it is 0".to_owned())),
                Some(n) => return Ok(n),
            }
        }
        Ok(if self.model_type == "phi3" { PHI3 } else { self.context })
    }

    fn long(
        &self,
        scaling: &Keys<'_>,
        dims: usize,
        original: usize,
        attention_factor: &mut f32,
    ) -> Result<Scaling> {
        let factors = |key: &str| {
            let factors = scaling.numbers(key)?.ok_or_else(|| scaling.missing(key))?;
            if factors.len() != dims / 2 {
                let reason = format!(
                    "{} factors for half of the {dims} elements that are rotated \
                     (partial_rotary_factor of head_dim, or of hidden_size / num_attention_heads)",
                    factors.len()
                );
                return Err(scaling.bad(key, reason));
            }
            match factors.iter().position(|factor| *factor <= 0.0) {
                None => Ok(factors),
                Some(i) => {
                    let reason = format!("{} is not more than 0", factors[i]);
                    Err(scaling.bad(&format!("{key}[{i}]"), reason))
                }
            }
        };
        let (short, long) = (factors("short_factor")?, factors("long_factor")?);
        let ratio = match scaling.positive("factor")? {
            Some(factor) => f64::from(factor),
            None => self.context as f64 / original as f64,
        };
        *attention_factor = match scaling.positive("attention_factor")? {
            Some(factor) => factor,
            None if ratio <= 1.0 => 1.0,
            None if original == 1 => {
                let reason = "it is 1, whose logarithm, 0, cannot divide: state attention_factor";
                return Err(scaling.bad("original_max_position_embeddings", reason.to_owned()));
            }
            None => (1.0 + libm::log(ratio) / libm::log(original as f64)).sqrt() as f32,
        };
        Ok(Scaling::Long { short, long, original })
    }
}

/// Refuses what one set of parameters does not have.
fn check_keys(keys: &Keys<'_>) -> Result<()> {
    match keys.other_than(&[&READ[..], &OTHERS].concat()) {
        None => Ok(()),
        Some(key) if LAYER_TYPES.contains(&key) => {
            let reason = "this model type has one set of parameters for all layers; one per type of layer is \
                          for gemma3_text, in rope_parameters";
            Err(keys.bad(key, reason.to_owned()))
        }
        Some(key) => {
            let reason = format!("it is no key of RoPE; known are {}", READ.join(", "));
            Err(keys.bad(key, reason))
        }
    }
}

/// The type of scaling with its key; it may be absent only where nothing needs one.
fn kind<'a>(keys: &Keys<'a>) -> Result<(&'static str, &'a str)> {
    match (keys.text("rope_type")?, keys.text("type")?) {
        (Some(kind), _) => Ok(("rope_type", kind)),
        (None, Some(kind)) => Ok(("type", kind)),
        (None, None) => {
            match keys.other_than(&["rope_type", "type", "rope_theta", "partial_rotary_factor"]) {
                None => Ok(("rope_type", "default")),
                Some(found) => {
                    let reason = format!("it is missing, though there is `{found}`: {TYPES}");
                    Err(keys.bad("rope_type", reason))
                }
            }
        }
    }
}

/// Which layers have a window, by name.
fn layer_types(keys: &Keys<'_>, layers: usize) -> Result<Option<Vec<bool>>> {
    let Some(types) = keys.texts("layer_types")? else { return Ok(None) };
    if types.len() != layers {
        let reason = format!("{} entries for {layers} layers", types.len());
        return Err(keys.bad("layer_types", reason));
    }
    let local = |(i, name): (usize, &&str)| match *name {
        "sliding_attention" => Ok(true),
        "full_attention" => Ok(false),
        other => {
            let reason = format!("{other:?} is not supported: {} are", LAYER_TYPES.join(" and "));
            Err(keys.bad(&format!("layer_types[{i}]"), reason))
        }
    };
    types.iter().enumerate().map(local).collect::<Result<_>>().map(Some)
}
