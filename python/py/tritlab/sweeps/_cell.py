"""One cell of a sweep: what it is, and how its row is made. Runs in a worker."""

from __future__ import annotations

import functools
import hashlib
import math
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tritlab import _models, _native
from tritlab._files import model_files, sha256_model, to_json
from tritlab._formats import FILE, PROJECTIONS, describe
from tritlab._native import EvaluationError, Model, ModelError
from tritlab._row import relative_error
from tritlab.evaluation import Corpus, Slice, cut, digest, measure
from tritlab.paired import difference
from tritlab.sweeps._store import Store

if TYPE_CHECKING:
    import numpy.typing as npt

    from tritlab.evaluation import Measured


@dataclass(frozen=True)
class Cell:
    """All that a cell's numbers depend on."""

    model_sha256: str
    text_sha256: str
    format: str | None
    activations: str
    seed: int
    reference: str | None
    head: str | None
    context: int
    windows: int | None
    tritlab: str
    kernels: str

    @functools.cached_property
    def key(self) -> str:
        """SHA-256 of the fields: name of the cell's file."""
        content = {"schema": "tritlab.cell/1", **asdict(self)}
        return hashlib.sha256(to_json(content, indent=None).encode()).hexdigest()

    def identity(self) -> dict[str, Any]:
        """The first columns of the row."""
        named = {"format": self.format or FILE, "reference": self.reference or FILE}
        return {"key": self.key, **asdict(self), **named}


@dataclass(frozen=True)
class Job:
    """A cell, and where a worker finds what it needs."""

    cell: Cell
    model: str
    text: Path
    store: Path
    threads: int
    backend: str | None


@functools.cache
def kernels_fingerprint() -> str:
    """SHA-256 of what formats and projections make of one small matrix: codes, scales, products.

    The version alone would not do: a library that is being worked on keeps its version, and cells
    that other kernels made would be taken for its own.
    """
    wave = np.sin(np.arange(8 * 512, dtype=np.float64) ** 1.5).astype(np.float32).reshape(8, 512)
    x = np.cos(np.arange(512 * 3, dtype=np.float64) * 1.7).astype(np.float32).reshape(512, 3)
    seen = hashlib.sha256()
    for info in _native.formats():
        matrix = _native.Matrix.quantize(np.round(wave, 4), info["name"])
        for part in (matrix.bytes, matrix.scales, matrix @ np.round(x, 4)):
            seen.update(np.ascontiguousarray(part).tobytes())
    for projection in PROJECTIONS:
        ternary = _native.project(np.round(wave, 4), projection, per="row")
        seen.update(ternary.codes.tobytes() + ternary.scales.tobytes())
    return seen.hexdigest()[:16]


def read_text(path: Path) -> Corpus:
    """A UTF-8 text, or the token ids of a .npy file."""
    if path.suffix != ".npy":
        return Corpus.read(path)
    try:
        ids = np.load(path, allow_pickle=False)
    except ValueError as error:
        raise EvaluationError(f"{path} is not an array of NumPy: {error}") from None
    if ids.dtype != np.int32 or ids.ndim != 1:
        raise EvaluationError(
            f"{path}: token ids are int32 [n], found {ids.dtype} {list(ids.shape)}"
        )
    return Corpus.read(ids)


def draw(ids: npt.NDArray[np.int32], context: int, windows: int | None, seed: int) -> Slice:
    """The windows that a seed draws, in the order of the text; `None` takes all.

    Drawn by hashes and not by NumPy's generators, whose streams may change between versions.
    """
    whole = cut(ids, context, None)
    if windows is None or windows >= whole.windows:
        return whole
    names = [hashlib.sha256(f"{seed}:{i}".encode()).digest() for i in range(whole.windows)]
    chosen = sorted(sorted(range(whole.windows), key=names.__getitem__)[:windows])
    parts = whole.ids.reshape(whole.windows, context)[chosen]
    return Slice(np.ascontiguousarray(parts.reshape(-1)), len(ids), windows, context)


# A worker measures one cell at a time: the number of threads is the process's, and memory for one
# model and its reference is what a worker is expected to need.
_turn = threading.Lock()


def run(job: Job) -> str:
    """Measure a cell and keep its row; what goes wrong with it is kept as its row. Gives the key.

    The process's threads and backend are as before afterwards.
    """
    with _turn:
        before = _native.get_threads(), _native.current_backend()
        _native.set_threads(job.threads)
        if job.backend is not None:
            _native.set_backend(job.backend)
        row = job.cell.identity() | {
            "run_threads": job.threads,
            "run_backend": _native.current_backend(),
            "run_cpu": _native.machine()["cpu"],
        }
        try:
            row |= _measure(job) | {"status": "ok"}
        except Exception as error:
            said = " ".join(str(error).split())
            row |= {"status": "failed", "error": f"{type(error).__name__}: {said}"}
        finally:
            _native.set_threads(before[0])
            _native.set_backend(before[1])
        Store(job.store).write(row)
    return job.cell.key


def forget() -> None:
    """Drop the models that this process keeps from cell to cell."""
    _kept.clear()


