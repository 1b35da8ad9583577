"""Measuring recipes and single tensors of one model, window by window, with cells kept."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from tritlab import _native, receipt
from tritlab.evaluation import Slice, measure
from tritlab.precision.cells import Cells
from tritlab.precision.sensitivity import Option, options

if TYPE_CHECKING:
    from tritlab._native import Model
    from tritlab._types import Evaluation, Progress


@dataclass(frozen=True)
class Part:
    """What a recipe is on some windows of the text."""

    perplexity: float
    kl: float
    """Mean KL from the reference, nats per token; NaN without a reference."""
    kl_error: float
    same_top: float
    tokens: int
    kl_windows: tuple[float, ...]
    """The same mean of each window."""

    @classmethod
    def of(cls, windows: list[dict[str, Any]]) -> Part:
        """Of windows as a cell holds them."""
        n = sum(w["tokens"] for w in windows)
        square = math.fsum(w["kl_square"] for w in windows) / n
        kl = math.fsum(w["kl"] for w in windows) / n
        return cls(
            perplexity=math.exp(math.fsum(w["nll"] for w in windows) / n),
            kl=kl,
            kl_error=math.sqrt(max(square - kl * kl, 0.0) / (n - 1)) if n > 1 else math.nan,
            same_top=sum(w["same_top"] for w in windows) / n,
            tokens=n,
            kl_windows=tuple(w["kl"] / w["tokens"] for w in windows),
        )

    def record(self) -> dict[str, Any]:
        """One flat dictionary."""
        return {
            "kl_nats": self.kl,
            "kl_nats_error": self.kl_error,
            "perplexity": self.perplexity,
            "same_top": self.same_top,
            "scored_tokens": self.tokens,
        }


@dataclass(frozen=True)
class Outcome:
    """A cell, read: what became of the tensors, and how good the model is."""

    tensors: dict[str, Option]
    """Those that were to change, as they came out."""
    total_bytes: int
    windows: list[dict[str, Any]]
    results: dict[str, Any]
    """What a re-run must reproduce, as in a receipt."""

    def part(self, first: int, last: int) -> Part:
        """Windows `first` to `last`, the last left out."""
        return Part.of(self.windows[first:last])


@dataclass
class Bench:
    """One model and its reference on one text. Models are loaded only where a cell is missing."""

    facts: dict[str, Any]
    """The model's, as in a receipt."""
    base: str
    """Format of the reference; "file" for the file's own types."""
    part: Slice
    cells: Cells
    own: Model
    """As the file has it."""
    reference: Model
    _ids: str = field(init=False)

    def __post_init__(self) -> None:
        raw = np.asarray(self.part.ids).astype("<i4").tobytes()
        self._ids = hashlib.sha256(raw).hexdigest()

    def _key(self, what: dict[str, Any], windows: int) -> dict[str, Any]:
        return {
            "version": _native.__version__,
            "model": self.facts["sha256"],
            "ids": self._ids,
            "context": self.part.context,
            "windows": windows,
            "reference": self.base,
            **what,
        }

    def recipe(self, formats: Mapping[str, str], progress: Callable[[str], Progress]) -> Outcome:
        """The model with some tensors in other formats, on the whole slice."""
        what = {"recipe": dict(sorted(formats.items()))}

        def load() -> Model:
            if not formats:
                return self.own
            return self.own.requantize(dict(formats), progress=progress("quantise"))

        return self._outcome(what, list(formats), self.part.windows, load, progress)

    def uniform(
        self, format: str, names: list[str], progress: Callable[[str], Progress]
    ) -> Outcome:
        """The model with the tensors `names` in one format, or in what takes its place."""
        what = {"uniform": format, "tensors": sorted(names)}

        def load() -> Model:
            return self.own.requantize(dict.fromkeys(names, format), progress=progress("quantise"))

        return self._outcome(what, names, self.part.windows, load, progress)

    def alone(
        self, name: str, format: str, windows: int, progress: Callable[[str], Progress]
    ) -> Outcome:
        """The reference with one tensor in another format, on the first windows."""
        what = {"alone": name, "format": format}

        def load() -> Model:
            return self.reference.requantize({name: format}, progress=progress("quantise"))

        return self._outcome(what, [name], windows, load, progress)

    def _outcome(
        self,
        what: dict[str, Any],
        changed: list[str],
        windows: int,
        load: Callable[[], Model],
        progress: Callable[[str], Progress],
    ) -> Outcome:
        context = self.part.context
        part = Slice(self.part.ids[: windows * context], self.part.tokens, windows, context)

        def make() -> dict[str, Any]:
            model = load()
            found = measure(model, part, self.reference, progress("evaluate"))
            now = options(model.tensors())
            return {
                "tensors": {
                    name: [now[name].format, now[name].nbytes, now[name].error] for name in changed
                },
                "total_bytes": model.total_bytes,
                "windows": _windows(found.arrays, windows),
                "results": receipt.results(found),
            }

        cell = self.cells.get(self._key(what, windows), make)
        return Outcome(
            {name: Option(*values) for name, values in cell["tensors"].items()},
            cell["total_bytes"],
            cell["windows"],
            cell["results"],
        )


def _windows(arrays: Evaluation, windows: int) -> list[dict[str, Any]]:
    """Sums over each window; all have the same number of scored tokens."""

    def split(name: str) -> list[Any]:
        return np.split(np.asarray(arrays[name], np.float64), windows)  # type: ignore[literal-required]

    return [
        {
            "tokens": len(kl),
            "nll": math.fsum(nll),
            "kl": math.fsum(kl),
            "kl_square": math.fsum(kl * kl),
            "same_top": int(np.count_nonzero(same)),
        }
        for nll, kl, same in zip(split("nll"), split("kl"), split("same_top"), strict=True)
    ]
