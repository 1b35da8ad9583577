"""What each tensor costs in each format: measured in one or a few, and scaled to the others."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tritlab._formats import is_ternary

if TYPE_CHECKING:
    from tritlab._types import TensorInfo


_KINDS = ("attn_qkv", "attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")


@dataclass(frozen=True, slots=True)
class Option:
    """A tensor in one format."""

    format: str
    nbytes: int
    error: float
    """|W − Q(W)| / |W| in the Frobenius norm; 0 for the file's own type."""


@dataclass
class Unit:
    """A tensor whose format is chosen."""

    name: str
    """GGUF's name."""
    role: str
    own: Option
    """As in the file."""
    n_params: int
    file_type: str
    options: dict[str, Option] = field(default_factory=dict)
    """By format, those that fit its rows; the file's own type is the one without a weight error."""

    @property
    def layer(self) -> int | None:
        """Number of its block, or `None` for the embedding and the head."""
        found = re.match(r"blk\.(\d+)\.", self.name)
        return int(found[1]) if found else None

    @property
    def kind(self) -> str:
        """What it is in its block: "ffn_down", or "token_embd"."""
        return re.sub(r"^blk\.\d+\.|\.weight$", "", self.name)

    def add(self, option: Option) -> None:
        """Note what a format does to it; the file's own type stays as it is."""
        if option.format != self.own.format:
            self.options[option.format] = option


def units(tensors: Sequence[TensorInfo], *, every: bool = False) -> list[Unit]:
    """The tensors that can be chosen for, of a model as its file has it; or every matrix.

    Norms stay. So does what is ternary already: a format with more bits would hold nothing more.
    """
    found = []
    for name, parts in _by_name(tensors).items():
        own = _option(parts)
        if parts[0]["role"] == "norm" or (is_ternary(own.format) and not every):
            continue
        params = sum(part["n_params"] for part in parts)
        unit = Unit(name, parts[0]["role"], own, params, parts[0]["file_type"])
        unit.options[own.format] = own
        found.append(unit)
    return found


def options(tensors: Sequence[TensorInfo]) -> dict[str, Option]:
    """What each tensor of a model is in, by GGUF's name, without the norms."""
    every = _by_name(tensors).items()
    return {name: _option(parts) for name, parts in every if parts[0]["role"] != "norm"}


def arrange(units: Sequence[Unit]) -> tuple[list[str], list[str], dict[str, tuple[int, int]]]:
    """Kinds (columns), names of the rows, and the row and column of each tensor of a map."""
    inside = {unit.kind for unit in units if unit.layer is not None}
    kinds = [kind for kind in _KINDS if kind in inside] + sorted(inside - set(_KINDS))
    layers = sorted({unit.layer for unit in units if unit.layer is not None})
    outside = [unit for unit in units if unit.layer is None]
    if outside:
        kinds.append("embedding, head")
    rows = [str(layer) for layer in layers] + [unit.kind for unit in outside]
    places = {}
    for unit in units:
        if unit.layer is None:
            places[unit.name] = (rows.index(unit.kind), len(kinds) - 1)
        else:
            places[unit.name] = (layers.index(unit.layer), kinds.index(unit.kind))
    return kinds, rows, places


def _by_name(tensors: Sequence[TensorInfo]) -> dict[str, list[TensorInfo]]:
    found: dict[str, list[TensorInfo]] = {}
    for tensor in tensors:
        found.setdefault(tensor["gguf_name"], []).append(tensor)
    return found


def _option(parts: Sequence[TensorInfo]) -> Option:
    """Parts of one matrix (query, key and value in one) as the one that they are."""
    total = sum(part["n_params"] for part in parts)
    square = math.fsum(part["rel_error"] ** 2 * part["n_params"] for part in parts) / total
    return Option(parts[0]["format"], sum(part["nbytes"] for part in parts), math.sqrt(square))


