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

use tritlab_kernels::{Weights, all_finite, check_finite, op, threads};

use crate::buffers::Buffers;
use crate::cache::Cache;
use crate::cancel::Cancel;
use crate::config::Config;
use crate::error::{Error, Result};
use crate::linear::{Linear, project};
use crate::memory;
use crate::observe::Observer;
use crate::rope::{Rope, Table};

/// Tokens that are run through the layers together.
pub const BATCH: usize = 512;

/// Tokens whose queries attend together.
const TOGETHER: usize = 8;

/// One layer's weights.
#[derive(Debug)]
pub struct Layer {
    /// `[E]`
    pub attn_norm: Vec<f32>,
    /// `[H*D][E]`
    pub q: Linear,
    /// `[K*D][E]`
    pub k: Linear,
    /// `[K*D][E]`
    pub v: Linear,
    /// `[D]`, over each query head
    pub q_norm: Option<Vec<f32>>,
    /// `[D]`, over each key head
    pub k_norm: Option<Vec<f32>>,
    /// `[H*D]`, over all heads together (BitNet)
    pub attn_sub_norm: Option<Vec<f32>>,
    /// `[E][H*D]`
    pub o: Linear,
    /// `[E]` (Gemma)
    pub post_attn_norm: Option<Vec<f32>>,
    /// `[E]`
    pub ffn_norm: Vec<f32>,
    /// `[F][E]`
    pub gate: Linear,
    /// `[F][E]`
    pub up: Linear,
    /// `[F]` (BitNet)
    pub ffn_sub_norm: Option<Vec<f32>>,
    /// `[E][F]`
    pub down: Linear,
    /// `[E]` (Gemma)
    pub post_ffn_norm: Option<Vec<f32>>,
}

/// `x += y`, rows of `width`.
fn add(x: &mut [f32], y: &[f32], width: usize) {
    threads::for_each_chunk(x, width, |t, row| op::add(row, &y[t * width..][..width]));
}

/// The weights of a model.
#[derive(Debug)]
pub struct Decoder {
    /// Sizes and constants.
    pub config: Config,
    /// `[V][E]`
    pub embedding: Linear,
    /// The layers.
    pub layers: Vec<Layer>,
    /// `[E]`
    pub final_norm: Vec<f32>,
    /// `[V][E]`; `None` where the embedding serves.
    pub head: Option<Linear>,
}

impl Decoder {
    /// Runs `ids` after what `cache` holds; returns the final hidden states, `[ids][E]`, normed.
    ///
    /// Where a sequence grows past the limit of [`crate::rope::Scaling::Long`] (or was cut back behind it),
    /// everything that is held is run again with the other frequencies, as `transformers` does; likewise
    /// where it was cut back to positions that a sliding window had left. The answer is that of the whole
    /// sequence at once.
    ///
    /// # Errors
    /// Ids outside the vocabulary, no room in the cache, numbers that overflow on the way. After an error
    /// the cache is as it was.
    pub fn hidden(&self, cache: &mut Cache, ids: &[u32]) -> Result<Vec<f32>> {
        cache.check_room(ids.len())?;
        self.check_ids(ids)?;
        cache.check_memory(&self.config, ids.len())?;
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let is_long = self.config.rope.is_long(cache.len + ids.len());
        if cache.is_empty() {
            cache.is_long = is_long;
        }
        if !cache.must_rerun(is_long) {
            return self.extend(cache, ids);
        }
        let mut fresh = cache.fresh(&self.config);
        fresh.is_long = is_long;
        let hidden = self.extend(&mut fresh, &[&cache.ids, ids].concat())?;
        let new = hidden[cache.len * self.config.hidden..].to_vec();
        *cache = fresh;
        Ok(new)
    }

    /// As [`Self::hidden`] of a new sequence, batch by batch: `see` gets the states of at most [`BATCH`] tokens at
    /// a time, so that no memory grows with the sequence but the cache's.
    ///
    /// # Errors
    /// As [`Self::hidden`], and what `see` returns.
    pub fn each_hidden(
        &self,
        cancel: &Cancel,
        ids: &[u32],
        see: &mut dyn FnMut(&[f32]) -> Result<()>,
    ) -> Result<()> {
        self.check_ids(ids)?;
        let mut cache = Cache::new(&self.config, ids.len()).cancelled_by(cancel);
        cache.check_memory(&self.config, ids.len())?;
        cache.is_long = self.config.rope.is_long(ids.len());
        ids.chunks(BATCH).try_for_each(|ids| see(&self.extend(&mut cache, ids)?))
    }

