//! Perplexity by llama.cpp's convention, and one model against another in lock-step.
//!
//! The text's tokens are cut into windows of `context`, without overlap; a rest is not used. A model that
//! begins texts with BOS gets it in place of each window's first token. The first half of a window is only
//! context: the predictions made at positions `context/2 ..= context-2` are scored, `context - 1 - context/2`
//! of them. Source: llama.cpp `tools/perplexity/perplexity.cpp`.
//!
//! Probabilities are f64, through `libm`, so that a number printed on one machine is the number printed on
//! another. Two models are run side by side, window by window, so that logits need not be stored. A model
//! keeps the hidden states of windows it has scored (`Runs`): one that others are compared with runs once.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use tritlab_kernels::{Backend, backend, threads};

use crate::cache::Cache;
use crate::cancel::Cancel;
use crate::error::{Error, Result};
use crate::model::Model;

/// Rows of logits held at once.
const ROWS: usize = 64;

/// Bytes of hidden states that a model keeps.
const KEPT: usize = 64 << 20;

/// Hidden states of the scored positions of windows, by backend and ids: a backend answers for itself,
/// even though the answer is the same.
#[derive(Debug, Default)]
pub(crate) struct Runs(Mutex<HashMap<Window, Arc<Vec<f32>>>>);

/// What hidden states depend on.
type Window = (Backend, Vec<u32>);

impl Runs {
    fn get(&self, key: &Window) -> Option<Arc<Vec<f32>>> {
        self.0.lock().unwrap_or_else(|e| e.into_inner()).get(key).cloned()
    }

    fn put(&self, key: Window, hidden: &Arc<Vec<f32>>) {
        let mut kept = self.0.lock().unwrap_or_else(|e| e.into_inner());
        let floats: usize = kept.values().map(|h| h.len()).sum();
        if (floats + hidden.len()) * size_of::<f32>() <= KEPT {
            kept.insert(key, hidden.clone());
        }
    }
}

/// One scored prediction.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Scored {
    /// Index, in the ids that were given, of the token that was predicted.
    pub position: usize,
    /// The token.
    pub token: u32,
    /// `-ln p(token)`
    pub nll: f64,
    /// The same for the reference.
    pub ref_nll: f64,
    /// `KL(reference || model)` of the two next-token distributions, in nats.
    pub kl: f64,
    /// Whether both have the same most likely token.
    pub same_top: bool,
}

impl Scored {
    /// Probability of the token.
    pub fn p(&self) -> f64 {
        libm::exp(-self.nll)
    }

    /// Probability of the token for the reference.
    pub fn ref_p(&self) -> f64 {
        libm::exp(-self.ref_nll)
    }
}

/// Number of windows that `tokens` tokens make.
///
/// # Errors
/// [`Error::TextTooShort`] if there is not one; a context below 4.
pub fn windows(tokens: usize, context: usize) -> Result<usize> {
    if context < 4 {
        let reason = format!("a context of {context} leaves nothing to score: use 4 or more");
        return Err(Error::Evaluation { reason });
    }
    match tokens / context {
        0 => Err(Error::TextTooShort { tokens, needed: context }),
        n => Ok(n),
    }
}

/// Scores `ids`, beside a reference if there is one. `progress` is called with (windows done, windows) and
/// returns `false` to stop; `cancel` stops within a window.
///
/// # Errors
/// A text shorter than one window, models of different vocabularies, ids outside it, [`Error::Cancelled`].
pub fn score(
    model: &Model,
    reference: Option<&Model>,
    ids: &[u32],
    context: usize,
    cancel: &Cancel,
    progress: &mut dyn FnMut(usize, usize) -> bool,
) -> Result<Vec<Scored>> {
    let n = windows(ids.len(), context)?;
    let vocab = model.config().vocab;
    if let Some(r) = reference
        && r.config().vocab != vocab
    {
        let other = r.config().vocab;
        let reason =
            format!("the reference has a vocabulary of {other} tokens, the model of {vocab}");
        return Err(Error::Evaluation { reason });
    }
    let mut out = Vec::with_capacity(n * (context - 1 - context / 2));
    for (i, window) in ids.chunks_exact(context).enumerate() {
        if !progress(i, n) {
            return Err(Error::Cancelled);
        }
        out.extend(score_window(model, reference, window, i * context, cancel)?);
    }
    progress(n, n);
    Ok(out)
}

