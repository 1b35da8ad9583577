"""How the rows of a comparison are made, one after another."""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tritlab import _native, receipt, speed
from tritlab._files import to_json
from tritlab._formats import FILE, describe
from tritlab._native import EvaluationError, Model, ShapeError
from tritlab._progress import Reporter
from tritlab._row import Row, relative_error
from tritlab.evaluation import Corpus, Measured, Slice, cut, measure
from tritlab.logprobs import LogProbs, StoreError
from tritlab.tokens import worst

if TYPE_CHECKING:
    from tritlab.speed import Speed


@dataclass
class Run:
    """State that the rows of one comparison share."""

    path: Path
    model: dict[str, Any]
    corpus: Corpus
    base: str | None
    head: str | None
    context: int
    chunks: int | None
    bench: tuple[int, int, int]
    speed: str
    """What is timed: one of `speed.CHOICES`; after the first row not "auto" any more."""
    reporter: Reporter
    command: str
    store: Path | None = None
    """Folder in which every row's log-probabilities are kept."""
    store_type: str = "f32"
    part: Slice | None = None
    reference: Model | LogProbs | None = None
    """The first row's model, or with a store its run."""
    errors: dict[str, StoreError] = field(default_factory=dict)
    """What the store's rounding changed, by row."""
    reused: list[str] = field(default_factory=list)
    """Rows whose runs were stored before."""
    facts: dict[str, Any] = field(default_factory=dict)
    rows: list[Row] = field(default_factory=list)
    impossible: dict[str, str] = field(default_factory=dict)
    dot_peak: float = 0.0
    bytes_per_token: float | None = None

    def add(self, format: str | None) -> None:
        """Load, evaluate and time one format. The first becomes the reference and stays."""
        name = FILE if format is None else format
        start = time.perf_counter()
        # The reference keeps the file's own head, or what another costs could not be seen.
        head = None if self.reference is None else self.head
        try:
            model = self._load(self.path, format, head, name)
        except ShapeError as error:
            if self.reference is None:
                raise
            self.impossible[name] = str(error)
            self.reporter.row(f"{name}: not possible here: {error}")
            return
        load_s = time.perf_counter() - start
        step = self.reporter.step
        if self.part is None:
            self.part = cut(self.corpus.tokenize(model), self.context, self.chunks)
            self.facts = receipt.shape_facts(model)
            if self.corpus.text is not None:
                read = len(model.detokenize(self.part.ids).encode(errors="replace"))
                self.bytes_per_token = read / len(self.part.ids)
            self.speed = speed.choose(self.speed, model)
        label = describe(format, model.tensors())[1]
        run = self._stored(model, self.model["sha256"], format, head, label)
        measured = measure(model, self.part, self.reference, step(name, "evaluate"), run=run)
        row = self._row(format, model, measured, load_s, self._time(model, name))
        if self.reference is None:
            self.reference = run or model
        self.rows.append(row)
        self.reporter.row(_summary(row))

    def add_other(self, label: str, source: str, path: Path, format: str | None) -> None:
        """Load, evaluate and time another model, which must read the text as the same tokens."""
        assert self.part is not None
        start = time.perf_counter()
        model = self._load(path, format, None, label)
        load_s = time.perf_counter() - start
        ids = self.corpus.tokenize(model)
        if len(ids) != self.part.tokens or (ids[: len(self.part.ids)] != self.part.ids).any():
            raise EvaluationError(
                f"{label} ({source}) reads the text as other tokens than {self.model['source']}; "
                "only models with one tokenizer can be compared token by token"
            )
        facts = receipt.model_facts(source, path)
        run = self._stored(model, facts["sha256"], format, None, label)
        step = self.reporter.step(label, "evaluate")
        measured = measure(model, self.part, self.reference, step, run=run)
        row = self._row(
            format, model, measured, load_s, self._time(model, label), other=(label, facts)
        )
        self.rows.append(row)
        self.reporter.row(_summary(row))

    def _stored(
        self, model: Model, sha256: str, format: str | None, head: str | None, label: str
    ) -> LogProbs | None:
        """The run of a row, from the store or made and kept now; `None` without a store."""
        if self.store is None:
            return None
        part = self.part
        assert part is not None
        key = {
            "tritlab": _native.__version__,
            "model": sha256,
            "format": format or FILE,
            "head": head,
            "ids": hashlib.sha256(part.ids.astype("<i4").tobytes()).hexdigest(),
            "context": part.context,
            "type": self.store_type,
        }
        digest = hashlib.sha256(to_json(key, indent=None).encode()).hexdigest()
        folder = self.store / f"{format or FILE}-{digest[:16]}"
        if folder.exists():
            run = LogProbs.open(folder)
            self.reused.append(label)
        else:
            run = LogProbs.write(
                folder,
                model,
                part.ids,
                context=part.context,
                dtype=self.store_type,
                progress=self.reporter.step(label, "store"),
            )
        self.errors[label] = run.error
        return run

    def _load(self, path: Path, format: str | None, head: str | None, name: str) -> Model:
        n_prompt, n_gen, _ = self.bench
        return Model.load(
            path,
            format,
            head=head,
            context=max(self.context, n_prompt, n_gen),
            progress=self.reporter.step(name, "load"),
        )

    def time_shapes(self) -> None:
        """Give all rows the speed of their formats at a real model's shapes."""
        self.reporter.step("all formats", f"time products at {speed.SHAPE.name}'s shapes")
        self._measure_peak()
        found = speed.at_shapes([row.kind for row in self.rows])
        self.rows = [replace(row, speed=found[row.kind]) for row in self.rows]

    def _time(self, model: Model, name: str) -> Speed | None:
        if self.speed != "model":
            return None
        self.reporter.step(name, "measure the machine")
        self._measure_peak()
        return speed.of_model(model, *self.bench, progress=self.reporter.step(name, "time"))

    def _measure_peak(self) -> None:
        self.dot_peak = max(self.dot_peak, _native.measure_dot_peak(_native.get_threads()))

    def _row(
        self,
        format: str | None,
        model: Model,
        measured: Measured,
        load_s: float,
        timed: Speed | None,
        other: tuple[str, dict[str, Any]] | None = None,
    ) -> Row:
        assert self.part is not None
        tensors = model.tensors()
        kind, label = describe(format, tensors)
        first = self.reference is None
        facts = self.model
        if other is not None:
            label, facts = other
        return Row(
            label=label,
            format=format,
            kind=kind,
            is_reference=first,
            bits_per_weight=8 * model.linear_bytes / model.linear_params,
            linear_bytes=model.linear_bytes,
            linear_params=model.linear_params,
            total_bytes=model.total_bytes,
            bytes_per_token=model.bytes_per_token,
            rel_error=relative_error(tensors),
            quality=measured.quality,
            load_s=load_s,
            receipt=receipt.make(
                command=self.command,
                model=facts,
                text=receipt.text_facts(self.corpus, self.part),
                format=format,
                label=label,
                head=None if first or other is not None else self.head,
                reference_model=None if other is None else self.model,
                reference=None if first else self.base or FILE,
                reference_head=None,
                measured=measured,
            ),
            arrays=dict(measured.arrays),
            tensors=tensors,
            speed=timed,
            other=other is not None,
            worst=[] if self.corpus.text is None else worst(model, self.part.ids, measured.arrays),
        )


def _summary(row: Row) -> str:
    reference = " (reference)" if row.is_reference else f", KL {row.kl.value:.4g}"
    decode = f", decode {row.decode[0]:.0f} tok/s" if row.speed else ""
    return (
        f"{row.label}: {row.bits_per_weight:.2f} bits per weight, "
        f"perplexity {row.quality.perplexity.value:.4g}{reference}{decode}"
    )
