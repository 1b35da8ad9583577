"""The last cell of a notebook: what was found, or an error that names what does not hold."""

from __future__ import annotations

import html
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

MIME = "application/vnd.tritlab.verdict+json"
"""Type of the output that carries a verdict as data; the index of notebooks is made of these."""


class VerdictError(AssertionError):
    """A verdict that does not hold; the message names each condition that failed."""


@dataclass(frozen=True)
class Verdict:
    """What a notebook found, and the conditions it rests on, all of them true."""

    text: str
    conditions: tuple[str, ...]

    def __str__(self) -> str:
        return "\n".join([f"Verdict: {self.text}", *(f"  ✓ {name}" for name in self.conditions)])

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:
        items = "".join(f"<li>✓ {html.escape(name)}</li>" for name in self.conditions)
        found = html.escape(self.text)
        style = "list-style:none;padding-left:0;margin:0.4em 0"
        return {
            "text/plain": str(self),
            "text/html": f"<b>Verdict.</b> {found}<ul style='{style}'>{items}</ul>",
            MIME: {"text": self.text, "conditions": list(self.conditions)},
        }


def verdict(text: str, conditions: Mapping[str, Any]) -> Verdict:
    """Assert `conditions`, each a statement in words and whether it is true; give the verdict.

    `text` is one or two sentences with the numbers found. `VerdictError` if a condition is false;
    `TypeError` if one is not a bool, since an array or a number is true by accident.
    """
    if not conditions:
        raise ValueError("a verdict without conditions cannot fail: name at least one")
    for name, holds in conditions.items():
        if type(holds).__name__ not in ("bool", "bool_"):  # NumPy's is called either
            raise TypeError(f"{name!r} is {type(holds).__name__}, where a bool is wanted")
    failed = [name for name, holds in conditions.items() if not holds]
    if failed:
        raise VerdictError(
            f"{len(failed)} of {len(conditions)} conditions do not hold: {'; '.join(failed)}"
            f" [the verdict would have been: {text}]"
        )
    return Verdict(" ".join(text.split()), tuple(conditions))