@dataclass(frozen=True)
class _Loaded:
    model: Model
    facts: dict[str, Any]
    seconds: float


# By what it is for: the reference, and the model of the last cell. Cells come in an order in which
# neighbours share them.
_kept: dict[str, tuple[Any, _Loaded]] = {}


def _load_once(role: str, key: tuple[Any, ...], load: Any) -> _Loaded:
    if role in _kept and _kept[role][0] == key:
        return _kept[role][1]
    _kept.pop(role, None)  # before the next one is loaded: memory for two is not asked for
    start = time.perf_counter()
    model, facts = load()
    loaded = _Loaded(model, facts, time.perf_counter() - start)
    _kept[role] = key, loaded
    return loaded


def _measure(job: Job) -> dict[str, Any]:
    cell = job.cell
    path = _models.resolve(job.model)
    _check(f"model {job.model}", cell.model_sha256, _sha256(path))
    corpus = read_text(job.text)
    _check(f"text {job.text}", cell.text_sha256, corpus.sha256)
    reference = _load_once(
        "reference",
        (cell.model_sha256, cell.reference, cell.context),
        lambda: (Model.load(path, cell.reference, context=cell.context), {}),
    )
    subject = _load_once(
        "subject",
        (cell.model_sha256, cell.format, cell.activations, cell.head, cell.context),
        lambda: _subject(path, cell),
    )
    part = draw(corpus.tokenize(subject.model), cell.context, cell.windows, cell.seed)
    start = time.perf_counter()
    measured = measure(subject.model, part, reference.model)
    seconds = time.perf_counter() - start
    bytes_per_token = None  # of token ids nobody knows the bytes
    if corpus.text is not None:
        read = len(subject.model.detokenize(part.ids).encode(errors="replace"))
        bytes_per_token = read / len(part.ids)
    return {
        **subject.facts,
        **_statistics(measured, cell, bytes_per_token),
        "run_load_s": subject.seconds,
        "run_evaluate_s": seconds,
    }


def _subject(path: Path, cell: Cell) -> tuple[Model, dict[str, Any]]:
    """The model of a cell, and what its weights are like."""
    model = Model.load(
        path, cell.format, head=cell.head, context=cell.context, activations=cell.activations
    )
    tensors = model.tensors()
    kind = describe(cell.format, tensors)[0]
    facts = {
        "kind": kind,
        "activation_groups": "f32" if cell.activations == "f32" else _grouping(kind),
        "bits_per_weight": 8 * model.linear_bytes / model.linear_params,
        "linear_bytes": model.linear_bytes,
        "total_bytes": model.total_bytes,
        "rel_weight_error": relative_error(tensors),
    }
    return model, facts


def _grouping(kind: str) -> str:
    return next((f["activation"] for f in _native.formats() if f["name"] == kind), "mixed")


def _statistics(measured: Measured, cell: Cell, bytes_per_token: float | None) -> dict[str, Any]:
    q, arrays = measured.quality, measured.arrays
    a = q.against
    assert a is not None
    windows = np.asarray(arrays["position"]) // cell.context
    paired = difference(arrays["nll"], arrays["ref_nll"], windows, seed=cell.seed)
    return {
        "scored_tokens": q.scored,
        "scored_windows": q.windows,
        "nll_nats": q.nll.value,
        "nll_nats_error": q.nll.error,
        "perplexity": q.perplexity.value,
        "perplexity_error": q.perplexity.error,
        "bits_per_byte": q.nll.value / math.log(2) / bytes_per_token if bytes_per_token else None,
        "reference_perplexity": a.perplexity.value,
        "ln_ppl_ratio": a.ln_ratio.value,
        "ln_ppl_ratio_error": a.ln_ratio.error,
        "ln_ppl_ratio_low": paired.low,
        "ln_ppl_ratio_high": paired.high,
        "distinguishable": paired.distinguishable,
        "kl_nats": a.kl.value,
        "kl_nats_error": a.kl.error,
        "kl_median_nats": a.kl_percentiles["median"],
        "kl_p99_nats": a.kl_percentiles["99 %"],
        "kl_max_nats": a.kl_percentiles["max"],
        "delta_p": a.delta_p.value,
        "delta_p_error": a.delta_p.error,
        "delta_p_rms": a.delta_p_rms.value,
        "same_top": a.same_top.value,
        "same_top_error": a.same_top.error,
        "fingerprint": measured.fingerprint,
        "nll_sha256": digest(arrays["nll"]),
        "kl_sha256": digest(arrays["kl"]),
    }


def _check(what: str, wanted: str, found: str) -> None:
    if wanted != found:
        raise ModelError(
            f"{what} is another file here than where the sweep was planned: SHA-256 "
            f"{found[:16]}… instead of {wanted[:16]}…"
        )


def _sha256(path: Path) -> str:
    stamp = tuple((str(f), f.stat().st_size, f.stat().st_mtime_ns) for f in model_files(path))
    return _sha256_of(path, stamp)


@functools.lru_cache(maxsize=16)
def _sha256_of(path: Path, stamp: tuple[Any, ...]) -> str:
    return sha256_model(path)
