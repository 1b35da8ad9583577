"""One model, one text, several formats: what low bits cost, and what they buy."""

from __future__ import annotations

import csv
import datetime
import io
import math
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from tritlab import _models, _native, receipt
from tritlab._files import to_json, write_atomic
from tritlab._native import EvaluationError, FormatError, Model, ShapeError
from tritlab._progress import Quiet, Reporter, Tqdm
from tritlab.evaluation import Corpus, Measured, Slice, Text, cut, measure
from tritlab.paired import Difference, difference
from tritlab.statistics import Estimate, Quality, median_mad
from tritlab.tokens import worst

if TYPE_CHECKING:
    import numpy.typing as npt
    import pandas as pd
    from matplotlib.figure import Figure

    from tritlab._types import BenchTimes, Progress, TensorInfo

FILE = "file"
"""Name of the row whose weights stay as the file has them."""

Other: TypeAlias = "str | os.PathLike[str] | tuple[str | os.PathLike[str], str | None]"
"""Another model: where it is, and the format to put it in (`None`: its file's own)."""

_FILE_NAMES = {"file", "as-shipped", "as shipped", "shipped"}
_DENSE = {"F32", "F16", "BF16"}
TERNARY_NOTE = (
    "ternary rounding of a model that was not trained for it: expected to be ruined. "
    "A model trained in ternary is a different thing"
)


def is_ternary(format: str) -> bool:
    """Whether a format has the three values −1, 0, 1 times a scale."""
    return format.startswith(("TERNARY", "TQ"))


def is_dense(format: str) -> bool:
    """Whether a format is plain floating point."""
    return format in _DENSE


@dataclass(frozen=True)
class Row:
    """One format's line: quality, size, speed, receipt."""

    label: str
    format: str | None
    """What `Model.load` was asked for; `None` keeps the file's own types."""
    kind: str
    """Name of the format that most linear weights have."""
    is_reference: bool
    bits_per_weight: float
    linear_bytes: int
    linear_params: int
    total_bytes: int
    bytes_per_token: int
    rel_error: float
    quality: Quality
    prefill_tok_s: tuple[float, ...]
    decode_tok_s: tuple[float, ...]
    bandwidth: float
    """Bytes/s that memory gave just before this row's decode was timed."""
    load_s: float
    receipt: dict[str, Any]
    arrays: dict[str, Any] = field(repr=False)
    tensors: list[TensorInfo] = field(repr=False)
    other: bool = False
    """Whether this is another model than the one that the comparison is of."""
    worst: list[dict[str, Any]] = field(default_factory=list, repr=False)
    """Tokens with the largest KL divergence, in their text: see `tokens.worst`."""

    @property
    def kl(self) -> Estimate:
        """Mean KL divergence from the reference; 0 for the reference itself."""
        against = self.quality.against
        return Estimate(0.0, 0.0) if against is None else against.kl

    @property
    def same_top(self) -> Estimate:
        """Top-1 agreement with the reference; 1 for the reference itself."""
        against = self.quality.against
        return Estimate(1.0, 0.0) if against is None else against.same_top

    @property
    def prefill(self) -> tuple[float, float]:
        """Median and median absolute deviation of prefill speed, tokens/s."""
        return median_mad(self.prefill_tok_s)

    @property
    def decode(self) -> tuple[float, float]:
        """Median and median absolute deviation of decode speed, tokens/s."""
        return median_mad(self.decode_tok_s)

    @property
    def decode_bytes_s(self) -> float:
        """Bytes of weights read per second while decoding."""
        return self.bytes_per_token * self.decode[0]

    @property
    def note(self) -> str:
        """What a reader must know beside the number."""
        if self.is_reference:
            return "reference"
        rounded = (
            not self.other
            and self.format is not None
            and is_ternary(self.kind)
            and self.rel_error > 0.1
        )
        return TERNARY_NOTE if rounded else ""


