# %% [markdown]
# # How much of the weights does each format keep?
#
# **Claim.** No format beats Shannon's bound for its bits, and the better ones come within one bit of it. Heavy tails
# cost every integer format 0.4 to 2.5 dB. A few outlier columns cost their *neighbours*: formats with scales per block
# lose more than 4 dB on the ordinary columns, while one ternary scale for all loses nothing there and ruins the
# outliers instead.
#
# **How it could fail.** A format above the bound would mean that bits are not counted in full. Tails could help a
# format, outliers could leave the neighbours alone, or real weights could behave unlike either distribution.

# %%
import numpy as np
import pandas as pd
import tritlab as tl
from IPython.display import display
from tritlab import notebook
from tritlab.notebook import figure, weights

figure.use()
ROWS, COLS = 256, 2048
FORMATS = [f["name"] for f in tl.formats() if f["name"] != "F32"]

# %% [markdown]
# Three matrices: Gaussian, Student's t with 5 degrees of freedom, both of variance 1; and the Gaussian one with 1 % of
# its columns 20 times as large, as the inputs of some layers make the weights of real models. The measure is the signal
# to quantisation noise, SQNR = 10·log10(Σw² / Σ(w − ŵ)²), in dB.

# %%
gaussian = weights.gaussian(ROWS, COLS, seed=0)
heavy = weights.student_t(ROWS, COLS, seed=1)
outliers = weights.outlier_columns(COLS, seed=2)
ordinary = np.setdiff1d(np.arange(COLS), outliers)
spiked = gaussian.copy()
spiked[:, outliers] *= 20


# %%
def measure(name):
    g, t, s = (tl.quantize(w, name) for w in (gaussian, heavy, spiked))
    back = s.dequantize()
    return {
        "format": name,
        "bits": g.bits_per_weight,
        "Gaussian": weights.sqnr(gaussian, g.dequantize()),
        "heavy": weights.sqnr(heavy, t.dequantize()),
        "spiked": weights.sqnr(spiked, back),
        "ordinary columns": weights.sqnr(spiked[:, ordinary], back[:, ordinary]),
    }


found = pd.DataFrame([measure(name) for name in FORMATS]).set_index("format")
found.round(2)

# %% [markdown]
# ## Against the bound
#
# For independent Gaussian weights no code of R bits per weight, however long its blocks, does better than 6.02·R dB
# (Shannon's rate-distortion function). For Student's t the line is Shannon's lower bound of the distortion. Bits count
# everything: codes, scales, minima.

# %%
shown = [
    n for n in FORMATS if n not in ("F16", "BF16") and not n.endswith(("_G64", "_G128", "_G256"))
]
shown = [n for n in shown if not n.endswith("_ROW")]
fig, axes = figure.new(2, (10.0, 5.2))
bits = np.geomspace(0.8, 10, 200)
cases = [
    ("Gaussian", "Gaussian weights", weights.gaussian_limit),
    ("heavy", "Student's t, 5 degrees of freedom", weights.student_t5_limit),
]
for ax, (column, title, limit) in zip(axes, cases, strict=True):
    line = [limit(b) for b in bits]
    ax.plot(bits, line, color=figure.INK, linewidth=1.2)
    ax.fill_between(bits, line, 60, color="#f2f2f2", linewidth=0, zorder=0)
    figure.bits_axis(ax)
    ax.set(ylim=(0, 52), ylabel="SQNR, dB", title=title)
    ax.text(1.1, 46, "no code can be here", fontstyle="italic", fontsize=8.5)
    at = found.loc[shown]
    figure.points(ax, list(at["bits"]), list(at[column]), shown, lines=[(bits, line)])
figure.legend(fig, shown)
figure.show(fig)

# %%
gap = (found["bits"].map(weights.gaussian_limit) - found["Gaussian"]) / weights.DB_PER_BIT
integer = found.drop(["F16", "BF16"])
tails = integer["Gaussian"] - integer["heavy"]
gap.rename("bits lost to the bound").sort_values().round(2).to_frame().transpose()

# %% [markdown]
# ## Outlier columns
#
# The SQNR of the whole spiked matrix is the SQNR of its outliers: they hold most of the energy. What the other 99 % of
# the columns keep is another number.

