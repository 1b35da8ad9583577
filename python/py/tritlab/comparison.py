"""One model, one text, several formats: what low bits cost, and what they buy."""

from __future__ import annotations

import datetime
import io
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

import numpy as np

from tritlab import _models, _native, machine, receipt
from tritlab import speed as timed
from tritlab._extras import plots_missing
from tritlab._files import to_json, write_atomic
from tritlab._formats import FILE, names, parse_format
from tritlab._native import EvaluationError, FormatError, Model, ShapeError
from tritlab._progress import Reporter, reporter_for
from tritlab._row import Row
from tritlab._run import Run
from tritlab.evaluation import Corpus, Text, cut, measure
from tritlab.logprobs import LogProbs
from tritlab.paired import Difference, difference
from tritlab.records import Records, csv_text
from tritlab.statistics import Estimate, Quality

if TYPE_CHECKING:
    import numpy.typing as npt
    from matplotlib.figure import Figure

    from tritlab._types import Progress
    from tritlab.speed import Choice

Other: TypeAlias = "str | os.PathLike[str] | tuple[str | os.PathLike[str], str | None]"
"""Another model: where it is, and the format to put it in (`None`: its file's own)."""


@dataclass(frozen=True)
class Comparison(Records):
    """Outcome of `compare`. Shows itself in a notebook; `save` writes tables, figures, report."""

    rows: list[Row]
    model: dict[str, Any]
    text: dict[str, Any]
    text_sentence: str
    reference: str
    """Label of the row that the others are compared with."""
    machine: dict[str, Any]
    bandwidth: float
    """Best read bandwidth seen, bytes/s: what shares refer to; NaN if nothing was timed."""
    dot_peak: float
    """Int8 multiply-accumulates/s that the threads reach; NaN if nothing was timed."""
    settings: dict[str, Any]
    versions: dict[str, str]
    command: str
    created: str
    impossible: dict[str, str] = field(default_factory=dict)
    """Formats that this model's shapes do not fit, and why."""

    _index: ClassVar[str | None] = "format"

    @property
    def speed_of(self) -> str:
        """What was timed: "model", "shapes of" the named model, or "none"."""
        if self.settings["speed"] == "shapes":
            return f"shapes of {self.settings['shapes']['model']}"
        return str(self.settings["speed"])

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
            "speed_of": self.speed_of,
            "prefill_tok_s": prefill,
            "prefill_tok_s_mad": prefill_mad,
            "decode_tok_s": decode,
            "decode_tok_s_mad": decode_mad,
            "prefill_g_products_s": row.speed.prefill_products_s / 1e9 if row.speed else math.nan,
            "bytes_per_token": row.bytes_per_token,
            "timed_bytes_per_token": row.speed.bytes_per_token if row.speed else math.nan,
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
        return self._differences

    @cached_property  # thousands of drawings per pair, and every table's notes want them
    def _differences(self) -> list[dict[str, Any]]:
        labels = [row.label for row in self.rows]
        return [
            {"a": a, "b": b, **self.paired(a, b).record()}
            for i, b in enumerate(labels)
            for a in labels[i + 1 :]
        ]

    def to_markdown(self) -> str:
        """Table for a README, with the sentences that it must not be shown without."""
        from tritlab.report.text import markdown

        return markdown(self)

    def to_latex(self) -> str:
        """Two tables for a paper (package booktabs), what it costs and what it buys, and notes."""
        from tritlab.report.text import latex

        return latex(self)

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
                    "prefill_tok_s": row.speed.prefill_tok_s,
                    "decode_tok_s": row.speed.decode_tok_s,
                    "bandwidth": row.speed.bandwidth,
                }
                for row in self.rows
                if row.speed
            ],
            "tensors": {row.label: row.tensors for row in self.rows},
            "worst_tokens": {row.label: row.worst for row in self.rows},
            "receipts": [row.receipt for row in self.rows],
        }

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Write results.csv, results.json, per-token.npz, PNG figures and report.html.

        Each file is whole or absent; the folder is made. Without the extra `plot` there are no
        figures, and the report says so. Returns the path of the report.
        """
        from tritlab.report.html import page

        out = Path(folder)
        out.mkdir(parents=True, exist_ok=True)
        write_atomic(out / "results.csv", csv_text(self.records))
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
        images = {}
        if not plots_missing():
            from tritlab.report import figures

            images = figures.write(out, self.figures())
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
    speed: Choice = "auto",
    store: str | os.PathLike[str] | None = None,
    store_type: str = "f32",
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
        n_prompt: Tokens of the timed prefill, where a model's own speed is measured.
        n_gen: Tokens of the timed decode, likewise.
        repetitions: Timed repetitions, likewise; medians are reported.
        speed: What the speeds are of. "model": each row's own. "shapes": each row's format at the
            layers' shapes of BitNet b1.58 2B-4T, weights from memory, in turns (`speed.at_shapes`;
            1.2 seconds per format). "auto": "shapes" where the reference's weights take no more
            than `timing.CACHE` (32 MiB), so that they may stay in a cache and their speed would say
            nothing about larger models; else "model". "none": nothing is timed.
        store: Folder in which each row's log-probabilities are kept (see `LogProbs`): a later
            comparison on the same text takes them from there, runs no model over it twice, and has
            the same numbers. Each row takes scored tokens · vocabulary · 4 bytes.
        store_type: "f32", or "f16": half the space, with an error that is measured and said.
        threads: Number of threads; `None` leaves it as it is.
        backend: Backend; `None` leaves it as it is.
        progress: Whether to show a bar.
        command: Exact command for the receipts; by default this call.

    Raises:
        FormatError: For a format that does not exist.
        ShapeError: For a reference that this model's shapes do not fit; any other such format is
            listed in `Comparison.impossible`.
        EvaluationError: For a text shorter than one window, or a choice that does not exist.
        GgufError: For a file that cannot be read.

    """
    source = model.path if isinstance(model, Model) else os.fspath(model)
    path = _models.resolve(source)
    given = formats.split(",") if isinstance(formats, str) else formats
    wanted = list(dict.fromkeys(parse_format(name) for name in given))
    base = parse_format(reference)
    if not wanted:
        raise FormatError("no format to compare; give at least one")
    if store_type not in ("f32", "f16"):
        raise EvaluationError(f"store_type: expected f32 or f16, found {store_type!r}")
    timed.check(speed)
    corpus = Corpus.read(text)
    if threads is not None:
        _native.set_threads(threads)
    if backend is not None:
        _native.set_backend(backend)
    if base in wanted:
        wanted.remove(base)
    order = [base, *wanted]
    also = []
    for label, other in (others or {}).items():
        if label.partition("+")[0] in names() or label.startswith(FILE):
            raise FormatError(f"a row of another model cannot be called {label!r}, as a format is")
        where, name = (other, None) if isinstance(other, (str, os.PathLike)) else other
        also.append((label, os.fspath(where), _models.resolve(where), parse_format(name)))
    settings: dict[str, Any] = {
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

    reporter = reporter_for(progress, "format")
    run = Run(
        path=path,
        model=receipt.model_facts(source, path),
        corpus=corpus,
        base=base,
        head=head,
        context=context,
        chunks=chunks,
        bench=(n_prompt, n_gen, repetitions),
        speed=speed,
        reporter=reporter,
        command=command,
        store=None if store is None else Path(store),
        store_type=store_type,
    )
    reporter.start(len(order) + len(also))
    try:
        for name in order:
            run.add(name)
        for row in also:
            run.add_other(*row)
        if run.speed == "shapes":
            run.time_shapes()
    finally:
        reporter.stop()
    assert run.part is not None
    rows = run.rows
    settings["speed"] = run.speed
    if run.speed == "shapes":
        assert rows[0].speed is not None
        settings["shapes"] = timed.facts() | {"rounds": len(rows[0].speed.decode_tok_s)}
    if store is not None:
        settings["store"] = {
            "folder": os.fspath(store),
            "type": store_type,
            "reused": run.reused,
            "errors": {label: asdict(error) for label, error in run.errors.items()},
        }
    return Comparison(
        rows=rows,
        model=run.model | run.facts,
        text=receipt.text_facts(corpus, run.part) | {"bytes_per_token": run.bytes_per_token},
        text_sentence=run.part.sentence,
        reference=rows[0].label,
        machine=machine(),
        bandwidth=max((row.speed.bandwidth for row in rows if row.speed), default=math.nan),
        dot_peak=run.dot_peak or math.nan,
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
    reference: Model | LogProbs | None = None,
    context: int = 512,
    chunks: int | None = None,
    progress: Progress | None = None,
) -> Quality:
    """Perplexity by llama.cpp's convention, and the comparison with `reference` if there is one.

    `reference` is a model, or a run of one that `LogProbs` stored. `text` is the text itself, a
    `Path` to it, or int32 token ids; `chunks` limits the number of windows of `context` tokens.
    """
    if not isinstance(model, Model):
        model = Model.load(_models.resolve(model), context=context)
    part = cut(Corpus.read(text).tokenize(model), context, chunks)
    return measure(model, part, reference, progress).quality
