//! How fast a model runs: the two numbers of llama-bench.

use std::time::{Duration, Instant};

use tritlab_kernels::threads;

use crate::cache::Cache;
use crate::error::{Error, Result};
use crate::model::Model;
use crate::sample::argmax;

/// Times of the repetitions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Speed {
    /// Each: reading a prompt from an empty cache, logits of its last token included.
    pub prompt: Vec<Duration>,
    /// Each: generating tokens one by one from an empty cache.
    pub generate: Vec<Duration>,
}

/// Times `repetitions` of a prompt of `n_prompt` tokens and of `n_gen` generated tokens (either may be 0),
/// after one untimed round of each. `progress` is called with (rounds done, rounds) and returns `false`
/// to stop.
///
/// # Errors
/// [`Error::Cancelled`]; no usable backend.
pub fn measure(
    model: &Model,
    n_prompt: usize,
    n_gen: usize,
    repetitions: usize,
    progress: &mut dyn FnMut(usize, usize) -> bool,
) -> Result<Speed> {
    let vocab = model.config().vocab as u32;
    // Painted ids: every run reads the same rows of the embedding.
    let ids: Vec<u32> = (0..n_prompt as u32).map(|i| i.wrapping_mul(7919) % vocab).collect();
    let mut speed = Speed::default();
    for round in 0..=repetitions {
        if !progress(round, repetitions + 1) {
            return Err(Error::Cancelled);
        }
        if n_prompt > 0 {
            let mut cache = Cache::new(model.config(), n_prompt);
            let start = Instant::now();
            model.decoder.last_logits(&mut cache, &ids)?;
            speed.prompt.push(start.elapsed());
        }
        if n_gen > 0 {
            let mut cache = Cache::new(model.config(), n_gen);
            let start = Instant::now();
            threads::run_hot(|| -> Result<()> {
                let mut id = 0;
                for _ in 0..n_gen {
                    id = argmax(&model.decoder.last_logits(&mut cache, &[id])?);
                }
                Ok(())
            })?;
            speed.generate.push(start.elapsed());
        }
    }
    for times in [&mut speed.prompt, &mut speed.generate] {
        if !times.is_empty() {
            times.remove(0);
        }
    }
    progress(repetitions + 1, repetitions + 1);
    Ok(speed)
}
