"""Measurements on disk, one file each, so that a search that was killed goes on where it was.

A cell is named by the hash of everything its numbers depend on, and holds the hash of those
numbers: another model, text or version finds nothing, and a damaged cell is measured again.

Sweeps have a store of their own (`sweeps._store`). Its cells are rows of one table, which other
programs read as Parquet, failures among them; these are nested values (sums of windows, histograms)
of any kind of measurement, read by nobody else, and need no package beside NumPy.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tritlab._files import plain, write_atomic

_SCHEMA = "tritlab.search-cell/1"


@dataclass
class Cells:
    """Cells of one folder; without a folder, of this process only."""

    folder: Path | None
    reused: int = 0
    damaged: list[str] = field(default_factory=list)
    """Names of files that were there and could not be used."""
    _memory: dict[str, dict[str, Any]] = field(default_factory=dict)

    def get(self, key: dict[str, Any], make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """The cell of `key`, from the folder or made now; the same value either way."""
        name = _digest(key)
        if name not in self._memory:
            value = self._read(name, key)
            if value is None:
                value = plain(make())
                self._write(name, key, value)
            else:
                self.reused += 1
            self._memory[name] = value
        return self._memory[name]

    def has(self, key: dict[str, Any]) -> bool:
        """Whether the cell need not be made."""
        name = _digest(key)
        return name in self._memory or self._read(name, key) is not None

    def _path(self, name: str) -> Path | None:
        return None if self.folder is None else self.folder / f"{name[:32]}.json"

    def _read(self, name: str, key: dict[str, Any]) -> dict[str, Any] | None:
        path = self._path(name)
        if path is None or not path.is_file():
            return None
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            value: dict[str, Any] = content["value"]
            if content["key"] == plain(key) and content["sha256"] == _digest(value):
                return value
        except (ValueError, KeyError, TypeError):
            pass
        if path.name not in self.damaged:
            self.damaged.append(path.name)
        return None

    def _write(self, name: str, key: dict[str, Any], value: dict[str, Any]) -> None:
        path = self._path(name)
        if path is None:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        content = {"schema": _SCHEMA, "key": plain(key), "value": value, "sha256": _digest(value)}
        write_atomic(path, json.dumps(content, ensure_ascii=False, allow_nan=False) + "\n")


def _digest(value: dict[str, Any]) -> str:
    text = json.dumps(plain(value), sort_keys=True, allow_nan=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
