"""Whether a model fits a Hugging Face folder: what readers would lose or mistake is an error."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from tritlab.errors import TritlabError
from tritlab.train.bitlinear import BitLinear

EMBEDDING = "model.embed_tokens.weight"
"""What readers take for the head where config.json says that it is tied."""


def unwrapped(model: nn.Module) -> nn.Module:
    """The model inside `torch.compile` and `DataParallel`, whose names are those that readers know.

    Raises `TritlabError` for wrappers further in: layers there have names that no reader knows.
    """
    while True:
        if isinstance(inner := getattr(model, "_orig_mod", None), nn.Module):
            model = inner
        elif isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
            model = model.module
        else:
            break
    for name, _ in model.named_modules(remove_duplicate=False):
        if name.endswith("_orig_mod"):
            place = name.removesuffix("_orig_mod").rstrip(".")
            raise TritlabError(
                f"{place} is wrapped by torch.compile, so the names of its weights are others than "
                f"readers know; compile the whole model, or use {place}.compile()"
            )
    return model


def check_head(model: nn.Module, tied: bool, dense: bool) -> None:
    """Raise for an output head that readers would replace by another, or could not read."""
    head = dict(model.named_modules(remove_duplicate=False)).get("lm_head")
    if isinstance(head, BitLinear):
        if tied:
            raise TritlabError(
                "lm_head is a BitLinear, and config.json says that the head is the embedding "
                "(tie_word_embeddings), which nothing rounds; keep lm_head plain (replace_linear's "
                "skip), or untie it"
            )
        if not dense:
            raise TritlabError(
                "lm_head is a BitLinear, and readers of BitNet's form have a plain head; export it "
                "as dense, or keep lm_head plain (replace_linear's skip)"
            )
    weights = dict(model.named_parameters(remove_duplicate=False))
    own = weights.get("lm_head.weight")
    if tied and own is not None and own is not weights.get(EMBEDDING):
        raise TritlabError(
            "config.json says that the head is the embedding (tie_word_embeddings), but "
            f"lm_head.weight is not {EMBEDDING}, and would be lost; "
            'give config={..., "tie_word_embeddings": False}, or tie them'
        )


def check_biases(modules: Mapping[str, nn.Module], settings: dict[str, Any]) -> None:
    """Raise for linear layers' biases that readers of BitNet's form would leave out or miss."""
    if settings.get("model_type") != "bitnet":
        return
    keys = {"self_attn": "attention_bias", "mlp": "mlp_bias"}
    for name, module in modules.items():
        key = next((k for part, k in keys.items() if part in name.split(".")), None)
        biased = isinstance(module, nn.Linear) and module.bias is not None
        if biased and key and settings.get(key) is not True:
            raise TritlabError(
                f"{name} has a bias, and config.json says there is none; "
                f'give config={{..., "{key}": True}}, or train without'
            )
        if isinstance(module, nn.Linear) and not biased and key and settings.get(key) is True:
            raise TritlabError(
                f'{name} has no bias, and config.json says "{key}": true, which is of all layers '
                f"in {name.rpartition('.')[0]}; give it one of zeros"
            )
