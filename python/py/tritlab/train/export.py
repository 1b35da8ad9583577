"""A trained model as a Hugging Face folder that `tritlab.Model.load` and `transformers` read."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save
from torch import Tensor, nn

from tritlab._files import folder_atomic, write_atomic
from tritlab._native import Ternary
from tritlab.errors import TritlabError
from tritlab.train import exportable
from tritlab.train.bitlinear import BitLinear
from tritlab.train.quantizers import check_rule, round_weight

Weights = Literal["packed", "master", "dense"]
Dtype = Literal["float32", "float16"]

FILES = ("config.json", "model.safetensors", "tokenizer.json")
"""All that an export may consist of; a folder with anything else is not replaced."""

MARK = {"format": "pt", "made_by": "tritlab.train.export"}
"""Metadata of model.safetensors; "format" is what `transformers` wants."""


def export(
    model: nn.Module,
    folder: str | os.PathLike[str],
    *,
    weights: Weights = "packed",
    dtype: Dtype = "float32",
    tokenizer: str | os.PathLike[str] | None = None,
    config: dict[str, Any] | None = None,
    overwrite: bool = False,
) -> Path:
    """Write `model` as config.json, model.safetensors and, if given, tokenizer.json; the folder.

    `weights` says how BitLinear layers are stored:

    - `packed`: codes, four to a byte, and `weight_scale`, float32 [1], that multiplies them
      (`linear_class` autobitlinear, `quantization_mode` offline). One scale per tensor, int8
      activations, a number of rows that is a multiple of 4;
    - `master`: the full-precision weights, made ternary again by whoever loads them (online). Only
      for the rule absmean with one scale, which is the one that readers apply, and int8;
    - `dense`: codes times scales as plain weights, of every rule. Readers see ordinary linear
      layers: they do not round activations.

    Which of them is the model that was trained, and how it is loaded:

    - one scale, int8 activations: `packed` or `master` by `Model.load(folder)`, or `dense` by
      `Model.load(folder, "TERNARY")`, in float32 (or "TERNARY_B3"; "SIGN" for the sign rules).
      Codes are those of training, the scale is too, to a unit in its last place, and activations
      are rounded by the same formula; sums are added up in another order than PyTorch's.
    - any rule and group, no activation rounding: `dense` in float32 by `Model.load(folder)`. The
      weights are the same bits. Groups of 32, 64, 128 or 256 also run packed, by
      `Model.load(folder, "TERNARY_G64+optimal", activations="f32")`: the codes of training, scales
      rounded to float16. Without `+optimal` absmean is applied once more, which shrinks scales.
    - groups with int8 activations: none is. `TERNARY_G64+optimal` rounds activations by a maximum
      per 64 channels, training by one per token; `dense` does not round them.
    - int4 activations: none is. No kernel has them; `dense` holds the weights, and is run with
      activations that nothing rounds.

    All other tensors are in `dtype`. `config` is what config.json says of the model; by default it
    is asked of `model.config` (`to_dict`, as `Decoder` and the models of `transformers` have it).
    Tied output heads are left out; a head that is not tied has to be plain unless the form is
    `dense`. Wrappers (`torch.compile`, `DataParallel`) are looked through. The folder appears whole
    or not at all; `overwrite` replaces one that is an export itself, and no other.

    What is written is the model at λ = 1 (`set_blend`), which is the only one that a file can hold.

    Raises `TritlabError` for a layer that the form cannot hold or that is at another λ, for biases
    that config.json denies, for numbers that are not finite, and for a place that is taken.
    """
    check_rule("weights", weights, Weights)
    check_rule("dtype", dtype, Dtype)
    folder = Path(folder)
    check_place(folder, overwrite)
    if tokenizer is not None and not Path(tokenizer).is_file():
        raise TritlabError(
            f"tokenizer={os.fspath(tokenizer)!r} is no file; a tokenizer.json is expected"
        )
    model = exportable.unwrapped(model)
    settings = _settings(model, config)
    # Under every name: state_dict has a shared layer's weight once for each of its places.
    modules = dict(model.named_modules(remove_duplicate=False))
    layers = {n: m for n, m in modules.items() if isinstance(m, BitLinear)}
    exportable.check_head(model, bool(settings.get("tie_word_embeddings")), weights == "dense")
    for name, layer in layers.items():
        if layer.blend.item() != 1.0:
            raise TritlabError(
                f"{name} is at λ = {layer.blend.item():g}, part full precision, and a file holds "
                "rounded weights, which is another model: train until λ is 1, or call "
                "set_blend(model, 1.0) first"
            )
    # Of a model that the configuration came from; readers would round these weights once more.
    settings.pop("quantization_config", None)
    if layers and weights != "dense":
        plain = [n for n, m in modules.items() if type(m) is nn.Linear]
        # A list without the head makes it BitLinear too, also where it is the embedding.
        if plain and "lm_head" not in plain:
            plain.append("lm_head")
        settings["quantization_config"] = {
            "quant_method": "bitnet",
            "linear_class": "autobitlinear",
            "quantization_mode": "offline" if weights == "packed" else "online",
            "modules_to_not_convert": plain or None,
        }
    exportable.check_biases(modules, settings)
    tensors: dict[str, npt.NDArray[Any]] = {}
    for name, value in model.state_dict().items():
        module = name.removesuffix(".weight")
        if name == "lm_head.weight" and settings.get("tie_word_embeddings"):
            continue
        if module in layers:
            tensors.update(_bitlinear(module, layers[module], weights, dtype))
        else:
            tensors[name] = _plain(name, value, dtype)

    with folder_atomic(folder, replace=True) as scratch:
        write_atomic(scratch / "config.json", json.dumps(settings, indent=2) + "\n")
        write_atomic(scratch / "model.safetensors", save(tensors, MARK))
        if tokenizer is not None:
            shutil.copyfile(tokenizer, scratch / "tokenizer.json")
    return folder


def check_place(folder: Path, overwrite: bool) -> None:
    """Raise unless `folder` can be made, or is an export that may be replaced."""
    if folder.is_symlink():
        raise TritlabError(
            f"{folder} is a symbolic link, which an export would replace and not follow; "
            f"name its target, {os.readlink(folder)}"
        )
    there = next(p for p in (folder, *folder.parents) if p.exists())
    if not there.is_dir():
        raise TritlabError(f"{there} is a file, and the folder {folder} cannot be made there")
    if there != folder:
        return
    if not overwrite:
        raise TritlabError(f"{folder} exists; overwrite=True replaces it")
    found = {path.name for path in folder.iterdir()}
    missing = [name for name in FILES[:2] if found and name not in found]
    foreign = sorted(found.difference(FILES))
    if missing or foreign:
        has = f"has {', '.join(foreign[:3])}" if foreign else f"has no {missing[0]}"
        raise TritlabError(
            f"{folder} {has}, so it is no export, and overwrite=True would empty it; "
            "remove it yourself, or name another folder"
        )
    if found and not _is_export(folder):
        raise TritlabError(
            f"{folder} is a model that no export wrote, and overwrite=True would replace it; "
            "remove it yourself, or name another folder"
        )


def _is_export(folder: Path) -> bool:
    """Whether the tensors bear the mark of an export."""
    try:
        with safe_open(folder / FILES[1], "numpy") as tensors:
            return bool((tensors.metadata() or {}).get("made_by") == MARK["made_by"])
    except (OSError, SafetensorError):
        return False


def _settings(model: nn.Module, config: dict[str, Any] | None) -> dict[str, Any]:
    if config is not None:
        return dict(config)
    own: Any = getattr(model, "config", None)
    if not hasattr(own, "to_dict"):
        raise TritlabError(f"{type(model).__name__} has no config with to_dict(); give config=")
    return dict(own.to_dict())


def _bitlinear(
    module: str, layer: BitLinear, weights: Weights, dtype: Dtype
) -> dict[str, npt.NDArray[Any]]:
    name = module + ".weight"
    if weights == "dense":
        rounded = round_weight(layer.weight.detach(), layer.weights, layer.group)
        return {name: _plain(name, rounded, dtype)}
    if layer.group is not None:
        raise TritlabError(f"{module} has a scale per {layer.group} weights; export it as dense")
    if layer.activations != "int8":
        raise TritlabError(
            f"{module} was trained with activations={layer.activations!r}, and BitNet's form means "
            "int8; dense holds its weights, and readers do not round activations then"
        )
    if weights == "master":
        if layer.weights != "absmean":
            raise TritlabError(
                f"{module} was trained with weights={layer.weights!r}, and readers of master "
                "weights apply absmean; export it as packed"
            )
        return {name: _plain(name, layer.weight, "float32")}
    if layer.out_features % 4:
        raise TritlabError(f"{module} has {layer.out_features} rows, which are not packed by four")
    codes, scale = (x.cpu().numpy() for x in layer.ternary())
    if not np.isfinite(scale).all():
        raise TritlabError(f"{name} has a scale of {scale.item()}")
    if scale.item() == 0:
        raise TritlabError(
            f"{name} has a scale of 0, which packed codes cannot have: all of its weights are 0; "
            "export it as dense"
        )
    packed, factor = Ternary(codes.astype(np.int8), scale.reshape(1)).pack("HF_PACKED")
    rows, cols = codes.shape
    return {
        name: packed.reshape(rows // 4, cols),
        module + ".weight_scale": np.array([factor], dtype=np.float32),
    }


def _plain(name: str, value: Tensor, dtype: str) -> npt.NDArray[Any]:
    with np.errstate(over="ignore"):  # checked below
        array = value.detach().cpu().float().numpy().astype(dtype)
    if not np.isfinite(array).all():
        raise TritlabError(f"{name} has numbers that are not finite in {dtype}")
    return array
