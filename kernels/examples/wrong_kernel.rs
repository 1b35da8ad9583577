//! A gemv of your own, tested by the kit: one that is right, and one that reads blocks two at a time and
//! forgets the last of an odd number.
//!
//! ```text
//! cargo run -p tritlab-kernels --example wrong_kernel
//! ```

use half::f16;
use tritlab_kernels::testing::Kit;
use tritlab_kernels::{Acts, Format, Matrix};

/// A block of Q4_0: an f16 scale, then 16 bytes with code `i` in the low and code `i + 16` in the high half.
const BLOCK: usize = 18;

/// Block `b` of a row times its 32 activations, added to `acc` as the contract says: exact in i32, then one
/// fused multiply-add.
fn block(bytes: &[u8], acts: &Acts, b: usize, acc: f32) -> f32 {
    let d = f16::from_le_bytes([bytes[0], bytes[1]]).to_f32();
    let (low, high) = acts.codes(0)[32 * b..32 * b + 32].split_at(16);
    let mut sum = 0;
    for (i, byte) in bytes[2..].iter().enumerate() {
        sum += (i32::from(byte & 15) - 8) * i32::from(low[i]);
        sum += (i32::from(byte >> 4) - 8) * i32::from(high[i]);
    }
    (d * acts.scales(0)[b]).mul_add(sum as f32, acc)
}

/// `y = W x`, one block after the other.
pub fn right(w: &Matrix<'_>, acts: &Acts, y: &mut [f32]) {
    for (r, y) in y.iter_mut().enumerate() {
        let blocks = w.row(r).chunks_exact(BLOCK).enumerate();
        *y = blocks.fold(0.0, |acc, (b, bytes)| block(bytes, acts, b, acc));
    }
}

/// `y = W x`, two blocks at a time.
pub fn pairs(w: &Matrix<'_>, acts: &Acts, y: &mut [f32]) {
    for (r, y) in y.iter_mut().enumerate() {
        *y = 0.0;
        for (p, two) in w.row(r).chunks_exact(2 * BLOCK).enumerate() {
            *y = block(&two[..BLOCK], acts, 2 * p, *y);
            *y = block(&two[BLOCK..], acts, 2 * p + 1, *y);
        }
    }
}

/// Runs both.
#[allow(dead_code, reason = "a test uses the kernels without it")]
fn main() {
    let right = Kit::gemv(Format::Q4_0, "right", right);
    let pairs = Kit::gemv(Format::Q4_0, "pairs", pairs);
    for kit in [right, pairs] {
        match kit.run() {
            Ok(cases) => println!("{cases} cases, every bit equal"),
            Err(failure) => println!("{failure}"),
        }
    }
}