# %%
order = [n for n in reversed(shown)]
fig, (ax,) = figure.new(1, (7.0, 5.4))
places = range(len(order))
columns = [
    ("Gaussian", "o", "no outliers"),
    ("ordinary columns", "s", "ordinary columns beside outliers"),
]
columns.append(("spiked", "^", "all columns, outliers included"))
rows = found.loc[order]
ax.hlines(
    places, rows[["Gaussian", "ordinary columns"]].min(axis=1), rows["Gaussian"], color="#c8c8c8"
)
for (column, shape, words), colour in zip(columns, figure.COLOURS[:3], strict=True):
    ax.plot(rows[column], places, shape, color=colour, label=words, markersize=6)
ax.set_yticks(places, order)
ax.set(xlabel="SQNR, dB", title="1 % of columns 20 times as large")
ax.legend(frameon=False, loc="lower right")
figure.show(fig)

# %%
blocks = [n for n in integer.index if figure.family(n) in ("block", "k-quant")]
lost = found["Gaussian"] - found["ordinary columns"]
lost[[*blocks, "TERNARY"]].rename("dB lost by ordinary columns").round(1).to_frame().transpose()

# %% [markdown]
# ## Real weights
#
# Three layers of SmolLM2-135M, when its package is installed. Its file is already in Q4_1, so formats with a minimum
# find the file's own grid again and look better or worse than they are; only the symmetric ones are compared.

# %%
SYMMETRIC = ["Q8_0", "Q5_0", "Q4_0", "IQ4_NL", "TERNARY_G32", "TERNARY_ROW", "SIGN_ROW"]
LAYERS = [f"blk.{i}.ffn_down.weight" for i in (0, 14, 29)]
real = weights.packaged_tensors("smollm2", LAYERS)
if real is None:
    print("SmolLM2 or the package gguf is not installed: this section was left out.")

# %%
apart = pd.Series(dtype=float)
if real is not None:
    rows = [[weights.sqnr(w, tl.quantize(w, n).dequantize()) for w in real] for n in SYMMETRIC]
    table = pd.DataFrame(rows, SYMMETRIC, LAYERS).join(found[["Gaussian", "heavy"]])
    apart = (table[LAYERS].median(axis=1) - table["Gaussian"]).abs()
    display(table.round(2))

# %%
best = gap[integer.index].sort_values()
said = (
    f"On Gaussian weights the integer formats lose {best.iloc[0]:.2f} ({best.index[0]}) to {best.iloc[-1]:.2f} bits "
    f"({best.index[-1]}) to Shannon's bound; at 4.5 bits Q4_K keeps {found['Gaussian']['Q4_K']:.1f} dB, Q4_0 "
    f"{found['Gaussian']['Q4_0']:.1f}. Heavy tails cost {tails.min():.1f} to {tails.max():.1f} dB. Beside outlier "
    f"columns the ordinary ones lose {lost[blocks].min():.0f} to {lost[blocks].max():.0f} dB in formats with blocks; "
    f"TERNARY loses nothing there and keeps {found['spiked']['TERNARY']:.1f} dB of the whole."
)
if real is not None:
    said += f" Real layers are within {apart.max():.1f} dB of Gaussian ones."
notebook.verdict(
    said,
    {
        "no format is above the bound, on Gaussian weights": (gap >= 0).all(),
        "nor on heavy tails": (found["heavy"] <= found["bits"].map(weights.student_t5_limit)).all(),
        "Q6_K, Q5_K, Q4_K, Q3_K, Q2_K and SIGN lose at most one bit to the bound": (
            gap[["Q6_K", "Q5_K", "Q4_K", "Q3_K", "Q2_K", "SIGN"]] <= 1
        ).all(),
        "at equal bits Q4_K is better than Q4_0 by more than 1 dB, on both": all(
            found[c]["Q4_K"] > found[c]["Q4_0"] + 1 for c in ("Gaussian", "heavy")
        ),
        "heavy tails cost every integer format 0.4 to 2.5 dB": tails.between(0.4, 2.5).all(),
        "ordinary columns lose more than 4 dB in every format with blocks": (
            lost[blocks] > 4
        ).all(),
        "and less than 0.5 dB in TERNARY, which keeps less than 2 dB of the whole": (
            lost["TERNARY"] < 0.5 and found["spiked"]["TERNARY"] < 2
        ),
        "real layers, if there are any here, are within 2 dB of Gaussian ones": (apart < 2).all(),
    },
)
