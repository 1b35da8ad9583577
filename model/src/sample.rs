//! Choosing the next token.
//!
//! The order is that of llama.cpp's default chain (`common/sampling.cpp`), with the definitions of its
//! `src/llama-sampling.cpp`:
//!
//! 1. **Repetition penalty** (Keskar et al. 2019, arXiv:1909.05858): of each token among the last
//!    `repetition_window`, prompt included, a logit above 0 is divided by the penalty, another multiplied with it;
//!    once, however often the token occurs.
//! 2. **Top-k**: the k largest logits.
//! 3. **Top-p** (Holtzman et al. 2020, arXiv:1904.09751): of what is left, the fewest most likely tokens whose
//!    probabilities together reach p.
//! 4. **Min-p** (Nguyen et al. 2024, arXiv:2407.01082): those at least p times as likely as the most likely one,
//!    which is `logit >= max + ln p`.
//! 5. **Temperature**: logits are divided by it. At 0 the largest logit is taken after step 1.
//! 6. One draw from the softmax.
//!
//! The softmax is the kernels' own and every sum has one order, so a seed gives the same text on every machine.

use std::cmp::Ordering;
use std::collections::{BTreeSet, VecDeque};

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
    /// Only tokens at least this many times as likely as the most likely one; 0 for all.
    pub min_p: f32,
    /// What the logits of recent tokens are divided by (multiplied with, below 0); 1 for nothing.
    pub repetition_penalty: f32,
    /// How many tokens back a token is recent.
    pub repetition_window: usize,
    /// Seed of the generator.
    pub seed: u64,
}

impl Default for Sampling {
    fn default() -> Self {
        Sampling {
            temperature: 0.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            repetition_window: 64,
            seed: 0,
        }
    }
}

impl Sampling {
    fn check(&self) -> Result<()> {
        let in_range = |name, value: f32, ok: bool, range| match ok {
            true => Ok(()),
            false => Err(Error::OutOfRange { name, value: f64::from(value), range }),
        };
        let Sampling { temperature: t, top_p, min_p, repetition_penalty: r, .. } = *self;
        in_range("temperature", t, t.is_finite() && t >= 0.0, "0 or more")?;
        in_range("top_p", top_p, top_p > 0.0 && top_p <= 1.0, "above 0, at most 1")?;
        in_range("min_p", min_p, (0.0..=1.0).contains(&min_p), "0 to 1")?;
        in_range("repetition_penalty", r, r.is_finite() && r > 0.0, "above 0")
    }
}

/// A choice of settings, the state of their generator (ChaCha with 8 rounds), and the recent tokens.
#[derive(Clone, Debug)]
pub struct Sampler {
    settings: Sampling,
    rng: ChaCha8Rng,
    recent: VecDeque<u32>,
}

impl Sampler {
    /// A sampler at its first draw.
    ///
    /// # Errors
    /// [`Error::OutOfRange`]: a temperature that is negative or not finite, a `top_p` that is not above 0 and at
    /// most 1, a `min_p` not from 0 to 1, a penalty that is not positive.
    pub fn new(settings: Sampling) -> Result<Self> {
        settings.check()?;
        let rng = ChaCha8Rng::seed_from_u64(settings.seed);
        Ok(Sampler { settings, rng, recent: VecDeque::new() })
    }

    /// Takes notice of a token of the prompt or of the text.
    pub fn accept(&mut self, id: u32) {
        let window = self.settings.repetition_window;
        if self.settings.repetition_penalty == 1.0 || window == 0 {
            return;
        }
        if self.recent.len() == window {
            self.recent.pop_front();
        }
        self.recent.push_back(id);
    }

    /// The next token, by its logits, none of them NaN. Of equal logits the lowest id comes first. It is for the
    /// caller to [`Self::accept`] it.
    pub fn next(&mut self, logits: &[f32]) -> u32 {
        if self.recent.is_empty() {
            return self.choose(logits);
        }
        let mut logits = logits.to_vec();
        let penalty = self.settings.repetition_penalty;
        let recent: BTreeSet<u32> = self.recent.iter().copied().collect();
        for id in recent {
            // An id of the prompt may lie beyond what can be chosen.
            if let Some(x) = logits.get_mut(id as usize) {
                *x = if *x <= 0.0 { *x * penalty } else { *x / penalty };
            }
        }
        self.choose(&logits)
    }

