"""Statistics of an evaluation, by the formulas of llama.cpp's `llama-perplexity`.

Sums are exactly rounded (`math.fsum`), so a number depends on the per-token values alone and not on
how wide the machine's vectors are. Errors are standard errors of the mean; tokens are taken as
independent, as the convention does.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    from tritlab._types import Evaluation

    Floats = npt.NDArray[np.float64]

_KL_POINTS = (100.0, 99.9, 99.0, 95.0, 90.0, 50.0, 10.0, 5.0, 1.0, 0.1, 0.0)
_DELTA_POINTS = (100.0, 99.9, 99.0, 95.0, 90.0, 75.0, 50.0, 25.0, 10.0, 5.0, 1.0, 0.1, 0.0)


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value and its standard error (NaN where one token does not allow an error)."""

    value: float
    error: float

    def __str__(self) -> str:
        return f"{self.value:.6g} ± {self.error:.2g}"


@dataclass(frozen=True, slots=True)
class Against:
    """How a model differs from its reference on the same tokens."""

    perplexity: Estimate
    """Of the reference."""
    correlation: float
    """Of the two models' mean log-likelihoods."""
    ln_ratio: Estimate
    """ln(perplexity / reference perplexity)."""
    ratio: Estimate
    difference: Estimate
    kl: Estimate
    """Mean KL(reference || model), nats per token."""
    kl_percentiles: dict[str, float]
    delta_p: Estimate
    """Mean change of the true token's probability."""
    delta_p_rms: Estimate
    delta_p_percentiles: dict[str, float]
    same_top: Estimate
    """Share of positions where both models find the same token likeliest."""


@dataclass(frozen=True, slots=True)
class Quality:
    """Quality of one model on one text."""

    windows: int
    scored: int
    """Tokens scored."""
    nll: Estimate
    """Mean negative log-likelihood, nats per token."""
    perplexity: Estimate
    against: Against | None = None

    def records(self) -> list[dict[str, Any]]:
        """Tidy form: one dictionary per statistic with `statistic`, `value`, `error`."""
        rows: list[dict[str, Any]] = []

        def add(name: str, value: Estimate | float) -> None:
            if isinstance(value, Estimate):
                rows.append({"statistic": name, "value": value.value, "error": value.error})
            else:
                rows.append({"statistic": name, "value": value, "error": None})

        add("mean nll (nats)", self.nll)
        add("perplexity", self.perplexity)
        a = self.against
        if a is not None:
            add("reference perplexity", a.perplexity)
            add("correlation of ln perplexities", a.correlation)
            add("ln(perplexity / reference)", a.ln_ratio)
            add("perplexity / reference", a.ratio)
            add("perplexity - reference", a.difference)
            add("mean KL (nats)", a.kl)
            for name, value in a.kl_percentiles.items():
                add(f"KL {name} (nats)", value)
            add("mean delta p", a.delta_p)
            add("RMS delta p", a.delta_p_rms)
            for name, value in a.delta_p_percentiles.items():
                add(f"delta p {name}", value)
            add("same top token", a.same_top)
        return rows

    def __str__(self) -> str:
        return (
            f"perplexity {self.perplexity.value:.4f} ± {self.perplexity.error:.4f} "
            f"({self.scored} tokens scored in {self.windows} windows)"
        )


def mean(x: npt.ArrayLike) -> Estimate:
    """Mean and its standard error: sqrt((mean(x²) − mean(x)²) / (n − 1))."""
    values = np.asarray(x, dtype=np.float64).ravel()
    n = len(values)
    if n == 0:
        return Estimate(math.nan, math.nan)
    centre = math.fsum(values) / n
    if n == 1:
        return Estimate(centre, math.nan)
    variance = math.fsum((values - centre) ** 2) / n
    return Estimate(centre, math.sqrt(variance / (n - 1)))


def perplexity(nll: npt.ArrayLike) -> Estimate:
    """exp(mean nll), and that times the error of the mean."""
    m = mean(nll)
    value = _exp(m.value)
    return Estimate(value, value * m.error)


