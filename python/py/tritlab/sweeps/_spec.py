"""What a sweep's file says, checked before anything runs."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tritlab import _models
from tritlab._extras import need
from tritlab._formats import FILE, PROJECTIONS, names, parse_format
from tritlab.errors import FormatError, SweepError

ACTIVATIONS = ("int8", "f32")
"""How activations are rounded: int8 in the groups that each format has, or not at all."""


@dataclass(frozen=True)
class Spec:
    """A grid of cells, as a file says it. Paths are absolute."""

    name: str
    """Of the file, without its ending."""
    models: dict[str, str]
    """Paths, or names of packaged models, by label."""
    texts: dict[str, Path]
    """UTF-8 texts, or .npy files of int32 token ids, by label."""
    formats: list[str | None]
    """`None` keeps the types of the model's file."""
    activations: list[str]
    seeds: list[int]
    reference: str | None
    """Format that every cell is compared with; `None`: the model's file as it is."""
    head: str | None
    context: int
    windows: int | None
    """Windows of `context` tokens in a cell, drawn by its seed; `None`: all of the text's."""

    @classmethod
    def read(cls, source: str | os.PathLike[str] | Mapping[str, Any]) -> Spec:
        """Read a YAML file, or take a mapping of the same keys, whose paths are from here.

        Raises `SweepError`, which names file, key, what is expected and what was found, and
        `FileNotFoundError` for the file itself.
        """
        if isinstance(source, Mapping):
            return _Reader("sweep", Path.cwd()).spec("sweep", dict(source))
        path = Path(source)
        return _Reader(str(path), path.resolve().parent).spec(path.stem, _load(path))


def _load(path: Path) -> Any:
    """The file's content; unlike plain YAML a key that comes twice is an error."""
    yaml: Any = need("yaml", "a sweep's file")

    class Loader(yaml.SafeLoader):  # type: ignore[misc]
        pass

    def mapping(loader: Any, node: Any) -> dict[Any, Any]:
        found: dict[Any, Any] = {}
        for key_node, value_node in node.value:
            key = loader.construct_object(key_node, deep=True)
            if not isinstance(key, str):
                line = key_node.start_mark.line + 1
                raise SweepError(f"{path}: line {line}: expected a name as key, found {key!r}")
            if key in found:
                line = key_node.start_mark.line + 1
                raise SweepError(f"{path}: line {line}: the key {key!r} comes twice")
            found[key] = loader.construct_object(value_node, deep=True)
        return found

    Loader.add_constructor("tag:yaml.org,2002:map", mapping)
    try:
        return yaml.load(path.read_bytes(), Loader)
    except yaml.YAMLError as error:
        raise SweepError(f"{path}: not YAML: {' '.join(str(error).split())}") from None


