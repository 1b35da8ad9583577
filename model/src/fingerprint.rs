//! A hash of a model's answers.

use sha2::{Digest, Sha256};

use crate::cancel::Cancel;
use crate::error::Result;
use crate::memory;
use crate::model::Model;

/// Rows of logits computed together: bounds the scratch of long sequences.
const ROWS: usize = 64;

impl Model {
    /// Logits of all of `ids` from an empty cache, `[ids][V]`.
    ///
    /// # Errors
    /// Ids outside the vocabulary; no usable backend; [`crate::Error::Memory`].
    pub fn logits(&self, ids: &[u32]) -> Result<Vec<f32>> {
        self.logits_unless(&Cancel::default(), ids)
    }

    /// As [`Self::logits`], and can be cancelled.
    ///
    /// # Errors
    /// As [`Self::logits`], [`crate::Error::Cancelled`].
    pub fn logits_unless(&self, cancel: &Cancel, ids: &[u32]) -> Result<Vec<f32>> {
        let mut logits = self.room_for_logits(ids.len())?;
        self.each_logits(cancel, ids, &mut |rows| logits.extend_from_slice(rows))?;
        Ok(logits)
    }

    /// Logits of normed hidden states, `[n][E]` to `[n][V]`, a few rows at a time.
    ///
    /// # Errors
    /// As [`Self::logits_unless`].
    pub fn head_unless(&self, cancel: &Cancel, hidden: &[f32]) -> Result<Vec<f32>> {
        let mut logits = self.room_for_logits(hidden.len() / self.config().hidden)?;
        self.each_row(cancel, hidden, &mut |rows| logits.extend_from_slice(rows))?;
        Ok(logits)
    }

    /// SHA-256, in hexadecimal, of the bits of [`Self::logits`], little-endian. The same on every backend,
    /// thread count and machine.
    ///
    /// # Errors
    /// As [`Self::logits`].
    pub fn fingerprint(&self, ids: &[u32]) -> Result<String> {
        self.fingerprint_unless(&Cancel::default(), ids)
    }

    /// As [`Self::fingerprint`], and can be cancelled.
    ///
    /// # Errors
    /// As [`Self::logits_unless`].
    pub fn fingerprint_unless(&self, cancel: &Cancel, ids: &[u32]) -> Result<String> {
        let mut hash = Sha256::new();
        self.each_logits(cancel, ids, &mut |rows| update(&mut hash, rows))?;
        Ok(hex(hash))
    }

    fn room_for_logits(&self, n: usize) -> Result<Vec<f32>> {
        memory::room("logits", n.saturating_mul(self.config().vocab))
    }

    fn each_logits(&self, cancel: &Cancel, ids: &[u32], see: &mut dyn FnMut(&[f32])) -> Result<()> {
        self.decoder.each_hidden(cancel, ids, &mut |hidden| self.each_row(cancel, hidden, see))
    }

    fn each_row(&self, cancel: &Cancel, hidden: &[f32], see: &mut dyn FnMut(&[f32])) -> Result<()> {
        for rows in hidden.chunks(ROWS * self.config().hidden) {
            cancel.check()?;
            see(&self.decoder.logits(rows)?);
        }
        Ok(())
    }
}

/// SHA-256, in hexadecimal, of the bits of `x`, little-endian.
pub fn fingerprint(x: &[f32]) -> String {
    let mut hash = Sha256::new();
    update(&mut hash, x);
    hex(hash)
}

fn update(hash: &mut Sha256, x: &[f32]) {
    for v in x {
        hash.update(v.to_le_bytes());
    }
}

fn hex(hash: Sha256) -> String {
    hash.finalize().iter().map(|b| format!("{b:02x}")).collect()
}
