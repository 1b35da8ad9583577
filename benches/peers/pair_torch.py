#!/usr/bin/env python3
"""The embedded ternary member by PyTorch, beside ours: how far two ways to add up can agree.

    .venv/bin/pip install 'tritlab[train]'
    .venv/bin/python benches/peers/pair_torch.py

The decoder of `tritlab.train` reads the member as `tritlab convert` writes it for Hugging Face, in
float32 and in float64, and every pair of the three answers is compared: share of positions with the
same most likely token, and the difference of logits. Then once more without rounding of
activations, which tells what that rounding does: an activation that lies at the edge between two
int8 codes falls to either side by the last bit of a sum, and all that follows differs by a whole step.

Writes benches/record/pair-torch.md.
"""

from __future__ import annotations

import argparse
import copy
import importlib.metadata
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import tritlab as tl
from peers import RECORD, machine
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F
from tritlab import train
from tritlab.train.decoder import RMSNorm

CONTEXT = 512
Logits = Callable[[np.ndarray], Tensor]
"""Of token ids [time]: float64 [time, vocabulary]."""


class Ternary(nn.Module):
    """Codes times int8 codes by absmax per token, as `train.BitLinear` in the forward pass."""

    def __init__(self, packed: Tensor, scale: Tensor) -> None:
        super().__init__()
        # Hugging Face's packing: a byte's four fields are rows a quarter of the matrix apart.
        fields = [((packed >> (2 * i)) & 3).float() - 1 for i in range(4)]
        self.register_buffer("codes", torch.cat(fields))
        self.register_buffer("scale", scale)
        self.rounding = True

    def forward(self, x: Tensor) -> Tensor:
        if not self.rounding:
            return F.linear(x, self.codes) * self.scale
        a = x.abs().amax(-1, keepdim=True).clamp(min=1e-5)
        return F.linear((x * (127 / a)).round(), self.codes) * (a / 127 * self.scale)


class Norm(nn.Module):
    """`RMSNorm` in the dtype of its weight; that one computes in float32 whatever the weight is."""

    def __init__(self, norm: RMSNorm) -> None:
        super().__init__()
        self.weight, self.eps = norm.weight, norm.eps

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.eps) * self.weight


def decoder(folder: Path) -> train.Decoder:
    """The member in float32."""
    tensors = load_file(folder / "model.safetensors")
    model = train.Decoder(train.DecoderConfig(vocab_size=2048))
    for name, module in list(model.named_modules()):
        parent, _, last = name.rpartition(".")
        if isinstance(module, nn.Linear):
            layer = Ternary(tensors.pop(f"{name}.weight"), tensors.pop(f"{name}.weight_scale"))
            setattr(model.get_submodule(parent), last, layer)
        elif isinstance(module, RMSNorm):
            setattr(model.get_submodule(parent), last, Norm(module))
    missing, unexpected = model.load_state_dict(tensors, strict=False)
    missing = [name for name in missing if not name.endswith((".codes", ".scale"))]
    assert not missing, missing
    assert not unexpected, unexpected
    return model


def rows(module: nn.Module) -> Logits:
    def logits(ids: np.ndarray) -> Tensor:
        with torch.no_grad():
            return module(torch.from_numpy(ids.astype(np.int64))[None])[0].double()

    return logits


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=RECORD)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        there = Path(folder) / "ternary"
        tl.convert(tl.pair.TERNARY, there)
        ours = tl.Model.load(there, context=CONTEXT)
        single = decoder(there)
    double = copy.deepcopy(single).double()
    engines: dict[str, Logits] = {
        "tritlab": lambda ids: torch.from_numpy(ours.logits(ids)).double(),
        "PyTorch, float32": rows(single),
        "PyTorch, float64": rows(double),
    }
    ids = ours.tokenize(tl.pair.texts()["persuasion"].read_text(encoding="utf-8"))
    windows = ids[: len(ids) // CONTEXT * CONTEXT].reshape(-1, CONTEXT)
    lines = ["| activations | between | and | same most likely token | difference, rms |"]
    lines.append("|---|---|---|---:|---:|")
    for activations, rounding in (("int8", True), ("not rounded", False)):
        for module in (*single.modules(), *double.modules()):
            if isinstance(module, Ternary):
                module.rounding = rounding
        # tritlab has no other activations in this format.
        used = {n: f for n, f in engines.items() if rounding or n != "tritlab"}
        found = {n: torch.cat([f(window) for window in windows]) for n, f in used.items()}
        names = list(found)
        for i, a in enumerate(names):
            for b in names[i + 1 :]:
                same = (found[a].argmax(-1) == found[b].argmax(-1)).double().mean()
                rms = (found[a] - found[b]).square().mean().sqrt()
                lines.append(f"| {activations} | {a} | {b} | {same:.2%} | {rms:.1e} |")
                print(lines[-1], flush=True)
    spread = found["PyTorch, float64"].std()
    about = (
        f"{time.strftime('%Y-%m-%d')}, `benches/peers/pair_torch.py`, torch "
        f"{importlib.metadata.version('torch')}, {machine()['cpu']}. {windows.size} positions of "
        f"*Persuasion* in windows of {CONTEXT}; logits have a standard deviation of {spread:.1f}."
    )
    end = (
        "PyTorch in float32 agrees with itself in float64 no better than with tritlab. An activation at the "
        "edge between two int8 codes falls to either side by the last bit of a sum; without that rounding, "
        "nothing is left of the difference. So a share of equal tokens nearer to 100 % would need not the same "
        "model but the same order of all sums."
    )
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "pair-torch.md").write_text(
        "\n".join(["# The ternary member by PyTorch", "", about, "", *lines, "", end]) + "\n"
    )


if __name__ == "__main__":
    main()
