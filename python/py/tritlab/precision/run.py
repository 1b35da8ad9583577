"""The search: what is measured, in which order, and what is chosen."""

from __future__ import annotations

import datetime
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from tritlab import _native, machine, receipt
from tritlab._formats import FILE, is_ternary, parse_format
from tritlab._native import Imatrix, Model
from tritlab._progress import Reporter, reporter_for
from tritlab.errors import FormatError, SearchError
from tritlab.evaluation import FINGERPRINT_TOKENS, Corpus, Text
from tritlab.precision.budget import parse_budget
from tritlab.precision.knapsack import least_cost, least_size, require_solver
from tritlab.precision.measuring import Bench, Outcome
from tritlab.precision.result import Candidate, Search
from tritlab.precision.sensitivity import Sensitivity, Unit, fit, probes, units

if TYPE_CHECKING:
    from tritlab._types import Progress

How = Literal["one", "two", "exhaustive"]
"""In how many formats each tensor is measured."""
AGREES = 1.1
"""A recipe measured within this factor of its prediction needs no other costs."""


def search(
    model: str | os.PathLike[str] | Model,
    text: Text,
    *,
    budget: int | float | str | None = None,
    max_kl: float | None = None,
    formats: Sequence[str] | str | None = None,
    base: str | None = None,
    context: int = 512,
    chunks: int = 2,
    verify_chunks: int = 4,
    sensitivity: How = "one",
    refine: int = 3,
    front: int = 5,
    imatrix: Imatrix | str | os.PathLike[str] | None = None,
    store: str | os.PathLike[str] | None = None,
    threads: int | None = None,
    backend: str | None = None,
    progress: bool | Reporter = True,
    command: str | None = None,
) -> Search:
    """Choose a format for each tensor: the best within a budget, or the smallest of a quality.

    The answer is never worse than the best uniform recipe (one format throughout, with the file's
    own head or with the head in it too): those are candidates, and are measured on the same text.

    Args:
        model: Path of a GGUF file or folder, a packaged model, or a loaded model: its file is used.
        text: The text itself, a `Path` to it, or int32 token ids.
        budget: Most bytes of all weights in their packed form, norms included: a number, "60MB",
            "57MiB", or "3.0 bpw" (bits per weight, over all weights). The file that is written also
            holds the tokenizer.
        max_kl: Or else the most mean KL divergence from the reference, nats per token.
        formats: Formats to choose from, beside the file's own type of each tensor; by default all
            that GGUF can hold, the ternary ones left out.
        base: Format of the reference; `None` or "file" for the file's own types.
        context: Tokens per window.
        chunks: Windows at the beginning of the text on which tensors are measured.
        verify_chunks: Windows after them, on which recipes are compared and nothing else is done.
        sensitivity: Formats that each tensor is measured in: "one" (the coarsest), "two" or
            "exhaustive" (all). The cost in others follows from the error in the weights.
        refine: Most times that costs are fitted again to what was measured.
        front: Other budgets that are solved and measured, for the Pareto front.
        imatrix: An importance matrix, or its file, for every rounding; best of another text than
            recipes are compared on. Weight errors stay those of plain weights.
        store: Folder in which measurements are kept; the same search later, or with another budget,
            takes them from there.
        threads: Number of threads; `None` leaves it as it is.
        backend: Backend; `None` leaves it as it is.
        progress: Whether to show a bar.
        command: Exact command for the receipts; by default this call.

    Raises:
        SearchError: For a budget or a quality out of reach, a text too short, no choice to make.
        FormatError: For a format that does not exist, or that GGUF cannot hold.
        NotInstalledError: Without SciPy, the extra `search`.

    """
    if (budget is None) == (max_kl is None):
        raise SearchError("give either a budget or max_kl")
    if max_kl is not None and not (math.isfinite(max_kl) and max_kl > 0):
        raise SearchError(f"max_kl must be a positive number of nats, not {max_kl!r}")
    if sensitivity not in get_args(How):
        raise SearchError(f"sensitivity is one of {', '.join(get_args(How))}, not {sensitivity!r}")
    for name, value, least in (
        ("chunks", chunks, 1),
        ("verify_chunks", verify_chunks, 1),
        ("refine", refine, 0),
        ("front", front, 0),
    ):
        if value < least:
            raise SearchError(f"{name} must be at least {least}, not {value}")
    require_solver()
    names = candidates(formats)
    reference = parse_format(base)
    if threads is not None:
        _native.set_threads(threads)
    if backend is not None:
        _native.set_backend(backend)
    settings = {
        "budget": budget,
        "max_kl": max_kl,
        "formats": names,
        "base": FILE if reference is None else reference,
        "context": context,
        "chunks": chunks,
        "verify_chunks": verify_chunks,
        "sensitivity": sensitivity,
        "refine": refine,
        "front": front,
        "threads": _native.get_threads(),
        "backend": _native.current_backend(),
    }
    reporter = reporter_for(progress, "step")
    corpus = Corpus.read(text)
    bench = _bench(model, corpus, reference, context, (chunks, verify_chunks), store, imatrix)
    settings["imatrix"] = bench.imatrix_sha256
    own, part = bench.own, bench.part
    target = None if budget is None else parse_budget(budget, own.n_params)
    run = _Run(bench, units(own.tensors()), names, chunks, sensitivity, reporter)
    if not run.units:
        raise SearchError("there is nothing to choose: all of the model's matrices are ternary")
    reporter.start(1 + 2 * len(names) + len(run.units) + 1 + refine + front)
    try:
        run.measure_uniform()
        run.measure_tensors()
        if target is not None:
            run.check(target)
            run.solve(lambda: run.for_budget(target), _size(target), refine)
        elif max_kl is not None:
            bound = max_kl
            run.solve(lambda: run.for_quality(bound), f"KL {max_kl:.3g}", refine)
        run.measure_front(front)
    finally:
        reporter.stop()
    chosen, best = run.choose(target, max_kl)
    return Search(
        chosen=chosen,
        best_uniform=best,
        candidates=run.found,
        sensitivity=run.sensitivity,
        matrices=[(unit.name, unit.file_type) for unit in units(own.tensors(), every=True)],
        front=run.front_line(),
        target=target,
        max_kl=max_kl,
        factors=run.factors,
        model=bench.facts | receipt.shape_facts(own) | {"total_bytes": own.total_bytes},
        text=receipt.text_facts(corpus, part),
        path=Path(own.path),
        ids=np.asarray(part.ids[: min(FINGERPRINT_TOKENS, context)]),
        settings=settings,
        machine=machine(),
        versions=receipt.versions(),
        command=command or f"tritlab.search({bench.facts['source']!r}, ...)",
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        imatrix=bench.imatrix,
        reused=bench.cells.reused,
        damaged=list(bench.cells.damaged),
    )