    /// Runs one more token of each of several sequences, all of them in the same products; returns the final
    /// hidden states, `[sequences][E]`, normed. The same bits as [`Self::hidden`] of each.
    ///
    /// # Errors
    /// As [`Self::hidden`]; after an error every cache is as it was.
    ///
    /// # Panics
    /// If there is not one id per cache.
    pub fn step(&self, caches: &mut [&mut Cache], ids: &[u32]) -> Result<Vec<f32>> {
        assert_eq!(caches.len(), ids.len(), "a token per sequence");
        for cache in caches.iter() {
            cache.check_room(1)?;
        }
        self.check_ids(ids)?;
        let e = self.config.hidden;
        let mut out = vec![0.0; ids.len() * e];
        let lengths: Vec<usize> = caches.iter().map(|c| c.len).collect();
        let run = threads::run_hot(|| {
            let mut parts = Vec::with_capacity(ids.len());
            for (i, (cache, id)) in caches.iter_mut().zip(ids.chunks_exact(1)).enumerate() {
                // Where all of a sequence has to be run again, it is run by itself.
                if cache.is_empty() || cache.must_rerun(self.config.rope.is_long(cache.len + 1)) {
                    out[i * e..(i + 1) * e].copy_from_slice(&self.hidden(cache, id)?);
                } else {
                    parts.push((i, Part { cache, ids: id }));
                }
            }
            let (at, mut parts): (Vec<usize>, Vec<Part<'_>>) = parts.into_iter().unzip();
            if !parts.is_empty() {
                let hidden = self.batch(&mut parts, &mut ())?;
                for (i, row) in at.into_iter().zip(hidden.chunks_exact(e)) {
                    out[i * e..(i + 1) * e].copy_from_slice(row);
                }
            }
            Ok(())
        });
        if run.is_err() {
            for (cache, len) in caches.iter_mut().zip(lengths) {
                cache.truncate(len);
            }
        }
        run.map(|()| out)
    }

    /// As [`Self::hidden`] of a new sequence, all of it in one batch, on this thread; `observer` sees it.
    ///
    /// # Errors
    /// As [`Self::hidden`], and what the observer returns.
    pub fn observe(&self, ids: &[u32], observer: &mut impl Observer) -> Result<Vec<f32>> {
        self.check_ids(ids)?;
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        // All tokens at once: what a layer has in use.
        let c = &self.config;
        let widths = 4 * c.hidden + 2 * (c.heads + c.kv_heads) * c.head_dim + 3 * c.ffn;
        memory::check("activations", widths as u128 * ids.len() as u128 * 4)?;
        let mut cache = Cache::new(c, ids.len());
        cache.check_memory(c, ids.len())?;
        cache.is_long = c.rope.is_long(ids.len());
        self.batch(&mut [Part { cache: &mut cache, ids }], observer)
    }

    fn check_ids(&self, ids: &[u32]) -> Result<()> {
        match ids.iter().find(|&&id| id as usize >= self.config.vocab) {
            Some(&id) => Err(Error::UnknownToken { id, vocab: self.config.vocab }),
            None => Ok(()),
        }
    }

    /// Runs checked ids with the frequencies that the cache is for.
    fn extend(&self, cache: &mut Cache, ids: &[u32]) -> Result<Vec<f32>> {
        let start = cache.len;
        let mut out = memory::room("hidden states", ids.len() * self.config.hidden)?;
        let run = threads::run_hot(|| {
            for ids in ids.chunks(BATCH) {
                out.extend(self.batch(&mut [Part { cache, ids }], &mut ())?);
            }
            Ok(())
        });
        if run.is_err() {
            cache.truncate(start);
        }
        run.map(|()| out)
    }

    /// Logits of normed hidden states: `[n][E]` to `[n][V]`.
    ///
    /// # Errors
    /// Numbers that overflowed on the way.
    pub fn logits(&self, hidden: &[f32]) -> Result<Vec<f32>> {
        let n = hidden.len() / self.config.hidden;
        let head = self.head.as_ref().unwrap_or(&self.embedding);
        let mut buffers = Buffers::default();
        let [mut logits] = threads::run_hot(|| project([head], hidden, n, &mut buffers))?;
        // Before the cap, which would make a number of what overflowed.
        check_finite("logits", &logits)?;
        if let Some(cap) = self.config.logit_cap {
            threads::for_each_chunk(&mut logits, self.config.vocab, |_, row| {
                op::tanh_cap(row, cap)
            });
        }
        Ok(logits)
    }

    /// Runs `ids`; returns the logits of the last one, `[V]`.
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

    /// Runs the new tokens of all parts together; returns their final hidden states, normed.
    fn batch(&self, parts: &mut [Part<'_>], observer: &mut impl Observer) -> Result<Vec<f32>> {
        let c = &self.config;
        let ids: Vec<u32> = parts.iter().flat_map(|p| p.ids).copied().collect();
        let mut x = self.embed(&ids);
        observer.embedding(&x);
        let mut buffers = std::mem::take(&mut parts[0].cache.buffers);
        let table = |rope: &Rope| {
            let mut table = Table::default();
            for p in parts.iter() {
                rope.extend(&mut table, p.cache.len, p.ids.len(), p.cache.is_long);
            }
            table
        };
        let (global, local) = (table(&c.rope), c.local.as_ref().map(|l| table(&l.rope)));
        let queries = parts.iter().enumerate().flat_map(|(part, p)| {
            (p.cache.len..p.cache.len + p.ids.len()).map(move |position| (part, position))
        });
        let mut step = Step { queries: queries.collect(), parts };
        for (i, layer) in self.layers.iter().enumerate() {
            step.parts.iter().try_for_each(|part| part.cache.cancel.check())?;
            let table = match (&local, c.window(i)) {
                (Some(local), Some(_)) => local,
                _ => &global,
            };
            self.attend(i, layer, &mut x, table, &mut step, &mut buffers, observer)?;
            self.feed_forward(i, layer, &mut x, ids.len(), &mut buffers, observer)?;
            observer.output(i, &mut x)?;
        }
        for Part { cache, ids } in step.parts.iter_mut() {
            cache.len += ids.len();
            cache.ids.extend_from_slice(ids);
            cache.forget();
        }
        step.parts[0].cache.buffers = buffers;
        let mut out = vec![0.0; x.len()];
        self.norm(&x, &self.final_norm, &mut out);
        Ok(out)
    }

    /// [n] to [n][E].
    fn embed(&self, ids: &[u32]) -> Vec<f32> {
        let e = self.config.hidden;
        let mut x = vec![0.0; ids.len() * e];
        threads::for_each_chunk(&mut x, e, |t, row| {
            self.embedding.weight.dequantize_row(ids[t] as usize, row);
        });
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

    /// The attention half of a layer: `x` is [n][E].
    #[allow(clippy::too_many_arguments, reason = "a layer, its input, and what it works with")]
    fn attend(
        &self,
        i: usize,
        layer: &Layer,
        x: &mut [f32],
        table: &Table,
        step: &mut Step<'_, '_>,
        buffers: &mut Buffers,
        observer: &mut impl Observer,
    ) -> Result<()> {
        let (c, n) = (&self.config, step.queries.len());
        let d = c.head_dim;
        let mut h = buffers.take(n * c.hidden);
        self.norm(x, &layer.attn_norm, &mut h);
        observer.input(i, &["attn_q", "attn_k", "attn_v"], &h);
        let [mut q, mut k, v] = project([&layer.q, &layer.k, &layer.v], &h, n, buffers)?;
        buffers.give(h);
        self.rotate(&mut q, c.heads, layer.q_norm.as_deref(), table)?;
        self.rotate(&mut k, c.kv_heads, layer.k_norm.as_deref(), table)?;
        step.push(i, &k, &v, d)?;
        let mut mixed = buffers.take(n * c.heads * d); // [n][H*D]
        let (step, group, window) = (&*step, c.heads / c.kv_heads, c.window(i));
        if observer.wants_attention(i) {
            let (weights, end) = self.attention_weights(i, &q, step)?;
            observer.attention(i, &weights, end);
        }
        // Many tokens: some of them together, over all heads, because queries of one head of keys share it. Few:
        // every head by itself, so that no thread waits.
        let together = if n >= TOGETHER * threads::get() { TOGETHER * c.heads } else { 1 };
        threads::for_each_chunk_uneven(&mut mixed, together * d, |task, out| {
            let first = task * together;
            let vectors = &q[first * d..][..out.len()];
            let last = first + out.len() / d;
            for kv_head in 0..c.kv_heads {
                let heads = (first..last).filter(|r| r % c.heads / group == kv_head);
                let queries: Vec<_> =
                    heads.map(|r| step.query(r / c.heads, window, (r - first) * d)).collect();
                for same in queries.chunk_by(|a, b| a.0 == b.0) {
                    let kv = &step.parts[same[0].0].cache.layers[i][kv_head];
                    let each: Vec<_> = same.iter().map(|(_, query)| query.clone()).collect();
                    let (scale, cap) = (c.score_scale, c.score_cap);
                    op::attention(&op::Queries { vectors, each: &each, scale, cap }, kv, out);
                }
            }
        });
        [q, k, v].into_iter().for_each(|b| buffers.give(b));
        let mixed = self.norm_if(mixed, layer.attn_sub_norm.as_ref(), buffers);
        observer.input(i, &["attn_output"], &mixed);
        let [y] = project([&layer.o], &mixed, n, buffers)?;
        buffers.give(mixed);
        let y = self.norm_if(y, layer.post_attn_norm.as_ref(), buffers);
        add(x, &y, c.hidden);
        buffers.give(y);
        Ok(())
    }

    /// The weights that [`op::attention`] mixes values by, [n][H][end], and `end`: the positions held.
    fn attention_weights(
        &self,
        i: usize,
        q: &[f32],
        step: &Step<'_, '_>,
    ) -> Result<(Vec<f32>, usize)> {
        let c = &self.config;
        let (d, group) = (c.head_dim, c.heads / c.kv_heads);
        let end = step.queries.iter().map(|(_, position)| position + 1).max().unwrap_or(0);
        let n = step.queries.len() * c.heads * end;
        let mut weights = memory::room("attention weights", n)?;
        weights.resize(n, 0.0);
        threads::for_each_chunk_uneven(&mut weights, end.max(1), |r, row| {
            let (t, head) = (r / c.heads, r % c.heads);
            let (part, op::Query { range, .. }) = step.query(t, c.window(i), 0);
            let kv = &step.parts[part].cache.layers[i][head / group];
            let keys: Vec<f32> = range.clone().flat_map(|j| kv.key(j)).collect();
            let q = &q[r * d..(r + 1) * d];
            op::attention_weights(q, &keys, c.score_scale, c.score_cap, &mut row[range]);
        });
        Ok((weights, end))
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
        if overflow.into_inner() {
            check_finite("queries or keys", x)?;
        }
        Ok(())
    }

    /// The feed-forward half of a layer.
    fn feed_forward(
        &self,
        i: usize,
        layer: &Layer,
        x: &mut [f32],
        n: usize,
        buffers: &mut Buffers,
        observer: &mut impl Observer,
    ) -> Result<()> {
        let mut h = buffers.take(n * self.config.hidden);
        self.norm(x, &layer.ffn_norm, &mut h);
        observer.input(i, &["ffn_gate", "ffn_up"], &h);
        let [mut gate, up] = project([&layer.gate, &layer.up], &h, n, buffers)?;
        buffers.give(h);
        let f = self.config.ffn;
        threads::for_each_chunk(&mut gate, f, |t, row| {
            op::gated(self.config.activation, row, &up[t * f..(t + 1) * f]);
        });
        buffers.give(up);
        let gate = self.norm_if(gate, layer.ffn_sub_norm.as_ref(), buffers);
        observer.input(i, &["ffn_down"], &gate);
        let [y] = project([&layer.down], &gate, n, buffers)?;
        buffers.give(gate);
        let y = self.norm_if(y, layer.post_ffn_norm.as_ref(), buffers);
        add(x, &y, self.config.hidden);
        buffers.give(y);
        Ok(())
    }
}

/// The new tokens of one sequence.
struct Part<'a> {
    cache: &'a mut Cache,
    ids: &'a [u32],
}

/// A batch: some sequences, and a query per new token.
struct Step<'p, 'a> {
    /// Index of its part, and its position there.
    queries: Vec<(usize, usize)>,
    parts: &'p mut [Part<'a>],
}

impl Step<'_, '_> {
    /// Puts keys and values, [n][K*D], of layer `i` into the caches.
    fn push(&mut self, i: usize, k: &[f32], v: &[f32], d: usize) -> Result<()> {
        let mut at = 0;
        for Part { cache, ids } in self.parts.iter_mut() {
            let ty = cache.cache_type();
            let row = cache.layers[i].len() * d;
            let rows = at..at + ids.len() * row;
            at = rows.end;
            let (k, v) = (&k[rows.clone()], &v[rows]);
            if ty == op::CacheType::F16 {
                for x in [k, v] {
                    let too_large = |x: &&f32| x.is_nan() || x.abs() > ty.max();
                    if let Some(value) = x.iter().find(too_large) {
                        return Err(Error::CacheOverflow { layer: i, value: *value });
                    }
                }
            }
            let push = |head: usize, kv: &mut [op::KeyValues]| {
                for (k, v) in k.chunks_exact(row).zip(v.chunks_exact(row)) {
                    let at = head * d..(head + 1) * d;
                    kv[0].push(&k[at.clone()], &v[at]);
                }
            };
            if ids.len() > 1 {
                threads::for_each_chunk(&mut cache.layers[i], 1, push);
            } else {
                cache.layers[i].chunks_mut(1).enumerate().for_each(|(head, kv)| push(head, kv));
            }
        }
        Ok(())
    }

    /// The part that the query of token `t` belongs to, and the query, whose vector is at `at`.
    fn query(&self, t: usize, window: Option<usize>, at: usize) -> (usize, op::Query) {
        let (part, position) = self.queries[t];
        let end = position + 1;
        let first = window.map_or(0, |w| end.saturating_sub(w));
        (part, op::Query { at, range: first..end })
    }
}
