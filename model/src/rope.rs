//! Rotary position embedding: frequencies, scalings, and the tables of cosines and sines.
//!
//! `inv_j = base^(-2j/dims)`, then the scaling; the angle at position p is `p * inv_j`. All of it in f64
//! through `libm`, so that a table has the same bits on every platform, and rounded to f32 once.

use crate::config::bad;
use crate::error::Result;

/// How frequencies are changed for longer contexts.
#[derive(Clone, Debug, PartialEq)]
pub enum Scaling {
    /// Not at all.
    None,
    /// Divided by one factor (Gemma 3, global layers).
    Linear(f32),
    /// Each divided by its own factor: what GGUF stores for Llama 3 ([`llama3_divisors`]).
    Divisors(Vec<f32>),
    /// Phi-3's longrope: one set of divisors for sequences of up to `original` positions, another for
    /// longer ones. As in `transformers`, the length chooses for all positions of a sequence
    /// ([`LongRope`] has the other choice), so that crossing `original` rotates the earlier keys anew
    /// ([`crate::decoder::Decoder::hidden`]).
    Long {
        /// Divisors up to `original`.
        short: Vec<f32>,
        /// Divisors beyond.
        long: Vec<f32>,
        /// Where they change.
        original: usize,
    },
}

/// What chooses between the divisors of [`Scaling::Long`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LongRope {
    /// The length of each sequence, as in `transformers`: short texts are what the model was trained on first.
    #[default]
    Length,
    /// The context, in tokens, whatever the length of a sequence, as in llama.cpp: no text is ever run again, and a
    /// short one under a long context gets the divisors of long ones.
    Context(usize),
}

/// The rotation of one kind of layer.
#[derive(Clone, Debug, PartialEq)]
pub struct Rope {
    /// Elements of a head that are rotated: the first `dims`.
    pub dims: usize,
    /// The base of the frequencies.
    pub base: f32,
    /// Factor on cosines and sines (longrope).
    pub attention_factor: f32,
    /// Scaling of the frequencies.
    pub scaling: Scaling,
}

/// Cosines and sines of some positions.
#[derive(Clone, Debug, Default)]
pub struct Table {
    half: usize,
    /// [positions][half]
    cos: Vec<f32>,
    sin: Vec<f32>,
}

impl Table {
    /// The row of the `i`-th position: cosines and sines.
    pub fn row(&self, i: usize) -> (&[f32], &[f32]) {
        let at = i * self.half..(i + 1) * self.half;
        (&self.cos[at.clone()], &self.sin[at])
    }
}

impl Rope {
    pub(crate) fn check(&self, head_dim: usize) -> Result<()> {
        if self.dims == 0 || self.dims > head_dim || !self.dims.is_multiple_of(2) {
            let reason = format!(
                "{} is not an even number of elements of a head of attention.key_length = {head_dim}",
                self.dims
            );
            return Err(bad("rope.dimension_count", reason));
        }
        for (key, value) in
            [("rope.freq_base", self.base), ("rope.scaling.attn_factor", self.attention_factor)]
        {
            if !(value.is_finite() && value > 0.0) {
                return Err(bad(key, format!("{value} is not positive")));
            }
        }
        let factors: &[(&str, &[f32])] = match &self.scaling {
            Scaling::Divisors(divisors) => &[("rope_freqs.weight", divisors)],
            Scaling::Long { short, long, .. } => {
                &[("rope_factors_short.weight", short), ("rope_factors_long.weight", long)]
            }
            _ => &[],
        };
        for (name, f) in factors {
            if f.len() != self.dims / 2 {
                let reason =
                    format!("{} factors for half of rope.dimension_count = {}", f.len(), self.dims);
                return Err(bad(name, reason));
            }
            if let Some(i) = f.iter().position(|f| !(f.is_finite() && *f > 0.0)) {
                return Err(bad(name, format!("factor {i} is {}, which is not positive", f[i])));
            }
        }
        match self.scaling {
            Scaling::Long { original: 0, .. } => {
                Err(bad("rope.scaling.original_context_length", "it is 0".to_owned()))
            }
            Scaling::Linear(f) if !(f.is_finite() && f > 0.0) => {
                Err(bad("rope.scaling.factor", format!("{f} is not positive")))
            }
            _ => Ok(()),
        }
    }

    /// Settles the divisors of [`Scaling::Long`] where the context chooses them.
    pub(crate) fn settle(&mut self, by: LongRope) {
        if let (Scaling::Long { short, long, original }, LongRope::Context(context)) =
            (&mut self.scaling, by)
        {
            let divisors = if context > *original { long } else { short };
            self.scaling = Scaling::Divisors(std::mem::take(divisors));
        }
    }

    /// Whether a sequence of `length` positions needs the divisors for long ones.
    pub fn is_long(&self, length: usize) -> bool {
        matches!(self.scaling, Scaling::Long { original, .. } if length > original)
    }

    /// The frequencies of sequences that are [`Self::is_long`] or not.
    fn frequencies(&self, is_long: bool) -> Vec<f64> {
        (0..self.dims / 2)
            .map(|j| {
                let inv = frequency(self.dims, self.base, j);
                match &self.scaling {
                    Scaling::None => inv,
                    Scaling::Linear(f) => inv / f64::from(*f),
                    Scaling::Divisors(d) => inv / f64::from(d[j]),
                    Scaling::Long { short, long, .. } => {
                        inv / f64::from(if is_long { long[j] } else { short[j] })
                    }
                }
            })
            .collect()
    }

    /// The table of positions `first..first + n` of a sequence that [`Self::is_long`] or not.
    pub fn table(&self, first: usize, n: usize, is_long: bool) -> Table {
        let mut table = Table::default();
        self.extend(&mut table, first, n, is_long);
        table
    }

    /// Appends to a table the positions `first..first + n` of another sequence.
    pub fn extend(&self, table: &mut Table, first: usize, n: usize, is_long: bool) {
        table.half = self.dims / 2;
        table.cos.reserve(n * table.half);
        table.sin.reserve(n * table.half);
        let inv = self.frequencies(is_long);
        let factor = f64::from(self.attention_factor);
        for p in first..first + n {
            for inv in &inv {
                let angle = p as f64 * inv;
                table.cos.push((libm::cos(angle) * factor) as f32);
                table.sin.push((libm::sin(angle) * factor) as f32);
            }
        }
    }
}

/// Llama 3's rule by wavelength (`transformers` `_compute_llama3_parameters`), as the divisors of
/// [`Scaling::Divisors`]: wavelengths above `original / low` are divided by `factor`, those below
/// `original / high` are kept, and between the two the frequency is blended. One number per frequency, `dims / 2` of
/// them. GGUF's converter stores the same numbers.
pub fn llama3_divisors(
    (dims, base): (usize, f32),
    factor: f32,
    (low, high): (f32, f32),
    original: usize,
) -> Vec<f32> {
    let [factor, low, high] = [factor, low, high].map(f64::from);
    let original = original as f64;
    let divisor = |j: usize| {
        let wavelength = 2.0 * std::f64::consts::PI / frequency(dims, base, j);
        if wavelength < original / high {
            1.0
        } else if wavelength > original / low {
            factor
        } else {
            let smooth = (original / wavelength - low) / (high - low);
            1.0 / ((1.0 - smooth) / factor + smooth)
        }
    };
    (0..dims / 2).map(|j| divisor(j) as f32).collect()
}

/// `base^(-2j/dims)`
fn frequency(dims: usize, base: f32, j: usize) -> f64 {
    libm::pow(f64::from(base), -2.0 * j as f64 / dims as f64)
}
