"""One row of a comparison: what a format, or another model, came out as."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tritlab._formats import is_ternary
from tritlab.statistics import Estimate, Quality

if TYPE_CHECKING:
    from tritlab._types import TensorInfo
    from tritlab.speed import Speed

TERNARY_NOTE = (
    "ternary rounding of a model that was not trained for it: expected to be ruined. "
    "A model trained in ternary is a different thing"
)


@dataclass(frozen=True)
class Row:
    """One format's line: quality, size, speed, receipt."""

    label: str
    format: str | None
    """What `Model.load` was asked for; `None` keeps the file's own types."""
    kind: str
    """Name of the format that most linear weights have."""
    is_reference: bool
    bits_per_weight: float
    linear_bytes: int
    linear_params: int
    total_bytes: int
    bytes_per_token: int
    rel_error: float
    quality: Quality
    load_s: float
    receipt: dict[str, Any]
    arrays: dict[str, Any] = field(repr=False)
    tensors: list[TensorInfo] = field(repr=False)
    speed: Speed | None = None
    """Speed of this model, or of its format at another's shapes; `None` where nothing was timed."""
    other: bool = False
    """Whether this is another model than the one that the comparison is of."""
    worst: list[dict[str, Any]] = field(default_factory=list, repr=False)
    """Tokens with the largest KL divergence, in their text: see `tokens.worst`."""

    @property
    def kl(self) -> Estimate:
        """Mean KL divergence from the reference; 0 for the reference itself."""
        against = self.quality.against
        return Estimate(0.0, 0.0) if against is None else against.kl

    @property
    def same_top(self) -> Estimate:
        """Top-1 agreement with the reference; 1 for the reference itself."""
        against = self.quality.against
        return Estimate(1.0, 0.0) if against is None else against.same_top

    @property
    def prefill(self) -> tuple[float, float]:
        """Median and median absolute deviation of prefill speed, tokens/s; NaN if not timed."""
        return self.speed.prefill if self.speed else (math.nan, math.nan)

    @property
    def decode(self) -> tuple[float, float]:
        """Median and median absolute deviation of decode speed, tokens/s; NaN if not timed."""
        return self.speed.decode if self.speed else (math.nan, math.nan)

    @property
    def decode_bytes_s(self) -> float:
        """Bytes of weights read per second while decoding; NaN if not timed."""
        return self.speed.decode_bytes_s if self.speed else math.nan

    @property
    def mixed(self) -> bool:
        """Whether the linear layers have more formats than one; `kind` is then the most common."""
        return len({t["format"] for t in self.tensors if t["role"] == "linear"}) > 1

    @property
    def note(self) -> str:
        """What a reader must know beside the number."""
        if self.is_reference:
            return "reference"
        rounded = (
            not self.other
            and self.format is not None
            and is_ternary(self.kind)
            and self.rel_error > 0.1
        )
        return TERNARY_NOTE if rounded else ""


def relative_error(tensors: list[TensorInfo]) -> float:
    """Relative weight error of the linear layers: root of the size-weighted mean square."""
    linear = [tensor for tensor in tensors if tensor["role"] == "linear"]
    total = sum(tensor["n_params"] for tensor in linear)
    if total == 0:
        return math.nan
    return math.sqrt(
        math.fsum(tensor["rel_error"] ** 2 * tensor["n_params"] for tensor in linear) / total
    )
