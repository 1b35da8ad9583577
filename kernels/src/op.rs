//! The operations, each written once over `Isa` (and, for products, over the format),
//! and their front door: functions that run on the current backend.

pub(crate) mod ahead;
pub(crate) mod attention;
pub(crate) mod base3;
pub(crate) mod dense;
pub(crate) mod gate;
pub(crate) mod integer;
pub(crate) mod key_values;
pub(crate) mod lanes;
#[allow(dead_code, reason = "not every architecture finds 32 words as fast as it multiplies")]
pub(crate) mod lookup;
pub(crate) mod norm;
pub(crate) mod outputs;
pub(crate) mod product;
pub(crate) mod quantize;
pub(crate) mod rope;
pub(crate) mod sub_blocks;
#[allow(dead_code, reason = "not every architecture has a matrix unit")]
pub(crate) mod tiles;
pub(crate) mod unpacked;

pub use crate::oracle::Activation;
pub use attention::{Queries, Query};
pub use key_values::{CacheType, KeyValues};
pub use product::{matmul, matmul_acts, matmul_many};

use crate::backend::active;

/// `out = x / sqrt(mean(x^2) + eps) * w` for one row; definition: [`crate::oracle::rms_norm`].
///
/// # Panics
/// If the lengths differ.
pub fn rms_norm(x: &[f32], w: &[f32], eps: f32, out: &mut [f32]) {
    active().rms_norm(x, w, eps, out);
}

/// `gate = act(gate) * up`, element by element; definition: [`crate::oracle::gated`].
///
/// # Panics
/// If the lengths differ.
pub fn gated(act: Activation, gate: &mut [f32], up: &[f32]) {
    active().gated(act, gate, up);
}

/// `x = cap * tanh(x / cap)`; definition: [`crate::oracle::tanh_cap`].
pub fn tanh_cap(x: &mut [f32], cap: f32) {
    active().tanh_cap(x, cap);
}

/// Softmax of one row, in place; definition: [`crate::oracle::softmax`].
pub fn softmax(x: &mut [f32]) {
    active().softmax(x);
}

/// Rotates element j with element j + d/2, `d = 2 * cos.len()`; definition: [`crate::oracle::rope`].
///
/// # Panics
/// If `x` is shorter than d, or the tables differ in length.
pub fn rope(x: &mut [f32], cos: &[f32], sin: &[f32]) {
    active().rope(x, cos, sin);
}

/// Query heads over one key-value head, each by itself as defined by [`crate::oracle::attention`]: the answer of
/// a query goes where its vector is among the queries'. Together they cost less than one by one.
///
/// # Panics
/// If a query is outside `vectors` or `out`, sees nothing, or positions that are not in the cache.
pub fn attention(queries: &Queries<'_>, kv: &KeyValues, out: &mut [f32]) {
    thread_local! {
        /// The scores: kept, so that a head costs no allocation.
        static SCORES: std::cell::RefCell<Vec<f32>> = const { std::cell::RefCell::new(Vec::new()) };
    }
    SCORES.with_borrow_mut(|scores| active().attention(queries, kv, scores, out));
}

/// The softmax row of one query head over `keys`, `[n][dim]`, the weights by which [`attention`] mixes values:
/// for looking at, not for speed.
///
/// # Panics
/// If the lengths differ.
pub fn attention_weights(q: &[f32], keys: &[f32], scale: f32, cap: Option<f32>, out: &mut [f32]) {
    assert_eq!(keys.len(), q.len() * out.len(), "attention weights: lengths differ");
    attention::attention_weights(q, keys, scale, cap, out);
}

/// `acc += x`. One addition each: no backend can change it.
///
/// # Panics
/// If the lengths differ.
pub fn add(acc: &mut [f32], x: &[f32]) {
    assert_eq!(acc.len(), x.len(), "add: lengths differ");
    for (a, x) in acc.iter_mut().zip(x) {
        *a += x;
    }
}

/// `x *= s`. One product each: no backend can change it.
pub fn scale(x: &mut [f32], s: f32) {
    for v in x {
        *v *= s;
    }
}
