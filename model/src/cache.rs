//! Keys and values of the positions so far.

use tritlab_kernels::op::KeyValues;

use crate::buffers::Buffers;
use crate::config::Config;
use crate::error::{Error, Result};

/// Positions that memory is reserved for at first; beyond, it grows as it is used.
const RESERVED: usize = 4096;

/// The state of one sequence.
#[derive(Clone, Debug)]
pub struct Cache {
    /// [layers][kv_heads]
    pub(crate) layers: Vec<Vec<KeyValues>>,
    pub(crate) len: usize,
    capacity: usize,
    pub(crate) buffers: Buffers,
    /// What is held: [`crate::rope::Scaling::Long`] may have to run it again.
    pub(crate) ids: Vec<u32>,
    /// Whether keys are rotated by the frequencies of long sequences.
    pub(crate) is_long: bool,
}

impl Cache {
    /// An empty cache with room for `capacity` positions ([`Config::cache_bytes`] says how large). The
    /// first few thousand are allocated now, more when they are needed.
    pub fn new(config: &Config, capacity: usize) -> Self {
        let head = || KeyValues::new(config.head_dim, capacity.min(RESERVED));
        let layer = || (0..config.kv_heads).map(|_| head()).collect();
        Cache {
            layers: (0..config.layers).map(|_| layer()).collect(),
            len: 0,
            capacity,
            buffers: Buffers::default(),
            ids: Vec::new(),
            is_long: false,
        }
    }

    /// Positions held.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing is held.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Positions it has room for.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Forgets all positions from `len` on.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
        self.ids.truncate(len);
        for kv in self.layers.iter_mut().flatten() {
            kv.truncate(len);
        }
    }

    /// `Ok` if `n` more positions fit.
    pub(crate) fn check_room(&self, n: usize) -> Result<()> {
        match self.len.checked_add(n) {
            Some(needed) if needed <= self.capacity => Ok(()),
            _ => Err(Error::ContextOverflow {
                needed: self.len.saturating_add(n),
                capacity: self.capacity,
            }),
        }
    }
}
