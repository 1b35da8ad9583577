# %% [markdown]
# # Is my kernel right?
#
# **Claim.** A kernel that agrees on ten thousand random products can be wrong. The kit's cases find the fault, make it
# as small as it still fails, and name it; what they accept has the bits of the definition.
#
# **How it could fail.** The random products could find the fault too, the kit could miss it or report it in a case that
# says nothing, or a right kernel could be refused.

# %%
import numpy as np
import tritlab as tl
from tritlab import notebook
from tritlab.notebook import figure

figure.use()

# %% [markdown]
# ## The format
#
# Q4_0 keeps 32 weights in 18 bytes: a float16 scale and 32 codes of four bits, 8 standing for zero. A picture of one
# block, and of the bits of one weight:

# %%
w = tl.quantize(np.linspace(-1, 1, 32, dtype=np.float32)[None], "Q4_0")
print(w.explain().trace(5))
w.explain()

# %% [markdown]
# ## A first try
#
# `kernel(blocks, scales, codes, code_scales)` multiplies packed rows with one int8 vector: `blocks` uint8
# [rows, row_bytes], `codes` int8 [cols], and a float32 scale per 32 codes. (`scales` is for formats that keep them
# outside of blocks.) It is natural to read the two halves of a byte one after the other.


# %%
def unpack(blocks, interleaved):
    """Scales float32 [rows, n] and codes int16 [rows, n, 32] of n blocks per row."""
    rows, n = len(blocks), blocks.shape[1] // 18
    b = blocks.reshape(rows, n, 18)
    d = np.ascontiguousarray(b[:, :, :2]).view(np.float16)[:, :, 0].astype(np.float32)
    low, high = b[:, :, 2:] & 15, b[:, :, 2:] >> 4
    pairs = np.stack([low, high], -1) if interleaved else np.concatenate([low, high], -1)
    return d, pairs.reshape(rows, n, 32).astype(np.int16)


def neighbours(blocks, scales, codes, code_scales):
    d, q = unpack(blocks, interleaved=True)
    sums = ((q - 8) * codes.reshape(-1, 32)).sum(-1, dtype=np.int32)
    return (sums * d * code_scales).sum(-1, dtype=np.float32)


def mismatch(kernel, **options):
    """What the kit says of a kernel: its report, or `None` if it accepts it."""
    try:
        tl.testing.check_matmul(kernel, "Q4_0", **options)
    except tl.testing.KernelMismatch as found:
        return found
    return None


first = mismatch(neighbours)
print(first)

# %% [markdown]
# The smallest case shows it: with one block the sum is over the wrong partners. In Q4_0 the low halves of the bytes are
# the first 16 weights, the high halves the other 16.
#
# ## A second try, and the usual test
#
# Now the halves are right, and the sums of a block are kept in int16, as a kernel with 16-bit lanes would, after the
# offset 8 has been taken out of the loop. Ten thousand random products agree with float64.


# %%
def narrow(blocks, scales, codes, code_scales):
    d, q = unpack(blocks, interleaved=False)
    x = codes.reshape(-1, 32).astype(np.int16)
    products = (q * x).sum(-1, dtype=np.int16)  # of codes 0 to 15
    sums = products.astype(np.int32) - 8 * x.sum(-1, dtype=np.int32)
    return (sums * d * code_scales).sum(-1, dtype=np.float32)


rng = np.random.default_rng(0)
weights = tl.quantize(rng.standard_normal((100, 512), dtype=np.float32), "Q4_0")
blocks, back = weights.bytes.reshape(100, -1), weights.dequantize().astype(np.float64)
worst, largest = 0.0, []
for _ in range(100):
    x = tl.quantize_activations(rng.standard_normal(512, dtype=np.float32), "32")
    y = narrow(blocks, weights.scales, x.codes[:, 0], x.scales[:, 0])
    exact = back @ x.dequantize()[:, 0].astype(np.float64)
    worst = max(worst, np.abs(y - exact).max() / exact.std())
    q = unpack(blocks, interleaved=False)[1].astype(np.int32)
    largest.append((q * x.codes[:, 0].reshape(-1, 32)).sum(-1).ravel())
largest = np.concatenate(largest)
print(f"10,000 random products: largest error {worst:.1e} of their spread")

# %% [markdown]
# ## What the kit says
#
# With `rtol` it allows what float32 rounding can do, so that only real faults count.

# %%
second = mismatch(narrow, rtol=0.0)
print(second)

# %%
case = np.abs(15 * 127 * 32)
fig, (ax,) = figure.new(1, (7.0, 3.6))
ax.hist(largest / 1000, bins=120, color=figure.COLOURS[0], log=True)
for at, words in ((-32.768, "int16"), (32.767, "int16"), (case / 1000, "all codes at their ends")):
    ax.axvline(at, color=figure.INK, linestyle=(0, (4, 3)), linewidth=1)
    ax.text(at - 0.8, 60, words, rotation=90, ha="right", va="center", fontsize=8.5)
ax.set(
    xlabel="sum of 32 products of a code 0 to 15 and an int8, thousands",
    ylabel="blocks, of 160,000",
)
ax.set(title="Random data stay far from the edge", xlim=(-40, 65))
figure.show(fig)

# %% [markdown]
# ## A third try
#
# Wider sums. With `rtol` the kit accepts it. Without, it asks for the bits of the definition, and there the order of the
# float operations counts: per block `acc = fma(d · s, sum, acc)`, one after another.


# %%
def wide(blocks, scales, codes, code_scales):
    d, q = unpack(blocks, interleaved=False)
    sums = ((q - 8) * codes.reshape(-1, 32)).sum(-1, dtype=np.int32)
    return (sums * d * code_scales).sum(-1, dtype=np.float32)


close = mismatch(wide, rtol=0.0)
third = mismatch(wide)
print("within rounding:", close is None)
print(third)


# %%
def exact_order(blocks, scales, codes, code_scales):
    d, q = unpack(blocks, interleaved=False)
    sums = ((q - 8) * codes.reshape(-1, 32)).sum(-1, dtype=np.int32)
    acc = np.zeros(len(blocks), np.float32)
    for block, s in enumerate(code_scales):
        acc = tl.testing.fma(d[:, block] * s, sums[:, block].astype(np.float32), acc)
    return acc


cases = tl.testing.check_matmul(exact_order, "Q4_0", random=200)
print(f"{cases} cases, bit for bit")

# %%
notebook.verdict(
    f"The kernel with int16 sums agreed on 10,000 random products within {worst:.0e} of their spread, where the largest "
    f"block sum was {np.abs(largest).max():,} of 32,767. The kit refused it in the case {second.case} of "
    f"{second.shape[0]} x {second.shape[1]}: {second.found:.6g} instead of {second.expected:.6g}. The repaired one has "
    f"the definition's bits in {cases} cases.",
    {
        "random products do not find the narrow sums": worst < 1e-5,
        "because none of their block sums leaves int16": np.abs(largest).max() < 32767,
        "the kit finds them, in one row of one block": second is not None
        and second.shape[:2] == (1, 32),
        "the kit finds the swapped halves, in one row of one block": (
            first is not None and first.shape[:2] == (1, 32)
        ),
        "a kernel within rounding is accepted with rtol and refused without": (
            close is None and third is not None
        ),
        "the right kernel is accepted bit for bit, in more than 100 cases": cases > 100,
    },
)
