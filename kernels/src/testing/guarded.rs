//! Outputs with painted margins: what a kernel writes beside its slice is seen, and what it does not write.

use std::fmt;

/// Numbers that kernels write.
pub trait Number: Copy + fmt::Display {
    /// Fills an output before the kernel runs.
    const FRESH: Self;
    /// Fills the margins around an output.
    const CANARY: Self;
    /// The bits, in the lowest bits.
    fn bits(self) -> u32;
    /// The number with its bits.
    fn show(self) -> String;
    /// Whether two are the same number: equal bits, or both NaN (whose sign and payload are the CPU's).
    fn same(self, other: Self) -> bool {
        self.bits() == other.bits()
    }
}

impl Number for f32 {
    // Two NaN that no arithmetic makes.
    const FRESH: f32 = f32::from_bits(0x7fda_0f0f);
    const CANARY: f32 = f32::from_bits(0x7fdc_5c5c);
    fn bits(self) -> u32 {
        self.to_bits()
    }
    fn show(self) -> String {
        if self.bits() == Self::FRESH.bits() {
            return "nothing: the kernel did not write it".to_owned();
        }
        format!("{self:?} ({:#010x})", self.to_bits())
    }
    fn same(self, other: f32) -> bool {
        let fresh = self.bits() == Self::FRESH.bits();
        self.bits() == other.bits() || (self.is_nan() && other.is_nan() && !fresh)
    }
}

macro_rules! integers {
    ($($int:ty, $unsigned:ty, $fresh:literal, $canary:literal;)*) => {
        $(impl Number for $int {
            const FRESH: $int = $fresh;
            const CANARY: $int = $canary;
            fn bits(self) -> u32 {
                u32::from(self as $unsigned)
            }
            fn show(self) -> String {
                format!("{self} ({:#0w$x})", self.bits(), w = 2 + 2 * size_of::<$int>())
            }
        })*
    };
}

integers! {
    u8, u8, 0x5a, 0xa7;
    i8, u8, 90, 77;
    i32, u32, 0x5a5a_0f0f, 0x1357_9bdf;
}

/// Elements before and behind: more than the widest store.
const MARGIN: usize = 64;

/// A slice between two painted margins.
///
/// ```
/// use tritlab_kernels::testing::Guarded;
/// let mut out = Guarded::<f32>::new(3);
/// out.slice().copy_from_slice(&[1.0, 2.0, 3.0]);
/// assert_eq!((out.get(), out.outside()), (&[1.0, 2.0, 3.0][..], None));
/// ```
#[derive(Clone, Debug)]
pub struct Guarded<T> {
    all: Vec<T>,
    len: usize,
}

impl<T: Number> Guarded<T> {
    /// `len` elements, filled with [`Number::FRESH`].
    pub fn new(len: usize) -> Self {
        let mut all = vec![T::CANARY; len + 2 * MARGIN];
        all[MARGIN..MARGIN + len].fill(T::FRESH);
        Guarded { all, len }
    }

    /// What the kernel may write.
    pub fn slice(&mut self) -> &mut [T] {
        &mut self.all[MARGIN..MARGIN + self.len]
    }

    /// What it wrote.
    pub fn get(&self) -> &[T] {
        &self.all[MARGIN..MARGIN + self.len]
    }

    /// The first element outside that changed: its index from the slice's start, and what it holds now.
    pub fn outside(&self) -> Option<(isize, T)> {
        let inside = MARGIN..MARGIN + self.len;
        let changed = |&i: &usize| !inside.contains(&i) && self.all[i].bits() != T::CANARY.bits();
        (0..self.all.len()).find(changed).map(|i| (i as isize - MARGIN as isize, self.all[i]))
    }
}
