"""What a run finds in its output folder: files of an earlier one, to be gone on from, or to be named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import typer


def require_folder(path: Path, option: str) -> None:
    """Refuse a folder that is a file, or would be inside of one."""
    there = next(p for p in (path, *path.parents) if p.exists())
    if not there.is_dir():
        raise typer.BadParameter(
            f"{there} is a file, and a folder is expected; name another", param_hint=option
        )


def read_json(path: Path, key: str) -> dict[str, Any]:
    """The object in `path`, which has `key`; a usage error for anything else."""
    try:
        found = json.loads(path.read_text())
        found[key]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise damaged(path, f"a JSON object with {key!r} is expected", error) from None
    return found


def damaged(path: Path, expected: str, error: Exception) -> typer.BadParameter:
    """The error for a file of the output folder that cannot be read."""
    what = str(error).splitlines()[0] if str(error) else type(error).__name__
    return typer.BadParameter(
        f"{path} is damaged ({type(error).__name__}: {what}): {expected}; put it back from a copy, or start "
        "again in another folder",
        param_hint="--out",
    )
