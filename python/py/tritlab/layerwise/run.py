"""Measure a model layer by layer."""

from __future__ import annotations

import datetime
import os
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from tritlab import _native, machine, receipt
from tritlab._formats import FILE, parse_format
from tritlab._native import Model
from tritlab._progress import Reporter, reporter_for
from tritlab.errors import EvaluationError
from tritlab.evaluation import Corpus, Text
from tritlab.layerwise.measuring import measure
from tritlab.layerwise.result import Layer, LayerReport, Swap
from tritlab.logprobs import read_window
from tritlab.precision.measuring import Bench
from tritlab.precision.sensitivity import Option, Unit, arrange, options, units

if TYPE_CHECKING:
    import numpy.typing as npt

    from tritlab._types import TensorInfo

    Array = npt.NDArray[np.float32]

Mode = Literal["alone", "up_to", "both"]
"""Which layers are in the format at once: each alone, all up to it, or one after the other."""
_FUSED = {"attn_qkv": "attn_q"}
"""Kinds whose input has another one's name."""


def layers(
    model: str | os.PathLike[str] | Model,
    text: Text,
    format: str | None,
    *,
    mode: Mode = "alone",
    base: str | None = None,
    context: int = 512,
    chunks: int = 2,
    imatrix: _native.Imatrix | str | os.PathLike[str] | None = None,
    store: str | os.PathLike[str] | None = None,
    threads: int | None = None,
    backend: str | None = None,
    progress: bool | Reporter = True,
    command: str | None = None,
) -> LayerReport:
    """Say what `format` does to each weight matrix of a model, and what that does to the model.

    Errors of weights and outputs are those of the layer by itself, with the input that it has in
    the reference; the KL divergence is that of the whole model. Activations are those of the second
    half of each window, which is the half that is scored.

    Args:
        model: Path of a GGUF file or folder, a packaged model, or a loaded model: its file is used.
        text: The text itself, a `Path` to it, or int32 token ids.
        format: Format of the layers; "file" says what the file's own types are like, and changes
            nothing. A format that does not fit a tensor's rows becomes what llama-quantize takes. A
            projection may follow, as in `compare`: "TERNARY_G256+optimal".
        mode: "alone" swaps one layer at a time; "up_to" all up to it, in the order of the model
            (embedding, blocks, head); "both" is both, and takes twice the time.
        base: Format of the reference; `None` or "file" for the file's own types.
        context: Tokens per window.
        chunks: Windows at the beginning of the text that are used.
        imatrix: An importance matrix, or its file: columns weigh as it says.
        store: Folder in which measurements are kept: the same call goes on where it was stopped.
        threads: Number of threads; `None` leaves it as it is.
        backend: Backend; `None` leaves it as it is.
        progress: Whether to show a bar.
        command: Exact command, for the report; by default this call.

    Raises:
        FormatError: For a format that does not exist, a projection into one that holds no ternary
            weights, or one beside an importance matrix, which would have no say.
        EvaluationError: For a text shorter than one window, or a mode that does not exist.

    """
    if mode not in get_args(Mode):
        raise EvaluationError(f"mode is one of {', '.join(get_args(Mode))}, not {mode!r}")
    name, reference = parse_format(format), parse_format(base)
    if threads is not None:
        _native.set_threads(threads)
    if backend is not None:
        _native.set_backend(backend)
    corpus = Corpus.read(text)
    bench = Bench.open(model, corpus, reference, context, chunks, store, imatrix)
    windows = bench.part.windows
    tensors = bench.own.tensors()
    chosen = _in_order(units(tensors, every=True))
    reporter = reporter_for(progress, "layer")
    reporter.start(len(chosen))
    inputs = _Inputs(bench)
    found: list[Layer] = []
    before: list[str] = []
    try:
        for unit in chosen:

            def step(what: str, label: str = unit.name) -> Any:
                return reporter.step(label, what)

            before.append(unit.name)
            cell = bench.cells.get(
                bench.key({"layer": unit.name, "format": name or FILE}, windows),
                lambda unit=unit, step=step: _measure(  # type: ignore[misc]
                    bench, unit, name, tensors, inputs, step
                ),
            )
            option = Option(*cell["option"])
            swaps: dict[str, Swap] = {}
            if mode != "up_to":
                alone = (
                    bench.alone(unit.name, name, windows, step).part(0, windows)
                    if cell["changed"]
                    else None
                )
                swaps["alone"] = Swap.of(alone)
            if mode != "alone":
                every = bench.up_to(before, name, windows, step).part(0, windows)
                swaps["up_to"] = Swap.of(every)
            found.append(Layer(unit, option, cell["numbers"], cell["histograms"], swaps))
            shown = ", ".join(f"KL {swap.kl:.3g} {how}" for how, swap in swaps.items())
            reporter.row(f"{unit.name}: {option.format}, {shown}".replace("up_to", "up to here"))
    finally:
        reporter.stop()
    return LayerReport(
        layers=found,
        format=name or FILE,
        model=bench.facts | receipt.shape_facts(bench.own),
        text=receipt.text_facts(corpus, bench.part),
        text_sentence=bench.part.sentence,
        settings={
            "format": name or FILE,
            "mode": mode,
            "base": reference or FILE,
            "context": context,
            "chunks": chunks,
            "imatrix": bench.imatrix_sha256,
            "threads": _native.get_threads(),
            "backend": _native.current_backend(),
        },
        machine=machine(),
        versions=receipt.versions(),
        command=command or f"tritlab.layers({bench.facts['source']!r}, ..., {name or FILE!r})",
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        reused=bench.cells.reused,
        damaged=list(bench.cells.damaged),
    )


