"""Notebooks need Jupyter's packages, which are no dependency of the library."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

MISSING = [
    name
    for name in ("jupytext", "nbclient", "ipykernel", "matplotlib", "pandas")
    if importlib.util.find_spec(name) is None
]
SAYS = (
    f"**** the notebooks WERE NOT CHECKED: {', '.join(MISSING)} not installed "
    "(pip install 'tritlab[notebooks]') ****"
)

if MISSING and not os.environ.get("TRITLAB_CI"):
    collect_ignore_glob = ["test_*.py"]


def pytest_terminal_summary(terminalreporter):
    if MISSING:
        terminalreporter.write_line(SAYS)
        return
    from tritlab.notebook import build

    for source in build.sources(Path(__file__).parents[3] / "experiments"):
        if lacking := build.missing(source):
            terminalreporter.write_line(
                f"**** notebook {source.stem} WAS NOT CHECKED: {', '.join(lacking)} not installed "
                "(pip install 'tritlab[train]') ****"
            )
