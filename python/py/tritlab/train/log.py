"""The log of a training: a row of JSON per line, in a file that nobody else's text is lost from."""

from __future__ import annotations

import json
from pathlib import Path

from tritlab.errors import TritlabError


def rows(path: Path) -> list[tuple[int, str]]:
    """Steps and lines of the log in `path`, without a last line that was being written.

    Raises `TritlabError` for a file that is no log of a training, and names the line.
    """
    found = []
    for number, line in enumerate(path.read_text(errors="replace").splitlines(True), 1):
        if not line.endswith("\n") and line.startswith("{"):
            break
        try:
            found.append((int(json.loads(line)["step"]), line))
        except (ValueError, TypeError, KeyError):
            raise TritlabError(
                f"{path} is no log of a training: line {number} is {line[:40]!r}, where a row like "
                '{"step": 20, "loss": 3.1} is expected; name another folder, or move the file away'
            ) from None
    return found
