# %% [markdown]
# # What does 1-bit cost?
#
# **Claim.** A model *trained* in ternary stays within 15 % of its full-precision twin's perplexity on text of a kind it
# was trained on, within 30 % on other text, at 2 bits and less, and beats Q2_K, which is larger, on all. The same ternary weights by *rounding* are ruined, and not because the rounding is
# careless: the best ternary weights there are, by squared error, are ruined too.
#
# **How it could fail.** The trained member could be further away, or worse than Q2_K or Q3_K; rounding could be harmless
# on a model so small; the result could hold on one text and not on the others.
#
# The two members of the embedded pair have the same architecture, tokenizer, training text, order of it, steps and seed:
# 4 M weights each, a toy. What is measured is the price of ternary weights here, not of ternary weights everywhere.

# %%
import numpy as np
import pandas as pd
import tritlab as tl
from tritlab import notebook
from tritlab.notebook import figure
from tritlab.paired import difference

figure.use()
TEXTS = tl.pair.texts()
NAIVE, BEST, TRAINED = "TERNARY", "TERNARY_G256+optimal", "trained in ternary"
FORMATS = [
    "Q8_0",
    "Q6_K",
    "Q5_K",
    "Q4_K",
    "Q4_0",
    "IQ4_NL",
    "Q3_K",
    "Q2_K",
    BEST,
    NAIVE,
    "SIGN_ROW",
]

# %% [markdown]
# ## How they were trained
#
# Loss on held-out text. A gap that is still closing when training ends would make the result depend on the moment.

# %%
members = tl.pair.training()["members"]
logs = {name: pd.DataFrame(member["log"]).set_index("step") for name, member in members.items()}
fig, (ax,) = figure.new()
figure.loss_curves(ax, {"full precision": logs["full"], "ternary": logs["ternary"]})
figure.show(fig)

# %%
settings = members["full"]["training"]
held_out = {name: log["validation"].dropna() for name, log in logs.items()}
gap = held_out["ternary"] - held_out["full"]
print(f"{members['full']['tokens'] / 1e6:.1f} M tokens each; gap in nats per token, by step:")
gap.round(3).to_frame("ternary - full").transpose()

# %% [markdown]
# ## Is the model that runs the model that was trained?
#
# After training both were read by PyTorch, fake-quantised in float32, and by tritlab from the exported files: mean loss in
# nats per token over 64,000 bytes of each text, and the share of positions with the same most likely token.

# %%
agreement = pd.DataFrame(
    {
        (name, text): {k: score[k] for k in ("torch_loss", "tritlab_loss", "same_argmax")}
        for name, member in members.items()
        for text, score in member["scores"].items()
    }
).transpose()
agreement.round(6)

# %% [markdown]
# ## Every format on the same tokens
#
# All windows of each text, as in the table of the main README. Linear layers of the full-precision member in each
# format, embedding as shipped. The trained member runs in two packings with the same bits in its answers: 2 bits, and
# 1.6 (base 3).

# %%
full = tl.Model.load(tl.pair.FULL, context=512)


def score(label, model, text):
    q = tl.perplexity(model, TEXTS[text], reference=full, context=512)
    bits = 8 * model.linear_bytes / model.linear_params
    against = q.against
    return (
        text,
        label,
        bits,
        q.perplexity.value,
        against.ratio.value,
        against.ratio.error,
        against.kl.value,
    )


rows = []
for text in TEXTS:
    for name in FORMATS:
        rows.append(score(name, tl.Model.load(tl.pair.FULL, name, context=512), text))
    for packing in ("TERNARY", "TERNARY_B3"):
        model = tl.Model.load(tl.pair.TERNARY, packing, context=512)
        rows.append(score(f"{TRAINED}, {packing}", model, text))
names = ["text", "weights", "bits", "perplexity", "ratio", "error", "KL"]
found = pd.DataFrame(rows, columns=names).set_index(["text", "weights"])
found.loc["persuasion"].round({"bits": 2, "perplexity": 2, "ratio": 4, "error": 4, "KL": 4})

# %%
found["ratio"].unstack("text").reindex(FORMATS + [f"{TRAINED}, TERNARY"]).round(3)

# %% [markdown]
# ## Quality against bits