def measure_tensors(
    model: str | os.PathLike[str] | Model,
    text: Text,
    formats: Sequence[str] | str,
    *,
    base: str | None = None,
    context: int = 512,
    chunks: int = 2,
    imatrix: Imatrix | str | os.PathLike[str] | None = None,
    store: str | os.PathLike[str] | None = None,
    progress: bool | Reporter = True,
) -> Sensitivity:
    """Put each tensor alone into each of `formats`, and measure the KL divergence that this causes.

    Arguments are those of `search`. A format that does not fit a tensor's rows is measured as the
    one that llama-quantize takes instead. Weight errors come along: see `Sensitivity.records`.
    """
    names = candidates(formats)
    reporter = reporter_for(progress, "step")
    corpus = Corpus.read(text)
    bench = _bench(model, corpus, parse_format(base), context, (chunks, 0), store, imatrix)
    found = Sensitivity(units(bench.own.tensors()), {})
    reporter.start(len(found.units))
    try:
        for unit in found.units:
            kls = found.measured[unit.name] = {}
            for name in names:
                outcome = bench.alone(unit.name, name, chunks, _steps(reporter, unit.name))
                option = outcome.tensors[unit.name]
                if option.format == unit.own.format:
                    continue
                unit.add(option)
                kls[option.format] = outcome.part(0, chunks).kl
            reporter.row(_measured(unit, kls))
    finally:
        reporter.stop()
    return found


