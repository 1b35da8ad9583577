"""Where a notebook runs: the repository, its fixtures, and one line on what made a figure."""

from __future__ import annotations

import functools
import subprocess
from pathlib import Path

from tritlab import _native

_SOURCES = ("kernels", "model", "python/src", "python/py")


@functools.cache
def repository(start: Path | None = None) -> Path:
    """The checkout around the working directory. `FileNotFoundError` outside of one."""
    here = (start or Path.cwd()).resolve()
    for folder in (here, *here.parents):
        if (folder / "kernels").is_dir() and (folder / "experiments").is_dir():
            return folder
    raise FileNotFoundError(
        f"{here} is not inside a checkout of tritlab, whose tiny models this needs"
    )


def fixture(name: str) -> Path:
    """GGUF file of a tiny model of random weights, `model/tests/data/fixtures/<name>`."""
    folder = repository() / "model" / "tests" / "data" / "fixtures"
    path = folder / name / "model.gguf"
    if not path.is_file():
        names = ", ".join(sorted(item.parent.name for item in folder.glob("*/model.gguf")))
        raise FileNotFoundError(f"no fixture {name!r} with a GGUF file; there are {names}")
    return path


def _git(*arguments: str) -> str:
    return subprocess.run(
        ["git", *arguments], cwd=repository(), capture_output=True, text=True, check=True
    ).stdout.strip()


def commit() -> str:
    """Commit of the library's sources, with a `+` if they have changed since; else the version."""
    try:
        found = _git("log", "-1", "--format=%h", "--abbrev=9", "--", *_SOURCES)
        changed = _git("status", "--porcelain", "--", *_SOURCES)
    except (OSError, subprocess.CalledProcessError):
        return f"version {_native.__version__}"
    return f"commit {found}{'+' if changed else ''}" if found else f"version {_native.__version__}"


def provenance() -> str:
    """Processor, threads, backend and commit: the footer of every figure."""
    threads = _native.get_threads()
    return (
        f"{_native.machine()['cpu']}, {threads} thread{'' if threads == 1 else 's'}, backend "
        f"{_native.current_backend()}; tritlab, {commit()}"
    )
