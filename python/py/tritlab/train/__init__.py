"""Training in ternary and 1 bit, with PyTorch: pip install 'tritlab[train]'.

from tritlab import train

names = train.replace_linear(model)              # every nn.Linear becomes BitLinear (absmean, int8)
train.set_blend(model, 0.5)                      # halfway from full precision, for a warm-up
...                                              # your own loop, or train.Trainer
train.export(model, "folder")                    # a Hugging Face folder in BitNet's form
tritlab.Model.load("folder")                     # the kernels run what was trained
"""

from __future__ import annotations

from tritlab.errors import NotInstalledError

try:
    import torch as _torch  # noqa: F401
except ImportError as missing:
    raise NotInstalledError(
        "tritlab.train needs PyTorch; install it with: pip install 'tritlab[train]'"
    ) from missing

from tritlab.train.bitlinear import BitLinear, replace_linear, set_blend
from tritlab.train.decoder import Decoder, DecoderConfig
from tritlab.train.dtype import faster, step_seconds
from tritlab.train.export import export
from tritlab.train.optimizer import Optimizer, schedule
from tritlab.train.quantizers import round_activations, round_weight, ternary
from tritlab.train.trainer import TrainConfig, Trainer, cross_entropy
from tritlab.train.windows import Windows

__all__ = [
    "BitLinear",
    "Decoder",
    "DecoderConfig",
    "Optimizer",
    "TrainConfig",
    "Trainer",
    "Windows",
    "cross_entropy",
    "export",
    "faster",
    "replace_linear",
    "round_activations",
    "round_weight",
    "schedule",
    "set_blend",
    "step_seconds",
    "ternary",
]
