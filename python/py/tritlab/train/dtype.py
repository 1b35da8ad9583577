"""Which dtype trains faster: timed, since it hangs on the processor and on the sizes."""

from __future__ import annotations

import copy
import statistics
import time
from typing import Any

import numpy.typing as npt
import torch
from torch import nn

from tritlab.train.trainer import TrainConfig, batch_loss
from tritlab.train.windows import Windows

MARGIN = 0.95
"""Share of float32's time that bfloat16 must stay below: less is noise, and float32 rounds less."""


def step_seconds(
    model: nn.Module, tokens: npt.NDArray[Any], config: TrainConfig, steps: int = 3
) -> dict[str, float]:
    """Median seconds of a step in "f32" and, where the device has it, in "bf16" (autocast).

    A step is a forward and a backward pass over one batch of `config`, compiled if it says so. The
    optimiser is left out, being the same in both, and `model` is copied, so it stays as it is.
    """
    copied = copy.deepcopy(model).to(config.device)
    inputs, targets = Windows(tokens, config.context, config.batch, config.seed).batch_at(0)
    inputs, targets = inputs.to(config.device), targets.to(config.device)
    loss_of = torch.compile(batch_loss) if config.compile else batch_loss
    cuda = torch.device(config.device).type == "cuda"
    dtypes = {"f32": False}
    if not cuda or torch.cuda.is_bf16_supported():
        dtypes["bf16"] = True
    seconds: dict[str, list[float]] = {name: [] for name in dtypes}
    for _ in range(steps + 1):  # in turns: a machine that slows down does so for both
        for name, bf16 in dtypes.items():
            began = time.perf_counter()
            loss_of(copied, inputs, targets, config.device, bf16).backward()
            if cuda:
                torch.cuda.synchronize()
            seconds[name].append(time.perf_counter() - began)
            copied.zero_grad(set_to_none=True)
    return {name: statistics.median(each[1:]) for name, each in seconds.items()}  # one to warm up


def faster(seconds: dict[str, float]) -> str:
    """The dtype to train in, of `step_seconds`: "bf16" if it saves 5 % or more, otherwise "f32"."""
    return "bf16" if seconds.get("bf16", float("inf")) < MARGIN * seconds["f32"] else "f32"
