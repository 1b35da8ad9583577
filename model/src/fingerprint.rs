//! A hash of a model's answers.

use sha2::{Digest, Sha256};

use crate::cache::Cache;
use crate::error::Result;
use crate::model::Model;

impl Model {
    /// Logits of all of `ids` from an empty cache, [ids][V].
    ///
    /// # Errors
    /// Ids outside the vocabulary; no usable backend.
    pub fn logits(&self, ids: &[u32]) -> Result<Vec<f32>> {
        let mut cache = Cache::new(self.config(), ids.len());
        self.decoder.logits(&self.decoder.hidden(&mut cache, ids)?)
    }

    /// SHA-256, in hexadecimal, of the bits of [`Self::logits`], little-endian. The same on every backend,
    /// thread count and machine.
    ///
    /// # Errors
    /// As [`Self::logits`].
    pub fn fingerprint(&self, ids: &[u32]) -> Result<String> {
        Ok(fingerprint(&self.logits(ids)?))
    }
}

/// SHA-256, in hexadecimal, of the bits of `x`, little-endian.
pub fn fingerprint(x: &[f32]) -> String {
    let mut hash = Sha256::new();
    for v in x {
        hash.update(v.to_le_bytes());
    }
    hash.finalize().iter().map(|b| format!("{b:02x}")).collect()
}
