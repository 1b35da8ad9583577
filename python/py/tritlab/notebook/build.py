"""Notebooks from their sources: run, cleaned of what belongs to a machine, and listed.

A source is a jupytext file in the py:percent format, `NN-question.py`. Its first cell is Markdown:
the question as heading, then `**Claim.**` and `**How it could fail.**`; a paragraph `**Large.**`
says what a notebook needs that tests do not have, and `**Needs.** torch, …` names packages beside
those of the extra `notebooks`, without which it is not run. Its last cell gives a
`tritlab.notebook.verdict`.
"""

from __future__ import annotations

import importlib.util
import os
import re
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tritlab import _files
from tritlab.errors import NotInstalledError, TritlabError
from tritlab.notebook._verdict import MIME

try:
    import jupytext
    import nbformat
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
except ImportError as absent:
    raise NotInstalledError(
        f"notebooks need {absent.name}; run: pip install 'tritlab[notebooks]'"
    ) from None

_KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}
_PARTS = {"claim": "**Claim.**", "failure": "**How it could fail.**"}


class NotebookError(TritlabError):
    """A notebook that is not as it must be, or a cell that failed; named by file and cell."""


@dataclass(frozen=True)
class Entry:
    """A notebook's place in the index."""

    name: str  # of the file, without its ending
    question: str
    claim: str
    failure: str
    verdict: str


def sources(folder: Path) -> list[Path]:
    """Sources of notebooks in a folder, `NN-question.py`, in order."""
    return sorted(path for path in folder.glob("*.py") if re.match(r"\d\d-", path.name))


def is_large(source: Path) -> bool:
    """Whether the first cell says that it needs more than tests have."""
    return any(p.startswith("**Large.**") for p in read(source).cells[0].source.split("\n\n"))


def missing(source: Path) -> list[str]:
    """Packages that the first cell says it needs and that are not installed."""
    for paragraph in read(source).cells[0].source.split("\n\n"):
        if found := re.match(r"\*\*Needs\.\*\* ([\w, ]+)", paragraph):
            names = found[1].replace(",", " ").split()
            return [name for name in names if importlib.util.find_spec(name) is None]
    return []


def read(source: Path) -> Any:
    """The notebook of a source, not run, with cell ids that depend on nothing but their place."""
    notebook = jupytext.read(source, fmt="py:percent")
    notebook.metadata = nbformat.from_dict(
        {"kernelspec": _KERNEL, "language_info": {"name": "python"}}
    )
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    for number, cell in enumerate(notebook.cells, start=1):
        cell.id = f"cell-{number:02}"
        cell.metadata = nbformat.from_dict({})
    return notebook


def run(
    source: Path, *, timeout: int = 180, on_cell: Callable[[int, int], object] | None = None
) -> Any:
    """Run a source from top to bottom in a fresh kernel, in its own folder; give the notebook.

    `timeout` is seconds per cell. `on_cell` hears the cell that starts, from 1, and how many there
    are. `NotebookError` names the notebook and the cell that failed.
    """
    notebook = read(source)
    total = len(notebook.cells)
    at = 0

    def started(cell: Any, cell_index: int, **_: Any) -> None:
        nonlocal at
        at = cell_index
        if on_cell is not None:
            on_cell(at + 1, total)

    with tempfile.TemporaryDirectory(prefix="tritlab-") as sockets:
        client = NotebookClient(
            notebook,
            kernel_name="python3",
            timeout=timeout,
            record_timing=False,
            on_cell_start=started,
            resources={"metadata": {"path": str(source.parent)}},
        )
        if os.name == "posix":  # sockets in the file system: no port of this machine is opened
            manager = client.create_kernel_manager()
            manager.transport, manager.ip = "ipc", f"{sockets}/kernel"
        try:
            client.execute()
        except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
            raise _named(source, notebook, at, error) from None
    for cell in notebook.cells:
        cell.metadata = nbformat.from_dict({})
    notebook.metadata["language_info"] = nbformat.from_dict({"name": "python"})
    return notebook


