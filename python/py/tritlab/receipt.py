"""Receipts: what a result was made from, and making it again.

A receipt holds hashes of model and text, formats, backend, threads, versions, seed, the command,
and what came out. The library gives the same bits on every machine and thread count, so `rerun`
asks for equality and not for closeness. Speeds belong to a machine and are not checked.
"""

from __future__ import annotations

import json
import math
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tritlab import _models, _native, pair
from tritlab._files import model_files, sha256_model
from tritlab.errors import ReceiptError
from tritlab.evaluation import (
    FINGERPRINT_TOKENS,
    Corpus,
    Measured,
    Slice,
    cut,
    digest,
    imatrix_sha256,
    measure,
)

if TYPE_CHECKING:
    from collections.abc import Callable

SCHEMA = "tritlab.receipt/1"


def versions() -> dict[str, str]:
    """Versions a result may depend on."""
    return {
        "tritlab": _native.__version__,
        "python": platform.python_version(),
        "numpy": np.__version__,
    }


def model_facts(source: str, path: Path) -> dict[str, Any]:
    """Identify a model file or folder."""
    return {
        "source": source,
        "name": path.name,
        "sha256": sha256_model(path),
        "nbytes": sum(file.stat().st_size for file in model_files(path)),
    }


def shape_facts(model: _native.Model) -> dict[str, Any]:
    """What a loaded model is."""
    return {
        "architecture": model.architecture,
        "title": _models.title(model.path, model.name),
        "n_params": model.n_params,
        "n_layers": model.n_layers,
        "n_vocab": model.n_vocab,
    }


def text_facts(corpus: Corpus, part: Slice) -> dict[str, Any]:
    """Identify a text and the part of it that was used."""
    return {
        "source": corpus.source,
        "kind": "ids" if corpus.ids is not None else "utf-8",
        "sha256": corpus.sha256,
        "nbytes": corpus.nbytes,
        "tokens": part.tokens,
        "windows": part.windows,
        "context": part.context,
    }


def results(measured: Measured) -> dict[str, Any]:
    """The numbers that a re-run must reproduce.

    Of a stored run the per-token values are not those of a run in lock-step to the last bit, and
    have no hashes; rounded to f16, their KL is another one, and none is promised.
    """
    q, stored = measured.quality, measured.stored
    found: dict[str, Any] = {"fingerprint": measured.fingerprint, "scored": q.scored}
    if stored is None:
        found["nll_sha256"] = digest(measured.arrays["nll"])
    found |= {
        "mean_nll": q.nll.value,
        "perplexity": q.perplexity.value,
        "perplexity_error": q.perplexity.error,
    }
    if q.against is not None:
        if stored is None:
            found["kl_sha256"] = digest(measured.arrays["kl"])
        if stored != "f16":
            found["kl_mean"] = q.against.kl.value
        found["same_top"] = q.against.same_top.value
    return found


def make(
    *,
    command: str,
    model: dict[str, Any],
    text: dict[str, Any],
    format: str | None,
    label: str,
    head: str | None,
    reference: str | None,
    reference_head: str | None,
    measured: Measured | dict[str, Any],
    reference_model: dict[str, Any] | None = None,
    i2_s: str = "I2_S",
    longrope: str = "length",
    overrides: dict[str, str] | None = None,
    imatrix: dict[str, str] | None = None,
) -> dict[str, Any]:
    """Build the receipt of one evaluation that has just been made, or of its `results`.

    `format`, `overrides` and `reference` are what `Model.load` was asked for ("file" for the file's
    own types); `reference` is `None` where there was no comparison, `reference_model` where the
    reference was of the same file. `i2_s` is the order of I2_S codes and `longrope` what chooses
    the frequencies of longrope, of both; `imatrix` the `source` and the `sha256`
    (`evaluation.imatrix_sha256`) of the importance matrix, of both.
    """
    return {
        "schema": SCHEMA,
        "command": command,
        "label": label,
        "model": model,
        "text": text,
        "format": "file" if format is None else format,
        "head": head,
        "overrides": overrides,
        "imatrix": imatrix,
        "reference": reference,
        "reference_head": reference_head,
        "reference_model": reference_model,
        "i2_s": i2_s,
        "longrope": longrope,
        "backend": _native.current_backend(),
        "threads": _native.get_threads(),
        "seed": None,  # nothing is sampled in an evaluation
        "versions": versions(),
        "machine": dict(_native.machine()),
        "stored": None if isinstance(measured, dict) else measured.stored,
        "fingerprint_tokens": min(FINGERPRINT_TOKENS, int(text["context"])),
        "results": measured if isinstance(measured, dict) else results(measured),
    }


