//! The transformer: one forward pass for every supported model.
//!
//! ```text
//! x = embedding[ids] * embedding_scale
//! for each layer:
//!     h = attn_norm(x)
//!     q, k, v = Wq h, Wk h, Wv h            (+ biases; q_norm, k_norm per head; RoPE on q, k)
//!     x += post_attn_norm(Wo attn_sub_norm(attention(q, k, v)))
//!     h = ffn_norm(x)
//!     x += post_ffn_norm(Wdown ffn_sub_norm(act(Wgate h) * (Wup h)))
//! logits = cap(Whead final_norm(x))
//! ```
//!
//! A norm that a model does not have is `None`. Shapes: n tokens, E hidden, F feed-forward, H query heads,
//! K key-value heads, D head. Each token's row is computed by itself in the contract's fixed order
//! ([`tritlab_kernels::oracle`]), so the split of a prompt into batches never changes a logit.

use std::sync::atomic::{AtomicBool, Ordering};

use tritlab_kernels::{Weights, op, threads};

use crate::buffers::Buffers;
use crate::cache::Cache;
use crate::config::Config;
use crate::error::{Error, Result};
use crate::linear::{Linear, project};
use crate::rope::Table;

/// Tokens that are run through the layers together.
pub const BATCH: usize = 512;

/// One layer's weights.
#[derive(Debug)]
pub struct Layer {
    /// [E]
    pub attn_norm: Vec<f32>,
    /// [H*D][E]
    pub q: Linear,
    /// [K*D][E]
    pub k: Linear,
    /// [K*D][E]
    pub v: Linear,
    /// [D], over each query head
    pub q_norm: Option<Vec<f32>>,
    /// [D], over each key head
    pub k_norm: Option<Vec<f32>>,
    /// [H*D], over all heads together (BitNet)
    pub attn_sub_norm: Option<Vec<f32>>,
    /// [E][H*D]
    pub o: Linear,
    /// [E] (Gemma)
    pub post_attn_norm: Option<Vec<f32>>,
    /// [E]
    pub ffn_norm: Vec<f32>,
    /// [F][E]
    pub gate: Linear,
    /// [F][E]
    pub up: Linear,
    /// [F] (BitNet)
    pub ffn_sub_norm: Option<Vec<f32>>,
    /// [E][F]
    pub down: Linear,
    /// [E] (Gemma)
    pub post_ffn_norm: Option<Vec<f32>>,
}

/// Without a branch inside, so that the compiler vectorises it.
fn all_finite(x: &[f32]) -> bool {
    x.iter().fold(true, |ok, v| ok & v.is_finite())
}

/// `Ok` if nothing has overflowed.
fn finite(what: &'static str, x: &[f32]) -> Result<()> {
    if all_finite(x) {
        return Ok(());
    }
    let index = x.iter().position(|v| !v.is_finite()).unwrap_or(0);
    let value = x[index].to_string();
    Err(tritlab_kernels::Error::NotFinite { what, index, value }.into())
}

/// The weights of a model.
#[derive(Debug)]
pub struct Decoder {
    /// Sizes and constants.
    pub config: Config,
    /// [V][E]
    pub embedding: Linear,
    /// The layers.
    pub layers: Vec<Layer>,
    /// [E]
    pub final_norm: Vec<f32>,
    /// [V][E]; `None` where the embedding serves.
    pub head: Option<Linear>,
}

impl Decoder {
    /// Runs `ids` after what `cache` holds; returns the final hidden states, [ids][E], normed.
    ///
    /// Where a sequence grows past the limit of [`crate::rope::Scaling::Long`] (or was cut back behind it),
    /// everything that is held is run again with the other frequencies, as `transformers` does: the answer
    /// is that of the whole sequence at once.
    ///
    /// # Errors
    /// Ids outside the vocabulary, no room in the cache, numbers that overflow on the way. After an error
    /// the cache is as it was.
    pub fn hidden(&self, cache: &mut Cache, ids: &[u32]) -> Result<Vec<f32>> {
        cache.check_room(ids.len())?;
        if let Some(&id) = ids.iter().find(|&&id| id as usize >= self.config.vocab) {
            return Err(Error::UnknownToken { id, vocab: self.config.vocab });
        }
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let is_long = self.config.rope.is_long(cache.len + ids.len());
        if cache.is_empty() {
            cache.is_long = is_long;
        }
        if cache.is_long == is_long {
            return self.extend(cache, ids);
        }
        let mut fresh = Cache::new(&self.config, cache.capacity());
        fresh.is_long = is_long;
        let hidden = self.extend(&mut fresh, &[&cache.ids, ids].concat())?;
        let new = hidden[cache.len * self.config.hidden..].to_vec();
        *cache = fresh;
        Ok(new)
    }

