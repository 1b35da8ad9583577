"""Splices what the demo and the library's own tables say into README.md: nothing there is typed.

Usage, after `make demo demo-smollm2`:  .venv/bin/python experiments/update_readme.py
(`make readme` does both.)

Text between `<!-- NAME:begin -->` and `<!-- NAME:end -->` is replaced; the demos' first figures and the pair's loss
curves go to experiments/figures/.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pandas as pd
import tritlab as tl
from tritlab._files import splice, write_atomic
from tritlab._instructions import number
from tritlab.notebook import figure

ROOT = Path(__file__).resolve().parent.parent
DEMOS = ("demo", "demo-smollm2")
KERNELS = ROOT / "benches" / "record" / "kernels.json"
PEERS = ROOT / "benches" / "record" / "peers-smollm2-135m-instruct.q4_1.md"
FIGURES = ROOT / "experiments" / "figures"


def formats_table() -> str:
    """All formats, one row each."""
    rows = ["| format | bits/weight | activations | scales | |", "| --- | ---: | --- | --- | --- |"]
    for f in tl.formats():
        activation = {"f32": "f32", "token": "int8 per token"}.get(
            f["activation"], f"int8 per {f['activation']}"
        )
        name = f"[`{f['name']}`](kernels/docs/formats/{f['name']}.md)"
        rows.append(
            f"| {name} | {f['bits_per_weight']:.4g} | {activation} | {f['scales']} | "
            f"{f['summary']} |"
        )
    return "\n".join(rows)


INSTRUCTION_FORMATS = ("TERNARY", "TERNARY_B3", "TQ2_0", "Q4_0", "Q4_K", "Q6_K", "Q8_0", "F16")
INSTRUCTION_BACKENDS = ("avx512", "avx2")


def instructions_table() -> str:
    """Instructions per 256 weights, counted as they are executed."""
    table = tl.kernels()
    heads = [f"{b}, {tokens}" for b in INSTRUCTION_BACKENDS for tokens in ("1 token", "several")]
    rows = [f"| format | {' | '.join(heads)} |", f"| --- |{' ---: |' * len(heads)}"]
    compiler = ""
    for name in INSTRUCTION_FORMATS:
        cells = []
        for backend in INSTRUCTION_BACKENDS:
            for op in ("gemv", "gemm"):
                code = table[f"{op}-{name.lower()}-{backend}"].disassemble()
                compiler, c = code.compiler, code.counts
                parts = (c["dots"] + c["multiplies"], c["loads"], c["shuffles"])
                cells.append(f"**{number(c['total'])}** ({', '.join(map(number, parts))})")
        rows.append(f"| `{name}` | {' | '.join(cells)} |")
    cpu = tl.machine()["cpu"]
    rows.append(f"\n{cpu}; {compiler}. Several tokens: per token.")
    return "\n".join(rows)


def loss_curves() -> bytes:
    """How the pair was trained, as PNG."""
    members = tl.pair.training()["members"]
    logs = {name: pd.DataFrame(m["log"]).set_index("step") for name, m in members.items()}
    made, (ax,) = figure.new()
    with figure.style():  # titles too are drawn in it
        figure.loss_curves(ax, {"full precision": logs["full"], "ternary": logs["ternary"]})
    return figure.show(made).png()


def main() -> None:
    """Replaces README.md, whole or not at all."""
    readme = ROOT / "README.md"
    text = readme.read_text(encoding="utf-8")
    for name in DEMOS:
        folder = ROOT / "results" / name
        if not (folder / "results.md").exists():
            raise SystemExit(f"there are no results to show: run `make {name}` first")
        shutil.copyfile(folder / "quality.png", FIGURES / f"{name}-quality.png")
        text = splice(text, name, (folder / "results.md").read_text(encoding="utf-8"))
    write_atomic(FIGURES / "pair-loss.png", loss_curves())
    text = splice(text, "formats", formats_table())
    text = splice(text, "instructions", instructions_table())
    rows = PEERS.read_text(encoding="utf-8").splitlines()
    text = splice(text, "peers", "\n".join(row for row in rows if row.startswith("|")))
    if KERNELS.exists():  # needs llama-cpp-python, so not every machine has made one
        record = json.loads(KERNELS.read_text(encoding="utf-8"))
        text = splice(text, "kernels", record["summary"])
    write_atomic(readme, text)


if __name__ == "__main__":
    main()