def read(path: Path) -> list[dict[str, Any]]:
    """Receipts of a file: one receipt, a list of them, or a `results.json`."""
    try:
        content = json.loads(path.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ReceiptError(f"{path} is not JSON: {error}") from None
    if isinstance(content, dict) and "receipts" in content:
        content = content["receipts"]
    found = content if isinstance(content, list) else [content]
    for item in found:
        if not isinstance(item, dict) or item.get("schema") != SCHEMA:
            got = item.get("schema") if isinstance(item, dict) else type(item).__name__
            raise ReceiptError(f"{path}: a receipt of schema {SCHEMA} is wanted, not {got}")
    if not found:
        raise ReceiptError(f"{path} holds no receipt")
    return found


@dataclass(frozen=True, slots=True)
class Check:
    """One number of a receipt, then and now."""

    label: str
    name: str
    recorded: Any
    now: Any
    equal: bool


def rerun(
    receipts: list[dict[str, Any]],
    *,
    model: str | None = None,
    text: Path | None = None,
    folder: Path | None = None,
    progress: Callable[[int, int, str], object] | None = None,
) -> list[Check]:
    """Make the results of receipts again and compare them, number by number.

    Backend and threads are this process's own: they must not matter. `model` and `text` say where
    the files are now; by default they are looked for as recorded, then in `folder`.
    """
    checks: list[Check] = []
    loaded: dict[tuple[Any, ...], _native.Model] = {}  # the reference, kept while it is the same
    for number, item in enumerate(receipts):
        other = item.get("reference_model")
        # `model` is where the model of the comparison is; a row of another model has its own.
        path = _model_path(item["model"], model if other is None else None, folder)
        ref_path = path if other is None else _model_path(other, model, folder)
        corpus = Corpus.read(_text_path(item, text, folder))
        _same("model", item["model"], sha256_model(path))
        if other is not None:
            _same("reference model", other, sha256_model(ref_path))
        _same("text", item["text"], corpus.sha256)
        context = int(item["text"]["context"])
        common = {
            "context": context,
            "i2_s": item.get("i2_s", "I2_S"),  # older receipts have none
            "longrope": item.get("longrope", "length"),
            "imatrix": _imatrix(item.get("imatrix"), folder),
        }

        if progress is not None:
            progress(number, len(receipts), f"{item['label']}: loading")
        reference = None
        if item["reference"] is not None:
            facts = item.get("imatrix")
            asked = item["reference"], item["reference_head"]
            key = (
                str(ref_path),
                *asked,
                common["i2_s"],
                common["longrope"],
                facts and facts["sha256"],
            )
            if key not in loaded:
                loaded.clear()
                loaded[key] = _load(ref_path, item["reference"], item["reference_head"], common)
            reference = loaded[key]
        common["overrides"] = item.get("overrides")
        subject = _load(path, item["format"], item["head"], common)
        part = cut(corpus.tokenize(subject), context, int(item["text"]["windows"]))
        if progress is not None:
            progress(number, len(receipts), f"{item['label']}: evaluating")
        now = results(measure(subject, part, reference))
        del subject
        for name, recorded in item["results"].items():
            value = now.get(name)
            equal = _equal(recorded, value, 1e-12 if item.get("stored") is None else 1e-9)
            checks.append(Check(item["label"], name, recorded, value, equal))
    return checks


def _load(path: Path, format: str, head: str | None, common: dict[str, Any]) -> _native.Model:
    return _native.Model.load(path, None if format == "file" else format, head=head, **common)


def _imatrix(facts: dict[str, str] | None, folder: Path | None) -> _native.Imatrix | None:
    """The importance matrix of a receipt: in its folder, or where it was."""
    if facts is None:
        return None
    places = [folder / facts["source"]] if folder else []
    path = next((p for p in (*places, Path(facts["source"])) if p.is_file()), None)
    if path is None:
        raise FileNotFoundError(f"no importance matrix {facts['source']} beside the receipt")
    found = _native.Imatrix.read(path)
    _same("importance matrix", facts, imatrix_sha256(found))
    return found


def _equal(recorded: Any, now: Any, rel_tol: float) -> bool:
    if recorded is None:
        return now is None or (isinstance(now, float) and not math.isfinite(now))
    if isinstance(recorded, float) and isinstance(now, (int, float)):
        # exp and sqrt come from the platform's libm and may differ in the last place; the
        # per-token values behind them are compared bit by bit through their hashes. Of a stored run
        # those are sums in another order, and a mean KL of almost nothing is a difference of them.
        return math.isclose(recorded, now, rel_tol=rel_tol, abs_tol=1e-12 if rel_tol > 1e-12 else 0)
    return bool(recorded == now)


def _same(what: str, facts: dict[str, Any], sha256: str) -> None:
    if facts["sha256"] != sha256:
        raise ReceiptError(
            f"this is not the {what} of the receipt: "
            f"SHA-256 {sha256[:16]}… instead of {facts['sha256'][:16]}…"
        )


def _model_path(facts: dict[str, Any], given: str | None, folder: Path | None) -> Path:
    source: str = given or facts["source"]
    if given is None and folder is not None and source.lower() not in _models.PACKAGED:
        for candidate in (Path(source), folder / source, folder / str(facts["name"])):
            if candidate.exists():
                return Path(candidate)
    return _models.resolve(source)


def _text_path(item: dict[str, Any], given: Path | None, folder: Path | None) -> Path:
    if given is not None:
        return given
    source: str | None = item["text"]["source"]
    if source is None:
        raise ReceiptError("the text of this receipt came from memory; say where it is with --text")
    packaged = pair.texts().get(source)
    here = [folder / source] if folder else []
    for candidate in (Path(source), *here, *([packaged] if packaged else [])):
        if candidate.is_file():
            return candidate
    raise FileNotFoundError(f"no text file {source}; say where it is with --text")
