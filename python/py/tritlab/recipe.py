"""Recipes: which tensor of a model is in which format, as a file that every command reads.

A recipe is JSON, or the list of `name=type` that llama-quantize takes with `--tensor-type-file`.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tritlab._files import to_json, write_atomic
from tritlab._formats import FILE, parse_format
from tritlab.errors import FormatError, RecipeError

SCHEMA = "tritlab.recipe/1"


@dataclass(frozen=True)
class Recipe:
    """Formats for `Model.load` and `quantize`: of the linear layers, the head, and single tensors.

    `None` keeps the types of the file. Overrides are tried in order, see `Model.load`.
    """

    format: str | None = None
    head: str | None = None
    overrides: tuple[tuple[str, str | None], ...] = ()
    fallback: str | None = None
    """What takes the place of a format that does not fit a tensor; `None`: an error."""
    record: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)
    """Whatever else the file says: how the recipe was found, and what was measured."""

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Recipe:
        """Read a recipe's JSON, or a list of `name=type` for llama-quantize.

        Raises `RecipeError` for a file that is neither, with the place of the mistake.
        """
        file = Path(path).expanduser()
        try:
            text = file.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise RecipeError(f"{file} is not UTF-8 text (byte {error.start})") from None
        try:
            return _from_json(text) if text.lstrip().startswith("{") else cls.parse(text)
        except (RecipeError, FormatError) as error:
            raise RecipeError(f"{file}: {error}") from None

    @classmethod
    def parse(cls, text: str) -> Recipe:
        """Overrides from `name=type` words, separated by white space, as llama-quantize reads them.

        The name is a regular expression. Only types that tritlab has kernels for are possible.
        """
        overrides = []
        for number, line in enumerate(text.splitlines(), start=1):
            for word in line.split():
                name, equals, kind = word.partition("=")
                if not (name and equals and kind):
                    raise RecipeError(f"line {number}: {word!r} is not name=type")
                try:
                    overrides.append((name, parse_format(kind)))
                except FormatError as error:
                    raise RecipeError(f"line {number}: {error}") from None
        if not overrides:
            raise RecipeError("it holds no recipe: neither JSON nor any name=type")
        return cls(overrides=tuple(overrides))

    def to_dict(self) -> dict[str, Any]:
        """Everything, ready for JSON."""
        return {
            "schema": SCHEMA,
            "format": self.format,
            "head": self.head,
            "fallback": self.fallback,
            "overrides": [[pattern, format] for pattern, format in self.overrides],
            **self.record,
        }

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the JSON file, whole or not at all."""
        write_atomic(Path(path), to_json(self.to_dict()) + "\n")


_GGML_TYPES = frozenset(
    [
        "f32",
        "f16",
        "bf16",
        "q4_0",
        "q4_1",
        "q5_0",
        "q5_1",
        "q8_0",
        "q2_k",
        "q3_k",
        "q4_k",
        "q5_k",
        "q6_k",
        "iq1_s",
        "iq1_m",
        "iq2_xxs",
        "iq2_xs",
        "iq2_s",
        "iq3_xxs",
        "iq3_s",
        "iq4_nl",
        "iq4_xs",
        "tq1_0",
        "tq2_0",
        "mxfp4",
    ]
)


def tensor_types(formats: Iterable[tuple[str, str]]) -> str:
    """Text for llama-quantize's `--tensor-type-file`: one tensor per line, each name exactly once.

    `formats` are pairs of GGUF's name of a tensor and a type. The grammar is that of llama.cpp's
    tools/quantize/quantize.cpp and src/llama-quant.cpp: words apart by white space, without
    comments; up to the first "=" a regular expression of ECMAScript, put into small letters, which
    is searched for in the tensor's name; after it the name of a ggml type, in any case. The first
    that matches decides. Types that ggml has not (other projects' packings) can't be said: such a
    tensor is left out, and llama.cpp cannot read its file either.
    """
    return "".join(
        f"^{re.escape(name)}$={kind.lower()}\n"
        for name, kind in formats
        if kind.lower() in _GGML_TYPES
    )


def arguments(recipe: Recipe | str | os.PathLike[str]) -> dict[str, Any]:
    """What `Model.load` and `quantize_gguf` are to do for a recipe, or for its file."""
    if not isinstance(recipe, Recipe):
        recipe = Recipe.read(recipe)
    return {
        "format": recipe.format,
        "head": recipe.head,
        "overrides": list(recipe.overrides),
        "fallback": recipe.fallback,
    }


def _from_json(text: str) -> Recipe:
    try:
        content = json.loads(text)
    except json.JSONDecodeError as error:
        raise RecipeError(f"it is not JSON: {error}") from None
    if not isinstance(content, dict) or content.get("schema") != SCHEMA:
        got = content.get("schema") if isinstance(content, dict) else type(content).__name__
        raise RecipeError(f"a recipe of schema {SCHEMA} is wanted, not {got}")
    known = ("schema", "format", "head", "fallback", "overrides")
    pairs = content.get("overrides", [])
    if not isinstance(pairs, list) or not all(_is_pair(pair) for pair in pairs):
        raise RecipeError("`overrides` must be a list of [pattern, format]")
    names = {key: content.get(key) for key in ("format", "head", "fallback")}
    for key, value in names.items():
        if not (value is None or isinstance(value, str)):
            raise RecipeError(f"`{key}` must be the name of a format or null, not {value!r}")
    fallback = names["fallback"]
    return Recipe(
        format=parse_format(names["format"]),
        head=parse_format(names["head"]),
        overrides=tuple((pattern, parse_format(format or FILE)) for pattern, format in pairs),
        fallback=fallback if fallback == "llama.cpp" else parse_format(fallback),
        record={key: value for key, value in content.items() if key not in known},
    )


def _is_pair(pair: Any) -> bool:
    return (
        isinstance(pair, list)
        and len(pair) == 2
        and isinstance(pair[0], str)
        and (pair[1] is None or isinstance(pair[1], str))
    )
