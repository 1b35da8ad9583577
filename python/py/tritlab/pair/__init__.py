"""The embedded pair: one small language model in full precision, and its twin trained in ternary.

import tritlab as tl

pair = tl.load_pair()
tl.perplexity(pair.ternary, tl.pair.texts()["alice"], reference=pair.full)
tl.compare("pair-full", ["F16", "Q4_0", "Q2_K"], tl.pair.texts()["persuasion"],
           others={"trained in ternary": "pair-ternary"})

Same architecture, tokenizer, text, order of the text, steps and seed; one has F16 weights, the
other ternary weights and int8 activations in its linear layers (BitNet b1.58). `full.md` and
`ternary.md` beside this file are their model cards, NOTICE.md says where the texts come from.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

from tritlab._native import Model

_FOLDER = Path(__file__).parent
FULL = _FOLDER / "full.gguf"
"""The member in full precision: all matrices F16."""
TERNARY = _FOLDER / "ternary.gguf"
"""The member trained in ternary: linear layers TQ2_0 with one scale each, embedding Q8_0."""


class Pair(NamedTuple):
    """Both members, loaded."""

    full: Model
    ternary: Model


def load_pair(full: str | None = None, ternary: str | None = None) -> Pair:
    """Load both members, each in a format if one is given (see `Model.load`), else as shipped."""
    return Pair(Model.load(FULL, full, context=512), Model.load(TERNARY, ternary, context=512))


def texts() -> dict[str, Path]:
    """Held-out texts by name, UTF-8 files.

    `persuasion` is by an author of the training text, `addresses` of a kind that is in it, `alice`
    by an author who is not.
    """
    return {name: _FOLDER / f"{name}.txt" for name in ("persuasion", "addresses", "alice")}


def training() -> dict[str, Any]:
    """What the training left: `members` with settings, `log` and scores, and what made them.

    A row of a log has `step`, `loss` and, at times, `validation` in nats per token.
    """
    found: dict[str, Any] = json.loads((_FOLDER / "training.json").read_text(encoding="utf-8"))
    return found
