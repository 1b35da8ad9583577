# %% [markdown]
# # How much memory do published models need?
#
# **Claim.** From the shapes alone, to the byte: ternary layers are 8 times smaller than F16, but the whole model is not.
# In models below 1 B the embedding, which stays at 8 bits, becomes most of what is left; and at 32,768 tokens the keys
# and values of every model without windows weigh more than its ternary layers. Gemma's windows cut them by more than 4.
#
# **How it could fail.** The shapes could give other totals than the authors publish, or other bytes than the library
# allocates; or the cache could stay below the layers.

# %%
import pandas as pd
import tritlab as tl
from tritlab import notebook
from tritlab.notebook import figure, fixture, published

figure.use()
FORMATS = ["F16", "Q8_0", "Q4_0", "Q4_K", "TERNARY"]
SHORT, LONG = 4096, 32768

# %% [markdown]
# ## Are the shapes right?
#
# Weights counted from hidden size, layers, heads and vocabulary, beside what the authors say of total, embedding and
# the rest. `off` is the relative difference beyond the rounding of the published number.

# %%
rows = [
    (shape.name, part, said, ours, off)
    for shape in published.MODELS
    for part, said, ours, off in published.published_error(shape)
]
counts = pd.DataFrame(rows, columns=["model", "part", "published", "from shape", "off"])
counts.astype({"published": int}).round({"off": 4})

# %% [markdown]
# ## Are the bytes right?
#
# The same arithmetic on four tiny models that are in the repository, beside what the library says after loading them.
# A cache with windows is a little larger than the windows: a batch of a prompt must fit behind them.

# %%
TINY = ["llama", "qwen3", "phi3-long", "gemma3"]
checked = []
for name in TINY:
    shape = published.Shape.of(fixture(name))
    for format in ["F16", "Q8_0", "Q4_0", "TERNARY"]:
        model = tl.Model.load(fixture(name), format)
        checked.append((name, format, shape.linear_bytes(format), model.linear_bytes))
    for kv, element in (("f32", 4), ("f16", 2)):
        ours = shape.kv_bytes(1024, element)
        checked.append((name, f"cache {kv}, 1024 tokens", ours, model.cache_bytes(1024, kv)))
bytes_ = pd.DataFrame(checked, columns=["model", "what", "from shape", "library"])
plain = bytes_[~((bytes_["model"] == "gemma3") & bytes_["what"].str.startswith("cache"))]
bytes_.pivot(index="what", columns="model", values="library")

# %% [markdown]
# ## The models
#
# Linear layers in the format; embedding and head in Q8_0 (F16 beside F16 layers); keys and values in f16. Rows that no
# k-quant fits (Gemma's 640 and 1152) get Q5_0 for Q4_K, as llama-quantize gives them.


# %%
def sizes(shape, format):
    return {
        "model": shape.name,
        "format": format,
        "layers": shape.linear_bytes(format) / 1e9,
        "embedding": shape.embedding_bytes("F16" if format == "F16" else "Q8_0") / 1e9,
        "cache, 4k": shape.kv_bytes(SHORT) / 1e9,
        "cache, 32k": shape.kv_bytes(LONG) / 1e9,
    }


memory = pd.DataFrame([sizes(s, f) for s in published.MODELS for f in FORMATS])
memory["all at 4k"] = memory[["layers", "embedding", "cache, 4k"]].sum(axis=1)
memory["all at 32k"] = memory[["layers", "embedding", "cache, 32k"]].sum(axis=1)
at_4k = memory.pivot(index="model", columns="format", values="all at 4k")
print("GB of layers, embedding and 4,096 tokens of cache")
at_4k.loc[[s.name for s in published.MODELS], FORMATS].round(2)

# %%
fig, axes = figure.new(3, (11.0, 6.2))
parts = [("layers", "#2c7fb8"), ("embedding", "#e6862a"), ("cache, 32k", "#1a1a1a")]
for column, ax in enumerate(axes):
    ticks, names, at = [], [], 0.0
    for shape in published.MODELS[column * 3 : column * 3 + 3][::-1]:
        of = memory[memory["model"] == shape.name].set_index("format")
        for format in FORMATS[::-1]:
            left = 0.0
            for part, colour in parts:
                ax.barh(at, of[part][format], 0.8, left, color=colour, label=part)
                left += of[part][format]
            ticks.append(at)
            names.append(format)
            at += 1
        ax.text(0, at - 0.35, shape.name, fontweight="bold", fontsize=9, va="bottom")
        at += 1.4
    ax.set_yticks(ticks, names)
    ax.set(xlabel="GB", ylim=(-0.6, at - 1.2))
    ax.grid(axis="y", visible=False)
    ax.tick_params(axis="y", length=0)
