"""Measuring recipes and single tensors of one model, window by window, with cells kept."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tritlab import _models, _native, receipt
from tritlab._formats import FILE
from tritlab._native import Imatrix, Model
from tritlab.evaluation import Corpus, Slice, cut, imatrix_sha256, measure
from tritlab.precision.cells import Cells
from tritlab.precision.sensitivity import Option, options

if TYPE_CHECKING:
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
    imatrix: Imatrix | None = None
    """Says which columns matter where linear layers change their format."""
    imatrix_sha256: str | None = field(init=False)
    _ids: str = field(init=False)
    _chain: tuple[int, Model] | None = field(default=None, init=False)
    """How many layers of `up_to` are swapped, and the model."""

    def __post_init__(self) -> None:
        raw = np.asarray(self.part.ids).astype("<i4").tobytes()
        self._ids = hashlib.sha256(raw).hexdigest()
        self.imatrix_sha256 = None if self.imatrix is None else imatrix_sha256(self.imatrix)

    @classmethod
    def open(
        cls,
        model: str | os.PathLike[str] | Model,
        corpus: Corpus,
        reference: str | None,
        context: int,
        windows: int,
        store: str | os.PathLike[str] | None,
        imatrix: Imatrix | str | os.PathLike[str] | None = None,
    ) -> Bench:
        """Load a model and its reference, and take the first `windows` windows of a text, or all.

        `EvaluationError` for a text shorter than one.
        """
        source = model.path if isinstance(model, Model) else os.fspath(model)
        path = _models.resolve(source)
        if not (imatrix is None or isinstance(imatrix, Imatrix)):
            imatrix = Imatrix.read(imatrix)
        common: dict[str, Any] = {"fallback": "llama.cpp", "context": context, "imatrix": imatrix}
        own = Model.load(path, **common)
        part = cut(corpus.tokenize(own), context, windows)
        return cls(
            facts=receipt.model_facts(source, path),
            base=FILE if reference is None else reference,
            part=part,
            cells=Cells(None if store is None else Path(store)),
            own=own,
            reference=own if reference is None else Model.load(path, reference, **common),
            imatrix=imatrix,
        )

    def key(self, what: dict[str, Any], windows: int) -> dict[str, Any]:
        """What the numbers of a cell depend on: `what` was measured, and of what."""
        if self.imatrix_sha256 is not None:
            what = {**what, "imatrix": self.imatrix_sha256}
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
        self, name: str, format: str | None, windows: int, progress: Callable[[str], Progress]
    ) -> Outcome:
        """The reference with one tensor in another format, on the first windows."""
        what = {"alone": name, "format": format or FILE}

        def load() -> Model:
            return self.reference.requantize({name: format}, progress=progress("quantise"))

        return self._outcome(what, [name], windows, load, progress)

    def up_to(
        self,
        names: Sequence[str],
        format: str | None,
        windows: int,
        progress: Callable[[str], Progress],
    ) -> Outcome:
        """The reference with several tensors in another format.

        Called with one name more each time, each model is made of the one before.
        """
        what = {"up_to": list(names), "format": format or FILE}

        def load() -> Model:
            done, model = self._chain or (0, self.reference)
            if done > len(names):
                done, model = 0, self.reference
            more = dict.fromkeys(names[done:], format)
            model = model.requantize(more, progress=progress("quantise")) if more else model
            self._chain = len(names), model
            return model

        return self._outcome(what, list(names), windows, load, progress)

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

        cell = self.cells.get(self.key(what, windows), make)
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
