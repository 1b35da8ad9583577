"""Log-probabilities of a run, kept on disk and used again: of a reference, or of any model.

Beside a model in memory nothing need be stored: two models run in lock-step. A store is for a
reference that is slow, or too large to be loaded beside what is compared with it, and for models
that are compared more than once.

"f32" keeps the logits as the model gave them, and the float64 logarithm of the sum of their
exponentials per position: from both the log-probabilities come out as in a lock-step run, so that a
KL divergence is the same up to the rounding of float64 sums (1e-12; NumPy adds in another order and
has another exp). "f16" keeps rounded log-probabilities in half the space, which changes KL and
nothing else; by how much is measured while it is written and stands in `error`. Both are
memory-mapped: a store is read piece by piece and may be larger than memory.
"""

from __future__ import annotations

import json
import math
import os
import zipfile
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tritlab._files import folder_atomic, sha256_model, to_json
from tritlab._formats import FILE
from tritlab._native import EvaluationError, Model, TokenizerError

if TYPE_CHECKING:
    import numpy.typing as npt

    from tritlab._types import Evaluation, Progress
    from tritlab.evaluation import Slice, Text

    Floats = npt.NDArray[np.float64]

SCHEMA = "tritlab.logprobs/1"
_ROWS = 32
"""Positions worked on at once: float64 copies of their logits are all the memory this takes."""


@dataclass(frozen=True)
class StoreError:
    """What rounding to f16 changed, measured on every position of the store; zeros for f32."""

    max_abs: float
    """Largest change of a log-probability, nats."""
    mean_abs: float
    """Mean change of a log-probability, weighted with the probabilities, nats."""
    kl_mean: float
    """Mean KL(stored || exact), nats: what a model equal to the reference seems to differ by."""
    kl_max: float
    """The largest of any position, in size."""

    def __str__(self) -> str:
        return (
            f"log-probabilities within {self.max_abs:.2g} nats (mean {self.mean_abs:.2g}), "
            f"KL within {self.kl_max:.2g} (mean {self.kl_mean:.2g})"
        )


