"""Splices what the demo and the library's own tables say into README.md: nothing there is typed.

Usage, after `make demo`:  .venv/bin/python experiments/update_readme.py
(`make readme` does both.)

Text between `<!-- NAME:begin -->` and `<!-- NAME:end -->` is replaced; the demo's first figure is copied to
experiments/figures/.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import tritlab as tl
from tritlab._files import splice, write_atomic

ROOT = Path(__file__).resolve().parent.parent
DEMO = ROOT / "results" / "demo"
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


def main() -> None:
    """Replaces README.md, whole or not at all."""
    table = DEMO / "results.md"
    if not table.exists():
        raise SystemExit("there are no results to show: run `make demo` first")
    FIGURES.mkdir(exist_ok=True)
    shutil.copyfile(DEMO / "quality.png", FIGURES / "demo-quality.png")
    readme = ROOT / "README.md"
    text = readme.read_text(encoding="utf-8")
    text = splice(text, "demo", table.read_text(encoding="utf-8"))
    text = splice(text, "formats", formats_table())
    rows = PEERS.read_text(encoding="utf-8").splitlines()
    text = splice(text, "peers", "\n".join(row for row in rows if row.startswith("|")))
    if KERNELS.exists():  # needs llama-cpp-python, so not every machine has made one
        record = json.loads(KERNELS.read_text(encoding="utf-8"))
        text = splice(text, "kernels", record["summary"])
    write_atomic(readme, text)


if __name__ == "__main__":
    main()