# %%
fig, axes = figure.new(2, (9.0, 4.2))
shown = found.loc["persuasion"]
for ax, value, words in zip(
    axes, ("ratio", "KL"), ("perplexity / full precision", "mean KL, nats"), strict=True
):
    ax.set_yscale("log")
    rounded = shown.loc[FORMATS]
    trained = shown[shown.index.str.startswith(TRAINED)]
    low, high = shown[value].min(), shown[value].max()
    ax.set_ylim(low / 1.6 if value == "KL" else 0.93, high * 2)
    figure.bits_axis(ax)
    figure.points(ax, rounded["bits"], rounded[value], FORMATS)
    ax.plot(
        trained["bits"],
        trained[value],
        "*-",
        color="#009e73",
        markeredgecolor=figure.INK,
        markersize=11,
    )
    ax.set(ylabel=words, title="perplexity" if value == "ratio" else "KL divergence")
axes[0].annotate(
    TRAINED,
    (1.8, trained["ratio"].iloc[0]),
    (1.1, 1.9),
    color="#009e73",
    arrowprops={"arrowstyle": "-", "color": "#009e73"},
)
figure.legend(fig, FORMATS)
figure.show(fig)

# %% [markdown]
# ## Is that a difference?
#
# Per token, on the same tokens, in nats: the 95 % interval of the mean, windows drawn as clusters.

# %%
losses = {}
for label, model in {
    TRAINED: tl.Model.load(tl.pair.TERNARY, context=512),
    "full": full,
    "Q2_K": tl.Model.load(tl.pair.FULL, "Q2_K", context=512),
    "Q3_K": tl.Model.load(tl.pair.FULL, "Q3_K", context=512),
}.items():
    ids = model.tokenize(TEXTS["persuasion"].read_text())
    losses[label] = model.evaluate(ids[: len(ids) // 512 * 512], context=512)
windows = np.asarray(losses["full"]["position"]) // 512
paired = {
    other: difference(losses[TRAINED]["nll"], losses[other]["nll"], windows)
    for other in ("full", "Q3_K", "Q2_K")
}
pd.DataFrame({f"trained - {k}": d.record() for k, d in paired.items()}).transpose()

# %%
ratio = found["ratio"].unstack("text")
trained = ratio.loc[f"{TRAINED}, TERNARY"]
bits = found.loc["persuasion"]["bits"]
notebook.verdict(
    f"Trained in ternary, perplexity is {100 * (trained['persuasion'] - 1):.1f} % above full precision on Persuasion, "
    f"{100 * (trained['addresses'] - 1):.1f} % on the addresses, {100 * (trained['alice'] - 1):.1f} % on Alice, at "
    f"{bits[f'{TRAINED}, TERNARY']:.2f} bits, or {bits[f'{TRAINED}, TERNARY_B3']:.2f} with the same answers. Q2_K, at "
    f"{bits['Q2_K']:.2f} bits, costs {100 * (ratio.loc['Q2_K', 'persuasion'] - 1):.1f} %, Q3_K "
    f"{100 * (ratio.loc['Q3_K', 'persuasion'] - 1):.1f} %, Q4_K {100 * (ratio.loc['Q4_K', 'persuasion'] - 1):.1f} %. "
    f"Rounding to ternary multiplies perplexity by {ratio.loc[NAIVE, 'persuasion']:.1f}, at its best by "
    f"{ratio.loc[BEST, 'persuasion']:.1f}. {members['full']['tokens'] / 1e6:.0f} M tokens of training each.",
    {
        "PyTorch and tritlab agree: losses within 1e-4, argmax at 99 % of positions": bool(
            ((agreement["tritlab_loss"] / agreement["torch_loss"] - 1).abs() < 1e-4).all()
            and (agreement["same_argmax"] > 0.99).all()
        ),
        "on Persuasion the trained member is within 15 % of full precision": bool(
            trained["persuasion"] < 1.15
        ),
        "on every text it is within 30 %": (trained < 1.3).all(),
        "it has at most 2 bits per weight": bits[f"{TRAINED}, TERNARY"] <= 2.01,
        "its two packings give the same perplexity to the bit": all(
            found.loc[text]["perplexity"][
                [f"{TRAINED}, {p}" for p in ("TERNARY", "TERNARY_B3")]
            ].nunique()
            == 1
            for text in TEXTS
        ),
        "on every text it is better than Q2_K, which is larger": (
            trained < ratio.loc["Q2_K"]
        ).all(),
        "and that difference is not chance": paired["Q2_K"].distinguishable
        and paired["Q2_K"].value < 0,
        "naive rounding multiplies perplexity by more than 3": (ratio.loc[NAIVE] > 3).all(),
        "the best rounding there is still costs more than 30 %": (ratio.loc[BEST] > 1.3).all(),
    },
)