    fn choose(&mut self, logits: &[f32]) -> u32 {
        let Sampling { temperature, top_k, top_p, min_p, .. } = self.settings;
        let top = argmax(logits);
        if temperature == 0.0 {
            return top;
        }
        let top = logits.get(top as usize).copied().unwrap_or(0.0);
        // Sorted only as far as somebody asks for the most likely ones; else in the order of ids.
        let mut kept = match top_k {
            0 => nucleus(logits, top_p),
            k if k >= logits.len() => nucleus(logits, top_p),
            k => {
                let mut kept: Vec<u32> = (0..logits.len() as u32).collect();
                kept.select_nth_unstable_by(k - 1, |a, b| by_logit(logits, *a, *b));
                kept.truncate(k);
                kept.sort_unstable_by(|a, b| by_logit(logits, *a, *b));
                if top_p < 1.0 {
                    let p = probabilities(logits, &kept);
                    let mut total = 0.0;
                    kept.truncate(reaching(&p, top_p, &mut total).unwrap_or(kept.len()));
                }
                kept
            }
        };
        if min_p > 0.0 {
            let least = top + libm::logf(min_p);
            kept.retain(|&id| logits[id as usize] >= least);
        }
        // The largest is subtracted first: a quotient by a tiny temperature would overflow to infinity, of
        // which a softmax knows nothing.
        let scaled = |&id: &u32| (logits[id as usize] - top) / temperature;
        let mut p: Vec<f32> = kept.iter().map(scaled).collect();
        op::softmax(&mut p);
        // 24 random bits: every value is an f32 in [0, 1).
        let mut left = (self.rng.next_u32() >> 8) as f32 / (1u32 << 24) as f32;
        for (p, id) in p.iter().zip(&kept) {
            if left < *p {
                return *id;
            }
            left -= p;
        }
        // Rounding may leave a rest above the sum of all; the last with any probability gets it.
        let last = p.iter().rposition(|p| *p > 0.0).unwrap_or(0);
        kept.get(last).copied().unwrap_or(0)
    }
}

/// The most likely first; of equal ones the lowest id.
fn by_logit(logits: &[f32], a: u32, b: u32) -> Ordering {
    logits[b as usize].total_cmp(&logits[a as usize]).then(a.cmp(&b))
}

/// Softmax of some logits.
fn probabilities(logits: &[f32], ids: &[u32]) -> Vec<f32> {
    let mut p: Vec<f32> = ids.iter().map(|&id| logits[id as usize]).collect();
    op::softmax(&mut p);
    p
}

/// How many of `p` it takes until `total` reaches `top_p`.
fn reaching(p: &[f32], top_p: f32, total: &mut f32) -> Option<usize> {
    let at = p.iter().position(|p| {
        *total += p;
        *total >= top_p
    });
    at.map(|i| i + 1)
}

/// The nucleus of the whole vocabulary, most likely first. It is rarely more than some hundred tokens: they are
/// selected and sorted in steps.
fn nucleus(logits: &[f32], top_p: f32) -> Vec<u32> {
    let mut ids: Vec<u32> = (0..logits.len() as u32).collect();
    if top_p >= 1.0 {
        return ids;
    }
    let p = probabilities(logits, &ids);
    let (mut done, mut step, mut total) = (0, 64, 0.0);
    while done < ids.len() {
        let rest = &mut ids[done..];
        let n = step.min(rest.len());
        if n < rest.len() {
            rest.select_nth_unstable_by(n - 1, |a, b| by_logit(logits, *a, *b));
        }
        rest[..n].sort_unstable_by(|a, b| by_logit(logits, *a, *b));
        let next: Vec<f32> = rest[..n].iter().map(|&id| p[id as usize]).collect();
        if let Some(more) = reaching(&next, top_p, &mut total) {
            ids.truncate(done + more);
            return ids;
        }
        done += n;
        step *= 4;
    }
    ids
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
