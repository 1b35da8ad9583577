# %% [markdown]
# # Where does the time go?
#
# **Claim.** A product with one vector, as in decoding, waits for memory: from F16 over Q8_0 to TERNARY fewer bytes are
# less time. A product with 128 vectors, as in reading a prompt, waits for arithmetic: on vector units Q8_0 and TERNARY
# take about the same time, though one is four times as large.
#
# **How it could fail.** Decoding could take the same time for all formats, or a prompt could take time in proportion to
# the bytes.

# %%
import numpy as np
import pandas as pd
import tritlab as tl
from tritlab import _native, notebook
from tritlab.notebook import figure, timing

figure.use()
ROWS, COLS, BATCH = 2560, 6912, 128
FORMATS = ["F16", "Q8_0", "Q4_0", "Q4_K", "Q2_K", "TERNARY", "SIGN"]
INTEGER = FORMATS[1:]
MATRIX_UNIT = "amx"
usable = [b["name"] for b in tl.backends() if b["available"]]
vectors = next(name for name in usable if name != MATRIX_UNIT)
threads = tl.threads(1)

# %% [markdown]
# The matrix is the down projection of BitNet b1.58 2B-4T. With one vector, copies that together exceed every cache are
# multiplied in turn. Speeds of shared machines change several times over within seconds, so everything takes turns, the
# machine's own limits too, and only times of the same round are compared: medians of ratios over the rounds. One thread
# works, so that none waits for another whose core is taken.
#
# The best backend of vector units works. A CPU with a matrix unit has more arithmetic than that; with it the prompt is
# timed once more, and shown beside.

# %%
rng = np.random.default_rng(0)
one = rng.standard_normal(COLS, dtype=np.float32)
many = rng.standard_normal((COLS, BATCH), dtype=np.float32)
matrices = {name: timing.matrix(name, ROWS, COLS) for name in FORMATS}
nbytes = pd.Series({name: matrix.nbytes for name, matrix in matrices.items()})

# %%
work = {f"decode {name}": timing.far_product(matrix, one) for name, matrix in matrices.items()}
work |= {f"prompt {name}": timing.product(matrix, many) for name, matrix in matrices.items()}
work["read"] = lambda: _native.measure_bandwidth(threads, 0.05)
work["peak"] = lambda: _native.measure_dot_peak(threads, vectors, seconds=0.05)
with tl.backend(vectors):
    rounds = pd.DataFrame(timing.in_turns(work, seconds=8))
del work
len(rounds)

# %%
weights = ROWS * COLS
decode = pd.DataFrame({n: rounds[f"decode {n}"] for n in FORMATS})
prompt = pd.DataFrame({n: rounds[f"prompt {n}"] for n in FORMATS})
read = max(rounds["read"].max(), (nbytes / decode).max().max())
peak = max(
    rounds["peak"].max(), (weights / decode).max().max(), (weights * BATCH / prompt).max().max()
)
times = pd.DataFrame(
    {"bytes": nbytes, "decode, ms": 1e3 * decode.median(), "prompt, ms": 1e3 * prompt.median()}
)
times["decode, GB/s"] = times["bytes"] / times["decode, ms"] / 1e6
of_memory = times["of memory"] = times["decode, GB/s"] * 1e9 / read
times["prompt, G products/s"] = weights * BATCH / times["prompt, ms"] / 1e6
of_peak = times["of peak"] = times["prompt, G products/s"] * 1e9 / peak
print(f"memory {read / 1e9:.1f} GB/s, int8 peak {peak / 1e9:.0f} G products/s; one thread")
times.round(2)

# %% [markdown]
# Times are medians; the limits are the best that was seen here in any round, by their own measurement or by a product,
# so the shares are what is left on a machine that others use. A format far below the others with one vector waits for
# the unpacking of its codes: Q2_K.

# %%
if MATRIX_UNIT in usable:
    again = {name: timing.product(matrices[name], many) for name in INTEGER}
    with tl.backend(MATRIX_UNIT):
        unit = pd.DataFrame(timing.in_turns(again, seconds=2)).median()
    faster = pd.DataFrame({"prompt, ms": 1e3 * unit, "times faster": prompt.median() / unit})
    print(faster.dropna().round(2))
