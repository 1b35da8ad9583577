# %% [markdown]
# # Which layers hurt?
#
# **Claim.** Tensors are not alike: at the same relative error of its weights one tensor of a small trained model costs
# more than ten times the KL divergence that another costs. KL grows with the square of that error, so one measurement
# per tensor tells the others; and what the tensors cost alone nearly adds up to what the model costs when all change.
#
# **How it could fail.** All tensors could be within a factor of ten; halving the error could do less or more than
# quarter the KL; the sum could be off by more than a factor of two, because errors amplify or cancel each other.

# %%
import numpy as np
import pandas as pd
import tritlab as tl
from tritlab import notebook, precision
from tritlab.notebook import figure
from tritlab.report import search_figures

figure.use()
TEXT = tl.pair.texts()["persuasion"]
COARSE, FINE = "Q4_0", "Q5_0"
full, _ = tl.load_pair()

# %% [markdown]
# One tensor at a time is put into a coarse and into a finer format. The KL divergence is from the model as its file has
# it, token by token, on the same text.

# %%
CONTEXT, CHUNKS = 128, 4
found = precision.measure_tensors(
    full, TEXT, [COARSE, FINE], context=CONTEXT, chunks=CHUNKS, progress=False
)
table = pd.DataFrame.from_records(found.records)
table = table[table.measured].pivot(index="tensor", columns="format")
kl, error = table["kl_nats"], table["rel_weight_error"]
print(f"{len(kl)} tensors; mean KL in nats and relative weight error")
pd.concat({"KL": kl, "error": error}, axis=1).sort_values(("KL", COARSE)).tail(8)

# %%
fig, axes = figure.new(1, (6.4, 4.2))
search_figures.plot_sensitivity(found, axes[0])
figure.show(fig)

# %% [markdown]
# Does KL go with the square of the error? The exponent between the two formats, tensor by tensor. And does the sum of
# what tensors cost alone say what they cost together?

# %%
exponent = np.log(kl[COARSE] / kl[FINE]) / np.log(error[COARSE] / error[FINE])
ids = full.tokenize(TEXT.read_text(encoding="utf-8"))[: CONTEXT * CHUNKS]
together = {}
for name in (COARSE, FINE):
    model = full.requantize(dict.fromkeys(kl.index, name))
    together[name] = float(np.mean(model.evaluate(ids, context=CONTEXT, reference=full)["kl"]))
sums = pd.DataFrame({"sum of tensors alone": kl.sum(), "all together": pd.Series(together)})
sums["together / sum"] = sums["all together"] / sums["sum of tensors alone"]
sums.round(5)

# %%
sensitive = pd.Series({unit.name: found.per_error(unit) for unit in found.units})
spread = sensitive.max() / sensitive.min()
ratio = sums["together / sum"]
notebook.verdict(
    f"At equal weight error {sensitive.idxmax()} costs {spread:.0f} times the KL of {sensitive.idxmin()}. From {FINE} to "
    f"{COARSE} KL grows with the error to the power {exponent.median():.2f} (median). All tensors in {COARSE} cost "
    f"{ratio[COARSE]:.2f} times the sum of what they cost alone, in {FINE} {ratio[FINE]:.2f} times.",
    {
        "the most sensitive tensor costs more than ten times the least": spread > 10,
        "the exponent's median is between 1.5 and 2.5": 1.5 < exponent.median() < 2.5,
        "the sum is right within a factor of two": bool(ratio.between(0.5, 2).all()),
        "every tensor costs less in the finer format": bool((kl[FINE] < kl[COARSE]).all()),
    },
)