def _steps(reporter: Reporter, label: str) -> Callable[[str], Progress]:
    """What a measurement of `label` says while it runs."""
    return lambda what: reporter.step(label, what)


def _measured(unit: Unit, kls: Mapping[str, float]) -> str:
    shown = ", ".join(f"{kl:.3g} in {name}" for name, kl in kls.items())
    return f"{unit.name}: KL {shown or 'not measured: nothing else fits'}"


def _bench(
    model: str | os.PathLike[str] | Model,
    corpus: Corpus,
    reference: str | None,
    context: int,
    chunks: tuple[int, int],
    store: str | os.PathLike[str] | None,
    imatrix: Imatrix | str | os.PathLike[str] | None,
) -> Bench:
    """The model and its reference, with windows for tensors and for recipes."""
    bench = Bench.open(model, corpus, reference, context, sum(chunks), store, imatrix)
    if bench.part.windows < sum(chunks):
        others = f" and {chunks[1]} others to compare recipes" if chunks[1] else ""
        found = bench.part.windows
        raise SearchError(
            f"the text has {found} windows of {context} tokens; {chunks[0]} to measure "
            f"tensors{others} are wanted: give a longer text, a smaller context or fewer windows"
        )
    return bench


def candidates(formats: Sequence[str] | str | None) -> list[str]:
    """Names of formats to choose from, checked: each must be one that a GGUF file can hold."""
    table = {info["name"]: info for info in _native.formats()}
    if formats is None:
        wide = ("F32", "F16", "BF16")  # never better than the file's own type for its bytes
        return [
            name
            for name, info in table.items()
            if info["in_gguf"] and not is_ternary(name) and name not in wide
        ]
    given = formats.split(",") if isinstance(formats, str) else formats
    found = [name for item in given if (name := parse_format(item.strip())) is not None]
    if not found:
        raise FormatError("no format to choose from; give at least one")
    for name in found:
        if name not in table:
            raise FormatError(f"formats to choose from have their own rule: no projection, {name}")
        if not table[name]["in_gguf"]:
            known = ", ".join(n for n, info in table.items() if info["in_gguf"])
            raise FormatError(f"GGUF has no tensor type for {name}; it can hold {known}")
    return list(dict.fromkeys(found))


