# %% [markdown]
# # How coarse may activations be?
#
# **Claim.** Where all channels are alike, int8 with one scale per token is enough: smaller groups gain less than 5 dB.
# With six outlier channels of 2,048, as language models have them, that scale leaves the other channels less than 15 dB,
# and groups of 32 give back more than 12. Int4 with one scale per token then rounds all other channels to zero.
#
# **How it could fail.** Small groups could gain nothing, one scale per token could survive outliers, int4 could too; or
# the kernels could lose more than the rounding of their activations explains.

# %%
import numpy as np
import pandas as pd
import tritlab as tl
from tritlab import notebook
from tritlab.notebook import figure, weights

figure.use()
CHANNELS, TOKENS, OUTLIERS = 2048, 128, 6
GROUPS = ["token", "256", "128", "64", "32"]

# %% [markdown]
# Activations of 128 tokens, each channel N(0, 1); in the second set six channels are 60 times as large in every token.
# Int8 is the library's own rounding, the one that its products use. Its kernels have no int4: that is NumPy.

# %%
plain = weights.gaussian(CHANNELS, TOKENS, seed=0)
loud = weights.outlier_columns(CHANNELS, seed=2, share=OUTLIERS / CHANNELS)
quiet = np.setdiff1d(np.arange(CHANNELS), loud)
spiked = plain.copy()
spiked[loud] *= 60


# %%
def rounded(x, kind, group):
    if kind == "int8":
        return tl.quantize_activations(x, group).dequantize()
    return weights.round_to_int4(x, len(x) if group == "token" else int(group))


rows = []
for kind in ("int8", "int4"):
    for group in GROUPS:
        a, b = rounded(plain, kind, group), rounded(spiked, kind, group)
        alike, among = weights.sqnr(plain, a), weights.sqnr(spiked[quiet], b[quiet])
        rows.append((kind, group, alike, among, weights.sqnr(spiked, b)))
columns = ["kind", "group", "channels alike", "ordinary channels", "all channels"]
found = pd.DataFrame(rows, columns=columns).set_index(["kind", "group"])
print("SQNR in dB; the last two columns with outlier channels")
found.round(1)

# %%
fig, axes = figure.new(2, (9.0, 4.0))
places = range(len(GROUPS))
series = [("channels alike", "o"), ("all channels", "^"), ("ordinary channels", "s")]
words = ["no outliers", "six outliers: all channels", "six outliers: the other 2,042"]
for ax, kind in zip(axes, ("int8", "int4"), strict=True):
    for (column, shape), label, colour, dash in zip(
        series, words, figure.COLOURS, figure.DASHES, strict=False
    ):
        ax.plot(places, found.loc[kind][column], shape, color=colour, linestyle=dash, label=label)
    ax.set_xticks(places, ["whole token", *GROUPS[1:]])
    ax.set(
        ylim=(-1, 50), xlabel="channels per scale", ylabel="SQNR, dB", title=f"{kind} activations"
    )
axes[1].legend(frameon=False, loc="upper left")
figure.show(fig)

# %% [markdown]
# ## Through the kernels
#
# The same ternary matrix in formats that group their activations differently. What is lost beside a product in float64
# with the decoded weights must be what the rounding of the activations alone loses.

# %%
codes = tl.project(weights.gaussian(256, CHANNELS, seed=1), "absmean")
FORMATS = {"TERNARY": "token", "TERNARY_G256": "256", "TERNARY_G64": "64", "TERNARY_G32": "32"}
rows = []
for name, group in FORMATS.items():
    w = tl.quantize(codes.dequantize(), name, projection="absmax")
    exact = w.dequantize().astype(np.float64)
    only_x = exact @ rounded(spiked, "int8", group)
    rows.append(
        (name, weights.sqnr(exact @ spiked, w @ spiked), weights.sqnr(exact @ spiked, only_x))
    )
kernels = pd.DataFrame(rows, columns=["format", "kernel", "rounding alone"]).set_index("format")
kernels.round(2)

# %% [markdown]
# ## Real activations
#
# Inputs of three layers of SmolLM2-135M, when its package is installed.

# %%
TEXT = "It is a truth universally acknowledged, that a single man in possession of a good fortune, must be in want of a wife."
LAYERS = ["blk.0.attn_q.input", "blk.15.attn_q.input", "blk.15.ffn_down.input"]
real = weights.packaged_activations("smollm2", TEXT, LAYERS)
table = None
if real is None:
    print("SmolLM2 is not installed: this section was left out.")
else:
    per = {g: [weights.sqnr(x, rounded(x, "int8", g)) for x in real] for g in ("token", "64", "32")}
    table = pd.DataFrame(per, LAYERS)
    table["largest / RMS"] = [float(np.abs(x).max() / np.sqrt(np.mean(x**2))) for x in real]
table if table is None else table.round(1)

# %%
int8, int4 = found.loc["int8"], found.loc["int4"]
spread = int8["channels alike"].max() - int8["channels alike"].min()
back = int8["ordinary channels"]["32"] - int8["ordinary channels"]["token"]
said = (
    f"Without outliers int8 per token keeps {int8['channels alike']['token']:.1f} dB, groups of 32 {spread:.1f} dB more. "
    f"With six outlier channels the others keep {int8['ordinary channels']['token']:.1f} dB per token and "
    f"{int8['ordinary channels']['32']:.1f} dB per 32; in int4 {int4['ordinary channels']['token']:.1f} and "
    f"{int4['ordinary channels']['32']:.1f} dB. The kernels lose what the rounding loses."
)
if table is not None:
    gains = table["32"] - table["token"]
    said += f" In real layers groups of 32 gain {gains.min():.1f} to {gains.max():.1f} dB."
notebook.verdict(
    said,
    {
        "with channels alike, int8 per token keeps more than 40 dB": int8["channels alike"]["token"]
        > 40,
        "and groups of 32 gain less than 5 dB": spread < 5,
        "with outliers the ordinary channels keep less than 15 dB per token": (
            int8["ordinary channels"]["token"] < 15
        ),
        "and groups of 32 give back more than 12 dB": back > 12,
        "smaller groups are never worse": all(
            found.loc[kind][c].is_monotonic_increasing for kind in ("int8", "int4") for c in found
        ),
        "int4 per token leaves the ordinary channels less than 0.1 dB": (
            int4["ordinary channels"]["token"] < 0.1
        ),
        "the kernels lose what the rounding of activations loses, within 0.01 dB": (
            (kernels["kernel"] - kernels["rounding alone"]).abs() < 0.01
        ).all(),
        "in real layers, if there are any here, groups of 32 are better in each": (
            table is None or (table["32"] > table["token"]).all()
        ),
    },
)
