"""Fake quantisation: what a number becomes when it is stored in a few bits, as a float again.

The rules are those of `tl.project` and of the formats TERNARY and SIGN, so that the model that is
trained is the model that the kernels run. These functions give values; the straight-through
estimator is in `bitlinear.py`.
"""

from __future__ import annotations

from typing import Any, Literal, get_args

import torch
from torch import Tensor

from tritlab.errors import TritlabError

WeightRule = Literal["absmean", "twn", "sign", "centred_sign"]
ActivationRule = Literal["int8", "int4"]

SMALLEST = 1e-5
"""Least scale of absmean, and least maximum of a token's activations (BitNet's own constants)."""


def ternary(
    weight: Tensor, rule: WeightRule = "absmean", group: int | None = None
) -> tuple[Tensor, Tensor]:
    """Codes in {-1, 0, 1} and what multiplies them.

    `weight` is float32 [rows, cols]. Without `group` there is one scale: codes [rows, cols], scale
    [1, 1]. With it, one per `group` columns of a row: codes [rows, cols / group, group], scales
    [rows, cols / group, 1].

    - `absmean`: scale max(mean|w|, 1e-5), code round(w / scale) (BitNet b1.58, arXiv 2402.17764,
      eq. 1-3);
    - `twn`: code sign(w) where |w| > 0.7 mean|w|, scale mean|w| there (Ternary Weight Networks,
      arXiv 1605.04711, eq. 6);
    - `sign`: scale mean|w|, code 1 where w > 0, otherwise -1;
    - `centred_sign`: the same with w > mean(w) (BitNet, arXiv 2310.11453, eq. 1-3).

    Raises `TritlabError` for another rule, or a group that does not divide `cols`.
    """
    check_rule("weights", rule, WeightRule)
    w = weight.float()
    over: tuple[int, ...] = tuple(range(w.ndim))
    if group is not None:
        if group < 1 or w.shape[-1] % group:
            raise TritlabError(f"rows of {w.shape[-1]} weights do not split into groups of {group}")
        w, over = w.unflatten(-1, (-1, group)), (-1,)

    # Sums in float64 as in the kernels: a mean that differs in its last bit moves codes at an edge.
    def mean(x: Tensor) -> Tensor:
        return x.mean(over, keepdim=True, dtype=torch.float64)

    magnitude = w.abs()
    if rule == "absmean":
        scale = mean(magnitude).float().clamp(min=SMALLEST)
        return (w * (1.0 / scale)).round().clamp(-1, 1), scale
    if rule == "twn":
        kept = magnitude > 0.7 * mean(magnitude)
        count = kept.sum(over, keepdim=True).clamp(min=1)
        scale = (magnitude * kept).sum(over, keepdim=True, dtype=torch.float64) / count
        return w.sign() * kept, scale.float()
    edge = mean(w) if rule == "centred_sign" else 0.0
    return torch.where(w > edge, 1.0, -1.0), mean(magnitude).float()


def round_weight(weight: Tensor, rule: WeightRule = "absmean", group: int | None = None) -> Tensor:
    """`codes * scale` of `ternary`, in the shape and dtype of `weight`."""
    codes, scale = ternary(weight, rule, group)
    return (codes * scale).reshape(weight.shape).to(weight.dtype)


def round_activations(x: Tensor, rule: ActivationRule = "int8") -> Tensor:
    """`x` [..., channels] as int8 or int4 codes by absmax per token would hold it, in x's dtype.

    code = round(x * n / a), value = code * a / n, with a = max(max|x|, 1e-5), n = 127 or 7.
    """
    check_rule("activations", rule, ActivationRule)
    n = 127.0 if rule == "int8" else 7.0
    a = x.float().abs().amax(-1, keepdim=True).clamp(min=SMALLEST)
    codes = (x.float() * (n / a)).round()
    return (codes * (a / n)).to(x.dtype)


def check_rule(argument: str, rule: str, known: Any) -> None:
    """Raise `TritlabError` if `rule` is none of the literals `known`."""
    if rule not in get_args(known):
        raise TritlabError(f"{argument}={rule!r} is none of {', '.join(get_args(known))}")