    /// Runs checked ids with the frequencies that the cache is for.
    fn extend(&self, cache: &mut Cache, ids: &[u32]) -> Result<Vec<f32>> {
        let start = cache.len;
        let mut out = Vec::with_capacity(ids.len() * self.config.hidden);
        let run = threads::run_hot(|| {
            for ids in ids.chunks(BATCH) {
                out.extend(self.batch(cache, ids)?);
                cache.ids.extend_from_slice(ids);
            }
            Ok(())
        });
        if run.is_err() {
            cache.truncate(start);
        }
        run.map(|()| out)
    }

    /// Logits of normed hidden states: [n][E] to [n][V].
    ///
    /// # Errors
    /// Numbers that overflowed on the way.
    pub fn logits(&self, hidden: &[f32]) -> Result<Vec<f32>> {
        let n = hidden.len() / self.config.hidden;
        let head = self.head.as_ref().unwrap_or(&self.embedding);
        let mut buffers = Buffers::default();
        let [mut logits] = threads::run_hot(|| project([head], hidden, n, &mut buffers))?;
        // Before the cap, which would make a number of what overflowed.
        finite("logits", &logits)?;
        if let Some(cap) = self.config.logit_cap {
            threads::for_each_chunk(&mut logits, self.config.vocab, |_, row| {
                op::tanh_cap(row, cap)
            });
        }
        Ok(logits)
    }

    /// Runs `ids`; returns the logits of the last one, [V].
    ///
    /// # Errors
    /// As [`Self::hidden`]; no ids at all.
    pub fn last_logits(&self, cache: &mut Cache, ids: &[u32]) -> Result<Vec<f32>> {
        if ids.is_empty() {
            return Err(Error::EmptyPrompt);
        }
        threads::run_hot(|| {
            let hidden = self.hidden(cache, ids)?;
            self.logits(&hidden[hidden.len() - self.config.hidden..])
        })
    }

    fn batch(&self, cache: &mut Cache, ids: &[u32]) -> Result<Vec<f32>> {
        let (c, n, first) = (&self.config, ids.len(), cache.len);
        let mut x = self.embed(ids);
        let mut buffers = std::mem::take(&mut cache.buffers);
        let global = c.rope.table(first, n, cache.is_long);
        let local = c.local.as_ref().map(|l| l.rope.table(first, n, cache.is_long));
        for (i, layer) in self.layers.iter().enumerate() {
            let (table, window) = match (&c.local, &local) {
                (Some(l), Some(table)) if l.layers[i] => (table, Some(l.window)),
                _ => (&global, None),
            };
            let kv = &mut cache.layers[i];
            let step = Step { n, first, table, window };
            self.attend(layer, &mut x, kv, &step, &mut buffers)?;
            self.feed_forward(layer, &mut x, n, &mut buffers)?;
        }
        cache.len += n;
        cache.buffers = buffers;
        let mut out = vec![0.0; x.len()];
        self.norm(&x, &self.final_norm, &mut out);
        Ok(out)
    }

    /// [n] to [n][E].
    fn embed(&self, ids: &[u32]) -> Vec<f32> {
        let e = self.config.hidden;
        let mut x = vec![0.0; ids.len() * e];
        for (row, &id) in x.chunks_exact_mut(e).zip(ids) {
            self.embedding.weight.dequantize_row(id as usize, row);
        }
        if let Some(s) = self.config.embedding_scale {
            op::scale(&mut x, s);
        }
        x
    }

    /// RMSNorm of every row of `x`, [n][w.len()].
    fn norm(&self, x: &[f32], w: &[f32], out: &mut [f32]) {
        threads::for_each_chunk(out, w.len(), |t, row| {
            op::rms_norm(&x[t * w.len()..(t + 1) * w.len()], w, self.config.norm_eps, row);
        });
    }

    /// The norm, where a model has one.
    fn norm_if(&self, x: Vec<f32>, w: Option<&Vec<f32>>, buffers: &mut Buffers) -> Vec<f32> {
        let Some(w) = w else { return x };
        let mut out = buffers.take(x.len());
        self.norm(&x, w, &mut out);
        buffers.give(x);
        out
    }