class _Reader:
    """Turns what a file holds into a `Spec`; every complaint begins with the file and the key."""

    def __init__(self, file: str, folder: Path) -> None:
        self.file, self.folder = file, folder

    def spec(self, name: str, content: Any) -> Spec:
        if not isinstance(content, dict):
            raise SweepError(f"{self.file}: expected keys and values, found {_kind(content)}")
        known = {
            "models": self.models,
            "texts": self.texts,
            "formats": self.formats,
            "activations": self.activations,
            "seeds": self.seeds,
            "reference": self.format,
            "head": self.head,
            "context": self.whole(4),
            "windows": self.windows,
        }
        for key in content:
            if key not in known:
                raise self.wrong(str(key), f"one of the keys {', '.join(known)}", "another key")
        for key in ("models", "texts", "formats"):
            if key not in content:
                raise self.wrong(key, "this key", "none")
        defaults = {
            "activations": ["int8"],
            "seeds": [0],
            "reference": "F16",
            "head": None,
            "context": 512,
            "windows": None,
        }
        read = {key: known[key](key, value) for key, value in (defaults | content).items()}
        if len(read["seeds"]) > 1 and read["windows"] is None:
            raise self.wrong(
                "windows",
                "a number of windows for the seeds to draw",
                "none, so that all seeds would measure the same whole text",
            )
        return Spec(name=name, **read)

    def wrong(self, key: str, expected: str, found: str) -> SweepError:
        return SweepError(f"{self.file}: {key}: expected {expected}, found {found}")

    def labelled(self, key: str, value: Any) -> dict[str, str]:
        """Labels and paths; a list has the files' names as labels."""
        if isinstance(value, list):
            for i, item in enumerate(value):
                if not isinstance(item, str):
                    raise self.wrong(f"{key}[{i}]", "a path", _kind(item))
            labels = [Path(item).stem for item in value]
            if double := next((s for i, s in enumerate(labels) if s in labels[:i]), None):
                raise self.wrong(
                    key, "files of different names, or labels", f"two that are called {double!r}"
                )
            value = dict(zip(labels, value, strict=True))
        if not isinstance(value, dict) or not value:
            raise self.wrong(key, "labels with paths, or a list of paths", _kind(value))
        for label, item in value.items():
            if not isinstance(item, str) or not item:
                raise self.wrong(f"{key}.{label}", "a path", _kind(item))
        return value

    def models(self, key: str, value: Any) -> dict[str, str]:
        found = {}
        for label, item in self.labelled(key, value).items():
            path = self.folder / Path(item).expanduser()
            if item.lower() in _models.PACKAGED and not path.exists():
                _models.resolve(item)  # says how to install it
                found[label] = item.lower()
                continue
            try:
                found[label] = str(_models.resolve(path))
            except FileNotFoundError as error:
                expected = "a GGUF file, a Hugging Face folder or a packaged model"
                raise self.wrong(f"{key}.{label}", expected, f"{item!r}: {error}") from None
        return found

    def texts(self, key: str, value: Any) -> dict[str, Path]:
        found = {}
        for label, item in self.labelled(key, value).items():
            found[label] = self.folder / Path(item).expanduser()
            if not found[label].is_file():
                raise self.wrong(f"{key}.{label}", "a file", f"{item!r}, which is none")
        return found

    def list_of(self, key: str, value: Any, what: str) -> list[Any]:
        if not isinstance(value, list) or not value:
            raise self.wrong(key, f"a list of {what}", _kind(value))
        return value

    def formats(self, key: str, value: Any) -> list[str | None]:
        items = self.list_of(key, value, "formats")
        return list(dict.fromkeys(self.format(f"{key}[{i}]", v) for i, v in enumerate(items)))

    def format(self, key: str, value: Any) -> str | None:
        try:
            if isinstance(value, str):
                return parse_format(value)
        except FormatError:
            if value.partition("+")[0].upper() in names():
                expected = f"one of {', '.join(PROJECTIONS)} after the +"
                raise self.wrong(key, expected, _kind(value)) from None
        raise self.wrong(key, f"one of {', '.join([*names(), FILE])}", _kind(value))

    def head(self, key: str, value: Any) -> str | None:
        return None if value is None else self.format(key, value)

    def activations(self, key: str, value: Any) -> list[str]:
        items = self.list_of(key, value, "activation schemes")
        for i, item in enumerate(items):
            if item not in ACTIVATIONS:
                expected = "int8 (in the groups that each format has) or f32 (not rounded)"
                raise self.wrong(f"{key}[{i}]", expected, _kind(item))
        return list(dict.fromkeys(items))

    def seeds(self, key: str, value: Any) -> list[int]:
        items = self.list_of(key, value, "seeds")
        whole = self.whole(0)
        return list(dict.fromkeys(whole(f"{key}[{i}]", v) for i, v in enumerate(items)))

    def windows(self, key: str, value: Any) -> int | None:
        return None if value is None else self.whole(1)(key, value)

    def whole(self, least: int) -> Any:
        def read(key: str, value: Any) -> int:
            # true is 1 in Python, but not in a sweep's file
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise self.wrong(key, f"a whole number of {least} or more", _kind(value))
            return value

        return read


def _kind(value: Any) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, (list, dict)):
        words = "list" if isinstance(value, list) else "mapping"
        return f"an empty {words}" if not value else f"a {words}"
    return repr(value)