@dataclass
class _Run:
    """State of one search."""

    bench: Bench
    units: list[Unit]
    formats: list[str]
    chunks: int
    how: str
    reporter: Reporter
    found: list[Candidate] = field(default_factory=list)
    sensitivity: Sensitivity = field(default_factory=lambda: Sensitivity([], {}))
    factors: dict[str, float] = field(default_factory=dict)

    def measure_uniform(self) -> None:
        """The file as it is, and each format throughout; this also gives every weight error."""
        self._add("file", FILE, {}, self.bench.recipe({}, self._step(FILE)))
        by_name = {unit.name: unit for unit in self.units}
        linear = [unit.name for unit in self.units if unit.role == "linear"]
        for format in self.formats:
            for label, names in ((format, linear), (f"{format} + head", list(by_name))):
                if not names:
                    self.reporter.row(f"{label}: no linear layer to change")
                    continue
                outcome = self.bench.uniform(format, names, self._step(label))
                for name, option in outcome.tensors.items():
                    by_name[name].add(option)
                kinds = {option.format for option in outcome.tensors.values()}
                others = sorted(kinds - {format})
                shown = label if not others else f"{label} (else {', '.join(others)})"
                changed = self._changed({n: o.format for n, o in outcome.tensors.items()})
                self._add("uniform", shown, changed, outcome)

    def measure_tensors(self) -> None:
        """Each tensor alone."""
        measured: dict[str, dict[str, float]] = {}
        self.sensitivity = Sensitivity(self.units, measured)
        for unit in self.units:
            kls = measured[unit.name] = {}
            for format in probes(unit, self.how):
                step = self._step(unit.name)
                outcome = self.bench.alone(unit.name, format, self.chunks, step)
                kls[format] = outcome.part(0, self.chunks).kl
            self.reporter.row(_measured(unit, kls))

    # ---- solving ----

    def _options(self) -> list[list[str]]:
        return [list(unit.options) for unit in self.units]

    def _costs(self) -> list[list[float]]:
        return [
            [self.factors.get(f, 1.0) * self.sensitivity.cost(unit, f) for f in unit.options]
            for unit in self.units
        ]

    def _sizes(self) -> list[list[int]]:
        return [[option.nbytes for option in unit.options.values()] for unit in self.units]

    def _fixed(self) -> int:
        """Bytes of what stays: norms, and matrices that are ternary already."""
        return self.bench.own.total_bytes - sum(unit.own.nbytes for unit in self.units)

    def _floor(self) -> float:
        """KL of the file as it is: not 0 where the reference has another format."""
        return self.found[0].sensitivity.kl

    def _recipe(self, indices: Sequence[int]) -> dict[str, str]:
        pairs = zip(self.units, self._options(), indices, strict=True)
        return self._changed({unit.name: names[i] for unit, names, i in pairs})

    def _changed(self, formats: Mapping[str, str]) -> dict[str, str]:
        own = {unit.name: unit.own.format for unit in self.units}
        return {name: format for name, format in formats.items() if format != own[name]}

    def for_budget(self, budget: int) -> dict[str, str]:
        """The recipe with the least predicted KL of at most `budget` bytes."""
        return self._recipe(least_cost(self._costs(), self._sizes(), budget - self._fixed()))

    def for_quality(self, most: float) -> dict[str, str]:
        """The smallest recipe whose predicted KL is at most `most`."""
        return self._recipe(least_size(self._costs(), self._sizes(), most - self._floor()))

    def predict(self, formats: Mapping[str, str]) -> float:
        """KL of a recipe by the present costs, on the windows where tensors were measured."""
        return self._floor() + math.fsum(
            self.factors.get(f, 1.0) * self.sensitivity.cost(unit, f)
            for unit in self.units
            if (f := formats.get(unit.name)) is not None
        )

    def calibrate(self) -> None:
        """Fit the costs, by format, to all recipes measured so far."""
        sums = []
        for candidate in self.found[1:]:
            by_format = dict.fromkeys(self.formats, 0.0)
            for unit in self.units:
                format = candidate.formats.get(unit.name)
                if format is not None:
                    cost = self.sensitivity.cost(unit, format)
                    by_format[format] = by_format.get(format, 0.0) + cost
            sums.append(by_format)
        names = list(dict.fromkeys(name for by_format in sums for name in by_format))
        kls = [candidate.sensitivity.kl - self._floor() for candidate in self.found[1:]]
        self.factors = fit(sums, kls, names)

    def check(self, budget: int) -> None:
        """Raise `SearchError` for a budget below the smallest recipe there is."""
        least = self._fixed() + sum(min(row) for row in self._sizes())
        if budget < least:
            params = self.bench.own.n_params
            raise SearchError(
                f"the budget is {budget} bytes, but with these formats the smallest recipe has "
                f"{least} ({8 * least / params:.3f} bpw)"
            )

    def solve(self, solver: Callable[[], dict[str, str]], label: str, refine: int) -> None:
        """Solve, measure, and again while the recipes are not as predicted."""
        for round in range(1 + refine):
            self.calibrate()
            try:
                formats = solver()
            except SearchError as error:
                # Costs that were fitted can put a quality out of reach: what is there is judged.
                self.reporter.row(f"{label}: {error}")
                return
            if any(candidate.formats == formats for candidate in self.found):
                return
            name = f"searched for {label}" + (f", round {round + 1}" if round else "")
            added = self._measure(name, formats)
            if added.agrees(AGREES):
                return

    def _measure(self, label: str, formats: dict[str, str]) -> Candidate:
        return self._add(
            "searched",
            label,
            formats,
            self.bench.recipe(formats, self._step(label)),
            self.predict(formats),
        )

    def measure_front(self, count: int) -> None:
        """Recipes for other budgets, spaced evenly between the smallest and the largest uniform."""
        self.calibrate()
        for budget in self._ladder(count):
            formats = self.for_budget(budget)
            if any(candidate.formats == formats for candidate in self.found):
                self.reporter.row(f"{_size(budget)}: a recipe that is measured already")
                continue
            self._measure(f"searched for {_size(budget)}", formats)

    def _ladder(self, count: int) -> list[int]:
        sizes = [candidate.total_bytes for candidate in self.found if candidate.kind == "uniform"]
        if count == 0 or not sizes:
            return []
        least = self._fixed() + sum(min(row) for row in self._sizes())
        low = max(least, min(sizes))
        high = max(low, min(max(sizes), self.bench.own.total_bytes))
        return [int(x) for x in np.geomspace(low, high, count)]

    def front_line(self) -> list[tuple[int, float]]:
        """Sizes and predicted KL of the best recipes, for a line in a figure."""
        line = []
        for budget in self._ladder(24):
            formats = self.for_budget(budget)
            line.append((self._bytes(formats), self.predict(formats)))
        return line

    def _bytes(self, formats: Mapping[str, str]) -> int:
        chosen = (unit.options[formats.get(unit.name, unit.own.format)] for unit in self.units)
        return self._fixed() + sum(option.nbytes for option in chosen)

    # ---- choosing ----

    def choose(
        self, budget: int | None, max_kl: float | None
    ) -> tuple[Candidate, Candidate | None]:
        """The best candidate, and the best uniform one, by what verification measured."""
        if budget is not None:
            fits = [c for c in self.found if c.total_bytes <= budget]

            def worth(c: Candidate) -> tuple[float, float]:
                return c.verification.kl, c.total_bytes
        else:
            assert max_kl is not None
            fits = [c for c in self.found if c.verification.kl <= max_kl]
            if not fits:
                best = min(self.found, key=lambda c: c.verification.kl)
                raise SearchError(
                    f"no recipe has a mean KL of at most {max_kl:.4g} nats; the best measured, "
                    f"{best.label}, has {best.verification.kl:.4g}"
                )

            def worth(c: Candidate) -> tuple[float, float]:
                return c.total_bytes, c.verification.kl

        uniform = [c for c in fits if c.kind != "searched"]
        return min(fits, key=worth), min(uniform, key=worth, default=None)

    def _add(
        self,
        kind: Literal["file", "uniform", "searched"],
        label: str,
        formats: dict[str, str],
        outcome: Outcome,
        predicted: float | None = None,
    ) -> Candidate:
        candidate = Candidate(
            label=label,
            kind=kind,
            formats=formats,
            total_bytes=outcome.total_bytes,
            bits_per_weight=8 * outcome.total_bytes / self.bench.own.n_params,
            predicted=predicted,
            sensitivity=outcome.part(0, self.chunks),
            verification=outcome.part(self.chunks, self.bench.part.windows),
            results=outcome.results,
        )
        same = next((c for c in self.found if c.formats == formats), None)
        if same is None:
            self.found.append(candidate)
        kl = candidate.verification.kl
        self.reporter.row(f"{label}: {_size(candidate.total_bytes)}, KL {kl:.4g}")
        return same or candidate

    def _step(self, label: str) -> Callable[[str], Progress]:
        return _steps(self.reporter, label)


def _size(nbytes: int) -> str:
    return f"{nbytes / 1e6:.3g} MB"
