//! Keys and values of the positions so far.

use tritlab_kernels::op::{CacheType, KeyValues};

use crate::buffers::Buffers;
use crate::cancel::Cancel;
use crate::config::Config;
use crate::decoder::BATCH;
use crate::error::{Error, Result};
use crate::memory;

/// Positions that memory is reserved for at first; beyond, it grows as it is used.
const RESERVED: usize = 4096;

/// Positions out of a window's sight that are kept, so that forgetting them costs little per token.
const SLACK: usize = 256;

/// Positions of which keys are laid out together: so many take so many times as many bytes as one lot of them.
const STEP: usize = 16;

/// The state of one sequence.
#[derive(Clone, Debug)]
pub struct Cache {
    /// [layers][kv_heads]
    pub(crate) layers: Vec<Vec<KeyValues>>,
    /// Positions that a query of each layer sees.
    windows: Vec<Option<usize>>,
    pub(crate) len: usize,
    capacity: usize,
    /// Whether sequences may be longer than that.
    slides: bool,
    pub(crate) buffers: Buffers,
    /// What is held: it may have to be run again.
    pub(crate) ids: Vec<u32>,
    /// Whether keys are rotated by the frequencies of long sequences.
    pub(crate) is_long: bool,
    /// Whether it was cut back to where windows have been forgotten.
    stale: bool,
    /// Ends what runs on it.
    pub(crate) cancel: Cancel,
}

impl Cache {
    /// An empty cache in f32 with room for `capacity` positions: see [`Self::with_type`].
    pub fn new(config: &Config, capacity: usize) -> Self {
        Self::with_type(config, capacity, CacheType::F32)
    }

    /// An empty cache with room for `capacity` positions ([`Config::cache_bytes`] says how large). The
    /// first few thousand are allocated now, more when they are needed. Layers with a sliding window keep
    /// no more than they look at and some hundred positions; where all have one ([`Config::slides`]), a
    /// sequence may be longer than `capacity`.
    pub fn with_type(config: &Config, capacity: usize, ty: CacheType) -> Self {
        let windows: Vec<_> = (0..config.layers).map(|i| config.window(i)).collect();
        let slides = config.slides(capacity);
        let layer = |window: &Option<usize>| {
            let held_at_first = held(*window, capacity).min(RESERVED);
            let limit = held(*window, if slides { usize::MAX } else { capacity });
            let head = || KeyValues::growing(config.head_dim, held_at_first, limit, ty);
            (0..config.kv_heads).map(|_| head()).collect()
        };
        Cache {
            layers: windows.iter().map(layer).collect(),
            windows,
            len: 0,
            capacity,
            slides,
            buffers: Buffers::default(),
            ids: Vec::new(),
            is_long: false,
            stale: false,
            cancel: Cancel::default(),
        }
    }

    /// The same, whose work ends when `cancel` says so: see [`Error::Cancelled`].
    pub fn cancelled_by(self, cancel: &Cancel) -> Self {
        Cache { cancel: cancel.clone(), ..self }
    }

    /// Another one like it, empty.
    pub(crate) fn fresh(&self, config: &Config) -> Self {
        Self::with_type(config, self.capacity, self.cache_type()).cancelled_by(&self.cancel)
    }

    /// How keys and values are held.
    pub fn cache_type(&self) -> CacheType {
        self.layers.first().and_then(|l| l.first()).map_or(CacheType::F32, KeyValues::cache_type)
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

    /// Forgets all positions from `len` on. Where a window has moved on beyond `len`, what is left is run
    /// again with the next tokens.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
        self.ids.truncate(len);
        for (layer, window) in self.layers.iter_mut().zip(&self.windows) {
            for kv in layer {
                let needed = first_needed(*window, self.len);
                self.stale |= self.len > 0 && kv.start() > needed;
                kv.truncate(self.len);
            }
        }
        self.stale &= self.len > 0;
    }

    /// Whether what is held has to be run again before a sequence that is long, or is not, can go on.
    pub(crate) fn must_rerun(&self, is_long: bool) -> bool {
        self.stale || self.is_long != is_long
    }

    /// Forgets what no query will see again.
    pub(crate) fn forget(&mut self) {
        for (layer, window) in self.layers.iter_mut().zip(&self.windows) {
            let needed = first_needed(*window, self.len);
            for kv in layer.iter_mut().filter(|kv| needed >= kv.start() + SLACK) {
                kv.forget_before(needed);
            }
        }
    }

    /// `Ok` if there is memory for the keys and values of `n` more positions. Few are not looked at: a step of
    /// generation is to cost nothing more.
    pub(crate) fn check_memory(&self, config: &Config, n: usize) -> Result<()> {
        if n <= RESERVED {
            return Ok(());
        }
        let bytes = |positions| config.cache_bytes(positions, self.cache_type());
        memory::check("the key-value cache", bytes(self.len + n) - bytes(self.len))
    }

    /// `Ok` if `n` more positions fit: always, where every layer forgets what is out of its window.
    pub(crate) fn check_room(&self, n: usize) -> Result<()> {
        match self.len.checked_add(n) {
            Some(needed) if needed <= self.capacity || self.slides => Ok(()),
            _ => Err(Error::ContextOverflow {
                needed: self.len.saturating_add(n),
                capacity: self.capacity,
            }),
        }
    }
}

/// The first position that the query at `len` sees.
fn first_needed(window: Option<usize>, len: usize) -> usize {
    window.map_or(0, |w| (len + 1).saturating_sub(w))
}

/// Positions that a layer holds at most: a window, what is not yet forgotten, and the batch that comes in.
fn held(window: Option<usize>, capacity: usize) -> usize {
    window.map_or(capacity, |w| capacity.min(w.saturating_add(SLACK + 16 + BATCH)))
}

impl Config {
    /// The sliding window of a layer.
    pub fn window(&self, layer: usize) -> Option<usize> {
        self.local.as_ref().filter(|l| l.layers[layer]).map(|l| l.window)
    }

    /// Whether a sequence may be longer than a cache of `capacity` positions: every layer has a sliding window that
    /// fits into it, so that nothing is lost that any query would see.
    pub fn slides(&self, capacity: usize) -> bool {
        (0..self.layers).all(|i| self.window(i).is_some_and(|w| w <= capacity))
    }

    /// Bytes of a key-value cache of `capacity` positions: the most that will be allocated for it. It may be more
    /// than any memory.
    pub fn cache_bytes(&self, capacity: usize, ty: CacheType) -> u128 {
        let head = |positions| KeyValues::bytes(self.head_dim, positions, ty) as u128;
        let bytes = |positions| head(STEP) * (positions / STEP) as u128 + head(positions % STEP);
        let layer = |i| self.kv_heads as u128 * bytes(held(self.window(i), capacity));
        (0..self.layers).map(layer).sum()
    }
}
