"""Files that are whole or absent, and JSON without NaN."""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from errno import ENOENT
from pathlib import Path
from typing import Any


def require_folder(path: Path) -> None:
    """Raise `FileNotFoundError` if a file cannot be written because its folder is missing."""
    if not path.parent.is_dir():
        raise FileNotFoundError(ENOENT, "there is no such folder to write into", str(path.parent))


def write_atomic(path: Path, data: bytes | str) -> None:
    """Write a file under a temporary name beside it, then rename it into place.

    Its folder must exist, as for every file that a command writes.
    """
    raw = data.encode() if isinstance(data, str) else data
    require_folder(path)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(raw)
        temporary.chmod(0o666 & ~_umask())  # mkstemp makes private files; a report is not private
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextmanager
def folder_atomic(path: Path, *, replace: bool = False) -> Iterator[Path]:
    """A temporary folder to write into, which becomes `path` if the `with` block ends well.

    Folders above it are made. One that is there is replaced, or an error.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        yield temporary
        temporary.chmod(0o777 & ~_umask())  # as above
        if replace and path.exists():
            shutil.rmtree(path)
        temporary.replace(path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def splice(text: str, name: str, body: str) -> str:
    """`text` with what is between the marks `<!-- name:begin -->` and `<!-- name:end -->` replaced.

    `ValueError` unless each stands there once.
    """
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    if text.count(begin) != 1 or text.count(end) != 1:
        raise ValueError(f"the lines {begin} and {end} are needed, once each")
    head, rest = text.split(begin)
    return f"{head}{begin}\n{body.strip()}\n{end}{rest.split(end)[1]}"


def sha256_file(path: Path) -> str:
    """SHA-256 of a file's bytes, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def model_files(path: Path) -> list[Path]:
    """Files that decide what a model answers: the file itself, or those of a folder, by name."""
    if not path.is_dir():
        return [path]
    kinds = ("*.json", "*.safetensors", "*.jinja")
    return sorted(file for kind in kinds for file in path.glob(kind))


def sha256_model(path: Path) -> str:
    """SHA-256 of a model: of its file, or of the names and hashes of a folder's files."""
    if not path.is_dir():
        return sha256_file(path)
    lines = (f"{sha256_file(file)}  {file.name}\n" for file in model_files(path))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def plain(value: Any) -> Any:
    """Turn NumPy scalars, tuples and NaN into what JSON can say (NaN and infinity are null)."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, (str, int, bool)) or value is None:
        return value
    return str(value)


def to_json(value: Any, indent: int | None = 2) -> str:
    """Strict JSON; see `plain`."""
    return json.dumps(plain(value), indent=indent, allow_nan=False, ensure_ascii=False)
