"""Speed in llama-bench's row schema, with fractions of the machine's limits beside it.

The first block of fields has llama-bench's names and meanings, so its scripts and other people's
spreadsheets can read the rows; the last block is ours. One row is one test: prefill (`n_prompt`)
or decode (`n_gen`). Decode reads every weight once per token: its limit is the bandwidth of memory.
Prefill multiplies every weight of the linear layers with every token: its limit is the backend's
int8 dot product; where some of those layers multiply with f32 it has none here. Both limits are
measured just before.
"""

from __future__ import annotations

import csv
import datetime
import io
import os
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

from tritlab import _models, _native
from tritlab._files import to_json
from tritlab._formats import describe, is_dense, parse_format
from tritlab._native import Model
from tritlab.statistics import median_mad

if TYPE_CHECKING:
    from tritlab._types import Progress

Output: TypeAlias = Literal["md", "csv", "json", "jsonl"]
OUTPUTS: tuple[str, ...] = get_args(Output)
_SAMPLES = ("samples_ns", "samples_ts")


def bench(
    model: str | os.PathLike[str],
    formats: Sequence[str | None] = (None,),
    *,
    n_prompt: int = 512,
    n_gen: int = 128,
    repetitions: int = 5,
    threads: Sequence[int] = (),
    head: str | None = None,
    i2_s: str = "I2_S",
    progress: Progress | None = None,
) -> list[dict[str, Any]]:
    """Time prefill and decode for every format and thread count.

    `head` and `i2_s` are those of `Model.load`.
    """
    path = _models.resolve(model)
    rows: list[dict[str, Any]] = []
    before = _native.get_threads()
    try:
        for name in [parse_format(item) for item in formats]:
            loaded = Model.load(path, name, head=head, context=max(n_prompt, n_gen), i2_s=i2_s)
            for count in threads or (before,):
                _native.set_threads(count)
                limits = _native.measure_bandwidth(count), _native.measure_dot_peak(count)
                started = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
                times = loaded.bench(n_prompt, n_gen, repetitions, progress)
                common = _common(path, loaded, name, count, started)
                if n_prompt:
                    rows.append(common | _test(loaded, n_prompt, 0, times["prompt_ns"], limits))
                if n_gen:
                    rows.append(common | _test(loaded, 0, n_gen, times["gen_ns"], limits))
            del loaded
    finally:
        _native.set_threads(before)
    return rows


def _common(
    path: Path, model: Model, format: str | None, threads: int, started: str
) -> dict[str, Any]:
    kind, _ = describe(format, model.tensors())
    return {
        "build_commit": f"tritlab-{_native.__version__}",
        "build_number": 0,
        "cpu_info": _native.machine()["cpu"],
        "gpu_info": "",
        "backends": "CPU",
        "model_filename": str(path),
        "model_type": f"{model.architecture} {_count(model.n_params)} {kind}",
        "model_size": model.total_bytes,
        "model_n_params": model.n_params,
        "n_batch": 512,
        "n_ubatch": 512,
        "n_threads": threads,
        # llama-bench's fields for what this library does not have or do, at its defaults.
        "cpu_mask": "0x0",
        "cpu_strict": False,
        "poll": 0,
        "type_k": "f32",
        "type_v": "f32",
        "n_gpu_layers": 0,
        "split_mode": "none",
        "main_gpu": 0,
        "no_kv_offload": False,
        "flash_attn": False,
        "tensor_split": "0.00",
        "use_mmap": True,
        "embeddings": False,
        "test_time": started,
    }


def _test(
    model: Model, n_prompt: int, n_gen: int, ns: list[int], limits: tuple[float, float]
) -> dict[str, Any]:
    tokens = n_prompt or n_gen
    speeds = [tokens * 1e9 / t for t in ns]
    median, mad = median_mad(speeds)
    bandwidth, dot_peak = limits
    read = model.bytes_per_token * median if n_gen else None
    products = model.linear_params * median if n_prompt and _is_int8(model) else None
    share = None
    if read is not None:
        share = read / bandwidth
    elif products is not None:
        share = products / dot_peak
    return {
        "n_prompt": n_prompt,
        "n_gen": n_gen,
        "n_depth": 0,
        "avg_ns": round(statistics.fmean(ns)),
        "stddev_ns": round(statistics.stdev(ns)) if len(ns) > 1 else 0,
        "avg_ts": statistics.fmean(speeds),
        "stddev_ts": statistics.stdev(speeds) if len(speeds) > 1 else 0.0,
        "samples_ns": list(ns),
        "samples_ts": speeds,
        "median_ts": median,
        "mad_ts": mad,
        "bytes_per_token": model.bytes_per_token,
        "gb_per_s": None if read is None else read / 1e9,
        "bandwidth_gb_per_s": bandwidth / 1e9,
        "g_products_per_s": None if products is None else products / 1e9,
        "dot_peak_g_products_per_s": dot_peak / 1e9,
        "share_of_limit": share,
        "backend": _native.current_backend(),
    }


def _is_int8(model: Model) -> bool:
    """Whether every linear layer multiplies with int8 activations."""
    return not any(t["role"] == "linear" and is_dense(t["format"]) for t in model.tensors())


def render(rows: list[dict[str, Any]], output: str) -> str:
    """Write rows as `md` (llama-bench's table and ours), `csv`, `json` or `jsonl`."""
    if output == "json":
        return to_json(rows)
    if output == "jsonl":
        return "\n".join(to_json(row, indent=None) for row in rows)
    if output == "csv":
        buffer = io.StringIO()
        fields = [name for name in rows[0] if name not in _SAMPLES]
        writer = csv.DictWriter(buffer, fields, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        return buffer.getvalue().rstrip("\n")
    if output != "md":
        raise ValueError(f"output must be one of {', '.join(OUTPUTS)}, not {output!r}")
    lines = [
        "| model | size | params | backend | threads | test | t/s | work | of limit |",
        "| --- | ---: | ---: | --- | ---: | --- | ---: | ---: | ---: |",
    ]
    for row in rows:
        test = f"pp{row['n_prompt']}" if row["n_prompt"] else f"tg{row['n_gen']}"
        share = row["share_of_limit"]
        cells = [
            row["model_type"],
            f"{row['model_size'] / 2**20:.2f} MiB",
            f"{row['model_n_params'] / 1e6:.2f} M",
            row["backend"],
            str(row["n_threads"]),
            test,
            f"{row['avg_ts']:.2f} ± {row['stddev_ts']:.2f}",
            _work(row),
            "" if share is None else f"{share:.0%} of {_LIMITS[bool(row['n_prompt'])]}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


_LIMITS = ("reading memory", "int8 products")


def _work(row: dict[str, Any]) -> str:
    if row["gb_per_s"] is not None:
        return f"{row['gb_per_s']:.1f} GB/s read"
    if row["g_products_per_s"] is not None:
        return f"{row['g_products_per_s']:.1f} G products/s"
    return ""


def _count(n: int) -> str:
    for unit, size in (("B", 1e9), ("M", 1e6), ("K", 1e3)):
        if n >= size:
            return f"{n / size:.3g}{unit}"
    return str(n)
