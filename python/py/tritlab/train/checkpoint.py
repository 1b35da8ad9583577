"""Checkpoints: files that are whole, and that know which training they are of."""

from __future__ import annotations

import hashlib
import os
import zipfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy.typing as npt
import torch
from torch import nn

from tritlab.errors import TritlabError

MOST_SHOWN = 3
"""Differences that a message lists; a model of another shape differs in every layer."""


def identity(config: Any, model: nn.Module, tokens: npt.NDArray[Any]) -> dict[str, str]:
    """What a training depends on, by name, in words that can be compared and shown.

    `config` is a dataclass. Layers say their sizes and rules by their `repr`, and what no layer
    says (a RoPE's base) stands in `model.config` where there is one (`to_dict`). Tokens are known
    by their number and the SHA-256 of their values, of whatever integer dtype.
    """
    found = {key: repr(value) for key, value in asdict(config).items()}
    own: Any = getattr(model, "config", None)
    if hasattr(own, "to_dict"):
        found |= {f"model.config.{key}": repr(value) for key, value in own.to_dict().items()}
    for name, module in model.named_modules():
        if next(module.children(), None) is None:
            found[name or "model"] = repr(module)
    digest = hashlib.sha256(tokens.astype("<i8").tobytes()).hexdigest()
    found["tokens"] = f"{len(tokens)} with SHA-256 {digest[:16]}"
    return found


def write(path: Path, state: dict[str, Any]) -> None:
    """Write `state` under a temporary name, then rename it: a stop never leaves half a file."""
    temporary = path.with_suffix(".tmp")
    torch.save(state, temporary)
    os.replace(temporary, path)


def read(path: Path, ours: dict[str, str], device: str) -> dict[str, Any]:
    """The state in `path`, tensors on `device`.

    Raises `TritlabError` for a file that is damaged or no checkpoint, and for one whose "identity"
    is not `ours`; it names the file and what differs.
    """
    try:
        with zipfile.ZipFile(path) as whole:  # torch reads past its checksums
            if part := whole.testzip():
                raise zipfile.BadZipFile(f"the checksum of {part} is wrong")
        state = torch.load(path, map_location=device, weights_only=True)
        theirs: dict[str, str] = state["identity"]
    except OSError:
        raise
    except Exception as error:  # whatever pickle, zip and torch raise for bytes that are not theirs
        what = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise TritlabError(
            f"{path} is damaged or no checkpoint of this trainer ({what}); remove it to start again"
        ) from error
    names = [n for n in {**theirs, **ours} if theirs.get(n) != ours.get(n)]
    if names:
        shown = [
            f"{n} was {theirs.get(n, 'absent')} and is {ours.get(n, 'absent')}"
            for n in names[:MOST_SHOWN]
        ]
        more = f", and {len(names) - MOST_SHOWN} more" if len(names) > MOST_SHOWN else ""
        raise TritlabError(
            f"{path} is of another training: {'; '.join(shown)}{more}; remove it to start again"
        )
    return dict(state)