@dataclass(frozen=True)
class Sensitivity:
    """KL divergence that each tensor alone causes, measured in one or more formats."""

    units: list[Unit]
    measured: dict[str, dict[str, float]]
    """Mean KL in nats per token by tensor and format: one tensor in the format, all others not."""

    def cost(self, unit: Unit, format: str) -> float:
        """KL that the tensor causes in a format, nats per token; 0 in the file's own.

        Where it was not measured, it is that of the measured format whose weight error is nearest,
        times the square of the ratio of the errors.
        """
        if format == unit.own.format:
            return 0.0
        probes = self.measured[unit.name]
        if format in probes:
            return probes[format]
        error = unit.options[format].error
        usable = {name: kl for name, kl in probes.items() if unit.options[name].error > 0}
        if error == 0 or not usable:
            return 0.0
        near = min(usable, key=lambda name: abs(math.log(unit.options[name].error / error)))
        return usable[near] * (error / unit.options[near].error) ** 2

    def per_error(self, unit: Unit) -> float:
        """KL divided by the squared relative error, of the coarsest format measured: nats."""
        probes = self.measured[unit.name]
        errors = {name: unit.options[name].error for name in probes}
        coarse = max(errors, key=lambda name: errors[name], default=None)
        if coarse is None or errors[coarse] == 0:
            return 0.0
        return probes[coarse] / errors[coarse] ** 2

    @property
    def records(self) -> list[dict[str, Any]]:
        """One flat dictionary per tensor and format; units are in the names."""
        return [
            {
                "tensor": unit.name,
                "layer": unit.layer,
                "kind": unit.kind,
                "role": unit.role,
                "n_params": unit.n_params,
                "format": option.format,
                "nbytes": option.nbytes,
                "rel_weight_error": option.error,
                "kl_nats": self.cost(unit, option.format),
                "measured": option.format in self.measured[unit.name],
                "kl_per_squared_error_nats": self.per_error(unit),
            }
            for unit in self.units
            for option in unit.options.values()
        ]


def probes(unit: Unit, how: str) -> list[str]:
    """Formats to measure a tensor in: "one", the coarsest; "two", the middle one too; "exhaustive".

    Coarse formats are measured because a small error drowns in that of the activations.
    """
    others = [option for option in unit.options.values() if option.error > 0]
    order = sorted(others, key=lambda option: (-option.error, option.format))
    names = [option.format for option in order]
    if how == "exhaustive":
        return names
    return names[:1] if how == "one" else list(dict.fromkeys([*names[:1], *_middle(order)]))


def _middle(order: Sequence[Option]) -> list[str]:
    """The option whose error is nearest to the geometric mean of the extremes."""
    if len(order) < 2:
        return []
    centre = math.log(order[0].error * order[-1].error) / 2
    return [min(order[1:], key=lambda option: abs(math.log(option.error) - centre)).format]


def fit(
    predicted: Sequence[Mapping[str, float]], measured: Sequence[float], formats: Sequence[str]
) -> dict[str, float]:
    """Factors of the costs by format that explain what whole recipes were measured to cost.

    `predicted[r][f]` is the sum of the costs of recipe r's tensors in format f, `measured[r]` the
    KL of the recipe. Least squares of relative deviations: a recipe with twice the KL has no more
    say. A factor that little speaks for stays near 1 (a ridge), and none is below 0.05.
    """
    import numpy as np
    from scipy.optimize import lsq_linear

    pairs = [(p, m) for p, m in zip(predicted, measured, strict=True) if m > 0 and any(p.values())]
    if not pairs:
        return dict.fromkeys(formats, 1.0)
    ridge = 0.1
    rows = [[p.get(name, 0.0) / m for name in formats] for p, m in pairs]
    matrix = np.vstack([np.asarray(rows), ridge * np.eye(len(formats))])
    wanted = np.concatenate([np.ones(len(pairs)), np.full(len(formats), ridge)])
    found = lsq_linear(matrix, wanted, bounds=(0.05, 20.0))
    return {name: float(x) for name, x in zip(formats, found.x, strict=True)}