fn score_window(
    model: &Model,
    reference: Option<&Model>,
    window: &[u32],
    first: usize,
    cancel: &Cancel,
) -> Result<Vec<Scored>> {
    let half = window.len() / 2;
    let scored = half..window.len() - 1;
    let (e, v) = (model.config().hidden, model.config().vocab);
    let hidden = hidden(model, window, cancel)?;
    let ref_hidden = reference.map(|r| self::hidden(r, window, cancel)).transpose()?;
    let mut out = vec![Scored::default(); scored.len()];
    for (block, out) in out.chunks_mut(ROWS).enumerate() {
        cancel.check()?;
        let at = scored.start + block * ROWS;
        let rows = |e: usize| block * ROWS * e..(block * ROWS + out.len()) * e;
        let logits = model.decoder.logits(&hidden[rows(e)])?;
        let ref_logits = match (reference, &ref_hidden) {
            (Some(r), Some(h)) => Some(r.decoder.logits(&h[rows(r.config().hidden)])?),
            _ => None,
        };
        threads::for_each_chunk(out, 1, |i, out| {
            let token = window[at + i + 1];
            let row = &logits[i * v..(i + 1) * v];
            let log_sum = log_sum_exp(row);
            let s = &mut out[0];
            s.position = first + at + i + 1;
            s.token = token;
            s.nll = log_sum - f64::from(row[token as usize]);
            if let Some(all) = &ref_logits {
                let ref_row = &all[i * v..(i + 1) * v];
                let ref_sum = log_sum_exp(ref_row);
                s.ref_nll = ref_sum - f64::from(ref_row[token as usize]);
                s.same_top = crate::sample::argmax(row) == crate::sample::argmax(ref_row);
                s.kl = kl(ref_row, ref_sum, row, log_sum);
            }
        });
    }
    Ok(out)
}

/// Hidden states of one window's scored positions, from an empty cache, BOS first if the model wants it.
fn hidden(model: &Model, window: &[u32], cancel: &Cancel) -> Result<Arc<Vec<f32>>> {
    let mut ids = window.to_vec();
    if let Ok(tokenizer) = model.tokenizer()
        && tokenizer.adds_bos()
        && let Some(bos) = tokenizer.bos()
    {
        ids[0] = bos;
    }
    let key = (backend::current()?, ids);
    if let Some(kept) = model.runs.get(&key) {
        return Ok(kept);
    }
    let ids = &key.1;
    let mut cache = Cache::new(model.config(), ids.len()).cancelled_by(cancel);
    let all = model.decoder.hidden(&mut cache, ids)?;
    let e = model.config().hidden;
    let hidden = Arc::new(all[ids.len() / 2 * e..(ids.len() - 1) * e].to_vec());
    model.runs.put(key, &hidden);
    Ok(hidden)
}

/// `ln(sum of e^x)`, in f64.
fn log_sum_exp(x: &[f32]) -> f64 {
    let max = f64::from(x.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    let sum: f64 = x.iter().map(|&v| libm::exp(f64::from(v) - max)).sum();
    max + libm::log(sum)
}

/// `sum of p (ln p - ln q)`, never below 0.
fn kl(p: &[f32], p_sum: f64, q: &[f32], q_sum: f64) -> f64 {
    let terms = p.iter().zip(q).map(|(&p, &q)| {
        let (p, q) = (f64::from(p) - p_sum, f64::from(q) - q_sum);
        libm::exp(p) * (p - q)
    });
    terms.sum::<f64>().max(0.0)
}
