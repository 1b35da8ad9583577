"""One option per tensor: the best for a size, or the smallest for a quality."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from tritlab._extras import need
from tritlab.errors import SearchError

if TYPE_CHECKING:
    import numpy.typing as npt


def require_solver() -> None:
    """Raise `NotInstalledError` without SciPy, whose HiGHS solves the knapsack."""
    need("scipy.optimize", "the search")


def least_cost(
    costs: Sequence[Sequence[float]], sizes: Sequence[Sequence[int]], budget: int
) -> list[int]:
    """Indices, one per tensor, of the options whose costs sum to the least within the budget.

    `costs[i][j]` (at least 0) and `sizes[i][j]` (bytes) are of option j of tensor i. `SearchError`
    if even the smallest options are too large.
    """
    smallest = sum(min(row) for row in sizes)
    if smallest > budget:
        raise SearchError(f"the smallest options take {smallest} bytes, more than {budget}")
    # Whole units: then what the solver takes for equal is equal.
    unit = math.gcd(*(size for row in sizes for size in row)) or 1
    limit = budget // unit
    weights = [[size // unit for size in row] for row in sizes]
    while True:
        chosen = _solve(costs, weights, limit)
        over = sum(row[j] for row, j in zip(weights, chosen, strict=True)) - budget // unit
        if over <= 0:
            return chosen
        limit -= over  # the solver's tolerance let it through


def least_size(
    costs: Sequence[Sequence[float]], sizes: Sequence[Sequence[int]], most: float
) -> list[int]:
    """Indices of the options whose sizes sum to the least while their costs sum to `most` at most.

    `SearchError` if even the cheapest options cost more.
    """
    cheapest = math.fsum(min(row) for row in costs)
    if cheapest > most:
        raise SearchError(f"the best options sum to {cheapest:.4g}, more than {most:.4g}")
    limit = most
    while True:
        chosen = _solve(sizes, costs, limit)
        total = math.fsum(row[j] for row, j in zip(costs, chosen, strict=True))
        if total <= most:
            return chosen
        limit = max(cheapest, limit - 2 * (total - most))


def _solve(
    objective: Sequence[Sequence[float]], weights: Sequence[Sequence[float]], limit: float
) -> list[int]:
    from scipy.optimize import Bounds, LinearConstraint, milp
    from scipy.sparse import csr_array

    counts = [len(row) for row in objective]
    flat: npt.NDArray[np.float64] = np.concatenate([np.asarray(row, float) for row in objective])
    load: npt.NDArray[np.float64] = np.concatenate([np.asarray(row, float) for row in weights])
    owner = np.repeat(np.arange(len(counts)), counts)
    every = np.arange(len(flat))
    one_each = csr_array((np.ones(len(flat)), (owner, every)), shape=(len(counts), len(flat)))
    # HiGHS stops at an absolute gap of 1e-6: the sums are brought to about 1e6.
    scale = 1e6 / max(float(np.sum([max(row) for row in objective])), 1e-300)
    span = 1e6 / limit if isinstance(limit, float) and limit > 0 else 1.0
    found = milp(
        flat * scale,
        integrality=np.ones(len(flat), dtype=np.int64),
        bounds=Bounds(0, 1),
        constraints=[
            LinearConstraint(one_each, 1, 1),
            LinearConstraint(load[None, :] * span, -np.inf, limit * span),
        ],
        options={"mip_rel_gap": 1e-6, "time_limit": 120.0},
    )
    if found.x is None:
        raise SearchError(f"the solver found no recipe: {found.message}")
    chosen = []
    start = 0
    for count in counts:
        chosen.append(int(np.argmax(found.x[start : start + count])))
        start += count
    return chosen
