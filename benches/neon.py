#!/usr/bin/env python3
"""Count what 256 weights cost in instructions on aarch64, executed under qemu: no hardware needed.

    rustup target add aarch64-unknown-linux-gnu
    apt-get install gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user-static
    python3 benches/neon.py                          # all formats below, ten minutes
    python3 benches/neon.py --formats TERNARY Q4_K

On x86-64 `tritlab kernels NAME` counts its own kernels while they run. This does it for NEON from
outside: `benches/src/bin/count.rs` multiplies 64 x 1280 weights once and 41 times in the emulator,
which logs every block of instructions that it executes; a fortieth of the difference is one product,
with all of its loops, scales and stores (what comes before differs by some thousands from run to run). Instructions say nothing about ports and caches: it is a count,
not a speed.

Writes benches/record/neon.json and .md.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RECORD = ROOT / "benches" / "record"
TARGET = "aarch64-unknown-linux-gnu"
SYSROOT = Path("/usr/aarch64-linux-gnu")
FORMATS = [
    *("TERNARY", "TERNARY_B3", "TQ2_0", "TQ1_0", "SIGN"),
    *("Q4_0", "Q4_K", "Q5_K", "Q6_K", "Q8_0", "F16"),
]
BACKENDS = ("neon_dotprod", "neon")
TOKENS = (1, 36)
"""One token, and so many that codes are unpacked once for all, where they are."""
MORE = 40
"""Products that are counted."""
UNITS = 64 * 1280 / 256
"""What `count` multiplies, in 256 weights."""
KINDS = {
    "dots": re.compile(r"[su]?[su]?dot"),
    "multiplies": re.compile(r"f?mul|f?ml[as]|[su]mull|[su]ml[as]l|fn?madd|fn?msub|sqdmul|pmul"),
    "loads": re.compile(r"ld"),
    "stores": re.compile(r"st"),
    "shuffles": re.compile(r"tb[lx]|ext|zip|uzp|trn|dup|rev|ins|umov|smov"),
}


def build() -> Path:
    env = os.environ | {"CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER": "aarch64-linux-gnu-gcc"}
    command = ["cargo", "build", "--release", "--target", TARGET, "-p", "tritlab-benches"]
    subprocess.run([*command, "--bin", "count"], check=True, env=env, cwd=ROOT)
    target = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    return target / TARGET / "release" / "count"


def is_dot(word: int) -> bool:
    """Whether this is SDOT or UDOT, of vectors or by element, which the emulator's disassembler does
    not know (Arm Architecture Reference Manual, DDI 0487, C7.2)."""
    return word & 0x9FE0FC00 == 0x0E809400 or word & 0x9FC0F400 == 0x0F80E000


def executed(command: list[str]) -> collections.Counter[str]:
    """How often each instruction's name was executed."""
    blocks: dict[str, list[str]] = {}
    """Names by address: the log shows a block once, when it is translated, then each time it runs."""
    runs: collections.Counter[str] = collections.Counter()
    with tempfile.NamedTemporaryFile("w+") as log:
        log_to = ["-d", "in_asm,exec,nochain", "-D", log.name]
        subprocess.run([command[0], *log_to, *command[1:]], check=True)
        names = None
        for line in log:
            if line.startswith("Trace"):
                runs[line.split("/")[1].lstrip("0")] += 1
            elif line.startswith("IN:"):
                names = []
            elif line.startswith("0x") and names is not None:
                address, word, name, *_ = line.split()
                if name == ".byte" and is_dot(int(word, 16)):
                    name = "dot"
                if not names:
                    blocks[address.removeprefix("0x").rstrip(":").lstrip("0")] = names
                names.append(name)
    counts: collections.Counter[str] = collections.Counter()
    for address, times in runs.items():
        for name in blocks[address]:
            counts[name] += times
    return counts


def count(qemu: str, program: Path, backend: str, format: str, tokens: int) -> dict[str, float]:
    """Instructions per 256 weights and token."""
    run = [qemu, "-L", str(SYSROOT), "-cpu", "max", str(program), backend, format, str(tokens)]
    few, many = (executed([*run, str(times)]) for times in (1, 1 + MORE))
    per = {name: (many[name] - few[name]) / MORE / UNITS / tokens for name in many | few}
    kinds = {k: sum(n for i, n in per.items() if p.match(i)) for k, p in KINDS.items()}
    return {"total": sum(per.values()), **kinds}


def markdown(record: dict[str, dict[str, float]]) -> str:
    lines = [
        "# NEON: instructions per 256 weights and token",
        "",
        "**All** instructions executed (dot products and multiplications, loads, moves between lanes), "
        + "counted under qemu by `benches/neon.py`; 64 x 1280 weights, "
        + " and ".join(f"{t} token{'s' * (t > 1)}" for t in TOKENS)
        + " at once.",
        "",
        f"| format | {' | '.join(f'{b}, {t}' for b in BACKENDS for t in TOKENS)} |",
        f"| --- |{' ---: |' * len(BACKENDS) * len(TOKENS)}",
    ]
    for format in dict.fromkeys(key.split("/")[0] for key in record):
        if any(f"{format}/{b}/{t}" not in record for b in BACKENDS for t in TOKENS):
            continue  # recorded by another version
        cells = []
        for backend in BACKENDS:
            for tokens in TOKENS:
                c = record[f"{format}/{backend}/{tokens}"]
                parts = (c["dots"] + c["multiplies"], c["loads"], c["shuffles"])
                cells.append(f"**{c['total']:.1f}** ({', '.join(f'{x:.1f}' for x in parts)})")
        lines.append(f"| `{format}` | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--formats", nargs="+", default=FORMATS)
    args = parser.parse_args()
    qemu = shutil.which("qemu-aarch64-static") or shutil.which("qemu-aarch64")
    if qemu is None or not SYSROOT.is_dir():
        parser.error(
            f"qemu-aarch64-static and {SYSROOT} are needed: see the first lines of this file"
        )
    program, path = build(), RECORD / "neon.json"
    record = json.loads(path.read_text()) if path.exists() else {}
    for format in args.formats:
        for backend in BACKENDS:
            for tokens in TOKENS:
                c = count(qemu, program, backend, format, tokens)
                record[f"{format}/{backend}/{tokens}"] = {k: round(n, 3) for k, n in c.items()}
                print(f"{format:12} {backend:12} {tokens} tokens: {c['total']:.1f}", flush=True)
    path.write_text(json.dumps(record, indent=1) + "\n")
    path.with_suffix(".md").write_text(markdown(record))


if __name__ == "__main__":
    main()
