//! What happens inside a model, as arrays; and what would happen if a layer gave something else.
//!
//! Names are those of GGUF tensors. For n tokens:
//!
//! | name | what | shape |
//! | --- | --- | --- |
//! | `token_embd` | the embeddings, scaled | `[n][E]` |
//! | `blk.3` | the residual stream after layer 3 | `[n][E]` |
//! | `blk.3.attention` | softmax rows of layer 3, 0 where a query does not look | `[H][n][n]` |
//! | `blk.3.attn_q.input` | the input of a linear layer, before its activations are quantised | `[n][inputs]` |
//! | `output.input` | the final hidden states, normed: the input of the head | `[n][E]` |
//!
//! In a pattern, `*` stands for any characters but a dot.

use crate::cancel::Cancel;
use crate::error::{Error, Result};
use crate::memory;
use crate::model::Model;
use crate::observe::Observer;

/// The linear layers of a layer.
pub const LINEAR: [&str; 7] =
    ["attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"];

/// In messages.
const WHAT: &str = "what is captured";

/// Something captured.
#[derive(Clone, Debug, PartialEq)]
pub struct Captured {
    /// Its name.
    pub name: String,
    /// Row-major.
    pub data: Vec<f32>,
    /// `[n][E]` or `[H][n][n]`.
    pub shape: Vec<usize>,
}

/// Given a layer and the residual stream after it, `[n][E]`: may write to it.
pub type Replace<'a> = dyn FnMut(usize, &mut [f32]) -> Result<()> + 'a;

impl Model {
    /// Every name that can be captured, in the order in which it is computed.
    pub fn capture_names(&self) -> Vec<String> {
        let mut names = vec!["token_embd".to_owned()];
        for i in 0..self.config().layers {
            names.extend(LINEAR[..3].iter().map(|part| format!("blk.{i}.{part}.input")));
            names.push(format!("blk.{i}.attention"));
            names.extend(LINEAR[3..].iter().map(|part| format!("blk.{i}.{part}.input")));
            names.push(format!("blk.{i}"));
        }
        names.push("output.input".to_owned());
        names
    }

    /// Runs `ids` and keeps everything that one of `what` names. `replace` sees the residual stream after each
    /// layer before the next layer does, and before it is captured.
    ///
    /// # Errors
    /// [`Error::UnknownCapture`] for a pattern that matches nothing; no ids, ids outside the vocabulary; what
    /// `replace` returns.
    pub fn capture(
        &self,
        ids: &[u32],
        what: &[String],
        replace: &mut Replace<'_>,
    ) -> Result<Vec<Captured>> {
        let names = self.capture_names();
        if let Some(name) = what.iter().find(|p| !names.iter().any(|n| matches(p, n))) {
            let name = name.clone();
            let known = "token_embd, blk.N, blk.N.attention, blk.N.attn_q.input (and so on for attn_k, attn_v, \
                         attn_output, ffn_gate, ffn_up, ffn_down), output.input; * is a wildcard";
            return Err(Error::UnknownCapture { name, known: known.to_owned() });
        }
        if ids.is_empty() {
            return Err(Error::EmptyPrompt);
        }
        let wanted = |name: &str| what.iter().any(|p| matches(p, name));
        let mut probe = Probe {
            heads: self.config().heads,
            n: ids.len(),
            wanted: &wanted,
            replace,
            captured: Vec::new(),
            outcome: Ok(()),
        };
        let hidden = self.decoder.observe(ids, &mut probe)?;
        probe.keep("output.input".to_owned(), &hidden);
        probe.outcome.map(|()| probe.captured)
    }

    /// As [`Self::logits`], with the residual stream after each layer given to `replace` first.
    ///
    /// # Errors
    /// As [`Self::logits`], and what `replace` returns.
    pub fn logits_with(&self, ids: &[u32], replace: &mut Replace<'_>) -> Result<Vec<f32>> {
        self.head_unless(&Cancel::default(), &self.hidden_with(ids, replace)?)
    }

    /// The final hidden states, `[n][E]`, normed, with the residual stream after each layer given to `replace` first.
    ///
    /// # Errors
    /// As [`Self::logits_with`].
    pub fn hidden_with(&self, ids: &[u32], replace: &mut Replace<'_>) -> Result<Vec<f32>> {
        let mut probe = Probe {
            heads: self.config().heads,
            n: ids.len(),
            wanted: &|_| false,
            replace,
            captured: Vec::new(),
            outcome: Ok(()),
        };
        self.decoder.observe(ids, &mut probe)
    }
}

/// Whether a pattern names something; `*` is any characters but a dot.
fn matches(pattern: &str, name: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == name,
        Some((before, after)) => name.strip_prefix(before).is_some_and(|rest| {
            let end = rest.find('.').unwrap_or(rest.len());
            (0..=end).any(|i| rest.is_char_boundary(i) && matches(after, &rest[i..]))
        }),
    }
}

struct Probe<'a> {
    heads: usize,
    n: usize,
    wanted: &'a dyn Fn(&str) -> bool,
    replace: &'a mut Replace<'a>,
    captured: Vec<Captured>,
    /// What keeping something has come to; the pass ends after the layer.
    outcome: Result<()>,
}

impl Probe<'_> {
    fn keep(&mut self, name: String, x: &[f32]) {
        if (self.wanted)(&name) {
            let shape = vec![self.n, x.len().checked_div(self.n).unwrap_or(0)];
            self.push(name, memory::copy(WHAT, x), shape);
        }
    }

    fn push(&mut self, name: String, data: Result<Vec<f32>>, shape: Vec<usize>) {
        match data {
            Ok(data) => self.captured.push(Captured { name, data, shape }),
            Err(error) => self.outcome = Err(error),
        }
    }
}

impl Observer for Probe<'_> {
    fn embedding(&mut self, x: &[f32]) {
        self.keep("token_embd".to_owned(), x);
    }

    fn input(&mut self, layer: usize, names: &[&'static str], x: &[f32]) {
        for name in names {
            self.keep(format!("blk.{layer}.{name}.input"), x);
        }
    }

    fn wants_attention(&self, layer: usize) -> bool {
        (self.wanted)(&format!("blk.{layer}.attention"))
    }

    fn attention(&mut self, layer: usize, weights: &[f32], end: usize) {
        let data = memory::room(WHAT, weights.len()).map(|mut data| {
            for head in 0..self.heads {
                let rows = weights.chunks_exact(end).skip(head).step_by(self.heads);
                rows.for_each(|row| data.extend_from_slice(row));
            }
            data
        });
        self.push(format!("blk.{layer}.attention"), data, vec![self.heads, self.n, end]);
    }

    fn output(&mut self, layer: usize, x: &mut [f32]) -> Result<()> {
        (self.replace)(layer, x)?;
        self.keep(format!("blk.{layer}"), x);
        std::mem::replace(&mut self.outcome, Ok(()))
    }
}
