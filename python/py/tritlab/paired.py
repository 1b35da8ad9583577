"""Is one precision better than another? Paired differences, with errors that know the text.

Two models score the same tokens, so their difference is known far better than either value. Tokens
of one document (or of one window, where documents are not told) go up and down together, so errors
come from drawing whole clusters again: the cluster bootstrap (B. Efron and R. Tibshirani, An
Introduction to the Bootstrap, 1993, §8; for language models: E. Miller, arXiv 2411.00640, §2.2).
With few clusters plain percentiles are too narrow; the quantiles taken are those of the expanded
percentile interval (T. Hesterberg, arXiv 1411.5279, §5.3), right for means as the t interval is.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

import numpy as np

from tritlab._native import EvaluationError

if TYPE_CHECKING:
    import numpy.typing as npt

FEW = 5
"""With fewer clusters than this, drawing them again says little: nothing is called different."""


@dataclass(frozen=True, slots=True)
class Difference:
    """The mean of `a` − `b` per token, and the interval that the bootstrap puts around it."""

    value: float
    low: float
    high: float
    level: float
    """How often such an interval holds the true difference: 0.95."""
    tokens: int
    clusters: int

    @property
    def distinguishable(self) -> bool:
        """Whether 0 is outside the interval, and there are clusters enough to say so."""
        return self.clusters >= FEW and not self.low <= 0.0 <= self.high

    def __str__(self) -> str:
        said = (
            f"{self.value:+.4g} [{self.low:+.4g}, {self.high:+.4g}] "
            f"({self.level:.0%}, {self.clusters} clusters)"
        )
        if self.clusters < FEW:
            return f"{said}: too few clusters to tell"
        return said if self.distinguishable else f"{said}: not distinguishable"

    def record(self) -> dict[str, Any]:
        """One flat dictionary."""
        return {
            "difference": self.value,
            "low": self.low,
            "high": self.high,
            "level": self.level,
            "tokens": self.tokens,
            "clusters": self.clusters,
            "distinguishable": self.distinguishable,
        }


def difference(
    a: npt.ArrayLike,
    b: npt.ArrayLike,
    clusters: npt.ArrayLike,
    *,
    level: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> Difference:
    """Mean of `a` − `b` over tokens, with an interval by the cluster bootstrap.

    `a`, `b` are float [n], one value per token, and `clusters` int [n] says which document or
    window each token is of. Each of `resamples` drawings takes as many clusters as there are, with
    repetition; its statistic is sum of differences / number of tokens drawn.

    Raises `EvaluationError` for arrays of other lengths, no tokens, or numbers that are not finite.
    """
    first, second, names = (
        np.asarray(a, np.float64),
        np.asarray(b, np.float64),
        np.asarray(clusters),
    )
    if first.ndim != 1 or not first.shape == second.shape == names.shape:
        raise EvaluationError(
            f"paired values are [n] each: a is {list(first.shape)}, b {list(second.shape)}, "
            f"clusters {list(names.shape)}"
        )
    delta = first - second
    if len(delta) == 0:
        raise EvaluationError("there are no tokens to compare")
    if not np.isfinite(delta).all():
        at = int(np.flatnonzero(~np.isfinite(delta))[0])
        raise EvaluationError(f"a - b is {delta[at]} at token {at}")
    if not 0.0 < level < 1.0:
        raise EvaluationError(f"level must be between 0 and 1, not {level}")
    if resamples < 1:
        raise EvaluationError(f"resamples must be at least 1, not {resamples}")
    _, index = np.unique(names, return_inverse=True)
    sizes = np.bincount(index)
    sums = np.bincount(index, weights=delta)
    count = len(sizes)
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(count, np.full(count, 1 / count), size=resamples)
    means = (drawn @ sums) / (drawn @ sizes)
    outside = _expanded(1 - level, count) / 2
    low, high = np.quantile(means, [outside, 1 - outside])
    value = math.fsum(delta) / len(delta)
    return Difference(value, float(low), float(high), level, len(delta), count)


def _expanded(alpha: float, n: int) -> float:
    """Share outside the percentiles with which an interval of `n` clusters misses `alpha` times.

    The normal quantile of the result is sqrt(n / (n − 1)) times Student's for `alpha`.
    """
    if n < 2:
        return alpha
    low, high = 0.0, 1e6  # Student's quantile, by halving: its distribution is known in closed form
    while high - low > 1e-9 * high:
        middle = (low + high) / 2
        low, high = (
            (middle, high) if _student_two_sided(middle, n - 1) < 1 - alpha else (low, middle)
        )
    return 2 * NormalDist().cdf(-math.sqrt(n / (n - 1)) * high)


def _student_two_sided(t: float, nu: int) -> float:
    """P(|T| < t) of Student's distribution (Abramowitz and Stegun, 26.7.3 and 26.7.4)."""
    angle = math.atan(t / math.sqrt(nu))
    cosine, sine = math.cos(angle), math.sin(angle)
    odd = nu % 2
    term = cosine if odd else 1.0
    total = 0.0 if nu == 1 else term
    for k in range(2 + odd, nu - 1, 2):
        term *= (k - 1) / k * cosine * cosine
        total += term
    return 2 / math.pi * (angle + sine * total) if odd else sine * total