def ln_ratio(nll: npt.ArrayLike, ref_nll: npt.ArrayLike) -> Estimate:
    """Ln of the ratio of two perplexities; its error knows that the tokens are the same."""
    return mean(np.asarray(nll, dtype=np.float64) - np.asarray(ref_nll, dtype=np.float64))


def same_top(same: npt.ArrayLike) -> Estimate:
    """Share of true values and its binomial error."""
    values = np.asarray(same, dtype=np.bool_).ravel()
    n = len(values)
    if n == 0:
        return Estimate(math.nan, math.nan)
    p = int(np.count_nonzero(values)) / n
    return Estimate(p, math.sqrt(p * (1 - p) / (n - 1)) if n > 1 else math.nan)


def rms(x: npt.ArrayLike) -> Estimate:
    """Root of the mean square and its error: error(mean of x²) / (2 · rms)."""
    square = mean(np.asarray(x, dtype=np.float64) ** 2)
    root = math.sqrt(square.value)
    return Estimate(root, 0.5 * square.error / root if root > 0 else 0.0)


def percentiles(x: npt.ArrayLike, points: tuple[float, ...] = _KL_POINTS) -> dict[str, float]:
    """Percentiles by linear interpolation, keyed "max", "99.9 %", …, "median", …, "min"."""
    values = np.asarray(x, dtype=np.float64).ravel()
    names = {100.0: "max", 50.0: "median", 0.0: "min"}
    keys = [names.get(point, f"{point:g} %") for point in points]
    if len(values) == 0:
        return dict.fromkeys(keys, math.nan)
    found = np.percentile(values, points)
    return {key: float(value) for key, value in zip(keys, found, strict=True)}


def against(evaluation: Evaluation) -> Against | None:
    """Compare with the reference, if the evaluation had one."""
    if "ref_nll" not in evaluation:
        return None
    nll = np.asarray(evaluation["nll"], dtype=np.float64)
    ref = np.asarray(evaluation["ref_nll"], dtype=np.float64)
    ppl, base = perplexity(nll), perplexity(ref)
    n = len(nll)
    own, other = mean(nll), mean(ref)
    covariance = math.nan
    if n > 1:
        covariance = math.fsum((nll - own.value) * (ref - other.value)) / n / (n - 1)
    spread = own.error * other.error
    ratio = ln_ratio(nll, ref)
    quotient = _exp(ratio.value)
    gap = ppl.error**2 + base.error**2 - 2 * ppl.value * base.value * covariance
    delta = np.asarray(evaluation["p"], np.float64) - np.asarray(evaluation["ref_p"], np.float64)
    return Against(
        perplexity=base,
        correlation=covariance / spread if spread > 0 else math.nan,
        ln_ratio=ratio,
        ratio=Estimate(quotient, quotient * ratio.error),
        difference=Estimate(
            ppl.value - base.value, math.sqrt(gap) if gap > 0 else 0.0 if n > 1 else math.nan
        ),
        kl=mean(evaluation["kl"]),
        kl_percentiles=percentiles(evaluation["kl"]),
        delta_p=mean(delta),
        delta_p_rms=rms(delta),
        delta_p_percentiles=percentiles(delta, _DELTA_POINTS),
        same_top=same_top(evaluation["same_top"]),
    )


def quality(evaluation: Evaluation) -> Quality:
    """All statistics of an evaluation."""
    return Quality(
        windows=int(evaluation["n_chunks"]),
        scored=len(evaluation["nll"]),
        nll=mean(evaluation["nll"]),
        perplexity=perplexity(evaluation["nll"]),
        against=against(evaluation),
    )


def median_mad(x: npt.ArrayLike) -> tuple[float, float]:
    """Median and median absolute deviation (unscaled)."""
    values = np.asarray(x, dtype=np.float64).ravel()
    if len(values) == 0:
        return math.nan, math.nan
    centre = float(np.median(values))
    return centre, float(np.median(np.abs(values - centre)))


def _exp(x: float) -> float:
    try:
        return math.exp(x)
    except OverflowError:
        return math.inf
