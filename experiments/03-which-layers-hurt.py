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
from tritlab import notebook
from tritlab.notebook import figure

figure.use()
TEXT = tl.pair.texts()["persuasion"]
COARSE, FINE = "Q4_0", "Q5_0"
full, _ = tl.load_pair()

# %% [markdown]
# One tensor at a time is put into a coarse and into a finer format, and then all of them, one after the other. The KL
# divergence is from the model as its file has it, token by token, on the same text. `explorer()` shows all of this
# interactively (extra `widget`), `to_html()` as a page.

# %%
SIZES = {"mode": "both", "context": 128, "chunks": 4, "progress": False}
found = {name: tl.layers(full, TEXT, name, **SIZES) for name in (COARSE, FINE)}
tables = {name: report.to_pandas() for name, report in found.items()}
kl = pd.DataFrame({name: table["kl_alone_nats"] for name, table in tables.items()})
error = pd.DataFrame({name: table["rel_weight_error"] for name, table in tables.items()})
output = pd.DataFrame({name: table["rel_output_error"] for name, table in tables.items()})
print(f"{len(kl)} tensors; mean KL in nats, relative errors of weights and of outputs")
shown = pd.concat({"KL": kl, "weights": error, "output": output}, axis=1)
shown.sort_values(("KL", COARSE)).tail(8)

# %%
figure.show(found[COARSE].figure())

# %% [markdown]
# The one that costs most: what its numbers are like, and what the format makes of them.

# %%
figure.show(found[COARSE].figure(found[COARSE].worst().name))

# %% [markdown]
# Does KL go with the square of the error? The exponent between the two formats, tensor by tensor. And does the sum of
# what tensors cost alone say what they cost together?

# %%
exponent = np.log(kl[COARSE] / kl[FINE]) / np.log(error[COARSE] / error[FINE])
together = pd.Series({name: table["kl_up_to_nats"].iloc[-1] for name, table in tables.items()})
sums = pd.DataFrame({"sum of tensors alone": kl.sum(), "all together": together})
sums["together / sum"] = sums["all together"] / sums["sum of tensors alone"]
sums.round(5)

# %%
sensitive = kl[COARSE] / error[COARSE] ** 2
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