@dataclass(frozen=True)
class Comparison:
    """Outcome of `compare`. Shows itself in a notebook; `save` writes tables, figures, report."""

    rows: list[Row]
    model: dict[str, Any]
    text: dict[str, Any]
    text_sentence: str
    reference: str
    """Label of the row that the others are compared with."""
    machine: dict[str, Any]
    bandwidth: float
    """Best read bandwidth seen, bytes/s: the limit that shares refer to."""
    dot_peak: float
    """Int8 multiply-accumulates/s that the threads reach."""
    settings: dict[str, Any]
    versions: dict[str, str]
    command: str
    created: str
    impossible: dict[str, str] = field(default_factory=dict)
    """Formats that this model's shapes do not fit, and why."""

    @property
    def records(self) -> list[dict[str, Any]]:
        """One flat dictionary per format; units are in the names."""
        return [self._record(row) for row in self.rows]

    def _record(self, row: Row) -> dict[str, Any]:
        against = row.quality.against
        prefill, prefill_mad = row.prefill
        decode, decode_mad = row.decode
        return {
            "format": row.label,
            "kind": row.kind,
            "is_reference": row.is_reference,
            "other_model": row.other,
            "reference": self.reference,
            "bits_per_weight": row.bits_per_weight,
            "linear_bytes": row.linear_bytes,
            "total_bytes": row.total_bytes,
            "perplexity": row.quality.perplexity.value,
            "perplexity_error": row.quality.perplexity.error,
            "ln_ppl_ratio": against.ln_ratio.value if against else 0.0,
            "ln_ppl_ratio_error": against.ln_ratio.error if against else 0.0,
            "bits_per_byte": self.bits_per_byte(row).value,
            "bits_per_byte_error": self.bits_per_byte(row).error,
            "kl_nats": row.kl.value,
            "kl_nats_error": row.kl.error,
            "kl_p99_nats": against.kl_percentiles["99 %"] if against else 0.0,
            "same_top": row.same_top.value,
            "same_top_error": row.same_top.error,
            "rel_weight_error": row.rel_error,
            "prefill_tok_s": prefill,
            "prefill_tok_s_mad": prefill_mad,
            "decode_tok_s": decode,
            "decode_tok_s_mad": decode_mad,
            "bytes_per_token": row.bytes_per_token,
            "decode_gb_s": row.decode_bytes_s / 1e9,
            "bandwidth_gb_s": self.bandwidth / 1e9,
            "share_of_bandwidth": row.decode_bytes_s / self.bandwidth,
            "load_s": row.load_s,
            "scored_tokens": row.quality.scored,
            "fingerprint": row.receipt["results"]["fingerprint"],
            "note": row.note,
        }

    def bits_per_byte(self, row: Row) -> Estimate:
        """Mean negative log2-likelihood per byte of text: comparable between tokenizers.

        NaN where the text was given as token ids of a model without a tokenizer.
        """
        per_token = self.text["bytes_per_token"]
        if not per_token:
            return Estimate(math.nan, math.nan)
        bits = per_token * math.log(2)
        return Estimate(row.quality.nll.value / bits, row.quality.nll.error / bits)

    def statistics(self) -> list[dict[str, Any]]:
        """Every statistic of every format, tidy: `format`, `statistic`, `value`, `error`."""
        return [
            {"format": row.label, **record} for row in self.rows for record in row.quality.records()
        ]

    def paired(
        self, a: str, b: str, *, documents: npt.NDArray[np.int64] | None = None
    ) -> Difference:
        """Mean negative log-likelihood of row `a` minus row `b`, nats per token, with its interval.

        The rows scored the same tokens. `documents` gives the document of every token of the text,
        int [n]; without it, windows are the clusters that the bootstrap draws.
        """
        rows = {row.label: row for row in self.rows}
        for label in (a, b):
            if label not in rows:
                raise FormatError(f"no row {label!r}; there are: {', '.join(rows)}")
        position = np.asarray(rows[a].arrays["position"])
        clusters = position // self.settings["context"] if documents is None else None
        if documents is not None:
            if len(documents) <= int(position.max(initial=-1)):
                raise ShapeError(
                    f"documents has {len(documents)} entries, and token {int(position.max())} "
                    "was scored"
                )
            clusters = np.asarray(documents)[position]
        assert clusters is not None
        return difference(rows[a].arrays["nll"], rows[b].arrays["nll"], clusters)

    def differences(self) -> list[dict[str, Any]]:
        """Every pair of rows, tidy: `a`, `b`, and the fields of `paired.Difference`."""
        labels = [row.label for row in self.rows]
        return [
            {"a": a, "b": b, **self.paired(a, b).record()}
            for i, b in enumerate(labels)
            for a in labels[i + 1 :]
        ]

    def to_pandas(self) -> pd.DataFrame:
        """Return `records` as a DataFrame indexed by format (needs the extra `frames`)."""
        try:
            import pandas as pd
        except ImportError:
            from tritlab.errors import NotInstalledError

            raise NotInstalledError(
                "a DataFrame needs pandas; run: pip install 'tritlab[frames]'"
            ) from None
        return pd.DataFrame.from_records(self.records, index="format")

    def to_markdown(self) -> str:
        """Table for a README, with the sentences that it must not be shown without."""
        from tritlab.report.text import markdown

        return markdown(self)

    def figures(self) -> dict[str, Figure]:
        """Figures by name (needs the extra `plot`)."""
        from tritlab.report.figures import figures

        return figures(self)

    def _repr_html_(self) -> str:
        from tritlab.report.html import fragment

        return fragment(self)

    def __str__(self) -> str:
        return self.to_markdown()

    def __repr__(self) -> str:
        labels = ", ".join(row.label for row in self.rows)
        return f"<Comparison of {self.model['name']}: {labels}>"

    def to_dict(self) -> dict[str, Any]:
        """Everything but the per-token arrays, ready for JSON."""
        return {
            "schema": "tritlab.comparison/1",
            "created": self.created,
            "command": self.command,
            "model": self.model,
            "text": self.text,
            "text_sentence": self.text_sentence,
            "reference": self.reference,
            "settings": self.settings,
            "seeds": {"sampling": None},
            "versions": self.versions,
            "machine": self.machine,
            "limits": {"read_bandwidth": self.bandwidth, "dot_peak": self.dot_peak},
            "records": self.records,
            "impossible": self.impossible,
            "statistics": self.statistics(),
            "differences": self.differences(),
            "samples": [
                {
                    "format": row.label,
                    "prefill_tok_s": row.prefill_tok_s,
                    "decode_tok_s": row.decode_tok_s,
                    "bandwidth": row.bandwidth,
                }
                for row in self.rows
            ],
            "tensors": {row.label: row.tensors for row in self.rows},
            "worst_tokens": {row.label: row.worst for row in self.rows},
            "receipts": [row.receipt for row in self.rows],
        }

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Write results.csv, results.json, per-token.npz, PNG figures and report.html.

        Each file is whole or absent; the folder is made. Returns the path of the report.
        """
        from tritlab.report.figures import png
        from tritlab.report.html import page

        out = Path(folder)
        out.mkdir(parents=True, exist_ok=True)
        write_atomic(out / "results.csv", _csv(self.records))
        write_atomic(out / "results.json", to_json(self.to_dict()) + "\n")
        write_atomic(out / "results.md", self.to_markdown())
        arrays = {
            f"{row.label}/{name}": np.asarray(values)
            for row in self.rows
            for name, values in row.arrays.items()
            if name != "n_chunks"
        }
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
        write_atomic(out / "per-token.npz", buffer.getvalue())
        images = {name: png(figure) for name, figure in self.figures().items()}
        for name, data in images.items():
            write_atomic(out / f"{name}.png", data)
        report = out / "report.html"
        write_atomic(report, page(self, images))
        return report


def compare(
    model: str | os.PathLike[str] | Model,
    formats: Sequence[str | None] | str,
    text: Text,
    *,
    others: Mapping[str, Other] | None = None,
    reference: str | None = "F16",
    head: str | None = None,
    context: int = 512,
    chunks: int | None = 6,
    n_prompt: int = 512,
    n_gen: int = 64,
    repetitions: int = 3,
    threads: int | None = None,
    backend: str | None = None,
    progress: bool | Reporter = True,
    command: str | None = None,
) -> Comparison:
    """Compare formats of one model on one text.

    Args:
        model: Path of a GGUF file, a packaged model such as "smollm2", or a loaded model (its file
            is loaded again in each format).
        formats: Names from `tritlab.formats()`; `None` or "file" keeps the file's own types.
        text: The text itself, a `Path` to it, or int32 token ids.
        others: Rows of other models with the same tokens, by label: a path or packaged name, or a
            pair of that and a format. A model trained in ternary, beside one rounded to it.
        reference: What the others are compared with. "F16" is the file's weights expanded to F16
            and multiplied with unrounded activations; `None` or "file" the file as it is.
        head: Format of the output head; see `Model.load`.
        context: Tokens per window.
        chunks: Windows to use; `None` for the whole text.
        n_prompt: Tokens of the timed prefill.
        n_gen: Tokens of the timed decode.
        repetitions: Timed repetitions; medians are reported.
        threads: Number of threads; `None` leaves it as it is.
        backend: Backend; `None` leaves it as it is.
        progress: Whether to show a bar.
        command: Exact command for the receipts; by default this call.

    Raises:
        FormatError: For a format that does not exist.
        ShapeError: For a reference that this model's shapes do not fit; any other such format is
            listed in `Comparison.impossible`.
        EvaluationError: For a text shorter than one window.
        GgufError: For a file that cannot be read.

    """
    source = model.path if isinstance(model, Model) else os.fspath(model)
    path = _models.resolve(source)
    names = formats.split(",") if isinstance(formats, str) else formats
    wanted = list(dict.fromkeys(parse_format(name) for name in names))
    base = parse_format(reference)
    if not wanted:
        raise FormatError("no format to compare; give at least one")
    corpus = Corpus.read(text)
    if threads is not None:
        _native.set_threads(threads)
    if backend is not None:
        _native.set_backend(backend)
    if base in wanted:
        wanted.remove(base)
    order = [base, *wanted]
    for label in others or {}:
        if label in _native_names() or label.startswith(FILE):
            raise FormatError(f"a row of another model cannot be called {label!r}, as a format is")
    also = {
        label: (other, None) if isinstance(other, (str, os.PathLike)) else other
        for label, other in (others or {}).items()
    }
    found = {
        label: (os.fspath(source), _models.resolve(source), parse_format(name))
        for label, (source, name) in also.items()
    }
    settings = {
        "formats": [FILE if name is None else name for name in order],
        "reference": FILE if base is None else base,
        "head": head,
        "context": context,
        "chunks": chunks,
        "n_prompt": n_prompt,
        "n_gen": n_gen,
        "repetitions": repetitions,
        "threads": _native.get_threads(),
        "backend": _native.current_backend(),
    }
    if command is None:
        command = f"tritlab.compare({source!r}, {settings['formats']!r}, ...)"

    reporter: Reporter
    if progress is True:
        reporter = Tqdm()
    elif progress is False:
        reporter = Quiet()
    else:
        reporter = progress
    run = _Run(
        path=path,
        model=receipt.model_facts(source, path),
        corpus=corpus,
        base=base,
        head=head,
        context=context,
        chunks=chunks,
        bench=(n_prompt, n_gen, repetitions),
        reporter=reporter,
        command=command,
    )
    reporter.start(len(order) + len(found))
    try:
        for name in order:
            run.add(name)
        for label, (source, other_path, name) in found.items():
            run.add_other(label, source, other_path, name)
    finally:
        reporter.stop()
    assert run.part is not None
    rows = run.rows
    return Comparison(
        rows=rows,
        model=run.model | run.facts,
        text=receipt.text_facts(corpus, run.part) | {"bytes_per_token": run.bytes_per_token},
        text_sentence=run.part.sentence,
        reference=rows[0].label,
        machine=dict(_native.machine())
        | {"backend": settings["backend"], "threads": settings["threads"]},
        bandwidth=max(row.bandwidth for row in rows),
        dot_peak=run.dot_peak,
        settings=settings,
        versions=receipt.versions(),
        command=command,
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        impossible=run.impossible,
    )


def perplexity(
    model: Model | str | os.PathLike[str],
    text: Text,
    *,
    reference: Model | None = None,
    context: int = 512,
    chunks: int | None = None,
    progress: Progress | None = None,
) -> Quality:
    """Perplexity by llama.cpp's convention, and the comparison with `reference` if there is one.

    `text` is the text itself, a `Path` to it, or int32 token ids; `chunks` limits the number of
    windows of `context` tokens.
    """
    if not isinstance(model, Model):
        model = Model.load(_models.resolve(model), context=context)
    part = cut(Corpus.read(text).tokenize(model), context, chunks)
    return measure(model, part, reference, progress).quality


def parse_format(name: str | None) -> str | None:
    """Spell a format as the table does; `None` for the file's own types."""
    if name is None or name.lower() in _FILE_NAMES:
        return None
    names = _native_names()
    if name.upper() not in names:
        raise FormatError(f"no format {name!r}; there are: {', '.join([*names, FILE])}")
    return name.upper()


