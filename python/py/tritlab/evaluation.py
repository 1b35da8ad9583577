"""Score a text with a model: what is read, how much of it, and what came out."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from tritlab import pair
from tritlab._native import EvaluationError, Imatrix, Model
from tritlab.logprobs import LogProbs
from tritlab.statistics import Quality, quality

if TYPE_CHECKING:
    import numpy.typing as npt

    from tritlab._types import Evaluation, Progress

Text: TypeAlias = "str | os.PathLike[str] | npt.NDArray[np.int32]"
"""A text itself (`str`), a UTF-8 file (`Path`), or token ids (int32 array)."""

FINGERPRINT_TOKENS = 64


@dataclass(frozen=True, slots=True)
class Corpus:
    """A text before it is tokenised."""

    source: str | None
    """The file, as given; `None` for a text from memory."""
    sha256: str
    nbytes: int
    text: str | None
    ids: npt.NDArray[np.int32] | None

    @classmethod
    def read(cls, text: Text) -> Corpus:
        """Take a text, the path of one, or token ids."""
        if isinstance(text, np.ndarray):
            if text.dtype != np.int32 or text.ndim != 1:
                raise TypeError(f"token ids must be int32 [n], not {text.dtype} {list(text.shape)}")
            raw = text.astype("<i4").tobytes()
            return cls(None, hashlib.sha256(raw).hexdigest(), len(raw), None, text)
        if isinstance(text, str):
            raw = text.encode()
            return cls(None, hashlib.sha256(raw).hexdigest(), len(raw), text, None)
        path = find_text(text)
        raw = path.read_bytes()
        digest = hashlib.sha256(raw).hexdigest()
        try:
            decoded = raw.decode()
        except UnicodeDecodeError as error:
            raise EvaluationError(
                f"{path} is not UTF-8 text (byte {error.start} of {len(raw)})"
            ) from None
        return cls(os.fspath(text), digest, len(raw), decoded, None)

    def tokenize(self, model: Model) -> npt.NDArray[np.int32]:
        """Token ids of the whole text, with the special tokens the model wants."""
        if self.ids is not None:
            return self.ids
        assert self.text is not None
        return model.tokenize(self.text)


def find_text(text: str | os.PathLike[str]) -> Path:
    """Path of a text file, or of a packaged text where `text` is its name (see `pair.texts`)."""
    path = Path(text).expanduser()
    return path if path.exists() else pair.texts().get(str(path), path)


@dataclass(frozen=True, slots=True)
class Slice:
    """The part of a text that is scored."""

    ids: npt.NDArray[np.int32]
    tokens: int
    """Tokens of the whole text."""
    windows: int
    context: int

    @property
    def sentence(self) -> str:
        """How much of the text is used, for people."""
        used = self.windows * self.context
        part = (
            "the whole text, but for a last incomplete window"
            if self.tokens - used < self.context
            else f"the first {used} of {self.tokens} tokens"
        )
        plural = "window" if self.windows == 1 else "windows"
        return (
            f"Text used: {part} ({self.windows} {plural} of {self.context}; "
            "the second half of each is scored)."
        )


def cut(ids: npt.NDArray[np.int32], context: int, chunks: int | None) -> Slice:
    """Take the first `chunks` windows (`None`: all whole windows)."""
    if context < 2:
        raise EvaluationError(f"context must be at least 2 tokens, not {context}")
    if chunks is not None and chunks < 1:
        raise EvaluationError(f"chunks must be at least 1, not {chunks}")
    whole = len(ids) // context
    if whole == 0:
        raise EvaluationError(
            f"the text has {len(ids)} tokens, fewer than one window of {context}; "
            "give a longer text or a smaller context"
        )
    windows = whole if chunks is None else min(chunks, whole)
    return Slice(np.ascontiguousarray(ids[: windows * context]), len(ids), windows, context)


@dataclass(frozen=True, slots=True)
class Measured:
    """Outcome of one evaluation."""

    quality: Quality
    arrays: Evaluation
    fingerprint: str
    """SHA-256 of the logits of the text's first tokens: `FINGERPRINT_TOKENS`, or one window."""
    stored: str | None = None
    """Type of the stored log-probabilities that the numbers are of, "f32" or "f16"."""


def measure(
    model: Model,
    part: Slice,
    reference: Model | LogProbs | None = None,
    progress: Progress | None = None,
    *,
    run: LogProbs | None = None,
) -> Measured:
    """Evaluate a model on a slice, beside a reference that runs or that was stored.

    `run` is the model's own stored run, beside which the reference must be stored too: the model
    then runs for its fingerprint only.
    """
    stored = None
    if run is not None:
        run.require_slice(part)
        assert not isinstance(reference, Model)
        arrays = run.own() if reference is None else reference.evaluate(run, part, progress)
        stored = run.dtype
    elif isinstance(reference, LogProbs):
        arrays = reference.evaluate(model, part, progress)
        stored = reference.dtype
    else:
        arrays = model.evaluate(
            part.ids, context=part.context, reference=reference, progress=progress
        )
    mark = model.fingerprint(part.ids[: min(FINGERPRINT_TOKENS, part.context)])
    return Measured(quality(arrays), arrays, mark, stored)


def digest(values: Any) -> str:
    """SHA-256 of an array's values as little-endian float64."""
    return hashlib.sha256(np.asarray(values).astype("<f8").tobytes()).hexdigest()


def imatrix_sha256(imatrix: Imatrix) -> str:
    """SHA-256 of what an importance matrix says: names and values, not its file."""
    seen = hashlib.sha256()
    for name, values in sorted(imatrix.arrays().items()):
        seen.update(f"{name}\0{len(values)}\0".encode() + values.astype("<f4").tobytes())
    return seen.hexdigest()


def collect_imatrix(
    model: Model,
    text: Text,
    *,
    context: int = 512,
    chunks: int | None = None,
    progress: Progress | None = None,
) -> Imatrix:
    """Importance of every column of every linear layer, collected from a text.

    `text` is a text, the path of one, or token ids; of it, `chunks` windows of `context` tokens are
    used, or all. Give the result to `Model.load(..., imatrix=)`, or save it for `tritlab quantize`.
    """
    corpus = Corpus.read(text)
    part = cut(corpus.tokenize(model), context, chunks)
    name = Path(corpus.source).name if corpus.source else corpus.sha256[:16]
    return Imatrix.collect(model, part.ids, context=context, dataset=name, progress=progress)
