#!/usr/bin/env python3
"""The embedded pair's perplexities by llama.cpp, beside ours.

    .venv/bin/pip install llama-cpp-python==0.3.36      # compiles llama.cpp: 10 to 30 minutes
    .venv/bin/python benches/peers/pair.py

llama.cpp tokenises the shipped texts itself and reads three files: the member in full precision, the
ternary member as it is shipped (TQ2_0), and the ternary weights as F32. Windows of 512 tokens, the
second half of each is scored (the convention of its `llama-perplexity`). The two engines round
activations differently: llama.cpp per 256 (TQ2_0) or not at all (F32), tritlab per token as in
training. A perplexity that differs by more than 0.5 % is an error, and the status is 1.

Writes benches/record/pair.md.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import tritlab as tl
from peers import RECORD, LlamaCpp, Worker, machine
from quantized import log_softmax
from tritlab._native import quantize_gguf

CONTEXT = 512
MOST = 0.005


def perplexity(worker: Worker, text: str, model: tl.Model) -> float:
    """By llama.cpp's logits and token ids, which must be tritlab's."""
    ids = np.array(worker.call("tokens", text), dtype=np.int32)
    if not np.array_equal(ids, model.tokenize(text)):
        raise SystemExit("llama.cpp reads the text as other tokens")
    losses = []
    for start in range(0, len(ids) - CONTEXT + 1, CONTEXT):
        window = ids[start : start + CONTEXT]
        rows = np.array(worker.call("all_logits", window.tolist()), dtype=np.float32)
        scored = np.arange(CONTEXT // 2, CONTEXT - 1)
        losses.append(-log_softmax(rows[scored])[np.arange(len(scored)), window[scored + 1]])
    return float(np.exp(np.concatenate(losses).mean()))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=RECORD)
    args = parser.parse_args()
    tl.threads(args.threads)
    rows = ["| member | text | llama.cpp | tritlab | difference |", "|---|---|---:|---:|---:|"]
    worst = 0.0
    with tempfile.TemporaryDirectory() as folder:
        wide = Path(folder) / "ternary-f32.gguf"
        quantize_gguf(tl.pair.TERNARY, wide, "F32", head="F32")
        cases = [
            ("full precision, F16", tl.pair.FULL, tl.pair.FULL),
            ("ternary, TQ2_0", tl.pair.TERNARY, tl.pair.TERNARY),
            ("ternary, as F32", wide, tl.pair.TERNARY),
        ]
        for label, file, own in cases:
            worker = Worker(LlamaCpp.name, str(file), args.threads, CONTEXT, 1)
            model = tl.Model.load(own, context=CONTEXT)
            for name, path in tl.pair.texts().items():
                theirs = perplexity(worker, path.read_text(encoding="utf-8"), model)
                ours = tl.perplexity(model, path, context=CONTEXT).perplexity.value
                worst = max(worst, abs(ours / theirs - 1))
                rows.append(
                    f"| {label} | {name} | {theirs:.4f} | {ours:.4f} | {ours / theirs - 1:+.3%} |"
                )
                print(rows[-1], flush=True)
            worker.close()
    about = (
        f"{time.strftime('%Y-%m-%d')}, `benches/peers/pair.py`, llama-cpp-python 0.3.36, {machine()['cpu']}. Perplexity of "
        f"the shipped texts, windows of {CONTEXT}, second halves; llama.cpp reads the file named on the left, tritlab the "
        "shipped one. llama.cpp's own tokenizer gave the same token ids."
    )
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "pair.md").write_text(
        "\n".join(["# The embedded pair by llama.cpp", "", about, "", *rows]) + "\n"
    )
    print(f"largest difference: {worst:.3%}")
    return int(worst > MOST)


if __name__ == "__main__":
    sys.exit(main())