def _native_names() -> list[str]:
    return [info["name"] for info in _native.formats()]


@dataclass
class _Run:
    """State that the rows of one comparison share."""

    path: Path
    model: dict[str, Any]
    corpus: Corpus
    base: str | None
    head: str | None
    context: int
    chunks: int | None
    bench: tuple[int, int, int]
    reporter: Reporter
    command: str
    part: Slice | None = None
    reference: Model | None = None
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
            self.facts = {
                "architecture": model.architecture,
                "title": model.name,
                "n_params": model.n_params,
                "n_layers": model.n_layers,
                "n_vocab": model.n_vocab,
            }
            if self.corpus.text is not None:
                read = len(model.detokenize(self.part.ids).encode(errors="replace"))
                self.bytes_per_token = read / len(self.part.ids)
        measured = measure(model, self.part, self.reference, step(name, "evaluate"))
        row = self._row(format, model, measured, *self._time(model, name), load_s)
        if self.reference is None:
            self.reference = model
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
        measured = measure(model, self.part, self.reference, self.reporter.step(label, "evaluate"))
        row = self._row(
            format,
            model,
            measured,
            *self._time(model, label),
            load_s,
            other=(label, receipt.model_facts(source, path)),
        )
        self.rows.append(row)
        self.reporter.row(_summary(row))

    def _load(self, path: Path, format: str | None, head: str | None, name: str) -> Model:
        n_prompt, n_gen, _ = self.bench
        return Model.load(
            path,
            format,
            head=head,
            context=max(self.context, n_prompt, n_gen),
            progress=self.reporter.step(name, "load"),
        )

    def _time(self, model: Model, name: str) -> tuple[float, BenchTimes]:
        n_prompt, n_gen, repetitions = self.bench
        self.reporter.step(name, "measure the machine")
        bandwidth = _native.measure_bandwidth(_native.get_threads())
        self.dot_peak = max(self.dot_peak, _native.measure_dot_peak(_native.get_threads()))
        return bandwidth, model.bench(
            n_prompt, n_gen, repetitions, self.reporter.step(name, "time")
        )

    def _row(
        self,
        format: str | None,
        model: Model,
        measured: Measured,
        bandwidth: float,
        times: BenchTimes,
        load_s: float,
        other: tuple[str, dict[str, Any]] | None = None,
    ) -> Row:
        assert self.part is not None
        n_prompt, n_gen, _ = self.bench
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
            prefill_tok_s=tuple(n_prompt * 1e9 / ns for ns in times["prompt_ns"]),
            decode_tok_s=tuple(n_gen * 1e9 / ns for ns in times["gen_ns"]),
            bandwidth=bandwidth,
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
            other=other is not None,
            worst=[] if self.corpus.text is None else worst(model, self.part.ids, measured.arrays),
        )


