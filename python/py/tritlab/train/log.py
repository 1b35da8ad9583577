"""The log of a training: a row of JSON per line, in a file that nobody else's text is lost from."""

from __future__ import annotations

import json
from pathlib import Path

from tritlab.errors import TritlabError


def rows(path: Path) -> list[tuple[int, str]]:
    """Steps and lines of the log in `path`, without a last one that was being written.

    Raises `TritlabError` for a file that is no log of a training, and names the line.
    """
    found: list[tuple[int, str]] = []
    for number, line in enumerate(path.read_text(errors="replace").splitlines(True), 1):
        try:
            row = json.loads(line)
            step, _ = int(row["step"]), float(row["loss"])
        except (ValueError, TypeError, KeyError, OverflowError):
            if found and not line.endswith("\n"):
                break
            raise TritlabError(
                f"{path} is no log of a training: line {number} is {line[:40]!r}, where a row like "
                '{"step": 20, "loss": 3.1} is expected; name another folder, or move the file away'
            ) from None
        else:
            found.append((step, line))
    return found