def _named(source: Path, notebook: Any, number: int, error: Exception) -> NotebookError:
    """Say which cell failed, by number and first line, and with what."""
    lines = [line for line in notebook.cells[number].source.splitlines() if line.strip()]
    what = (
        f"{error.ename}: {error.evalue}"
        if isinstance(error, CellExecutionError)
        else " ".join(str(error).split())[:300]
    )
    return NotebookError(
        f"{source.name}, cell {number + 1} of {len(notebook.cells)} "
        f"({lines[0].strip() if lines else 'empty'!r}): {what}"
    )


def first_cell(source: Path, notebook: Any) -> dict[str, str]:
    """Question, claim and how it could fail, as the first cell says them."""
    cell = notebook.cells[0]
    found: dict[str, str] = {}
    if cell.cell_type == "markdown":
        for paragraph in re.split(r"\n\s*\n", cell.source):
            text = " ".join(paragraph.split())
            if text.startswith("# "):
                found["question"] = text[2:]
            for key, start in _PARTS.items():
                if text.startswith(start):
                    found[key] = text.removeprefix(start).strip()
    missing = [key for key in ("question", *_PARTS) if not found.get(key)]
    if missing:
        wanted = "'# question', '**Claim.** …' and '**How it could fail.** …'"
        raise NotebookError(
            f"{source.name}: the first cell must be Markdown with {wanted}; "
            f"it has no {' and no '.join(missing)}"
        )
    return found


def entry(source: Path, notebook: Any) -> Entry:
    """The index entry of a notebook that has been run: the verdict is its last cell's output."""
    outputs = notebook.cells[-1].get("outputs", [])
    verdicts = [o.data[MIME] for o in outputs if MIME in o.get("data", {})]
    if len(verdicts) != 1:
        raise NotebookError(
            f"{source.name}: the last cell must give one tritlab.notebook.verdict, not "
            f"{len(verdicts)}"
        )
    return Entry(source.stem, verdict=verdicts[0]["text"], **first_cell(source, notebook))


def take_svg(notebook: Any) -> list[str]:
    """Take the SVG form of each figure out of a notebook, which keeps the PNG; give them."""
    taken = []
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            svg = output.get("data", {}).pop("image/svg+xml", None)
            if svg is not None:
                taken.append(svg)
    return taken


def written(notebook: Any) -> str:
    """The text of the `.ipynb` file."""
    nbformat.validate(notebook)
    return str(nbformat.writes(notebook)).rstrip() + "\n"


def load(path: Path) -> Any:
    """An `.ipynb` file that has been written."""
    return nbformat.read(path, as_version=4)


def same_source(source: Path, path: Path) -> str:
    """Say where an `.ipynb` file differs from its source, or nothing ("") if it comes from it."""
    if not path.is_file():
        return f"there is no {path.name}"
    ours, theirs = read(source), load(path)
    if len(ours.cells) != len(theirs.cells):
        return f"{path.name} has {len(theirs.cells)} cells, {source.name} {len(ours.cells)}"
    for number, (a, b) in enumerate(zip(ours.cells, theirs.cells, strict=True), start=1):
        if (a.cell_type, a.source, a.id) != (b.cell_type, b.source, b.get("id")):
            return f"cell {number} of {path.name} is not that of {source.name}"
        if b.cell_type == "code" and b.execution_count is None:
            return f"cell {number} of {path.name} was not run"
    return ""


def index(entries: list[Entry]) -> str:
    """The index in Markdown."""
    parts = []
    for e in entries:
        parts.append(
            f"### [{e.name[:2]}. {e.question}]({e.name}.ipynb)\n\n"
            f"**Claim.** {e.claim}\n\n"
            f"**How it could fail.** {e.failure}\n\n"
            f"**Verdict.** {e.verdict}\n"
        )
    return "\n".join(parts).strip()


def splice(text: str, body: str) -> str:
    """`text` with what is between the index's markers replaced."""
    try:
        return _files.splice(text, "notebooks", body)
    except ValueError as error:
        raise NotebookError(f"the index: {error}") from None
