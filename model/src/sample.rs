//! Choosing the next token.
//!
//! The order is llama.cpp's: top-k, then top-p, then temperature, then one draw. The softmax is the
//! kernels' own, so a seed gives the same text on every machine.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use tritlab_kernels::op;

use crate::error::{Error, Result};

/// How to choose.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampling {
    /// 0 takes the most likely token always; larger is more random.
    pub temperature: f32,
    /// Only the `top_k` most likely tokens; 0 for all.
    pub top_k: usize,
    /// Only the most likely tokens that together reach this probability; 1 for all.
    pub top_p: f32,
    /// Seed of the generator.
    pub seed: u64,
}

impl Default for Sampling {
    fn default() -> Self {
        Sampling { temperature: 0.0, top_k: 0, top_p: 1.0, seed: 0 }
    }
}

/// A choice of settings and the state of their generator (ChaCha with 8 rounds).
#[derive(Clone, Debug)]
pub struct Sampler {
    settings: Sampling,
    rng: ChaCha8Rng,
}

impl Sampler {
    /// A sampler at its first draw.
    ///
    /// # Errors
    /// A temperature that is negative or not finite, a `top_p` that is not above 0 and at most 1.
    pub fn new(settings: Sampling) -> Result<Self> {
        let Sampling { temperature, top_p, seed, .. } = settings;
        if !(temperature.is_finite() && temperature >= 0.0) {
            let value = f64::from(temperature);
            return Err(Error::BadSampling { name: "temperature", value, range: "0 or more" });
        }
        if !(top_p > 0.0 && top_p <= 1.0) {
            let value = f64::from(top_p);
            return Err(Error::BadSampling { name: "top_p", value, range: "above 0, at most 1" });
        }
        Ok(Sampler { settings, rng: ChaCha8Rng::seed_from_u64(seed) })
    }

    /// The next token, by its logits. Of equal logits the lowest id comes first.
    pub fn next(&mut self, logits: &[f32]) -> u32 {
        let Sampling { temperature, top_k, top_p, .. } = self.settings;
        if temperature == 0.0 {
            return argmax(logits);
        }
        let mut order: Vec<u32> = (0..logits.len() as u32).collect();
        let by_logit =
            |a: &u32, b: &u32| logits[*b as usize].total_cmp(&logits[*a as usize]).then(a.cmp(b));
        if top_k > 0 && top_k < order.len() {
            order.select_nth_unstable_by(top_k - 1, by_logit);
            order.truncate(top_k);
        }
        order.sort_unstable_by(by_logit);
        if top_p < 1.0 {
            let mut p: Vec<f32> = order.iter().map(|&i| logits[i as usize]).collect();
            op::softmax(&mut p);
            let mut total = 0.0;
            let keep = p.iter().position(|p| {
                total += p;
                total >= top_p
            });
            order.truncate(keep.map_or(order.len(), |i| i + 1));
        }
        // The largest is subtracted first: a quotient by a tiny temperature would overflow to infinity, of
        // which a softmax knows nothing.
        let top = order.first().map_or(0.0, |&i| logits[i as usize]);
        let scaled = |&i: &u32| (logits[i as usize] - top) / temperature;
        let mut p: Vec<f32> = order.iter().map(scaled).collect();
        op::softmax(&mut p);
        // 24 random bits: every value is an f32 in [0, 1).
        let mut left = (self.rng.next_u32() >> 8) as f32 / (1u32 << 24) as f32;
        for (p, id) in p.iter().zip(&order) {
            if left < *p {
                return *id;
            }
            left -= p;
        }
        order.last().copied().unwrap_or(0)
    }
}

/// The id of the largest logit, the lowest on ties.
pub fn argmax(logits: &[f32]) -> u32 {
    let mut best = 0;
    for (i, x) in logits.iter().enumerate() {
        if *x > logits[best] {
            best = i;
        }
    }
    best as u32
}
