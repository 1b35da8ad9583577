"""Plan a sweep, run what is missing, collect the rows."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tritlab import _models, _native
from tritlab._extras import need
from tritlab._files import sha256_model
from tritlab._formats import is_dense
from tritlab._progress import Reporter, reporter_for
from tritlab.errors import SweepError
from tritlab.sweeps import _engine
from tritlab.sweeps._cell import Cell, Job, kernels_fingerprint, read_text, run
from tritlab.sweeps._result import Sweep
from tritlab.sweeps._spec import Spec
from tritlab.sweeps._store import Store

__all__ = ["Plan", "plan", "run", "sweep"]


@dataclass(frozen=True)
class Planned:
    """A cell in its sweep: the labels that the file gave."""

    model: str
    text: str
    cell: Cell


@dataclass(frozen=True)
class Plan:
    """The cells of a sweep in the order of its table, and what is stored of them."""

    spec: Spec
    store: Store
    cells: list[Planned]
    done: dict[str, dict[str, Any]]
    """Rows that are stored and fine, by key."""
    damaged: dict[str, str]
    """What is wrong with the files of cells that will be made again, by key."""
    failed: list[str] = field(default_factory=list)
    """Keys of cells that failed before and will be tried again."""

    @property
    def missing(self) -> list[Planned]:
        """Cells to run, each once."""
        return list({p.cell.key: p for p in self.cells if p.cell.key not in self.done}.values())

    def __str__(self) -> str:
        unique = len({p.cell.key for p in self.cells})
        said = f"{len(self.cells)} cells, {len(self.done)} of them stored"
        if unique != len(self.cells):
            said += f" ({unique} different ones)"
        if self.failed:
            said += f", {len(self.failed)} that failed before"
        return f"{said}; {len(self.missing)} to run"


def plan(
    source: str | os.PathLike[str] | Mapping[str, Any] | Spec, out: str | os.PathLike[str]
) -> Plan:
    """Check a sweep's file and everything it names, and look at what `out` holds of it.

    Raises `SweepError` (file, key, expected, found), `EvaluationError` for a text that cannot be
    read, `NotInstalledError` where the extra `sweep` is missing.
    """
    need("pyarrow", "a sweep")
    spec = source if isinstance(source, Spec) else Spec.read(source)
    asked = spec.activations
    texts = {label: read_text(path).sha256 for label, path in spec.texts.items()}
    models = {label: sha256_model(_models.resolve(source)) for label, source in spec.models.items()}
    cells = [
        Planned(
            model,
            text,
            Cell(
                model_sha256=models[model],
                text_sha256=texts[text],
                format=format,
                activations=scheme,
                seed=seed,
                reference=spec.reference,
                head=spec.head,
                context=spec.context,
                windows=spec.windows,
                tritlab=_native.__version__,
                kernels=kernels_fingerprint(),
            ),
        )
        for model in models  # the order in which neighbours share what is loaded
        for format in spec.formats
        for scheme in _schemes(format, asked)
        for text in texts
        for seed in spec.seeds
    ]
    store = Store(Path(out) / "cells")
    done: dict[str, dict[str, Any]] = {}
    damaged: dict[str, str] = {}
    failed: list[str] = []
    for key in dict.fromkeys(p.cell.key for p in cells):
        try:
            row = store.read(key)
        except ValueError as error:
            damaged[key] = str(error)
            continue
        if row is not None and row["status"] == "ok":
            done[key] = row
        elif row is not None:
            failed.append(key)
    return Plan(spec, store, cells, done, damaged, failed)


def _schemes(format: str | None, asked: list[str]) -> list[str]:
    """Schemes that a format can have: a dense one rounds no activations."""
    if format is not None and is_dense(format):
        return ["f32"]
    return asked


def sweep(
    source: str | os.PathLike[str] | Mapping[str, Any],
    out: str | os.PathLike[str],
    *,
    engine: str = "processes",
    workers: int | None = None,
    threads: int | None = None,
    address: str | None = None,
    backend: str | None = None,
    progress: bool | Reporter = True,
    command: str | None = None,
) -> Sweep:
    """Measure every cell of a sweep that `out` does not hold yet (needs the extra `sweep`).

    Args:
        source: A YAML file, or a mapping with its keys: models, texts, formats, activations, seeds,
            reference, head, context, windows. See `tritlab sweep --help`.
        out: Folder whose `cells/` keeps one Parquet file per cell. Killed at any moment, the same
            call goes on from what is there. Cells that failed before are tried again; files that
            are damaged are made again.
        engine: "serial" (this process), "processes" (joblib's loky), "ray" or "dask" (extras of
            these names): the rows are the same but for the columns `run_*`.
        workers: Cells at once; by default one per two processors. A cluster at an `address` has its
            own number.
        threads: Threads of the kernels in each worker; by default the processors, shared out.
        address: Of a running cluster of ray or dask; without it one is started here. Its workers
            must find models, texts and `out` at the same paths.
        backend: Backend of the kernels; `None` chooses the best one.
        progress: Whether to show a bar.
        command: Exact command for the report; by default this call.

    A cell that fails is a row with `status` "failed" and its `error`, and the others are finished:
    see `Sweep.failed`.

    Raises:
        SweepError: Before anything runs, for what is wrong with the file (file, key, expected,
            found) or the engine; afterwards, for an engine that gave up.
        NotInstalledError: For a package that is missing, with the extra that has it.

    """
    cores = os.cpu_count() or 1
    for name, value in (("workers", workers), ("threads", threads)):
        if value is not None and value < 1:
            raise SweepError(f"{name}: expected a whole number of 1 or more, found {value}")
    _engine.check(engine, address)
    workers = 1 if engine == "serial" else workers or max(1, cores // 2)
    threads = threads or max(1, cores // workers)
    if backend is not None:
        before = _native.current_backend()
        _native.set_backend(backend)  # an error now rather than in every cell
        _native.set_backend(before)
    todo = plan(source, out)
    todo.store.open()
    for key in {*todo.damaged, *todo.failed}:
        todo.store.file(key).unlink(missing_ok=True)

    reporter = reporter_for(progress, "cell")
    rows = dict(todo.done)
    if todo.missing:
        jobs = [
            Job(
                p.cell,
                todo.spec.models[p.model],
                todo.spec.texts[p.text],
                todo.store.folder.resolve(),
                threads,
                backend,
            )
            for p in todo.missing
        ]
        reporter.start(len(jobs))
        try:
            _engine.run(jobs, engine, workers, address, _Watch(todo, reporter, rows))
        finally:
            reporter.stop()
    return Sweep(
        spec=todo.spec,
        rows=[{"model": p.model, "text": p.text, **rows[p.cell.key]} for p in todo.cells],
        made=len(todo.missing),
        damaged=todo.damaged,
        command=command or f"tritlab.sweep({str(source)!r}, {os.fspath(out)!r})",
    )


class _Watch:
    """Notices cells that workers have finished, by their files, and says so."""

    def __init__(self, plan: Plan, reporter: Reporter, rows: dict[str, dict[str, Any]]) -> None:
        self.plan, self.reporter, self.rows = plan, reporter, rows
        self.waiting = {p.cell.key: p for p in plan.missing}
        self.total, self.start = len(self.waiting), time.monotonic()

    def __call__(self) -> None:
        for key, planned in list(self.waiting.items()):
            row = self.plan.store.read(key)
            if row is None:
                continue
            del self.waiting[key]
            self.rows[key] = row
            self.reporter.row(f"{self._count()} {_summary(planned, row)}")

    def _count(self) -> str:
        done = self.total - len(self.waiting)
        left = (time.monotonic() - self.start) / done * len(self.waiting)
        rest = f", about {_duration(left)} left" if self.waiting else ""
        return f"[{done}/{self.total}{rest}]"


def _summary(planned: Planned, row: dict[str, Any]) -> str:
    cell = planned.cell
    name = f"{planned.model} {cell.format or 'file'} {cell.activations} {planned.text} {cell.seed}"
    if row["status"] == "failed":
        return f"{name}: FAILED: {row['error']}"
    return f"{name}: perplexity {row['perplexity']:.4g}, KL {row['kl_nats']:.4g}"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