else:
    print("This CPU has no matrix unit.")

# %% [markdown]
# ## The roofline
#
# Products per second against products per byte of weights. Memory allows what is left of the slanted line, the int8
# units what is below the level one. F16 multiplies floats, whose peak is lower.

# %%
fig, (ax,) = figure.new(1, (8.0, 4.8))
intensity = np.geomspace(0.3, 5000, 300)
roof = np.minimum(read * intensity, peak) / 1e9
ax.plot(intensity, roof, color=figure.INK, linewidth=1.2)
ax.fill_between(intensity, roof, 1e5, color="#f2f2f2", linewidth=0, zorder=0)
per_byte = weights / nbytes
xs = [*per_byte, *(per_byte * BATCH)]
ys = [*(weights / times["decode, ms"] / 1e6), *times["prompt, G products/s"]]
ax.set(xscale="log", yscale="log", xlim=(0.3, 5000), ylim=(4, 3 * peak / 1e9))
ax.set(
    xlabel="products per byte of weights",
    ylabel="G products/s",
    title=f"One vector, and {BATCH}; one thread",
)
figure.points(ax, xs, ys, FORMATS * 2, lines=[(intensity, roof)])
figure.legend(fig, FORMATS)
figure.show(fig)

# %% [markdown]
# ## Time against bytes
#
# The time of each format as a multiple of Q8_0's, beside what its bytes alone would say.

# %%
fig, (ax,) = figure.new(1, (7.0, 3.8))
places = np.arange(len(FORMATS))
slower = [decode.div(decode["Q8_0"], axis=0).median(), prompt.div(prompt["Q8_0"], axis=0).median()]
ratios = pd.concat([nbytes / nbytes["Q8_0"], *slower], axis=1)
words = ["bytes", "time with 1 vector", f"time with {BATCH} vectors"]
for offset, column, label, colour in zip(
    (-0.27, 0, 0.27), ratios, words, ("#c8c8c8", *figure.COLOURS), strict=False
):
    ax.bar(places + offset, ratios[column], 0.25, color=colour, label=label)
ax.axhline(1, color=figure.GREY, linewidth=0.9)
ax.set_xticks(places, FORMATS)
ax.set(ylabel="multiple of Q8_0", title="Decoding follows bytes, a prompt does not")
ax.legend(frameon=False)
ax.grid(axis="x", visible=False)
figure.show(fig)

# %% [markdown]
# ## Verdict
#
# The bounds are wide, since other programs may run here: with one vector a third of what the bytes alone would give,
# with many at most three quarters of what they save with one.


# %%
def slowdown(of, a, b):
    """How much longer `a` takes than `b`: median over the rounds."""
    return (of[a] / of[b]).median()


far, near = slowdown(decode, "Q8_0", "TERNARY"), slowdown(prompt, "Q8_0", "TERNARY")
half = slowdown(decode, "F16", "Q8_0")
notebook.verdict(
    f"With one vector F16 takes {half:.1f} times as long as Q8_0 and Q8_0 {far:.1f} times as long as TERNARY, of "
    f"{nbytes['F16'] / nbytes['Q8_0']:.1f} and {nbytes['Q8_0'] / nbytes['TERNARY']:.1f} times the bytes; they read at "
    f"{of_memory['F16']:.0%}, {of_memory['Q8_0']:.0%} and {of_memory['TERNARY']:.0%} of the most seen here, {read / 1e9:.0f} GB/s. With "
    f"{BATCH} vectors and {vectors} Q8_0 takes {near:.1f} times as long as TERNARY, and the integer formats reach "
    f"{of_peak[INTEGER].min():.0%} to {of_peak[INTEGER].max():.0%} of the int8 peak.",
    {
        "with one vector Q8_0 takes at least 1.4 times as long as TERNARY": far > 1.4,
        "and F16 at least 1.15 times as long as Q8_0": half > 1.15,
        "with 128 vectors small weights gain less than three quarters of that": near < 0.75 * far,
    },
)
