//! A hash of a model's answers.

use sha2::{Digest, Sha256};

use crate::cache::Cache;
use crate::error::Result;
use crate::model::Model;

/// Rows of logits computed together: bounds the scratch of long sequences.
const ROWS: usize = 64;

impl Model {
    /// Logits of all of `ids` from an empty cache, `[ids][V]`.
    ///
    /// # Errors
    /// Ids outside the vocabulary; no usable backend.
    pub fn logits(&self, ids: &[u32]) -> Result<Vec<f32>> {
        let mut logits = Vec::with_capacity(ids.len() * self.config().vocab);
        self.each_logits(ids, |rows| logits.extend_from_slice(rows))?;
        Ok(logits)
    }

    /// SHA-256, in hexadecimal, of the bits of [`Self::logits`], little-endian. The same on every backend,
    /// thread count and machine.
    ///
    /// # Errors
    /// As [`Self::logits`].
    pub fn fingerprint(&self, ids: &[u32]) -> Result<String> {
        let mut hash = Sha256::new();
        self.each_logits(ids, |rows| update(&mut hash, rows))?;
        Ok(hex(hash))
    }

    fn each_logits(&self, ids: &[u32], mut see: impl FnMut(&[f32])) -> Result<()> {
        let mut cache = Cache::new(self.config(), ids.len());
        let hidden = self.decoder.hidden(&mut cache, ids)?;
        for rows in hidden.chunks(ROWS * self.config().hidden) {
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
