"""Muon for the matrices, Adam for the rest, and one schedule for both.

Muon (K. Jordan et al., 2024; `torch.optim.Muon`) orthogonalises the momentum of a matrix. At the
few million tokens that a small model sees it is worth more than every other choice.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from tritlab.errors import TritlabError


def schedule(step: int, steps: int, warmup: float = 0.05, decay: float = 0.5) -> float:
    """Factor of the learning rate at `step` of `steps`.

    It rises over the first `warmup` of them, is level, and falls linearly to 0 over the last
    `decay`.
    """
    rising = (step + 1) / max(1.0, warmup * steps)
    falling = (steps - step) / max(1.0, decay * steps)
    return min(1.0, rising, falling)


class Optimizer:
    """Two optimisers that step together.

    `muon_lr` is for every matrix but embeddings (`nn.Embedding`, parameters with "embed" in their
    own name, `lm_head`), `adam_lr` for these and the norms. Without weight decay: with Muon and few
    tokens it only costs.
    """

    def __init__(self, model: nn.Module, muon_lr: float, adam_lr: float) -> None:
        tables = (nn.Embedding, nn.EmbeddingBag)
        embeddings = {
            parameter
            for module in model.modules()
            if isinstance(module, tables)
            for parameter in module.parameters(recurse=False)
        }
        matrices: list[nn.Parameter] = []
        rest: list[nn.Parameter] = []
        for name, parameter in model.named_parameters():
            *owners, own = name.split(".")
            looked_up = parameter in embeddings or "embed" in own or "lm_head" in owners
            (matrices if parameter.ndim == 2 and not looked_up else rest).append(parameter)
        if not matrices and not rest:
            raise TritlabError(f"{type(model).__name__} has no parameters to train")
        self.parts: list[torch.optim.Optimizer] = []
        self.rates: list[float] = []
        if matrices:  # PyTorch's optimisers refuse an empty list
            self.parts.append(
                torch.optim.Muon(
                    matrices, lr=muon_lr, weight_decay=0.0, momentum=0.95, nesterov=True
                )
            )
            self.rates.append(muon_lr)
        if rest:
            self.parts.append(torch.optim.Adam(rest, lr=adam_lr, betas=(0.9, 0.95)))
            self.rates.append(adam_lr)

    def step(self, factor: float) -> None:
        """One step at `factor` times the learning rates; gradients are cleared."""
        for part, rate in zip(self.parts, self.rates, strict=True):
            for group in part.param_groups:
                group["lr"] = rate * factor
            part.step()
            part.zero_grad(set_to_none=True)

    def state_dict(self) -> list[Any]:
        """State of both, for a checkpoint."""
        return [part.state_dict() for part in self.parts]

    def load_state_dict(self, state: list[Any]) -> None:
        """Take up the state of a checkpoint."""
        for part, saved in zip(self.parts, state, strict=True):
            part.load_state_dict(saved)
