"""Budgets as people write them."""

from __future__ import annotations

import math
import re

from tritlab.errors import SearchError

_UNITS = {
    "": 1,
    "b": 1,
    "kb": 10**3,
    "mb": 10**6,
    "gb": 10**9,
    "kib": 2**10,
    "mib": 2**20,
    "gib": 2**30,
}


def parse_budget(budget: int | float | str, params: int) -> int:
    """Bytes that a budget allows for the weights of a model of `params` weights.

    A number is bytes; text is bytes, "60MB" (10⁶), "57MiB" (2²⁰), or "3.0 bpw": bits per weight,
    over all weights. `SearchError` for anything else, or nothing.
    """
    if isinstance(budget, str):
        found = re.fullmatch(r"\s*([0-9]*\.?[0-9]+)\s*([a-zA-Z]*)\s*", budget)
        unit = found[2].lower() if found else ""
        if found is None or unit not in (*_UNITS, "bpw"):
            raise SearchError(
                f"budget {budget!r}: bytes are wanted (60000000, 60MB, 57MiB), or bits per weight "
                "(3.0 bpw)"
            )
        number = float(found[1])
        value = number * params / 8 if unit == "bpw" else number * _UNITS[unit]
    else:
        value = float(budget)
    if not (math.isfinite(value) and value >= 1):
        raise SearchError(f"budget {budget!r} leaves no room for any weight")
    return math.floor(value)