handles, labels = axes[0].get_legend_handles_labels()
words = ["linear layers", "embedding and head", "keys and values of 32,768 tokens, f16"]
fig.legend(handles[:3], words, loc="outside upper center", ncols=3, frameon=False)
figure.show(fig)

# %% [markdown]
# ## When does the cache weigh more than the layers?

# %%
lengths = [2**k for k in range(9, 18)]
fig, (ax,) = figure.new(1, (7.0, 4.4))
shown = ["Gemma 3 1B", "Qwen3 0.6B", "BitNet 2B-4T", "Llama 3 8B"]
ends = []
for name, dash, colour in zip(shown, figure.DASHES, figure.COLOURS, strict=False):
    shape = next(s for s in published.MODELS if s.name == name)
    share = [shape.kv_bytes(n) / shape.linear_bytes("TERNARY") for n in lengths]
    ax.plot(lengths, share, color=colour, linestyle=dash)
    ends.append((lengths[-1], share[-1]))
ax.axhline(1, color=figure.GREY, linewidth=0.9)
ax.set(
    xscale="log",
    yscale="log",
    xlim=(512, 131072 * 3.4),
    ylim=(0.03, 200),
    title="Cache in f16 beside ternary layers",
)
ax.set(xlabel="tokens", ylabel="bytes of keys and values / bytes of layers")
ax.set_xticks(lengths, [f"{n // 1024}k" if n >= 1024 else str(n) for n in lengths])
ax.set_yticks([0.1, 1, 10, 100], ["0.1", "1", "10", "100"])
ax.minorticks_off()
figure.label(ax, ends, shown)
figure.show(fig)


# %%
def crossing(shape):
    """Tokens from which the cache weighs more than ternary layers."""
    return next(
        n for n in range(64, 1 << 22, 64) if shape.kv_bytes(n) > shape.linear_bytes("TERNARY")
    )


ternary = memory[memory["format"] == "TERNARY"].set_index("model")
full = [s for s in published.MODELS if not s.window]
local = [s for s in published.MODELS if s.window]
cut = {s.name: 2 * s.kv_heads * s.head_dim * 2 * s.layers * LONG / s.kv_bytes(LONG) for s in local}
small = [s for s in published.MODELS if s.params < 1e9]
share = {
    s.name: ternary["embedding"][s.name] / (ternary["layers"] + ternary["embedding"])[s.name]
    for s in small
}
crossings = pd.Series({s.name: crossing(s) for s in published.MODELS}, name="tokens")
crossings.to_frame().transpose()

# %%
bitnet = next(s for s in published.MODELS if s.name.startswith("BitNet"))
whole = {
    f: memory[(memory["model"] == "Llama 3 8B") & (memory["format"] == f)].iloc[0] for f in FORMATS
}
llama = [w["layers"] + w["embedding"] for w in (whole["F16"], whole["TERNARY"])]
notebook.verdict(
    f"All {len(counts)} published counts are met within {counts['off'].max():.1%} (Llama 3 8B exactly), and the "
    f"library's bytes exactly. Llama 3 8B shrinks from {llama[0]:.1f} to {llama[1]:.1f} GB in TERNARY; of the small "
    f"models' ternary bytes {min(share.values()):.0%} to {max(share.values()):.0%} are embedding. The cache passes "
    f"ternary layers at {crossings[[s.name for s in full]].min():,} to {crossings[[s.name for s in full]].max():,} "
    f"tokens without windows; Gemma's windows make it {min(cut.values()):.1f} to {max(cut.values()):.1f} times smaller "
    f"at 32,768.",
    {
        "published counts are met within 1 % beyond their rounding": (counts["off"] <= 0.01).all(),
        "the bytes of layers and of caches without windows are the library's": (
            plain["from shape"] == plain["library"]
        ).all(),
        "a cache with windows is never smaller than the windows": (
            bytes_["from shape"] <= bytes_["library"]
        ).all(),
        "BitNet's layers in TERNARY_B3 are the 0.4 GB that its authors publish": (
            0.35e9 < bitnet.linear_bytes("TERNARY_B3") < 0.45e9
        ),
        "below 1 B weights the embedding is more than half of a ternary model": min(share.values())
        > 0.5,
        "at 32,768 tokens the cache weighs more than ternary layers in every model without windows": all(
            s.kv_bytes(LONG) > s.linear_bytes("TERNARY") for s in full
        ),
        "windows cut Gemma's cache by more than 4 at 32,768 tokens": min(cut.values()) > 4,
    },
)
