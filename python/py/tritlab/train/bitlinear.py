"""BitLinear: a linear layer that is trained in the precision it will run in.

The forward pass uses the rounded weights and activations, the backward pass pretends that rounding
is the identity (the straight-through estimator, arXiv 1308.3432), so that small gradients still
move the full-precision weights behind the codes (BitNet b1.58, arXiv 2402.17764).
"""

from __future__ import annotations

import difflib
from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tritlab.errors import TritlabError
from tritlab.train.quantizers import (
    ActivationRule,
    WeightRule,
    check_rule,
    round_activations,
    round_weight,
    ternary,
)

HEAD = ("lm_head",)
"""What `replace_linear` skips unless told: BitNet's output head stays in full precision."""


class BitLinear(nn.Linear):
    """`nn.Linear` with ternary or 1-bit weights and int8 activations.

    `weights` is a rule of `quantizers.ternary`, with one scale for the tensor or one per `group`
    columns. `activations` is "int8" or "int4" per token, or None for none. Kernels run one scale
    with int8, and any scales with None; the rest is for studies in PyTorch (see `export`). `blend`
    (λ) mixes full precision (0) and rounded values (1) in the forward pass, for a warm-up: see
    `set_blend`.
    `weight` is the full-precision weight that the optimiser moves, float32 [out, in].
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = False,
        *,
        weights: WeightRule = "absmean",
        group: int | None = None,
        activations: ActivationRule | None = "int8",
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__(in_features, out_features, bias, device=device, dtype=dtype)
        check_rule("weights", weights, WeightRule)
        if activations is not None:
            check_rule("activations", activations, ActivationRule)
        if group is not None and (group < 1 or in_features % group):
            raise TritlabError(f"rows of {in_features} weights do not split into groups of {group}")
        self.weights, self.group, self.activations = weights, group, activations
        # A tensor and not a float: a compiled model need not be compiled again for another value.
        self.register_buffer("blend", torch.ones((), device=device), persistent=False)

    blend: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """`x` [..., in] to [..., out]."""
        weight = self._through(self.weight, round_weight(self.weight, self.weights, self.group))
        if self.activations is not None:
            x = self._through(x, round_activations(x, self.activations))
        return F.linear(x, weight, self.bias)

    def _through(self, full: Tensor, rounded: Tensor) -> Tensor:
        return full + self.blend.to(full.dtype) * (rounded - full).detach()

    @torch.no_grad()
    def ternary(self) -> tuple[Tensor, Tensor]:
        """The codes and scales that the forward pass uses: see `quantizers.ternary`."""
        return ternary(self.weight, self.weights, self.group)

    def extra_repr(self) -> str:
        """What differs from `nn.Linear`."""
        group = "" if self.group is None else f", group={self.group}"
        rules = f"weights={self.weights}{group}, activations={self.activations}"
        return f"{super().extra_repr()}, {rules}"


def replace_linear(model: nn.Module, *, skip: Collection[str] = HEAD, **options: Any) -> list[str]:
    """Make every `nn.Linear` of `model` a `BitLinear` with the same weights; names, in order.

    A module is left alone, with everything inside it, when `skip` has its name or the last part of
    it. One that stands at several places stays one module there, with all of its names in the list,
    and is left alone when any of them is skipped. `options` are those of `BitLinear`: `weights`,
    `group`, `activations`.

    Raises `TritlabError`, and changes nothing, for options that do not fit a layer, for an entry of
    `skip` that no module has (`lm_head` may be absent), and for attention and encoder layers of
    `torch.nn`, which use weights without calling linear layers.
    """
    if type(model) is nn.Linear:
        raise TritlabError("the model is itself a linear layer; make a BitLinear instead")
    everywhere = list(model.named_modules(remove_duplicate=False))
    places: dict[nn.Module, list[str]] = {}  # modules are told apart by identity
    for name, module in everywhere:
        places.setdefault(module, []).append(name)
    _check_skip(skip, [name for name, _ in everywhere])
    wanted = {m: n for m, n in places.items() if not any(_skipped(name, skip) for name in n)}
    for module, names in wanted.items():
        _refuse(names[0], module, wanted)
    # All are made before the first is put in: an error leaves the model as it was.
    made = {m: _bitlinear(n[0], m, options) for m, n in wanted.items() if type(m) is nn.Linear}
    found = [(name, made[m]) for name, m in everywhere if m in made]
    for name, layer in found:
        setattr(model.get_submodule(name.rpartition(".")[0]), _last(name), layer)
    return [name for name, _ in found]


def _check_skip(skip: Collection[str], names: list[str]) -> None:
    if isinstance(skip, str):  # whose every letter would be an entry
        raise TritlabError(f"skip={skip!r} is one string; give a list of names: [{skip!r}]")
    known = {*names, *map(_last, names)}
    for entry in skip:
        if entry not in HEAD and (entry not in known or not entry):
            near = difflib.get_close_matches(str(entry), known, 1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise TritlabError(f"skip has {entry!r}, and no module is called that{hint}")


def _skipped(name: str, skip: Collection[str]) -> bool:
    """Whether `skip` has the module of that name, or one that it is inside of."""
    parts = name.split(".")
    return any(part in skip or ".".join(parts[: i + 1]) in skip for i, part in enumerate(parts))


def _last(name: str) -> str:
    return name.rpartition(".")[2]


def _refuse(name: str, module: nn.Module, wanted: Collection[nn.Module]) -> None:
    """Raise for modules of torch.nn that would go past `BitLinear.forward`, and silently."""
    if isinstance(module, nn.MultiheadAttention):
        raise TritlabError(
            f"{name or 'the model'} is an nn.MultiheadAttention, whose projections are parameters "
            "and no linear layers, so they would stay in full precision: write attention with "
            "nn.Linear (as tritlab.train.Decoder does), or put its name into skip"
        )
    if isinstance(module, nn.TransformerEncoderLayer):
        inside = [m for m in module.modules() if type(m) is nn.Linear and m in wanted]
        if inside:
            raise TritlabError(
                f"{name or 'the model'} is an nn.TransformerEncoderLayer, which in evaluation "
                "reads the weights of its linear layers without calling them, so they would not be "
                "rounded there: write the layer out, or put linear1 and linear2 into skip"
            )


def _bitlinear(name: str, linear: nn.Linear, options: dict[str, Any]) -> BitLinear:
    """A `BitLinear` with the parameters of `linear`, which is called `name`."""
    try:
        layer = BitLinear(
            linear.in_features,
            linear.out_features,
            linear.bias is not None,
            device="meta",
            **options,
        )
    except TritlabError as error:
        raise TritlabError(f"{name}: {error}") from None
    layer.weight, layer.bias = linear.weight, linear.bias
    layer.blend = torch.ones((), device=linear.weight.device)
    layer.train(linear.training)
    return layer


def set_blend(model: nn.Module, blend: float) -> None:
    """Set λ of every `BitLinear` in `model`: 0 is full precision, 1 is what will run."""
    if not 0.0 <= blend <= 1.0:
        raise TritlabError(f"blend={blend} is not between 0 and 1")
    for module in model.modules():
        if isinstance(module, BitLinear):
            module.blend.fill_(blend)