def describe(format: str | None, tensors: list[TensorInfo]) -> tuple[str, str]:
    """Name of the format of most linear weights, and the label of the row."""
    if format is not None:
        return format, format
    sizes: dict[str, int] = {}
    for tensor in tensors:
        if tensor["role"] == "linear":
            sizes[tensor["format"]] = sizes.get(tensor["format"], 0) + tensor["n_params"]
    if not sizes:
        return FILE, FILE
    kind = max(sizes, key=lambda name: sizes[name])
    mostly = "" if sizes[kind] >= 0.99 * sum(sizes.values()) else "mostly "
    return kind, f"{FILE} ({mostly}{kind})"


def relative_error(tensors: list[TensorInfo]) -> float:
    """Relative weight error of the linear layers: root of the size-weighted mean square."""
    linear = [tensor for tensor in tensors if tensor["role"] == "linear"]
    total = sum(tensor["n_params"] for tensor in linear)
    if total == 0:
        return math.nan
    return math.sqrt(
        math.fsum(tensor["rel_error"] ** 2 * tensor["n_params"] for tensor in linear) / total
    )


def _summary(row: Row) -> str:
    reference = " (reference)" if row.is_reference else f", KL {row.kl.value:.4g}"
    return (
        f"{row.label}: {row.bits_per_weight:.2f} bits per weight, "
        f"perplexity {row.quality.perplexity.value:.4g}{reference}, "
        f"decode {row.decode[0]:.0f} tok/s"
    )


def _csv(records: list[dict[str, Any]]) -> str:
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, fieldnames=list(records[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return buffer.getvalue()
