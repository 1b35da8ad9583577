"""Precision chosen by measurement: a format for each tensor, under a budget.

    tl.search("model.gguf", Path("book.txt"), budget="60MB").save("results")
    precision.measure_tensors("model.gguf", text, ["Q4_0"]).records  # which tensors hurt

1. Uniform recipes, one format throughout, are measured: they are the baselines, and say what error
   each format makes in each tensor's weights.
2. Sensitivity: each tensor alone is put into a coarse format, and the KL divergence from the
   reference is measured. KL grows with the square of the relative weight error (a second-order
   expansion around a minimum), which gives its cost in every other format.
3. Costs of tensors nearly add up, so the best recipe for a size is a knapsack with one choice per
   tensor, solved exactly by HiGHS (`scipy.optimize.milp`).
4. The recipe is measured. Where it is not as predicted, the costs are fitted to everything that has
   been measured, and the knapsack is solved again.
5. The answer is the best of all candidates, the uniform ones included, on a part of the text that
   nothing before has used.

Nothing is drawn at random. The second-order argument is that of V. Malinovskii et al., "Pushing
the Limits of Large Language Model Quantization via the Linearity Theorem", arXiv 2411.17525.
"""

from tritlab.precision.result import Candidate, Search
from tritlab.precision.run import How, measure_tensors, search
from tritlab.precision.sensitivity import Sensitivity

__all__ = ["Candidate", "How", "Search", "Sensitivity", "measure_tensors", "search"]