def _in_order(found: Sequence[Unit]) -> list[Unit]:
    """As an input meets them: the embedding, the blocks, the head."""
    places = arrange(found)[2]

    def when(unit: Unit) -> tuple[int, int, int]:
        part = {"embedding": 0, "linear": 1, "head": 2}[unit.role]
        return (part, *places[unit.name])

    return sorted(found, key=when)


def _measure(
    bench: Bench,
    unit: Unit,
    format: str | None,
    tensors: Sequence[TensorInfo],
    inputs: _Inputs,
    step: Any,
) -> dict[str, Any]:
    """What a cell holds of a layer: how it came out, whether it changed, numbers, histograms."""
    changed = bench.reference.requantize({unit.name: format}, progress=step("quantise"))
    option = options(changed.tensors())[unit.name]
    kept = options(bench.reference.tensors())[unit.name]
    parts = [tensor["name"] for tensor in tensors if tensor["gguf_name"] == unit.name]
    # Two rules make different weights in one format.
    projected = "+" in f"{format}{bench.base}" and (format or FILE) != bench.base
    step("measure")
    said = measure(
        [bench.reference.matrix(part) for part in parts],
        [changed.matrix(part) for part in parts],
        inputs.of(unit),
    )
    return {
        "option": [option.format, option.nbytes, option.error],
        "changed": option.format != kept.format or projected,
        **said,
    }


class _Inputs:
    """What linear layers are given in the reference, a block at a time."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        names = {tensor["gguf_name"] for tensor in bench.own.tensors()}
        self._normed = {name for name in names if name.endswith("_norm_in.weight")}
        self._tied = "output.weight" not in names
        self._block: str | None = None
        self._held: Mapping[str, Array] = {}

    def of(self, unit: Unit) -> Array | None:
        """The input of a layer, float32 [inputs, tokens] of the scored half of all windows.

        `None` for an embedding that only looks up, and where the layer has a norm of its own, which
        changes what is multiplied.
        """
        if unit.role == "embedding" and not self._tied:
            return None
        if unit.layer is None:
            return self._captured("output.input")["output.input"]
        if re.sub(r"\.weight$", "_norm_in.weight", unit.name) in self._normed:
            return None
        block = f"blk.{unit.layer}."
        kind = _FUSED.get(unit.kind, unit.kind)
        return self._captured(f"{block}*.input")[f"{block}{kind}.input"]

    def _captured(self, what: str) -> Mapping[str, Array]:
        if self._block != what:
            bench, context = self._bench, self._bench.part.context
            rows: dict[str, list[Array]] = {}
            for w in range(bench.part.windows):
                ids = read_window(bench.reference, bench.part.ids, context, w)
                for name, x in bench.reference.capture(ids, what).items():
                    rows.setdefault(name, []).append(x[context // 2 : context - 1])
            self._held = {
                name: np.ascontiguousarray(np.concatenate(parts).T) for name, parts in rows.items()
            }
            self._block = what
        return self._held