class LogProbs:
    """A stored run: give it as `reference` to `tritlab.perplexity`.

        kept = tl.LogProbs.write("reference", model, Path("book.txt"), context=512, chunks=8)
        tl.perplexity(other, Path("book.txt"), reference=kept, context=512, chunks=8)

    Immutable; `LogProbs.open` finds it again in another process.
    """

    def __init__(self, folder: Path, facts: dict[str, Any]) -> None:
        self.folder = folder
        self._facts = facts
        try:
            with (folder / "rows.npz").open("rb") as file, np.load(file) as rows:
                self._ids, self._log_sums = rows["ids"], rows["log_sums"]
                self._nll, self._top = rows["nll"], rows["top"]
            self._values = np.load(folder / "values.npy", mmap_mode="r")
        except (ValueError, EOFError, KeyError, OSError, zipfile.BadZipFile) as error:
            raise EvaluationError(f"{folder}: a file of the store is damaged: {error}") from None
        wanted = (facts["positions"], facts["vocabulary"])
        if self._values.shape != wanted or len(self._nll) != wanted[0]:
            raise EvaluationError(
                f"{folder}: the store holds {list(self._values.shape)} values and "
                f"{len(self._nll)} rows, expected {list(wanted)}"
            )

    @classmethod
    def open(cls, folder: str | os.PathLike[str]) -> LogProbs:
        """Open a store. `EvaluationError` if the folder is none."""
        path = Path(folder)
        try:
            facts = json.loads((path / "store.json").read_text())
        except FileNotFoundError:
            raise EvaluationError(f"{path} is no store of log-probabilities") from None
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise EvaluationError(f"{path}/store.json is not JSON: {error}") from None
        found = facts.get("schema") if isinstance(facts, dict) else type(facts).__name__
        if found != SCHEMA:
            raise EvaluationError(f"{path}/store.json: expected the schema {SCHEMA}, found {found}")
        return cls(path, facts)

    @classmethod
    def write(
        cls,
        folder: str | os.PathLike[str],
        model: Model,
        text: Text,
        *,
        context: int = 512,
        chunks: int | None = None,
        dtype: str = "f32",
        progress: Progress | None = None,
    ) -> LogProbs:
        """Run `model` on a text and keep its log-probabilities in a new folder, whole or absent.

        It takes `chunks` · (context − 1 − context / 2) · vocabulary · 4 bytes, or 2 with "f16".
        Arguments as of `tritlab.perplexity`. `EvaluationError` if the folder exists.
        """
        from tritlab.evaluation import Corpus, cut

        path = Path(folder)
        if path.exists():
            raise EvaluationError(f"{path} exists; a store is written into a new folder")
        if dtype not in ("f32", "f16"):
            raise EvaluationError(f"dtype: expected f32 or f16, found {dtype!r}")
        part = cut(Corpus.read(text).tokenize(model), context, chunks)
        with folder_atomic(path) as temporary:
            facts = _write(temporary, model, part, dtype, progress)
            (temporary / "store.json").write_text(to_json(facts) + "\n")
        return cls(path, facts)

    @property
    def dtype(self) -> str:
        """Either "f32" (exact) or "f16" (rounded: see `error`)."""
        return str(self._facts["dtype"])

    @property
    def context(self) -> int:
        """Tokens per window."""
        return int(self._facts["context"])

    @property
    def model(self) -> dict[str, Any]:
        """What was run: `path`, `sha256`, `format`."""
        return dict(self._facts["model"])

    @property
    def error(self) -> StoreError:
        """What the store's rounding changed, as measured when it was written."""
        return StoreError(**self._facts["error"])

    @property
    def nbytes(self) -> int:
        """Bytes of the values on disk."""
        return int(self._values.nbytes)

    def require(self, path: Path, format: str | None) -> None:
        """Raise `EvaluationError` unless this is a run of the model at `path` in `format`."""
        wanted = {"sha256": sha256_model(path), "format": format or FILE}
        for name, value in wanted.items():
            if self._facts["model"][name] != value:
                raise EvaluationError(
                    f"{self.folder} holds a run of another model: {name} "
                    f"{self._facts['model'][name]}, not {value}"
                )

    def log_probs(self, start: int, stop: int) -> Floats:
        """Stored log-probabilities of the scored positions start to stop, float64 [n, vocab]."""
        values: Floats = self._values[start:stop].astype(np.float64)
        if self.dtype == "f32":
            values -= self._log_sums[start:stop, None]
        return values

    def require_slice(self, part: Slice) -> None:
        """Raise `EvaluationError` unless `part` is the text that was stored."""
        if part.context != self.context or not np.array_equal(part.ids, self._ids):
            raise EvaluationError(
                f"{self.folder} holds {len(self._ids)} tokens in windows of {self.context}, "
                f"not these {len(part.ids)} in windows of {part.context}; text, context and chunks "
                "must be those of the store"
            )

    def own(self) -> Evaluation:
        """Score the stored run by itself: what `Model.evaluate` without a reference gives."""
        return {
            "n_chunks": len(self._ids) // self.context,
            "nll": self._nll,
            "token": self._ids[self._positions()],
            "position": self._positions(),
        }

    def _positions(self) -> npt.NDArray[np.int64]:
        """Index of every scored token: those of the second half of each window but its first."""
        windows = len(self._ids) // self.context
        scored = np.arange(self.context // 2 + 1, self.context, dtype=np.int64)
        return (np.arange(windows)[:, None] * self.context + scored).reshape(-1)

    def evaluate(
        self, model: Model | LogProbs, part: Slice | None = None, progress: Progress | None = None
    ) -> Evaluation:
        """Score `model`, which may be stored too, against the stored run.

        It is what `Model.evaluate` with a reference gives. `EvaluationError` if `part` is not what
        was stored, or texts or vocabularies differ.
        """
        if part is not None:
            self.require_slice(part)
        vocabulary = model._values.shape[1] if isinstance(model, LogProbs) else model.n_vocab
        if vocabulary != self._values.shape[1]:
            raise EvaluationError(
                f"{self.folder} has a vocabulary of {self._values.shape[1]} tokens, "
                f"the model of {vocabulary}"
            )
        if isinstance(model, LogProbs) and not (
            model.context == self.context and np.array_equal(model._ids, self._ids)
        ):
            raise EvaluationError(f"{self.folder} and {model.folder} hold runs of other texts")
        columns: dict[str, list[Any]] = defaultdict(list)
        windows = len(self._ids) // self.context
        scored = self.context - 1 - self.context // 2
        for w in range(windows):
            if progress is not None:
                progress(w, windows, "evaluate")
            kept = slice(w * scored, (w + 1) * scored)
            if isinstance(model, LogProbs):
                own = model.log_probs
                columns["nll"].append(model._nll[kept])
                columns["same_top"].append(model._top[kept] == self._top[kept])
            else:
                position, logits = _window(model, self._ids, self.context, w)
                own = _Run(logits, kept.start).log_probs
                columns["same_top"].append(logits.argmax(axis=1) == self._top[kept])
            for at in range(kept.start, kept.stop, _ROWS):
                end = min(at + _ROWS, kept.stop)
                mine = own(at, end)
                columns["kl"].append(np.maximum(_kl(self.log_probs(at, end), mine), 0.0))
                if not isinstance(model, LogProbs):
                    tokens = self._ids[position[at - kept.start : end - kept.start]]
                    columns["nll"].append(-mine[np.arange(len(mine)), tokens])
        if progress is not None:
            progress(windows, windows, "evaluate")
        arrays = {name: np.concatenate(parts) for name, parts in columns.items()}
        return {
            **self.own(),
            "nll": arrays["nll"],
            "ref_nll": self._nll,
            "kl": arrays["kl"],
            "same_top": arrays["same_top"],
            "p": np.exp(-arrays["nll"]),
            "ref_p": np.exp(-self._nll),
        }

    def __repr__(self) -> str:
        n, vocab = self._values.shape
        return f"<LogProbs {self.folder}: {n} positions of {vocab} tokens, {self.dtype}>"


class _Run:
    """Logits of the scored rows from `first` on, float32 [n, vocab], read as a store is."""

    def __init__(self, logits: npt.NDArray[np.float32], first: int) -> None:
        self._logits, self._first = logits, first

    def log_probs(self, start: int, stop: int) -> Floats:
        own: Floats = self._logits[start - self._first : stop - self._first].astype(np.float64)
        own -= _log_sum_exp(own)[:, None]
        return own


def read_window(
    model: Model, ids: npt.NDArray[np.int32], context: int, window: int
) -> npt.NDArray[np.int32]:
    """Ids of a window as they are read: a model that begins texts with BOS gets it first.

    It takes the place of the window's first token, as in llama.cpp.
    """
    read = ids[window * context : (window + 1) * context].copy()
    bos = _bos(model)
    if bos is not None:
        read[0] = bos
    return read


def _window(
    model: Model, ids: npt.NDArray[np.int32], context: int, window: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """Scored positions of a window, and the logits that predict them, float32 [scored, vocab].

    llama.cpp's convention: the second half is scored.
    """
    first, half = window * context, context // 2
    logits = model.logits(read_window(model, ids, context, window))[half : context - 1]
    return np.arange(first + half + 1, first + context, dtype=np.int64), logits


def _bos(model: Model) -> int | None:
    """The token that the model begins texts with; `None` where there is none."""
    try:
        plain = model.tokenize("a", add_special=False)
        special = model.tokenize("a")
    except TokenizerError:
        return None
    begins = len(special) > len(plain) and np.array_equal(special[1 : 1 + len(plain)], plain)
    return int(special[0]) if begins else None


def _log_sum_exp(logits: Floats) -> Floats:
    highest = logits.max(axis=1)
    sums: Floats = highest + np.log(np.exp(logits - highest[:, None]).sum(axis=1))
    return sums


def _kl(p: Floats, q: Floats) -> Floats:
    """KL(p || q) of log-probabilities [n, vocab], nats; the formula of `model/src/eval.rs`."""
    sums: Floats = (np.exp(p) * (p - q)).sum(axis=1)
    return sums


def _write(
    folder: Path, model: Model, part: Slice, dtype: str, progress: Progress | None
) -> dict[str, Any]:
    scored = part.context - 1 - part.context // 2
    shape = (part.windows * scored, model.n_vocab)
    kind = np.float32 if dtype == "f32" else np.float16
    values = np.lib.format.open_memmap(folder / "values.npy", mode="w+", dtype=kind, shape=shape)
    log_sums, nll = np.empty(shape[0], np.float64), np.empty(shape[0], np.float64)
    top = np.empty(shape[0], np.int32)
    largest, weighted, kl_sum, kl_max = 0.0, 0.0, 0.0, 0.0
    for w in range(part.windows):
        if progress is not None:
            progress(w, part.windows, "store")
        position, logits = _window(model, part.ids, part.context, w)
        tokens = part.ids[position]
        top[w * scored : (w + 1) * scored] = logits.argmax(axis=1)
        for at in range(0, scored, _ROWS):
            block = logits[at : at + _ROWS]
            rows = slice(w * scored + at, w * scored + at + len(block))
            exact = block.astype(np.float64)
            log_sums[rows] = _log_sum_exp(exact)
            exact -= log_sums[rows, None]
            nll[rows] = -exact[np.arange(len(block)), tokens[at : at + _ROWS]]
            if dtype == "f32":
                values[rows] = block
                continue
            rounded = exact.astype(np.float16)
            values[rows] = rounded
            kept = rounded.astype(np.float64)
            change = np.abs(kept - exact)
            kl = _kl(kept, exact)
            largest = max(largest, float(change.max()))
            weighted += math.fsum((np.exp(exact) * change).sum(axis=1))
            kl_sum += math.fsum(kl)
            kl_max = max(kl_max, float(np.abs(kl).max()))
    if progress is not None:
        progress(part.windows, part.windows, "store")
    values.flush()
    np.savez(folder / "rows.npz", ids=part.ids, log_sums=log_sums, nll=nll, top=top)
    return {
        "schema": SCHEMA,
        "dtype": dtype,
        "context": part.context,
        "positions": shape[0],
        "vocabulary": shape[1],
        "model": {
            "path": model.path,
            "sha256": sha256_model(Path(model.path)),
            "format": model.format or FILE,
        },
        "error": {
            "max_abs": largest,
            "mean_abs": weighted / shape[0],
            "kl_mean": kl_sum / shape[0],
            "kl_max": kl_max,
        },
    }
