//! The loop both tokenizer families share: merge the best adjacent pair until none is left.
//!
//! ```text
//! while some adjacent pair has a rank:
//!     take the pair of lowest rank, the leftmost of equals
//!     replace it by its merged token
//! ```
//!
//! Done naively that is quadratic, and a SentencePiece text is a single piece. So the symbols are a
//! linked list in a vector, and pairs wait in a heap. A pair that was pushed and then lost one of
//! its halves to another merge is recognised by its length: symbols only ever grow, so a span that
//! still has the length it was pushed with is still the same two symbols.

use std::{cmp::Reverse, collections::BinaryHeap};

/// The id of a symbol that is no token.
pub(super) const NO_TOKEN: u32 = u32::MAX;
const NONE: u32 = u32::MAX;

/// A part of the text that is merged, and the token it is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Symbol {
    pub(super) start: u32,
    /// In bytes; zero once it has been merged into its left neighbour.
    pub(super) len: u32,
    pub(super) id: u32,
    previous: u32,
    next: u32,
}

/// Pair waiting to be merged, in the order of the heap: rank, then position.
type Pair = Reverse<(u32, u32, u32, u32)>; // rank, left symbol, length of the pair, merged id

/// The loop with its buffers, which are reused from piece to piece.
#[derive(Debug, Default)]
pub(super) struct Merger {
    symbols: Vec<Symbol>,
    heap: BinaryHeap<Pair>,
}

impl Merger {
    /// Starts anew.
    pub(super) fn clear(&mut self) {
        self.symbols.clear();
        self.heap.clear();
    }

    /// Appends a symbol of `len` bytes.
    pub(super) fn push(&mut self, len: usize, id: u32) {
        let i = self.symbols.len() as u32;
        let start = self.symbols.last().map_or(0, |s| s.start + s.len);
        if let Some(last) = self.symbols.last_mut() {
            last.next = i;
        }
        let previous = i.checked_sub(1).unwrap_or(NONE);
        self.symbols.push(Symbol { start, len: len as u32, id, previous, next: NONE });
    }

    /// Merges; `rank` says whether two symbols may be merged, with what rank and into which token.
    /// Returns the symbols that are left.
    pub(super) fn run(
        &mut self,
        rank: impl Fn(&Symbol, &Symbol) -> Option<(u32, u32)>,
    ) -> impl Iterator<Item = &Symbol> {
        for left in 1..self.symbols.len() as u32 {
            self.offer(left - 1, &rank);
        }
        while let Some(Reverse((_, left, len, id))) = self.heap.pop() {
            let l = self.symbols[left as usize];
            if l.len == 0 || l.next == NONE {
                continue;
            }
            let r = self.symbols[l.next as usize];
            if l.len + r.len != len {
                continue;
            }
            self.symbols[l.next as usize].len = 0;
            if r.next != NONE {
                self.symbols[r.next as usize].previous = left;
            }
            self.symbols[left as usize] = Symbol { len, id, next: r.next, ..l };
            if l.previous != NONE {
                self.offer(l.previous, &rank);
            }
            self.offer(left, &rank);
        }
        self.symbols.iter().filter(|s| s.len != 0)
    }

    /// Puts the pair that starts with symbol `left` into the heap, if it may be merged.
    fn offer(&mut self, left: u32, rank: &impl Fn(&Symbol, &Symbol) -> Option<(u32, u32)>) {
        let l = &self.symbols[left as usize];
        let Some(r) = self.symbols.get(l.next as usize) else {
            return; // l is the last: NONE is past the end of any text that fits
        };
        if let Some((rank, id)) = rank(l, r) {
            self.heap.push(Reverse((rank, left, l.len + r.len, id)));
        }
    }
}
