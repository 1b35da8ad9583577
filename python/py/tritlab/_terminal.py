"""What commands print and how: one line for an error, tables, and progress on standard error."""

from __future__ import annotations

import shlex
import sys
from typing import TYPE_CHECKING, Any

from tritlab import _native

if TYPE_CHECKING:
    from rich.console import Console

    from tritlab._progress import Reporter
    from tritlab._types import Progress
    from tritlab.statistics import Quality


def one_line(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"{error.filename}: {error.strerror}"
    return " ".join(str(error).split()) or type(error).__name__


def command_line() -> str:
    return shlex.join(["tritlab", *sys.argv[1:]])


def use_settings(threads: int | None, backend: str | None) -> None:
    if threads is not None:
        _native.set_threads(threads)
    if backend is not None:
        _native.set_backend(backend)


def new_console() -> Console:
    from rich.console import Console

    console = Console()
    if not console.is_terminal and console.width < 120:
        console = Console(width=120)  # a pipe or a log has no width of its own
    return console


def reporter(rows: str = "all formats") -> Reporter:
    from rich.console import Console

    from tritlab._progress import Bars, Lines

    console = Console(stderr=True)
    return Bars(console, rows) if console.is_terminal else Lines()


def print_quality(quality: Quality, label: str, sentence: str) -> None:
    from rich import box
    from rich.table import Table

    from tritlab.report.text import estimate, number

    if quality.against is None:
        print(f"{label}: {quality}")
    else:
        table = Table(box=box.SIMPLE_HEAD, title=label, title_justify="left", title_style="bold")
        table.add_column("statistic")
        table.add_column("value", justify="right")
        from tritlab.statistics import Estimate

        for record in quality.records():
            error = record["error"]
            shown = (
                number(record["value"], 5)
                if error is None
                else estimate(Estimate(record["value"], error))
            )
            table.add_row(record["statistic"], shown)
        new_console().print(table)
    print(sentence)


def plain_cell(text: str) -> str:
    from rich.markup import escape

    return escape(text)


def short(value: Any, width: int = 76) -> str:
    if isinstance(value, list):
        head = ", ".join(str(item) for item in value[:4])
        value = f"[{head}, … {len(value)} in all]" if len(value) > 4 else f"[{head}]"
    text = str(value).replace("\n", "⏎")
    return text if len(text) <= width else text[: width - 1] + "…"


class Bar:
    """One live bar on standard error, or nothing when that is not a terminal."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        console = Console(stderr=True)
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            TimeElapsedColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )

    def __enter__(self) -> Bar:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def step(self, what: str) -> Progress:
        """Callback for a native call."""
        task = self._progress.add_task(what, total=None)

        def update(done: int, total: int, detail: str) -> None:
            self._progress.update(
                task, completed=done, total=max(total, 1), description=detail or what
            )

        return update
