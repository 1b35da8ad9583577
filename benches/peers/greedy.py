#!/usr/bin/env python3
"""Continue five prompts greedily in llama.cpp and in tritlab: the same tokens, or a near-tie?

    .venv/bin/pip install llama-cpp-python==0.3.36      # compiles llama.cpp: 10 to 30 minutes
    .venv/bin/python benches/peers/greedy.py smollm2 [other.gguf ...]

Both engines quantise activations where weights are quantised, and not in the same way: logits
differ a little, and a token may differ where two are almost equally likely. At the first token that
differs, the common text before it is given to both engines, and the table shows how far the two
candidates are apart in each of them, beside the standard deviation of the difference of the two
engines' logits over the vocabulary at that place. It is a near-tie if both gaps are within four of
those; anything else is an error, and the status is 1.

llama.cpp runs with a key-value cache in F32, one token at a time after the prompt. Writes
benches/record/greedy-MODEL.md.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import sys
from pathlib import Path
from typing import Any

import numpy as np
import tritlab as tl
from peers import RECORD
from tritlab import _models

PROMPTS = [
    "Anne Elliot was",
    "The capital of France is",
    "def fibonacci(n):",
    "In the beginning, the universe",
    "Once upon a time, in a small village by the sea,",
]
TOKENS = 32
NEAR = 4.0


class LlamaCpp:
    """llama.cpp, one sequence."""

    def __init__(self, path: Path) -> None:
        import llama_cpp

        self.api = llama_cpp
        self.model = llama_cpp.Llama(
            str(path), n_ctx=512, n_threads=tl.threads(), type_k=0, type_v=0, verbose=False
        )

    def ids(self, text: str) -> list[int]:
        return list(self.model.tokenize(text.encode(), add_bos=True, special=True))

    def logits(self, ids: list[int], *, fresh: bool) -> np.ndarray[Any, Any]:
        """Logits after `ids`, which follow what was there unless it is to start afresh."""
        if fresh:
            self.model.reset()
        self.model.eval(ids)
        row = self.api.llama_get_logits_ith(self.model.ctx, -1)
        return np.ctypeslib.as_array(row, shape=(self.model.n_vocab(),)).copy()

    def ends(self, token: int) -> bool:
        vocab = self.api.llama_model_get_vocab(self.model.model)
        return bool(self.api.llama_vocab_is_eog(vocab, token))

    def greedy(self, prompt: list[int]) -> list[int]:
        out: list[int] = []
        row = self.logits(prompt, fresh=True)
        while len(out) < TOKENS:
            token = int(row.argmax())
            if self.ends(token):
                break
            out.append(token)
            row = self.logits([token], fresh=False)
        return out


def compare(path: Path) -> tuple[list[str], bool]:
    """The record of one model, and whether every difference is a near-tie."""
    ours, theirs = tl.Model.load(path, context=512), LlamaCpp(path)
    lines = [
        f"# Greedy continuations: {path.name}",
        "",
        (
            f"llama-cpp-python {importlib.metadata.version('llama-cpp-python')}, "
            f"tritlab {tl.__version__} ({tl.machine()['backend']}), {TOKENS} tokens each."
        ),
        "",
        (
            "| prompt | tokens equal | tritlab's token, logits there | llama.cpp's token, logits there "
            "| gap: tritlab, llama.cpp | σ of the difference | |"
        ),
        "| --- | ---: | --- | --- | --- | ---: | --- |",
    ]
    fine = True
    for prompt in PROMPTS:
        ids = ours.tokenize(prompt, parse_special=True)
        if theirs.ids(prompt) != ids.tolist():
            raise SystemExit(f"{path.name}: {prompt!r} has other tokens in llama.cpp")
        stream = ours.stream(ids, max_tokens=TOKENS)
        list(stream)
        a, b = stream.ids.tolist(), theirs.greedy(ids.tolist())
        if a == b:
            lines.append(f"| {prompt} | all {len(a)} | | | | | equal |")
            continue
        n = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), None)
        if n is None:
            # One of them ended the text; that has no token to compare here.
            fine = False
            lines.append(f"| {prompt} | {min(len(a), len(b))} | ends | | | | DIFFERS |")
            continue
        before = np.array([*ids.tolist(), *a[:n]], np.int32)
        x = ours.logits(before)[-1]
        y = theirs.logits(before.tolist(), fresh=True)
        sigma = float(np.std(x - y))
        gaps = float(x[a[n]] - x[b[n]]), float(y[b[n]] - y[a[n]])
        near = max(gaps) <= NEAR * sigma
        fine &= near
        cells = []
        for token in (a[n], b[n]):
            piece = ours.detokenize(np.array([token], np.int32))
            cells.append(f"`{piece!r}` {x[token]:.4f}, {y[token]:.4f}")
        lines.append(
            f"| {prompt} | {n} | {cells[0]} | {cells[1]} | {gaps[0]:.4f}, {gaps[1]:.4f} "
            f"| {sigma:.4f} | {'near-tie' if near else 'DIFFERS'} |"
        )
    return lines, fine


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("models", nargs="*", default=["smollm2"], help='GGUF files, or "smollm2"')
    fine = True
    for name in parser.parse_args().models:
        path = _models.resolve(name)
        lines, good = compare(path)
        fine &= good
        text = "\n".join(lines) + "\n"
        print(text)
        RECORD.mkdir(exist_ok=True)
        (RECORD / f"greedy-{path.stem.lower()}.md").write_text(text)
    sys.exit(0 if fine else 1)


if __name__ == "__main__":
    main()