    /// The attention half of a layer: `x` is [n][E], `kv` one cache per key-value head.
    fn attend(
        &self,
        layer: &Layer,
        x: &mut [f32],
        kv: &mut [op::KeyValues],
        step: &Step<'_>,
        buffers: &mut Buffers,
    ) -> Result<()> {
        let (c, n) = (&self.config, step.n);
        let d = c.head_dim;
        let mut h = buffers.take(n * c.hidden);
        self.norm(x, &layer.attn_norm, &mut h);
        let [mut q, mut k, v] = project([&layer.q, &layer.k, &layer.v], &h, n, buffers)?;
        buffers.give(h);
        self.rotate(&mut q, c.heads, layer.q_norm.as_deref(), step.table)?;
        self.rotate(&mut k, c.kv_heads, layer.k_norm.as_deref(), step.table)?;
        for (k, v) in k.chunks_exact(c.kv_heads * d).zip(v.chunks_exact(c.kv_heads * d)) {
            for (kv, (k, v)) in kv.iter_mut().zip(k.chunks_exact(d).zip(v.chunks_exact(d))) {
                kv.push(k, v);
            }
        }
        let mut mixed = buffers.take(n * c.heads * d); // [n][H*D]
        let (kv, group) = (&*kv, c.heads / c.kv_heads);
        threads::for_each_chunk_uneven(&mut mixed, d, |i, out| {
            let (t, head) = (i / c.heads, i % c.heads);
            let end = step.first + t + 1;
            let range = step.window.map_or(0, |w| end.saturating_sub(w))..end;
            let q = &q[i * d..(i + 1) * d];
            op::attention(q, &kv[head / group], range, c.score_scale, c.score_cap, out);
        });
        [q, k, v].into_iter().for_each(|b| buffers.give(b));
        let mixed = self.norm_if(mixed, layer.attn_sub_norm.as_ref(), buffers);
        let [y] = project([&layer.o], &mixed, n, buffers)?;
        buffers.give(mixed);
        let y = self.norm_if(y, layer.post_attn_norm.as_ref(), buffers);
        op::add(x, &y);
        buffers.give(y);
        Ok(())
    }

    /// Norm per head, then RoPE: `x` is [n][heads][D]. A softmax hides numbers that have overflowed, so
    /// they are looked for here.
    fn rotate(
        &self,
        x: &mut [f32],
        heads: usize,
        norm: Option<&[f32]>,
        table: &Table,
    ) -> Result<()> {
        let (d, eps) = (self.config.head_dim, self.config.norm_eps);
        let overflow = AtomicBool::new(false);
        threads::for_each_chunk(x, heads * d, |t, row| {
            let (cos, sin) = table.row(t);
            let mut plain = vec![0.0; if norm.is_some() { d } else { 0 }];
            for head in row.chunks_exact_mut(d) {
                if let Some(w) = norm {
                    plain.copy_from_slice(head);
                    op::rms_norm(&plain, w, eps, head);
                }
                op::rope(head, cos, sin);
            }
            if !all_finite(row) {
                overflow.store(true, Ordering::Relaxed);
            }
        });
        if overflow.into_inner() { finite("queries or keys", x) } else { Ok(()) }
    }

    /// The feed-forward half of a layer.
    fn feed_forward(
        &self,
        layer: &Layer,
        x: &mut [f32],
        n: usize,
        buffers: &mut Buffers,
    ) -> Result<()> {
        let mut h = buffers.take(n * self.config.hidden);
        self.norm(x, &layer.ffn_norm, &mut h);
        let [mut gate, up] = project([&layer.gate, &layer.up], &h, n, buffers)?;
        buffers.give(h);
        let f = self.config.ffn;
        threads::for_each_chunk(&mut gate, f, |t, row| {
            op::gated(self.config.activation, row, &up[t * f..(t + 1) * f]);
        });
        buffers.give(up);
        let gate = self.norm_if(gate, layer.ffn_sub_norm.as_ref(), buffers);
        let [y] = project([&layer.down], &gate, n, buffers)?;
        buffers.give(gate);
        let y = self.norm_if(y, layer.post_ffn_norm.as_ref(), buffers);
        op::add(x, &y);
        buffers.give(y);
        Ok(())
    }
}

/// What a layer needs to know of the batch it is in.
struct Step<'a> {
    /// Tokens.
    n: usize,
    /// Position of the first.
    first: usize,
    /// Rotations, a row per token.
    table: &'a Table,
    /// Positions that a query sees, itself included.
    window: Option<usize>,
}
