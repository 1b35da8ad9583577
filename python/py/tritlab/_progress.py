"""What a long comparison tells while it runs."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import TaskID

    from tritlab._types import Progress


class Reporter(Protocol):
    """Hears about rows (one per format or cell) and the steps inside each."""

    def start(self, rows: int) -> None:
        """Expect this many rows."""

    def step(self, label: str, what: str) -> Progress:
        """Begin a step of a row; gives the callback for native calls."""

    def row(self, summary: str) -> None:
        """Finish a row."""

    def stop(self) -> None:
        """Finish, also after an error."""


def _ignore(done: int, total: int, what: str) -> None:
    pass


class Quiet:
    """Says nothing."""

    def start(self, rows: int) -> None:
        """See `Reporter`."""

    def step(self, label: str, what: str) -> Progress:
        """See `Reporter`."""
        return _ignore

    def row(self, summary: str) -> None:
        """See `Reporter`."""

    def stop(self) -> None:
        """See `Reporter`."""


class Tqdm(Quiet):
    """One bar over the rows, in notebooks and terminals; a row is a `unit`."""

    def __init__(self, unit: str) -> None:
        self._bar: Any = None
        self._unit = unit

    def start(self, rows: int) -> None:
        """See `Reporter`."""
        from tqdm.auto import tqdm

        self._bar = tqdm(total=rows, unit=self._unit)

    def step(self, label: str, what: str) -> Progress:
        """See `Reporter`."""

        def update(done: int, total: int, detail: str) -> None:
            self._bar.set_description(f"{label}: {what} {done}/{total}")

        self._bar.set_description(f"{label}: {what}")
        return update

    def row(self, summary: str) -> None:
        """See `Reporter`."""
        self._bar.update(1)

    def stop(self) -> None:
        """See `Reporter`."""
        if self._bar is not None:
            self._bar.close()


def reporter_for(progress: bool | Reporter, unit: str) -> Reporter:
    """What an argument `progress` means: a bar over rows, each a `unit`, nothing, or its own."""
    if isinstance(progress, bool):
        return Tqdm(unit) if progress else Quiet()
    return progress


class Lines(Quiet):
    """One line per finished row on standard error: for logs."""

    def row(self, summary: str) -> None:
        """See `Reporter`."""
        print(summary, file=sys.stderr, flush=True)


class Bars(Quiet):
    """Two live bars under the finished rows: for terminals."""

    def __init__(self, console: Console, rows: str = "all formats") -> None:
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        self._rows = rows

        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            TextColumn("{task.percentage:>3.0f} %"),
            TimeElapsedColumn(),
            console=console,
            transient=True,
        )
        self._all: TaskID | None = None
        self._step: TaskID | None = None

    def start(self, rows: int) -> None:
        """See `Reporter`."""
        self._all = self._progress.add_task(self._rows, total=rows)
        self._progress.start()

    def step(self, label: str, what: str) -> Progress:
        """See `Reporter`."""
        if self._step is None:
            self._step = self._progress.add_task("", total=None)
        task = self._step
        self._progress.reset(task, total=None, description=f"{label}: {what}")

        def update(done: int, total: int, detail: str) -> None:
            self._progress.update(task, completed=done, total=max(total, 1))

        return update

    def row(self, summary: str) -> None:
        """See `Reporter`."""
        self._progress.console.print(summary, markup=False, highlight=False)
        assert self._all is not None
        self._progress.advance(self._all)

    def stop(self) -> None:
        """See `Reporter`."""
        self._progress.stop()
