#!/usr/bin/env python3
"""Time every weight type that ggml and tritlab share, as one matrix product, side by side.

    .venv/bin/pip install llama-cpp-python==0.3.36 gguf==0.19.0    # compiles ggml: 10 to 30 minutes
    .venv/bin/python benches/peers/kernels.py                      # all types; about five minutes
    .venv/bin/python benches/peers/kernels.py --types Q4_K Q6_K    # only these rows of the record
    .venv/bin/python benches/peers/kernels.py --backend avx512     # into kernels-avx512.json and .md

What is timed is `y = W x` with f32 activations in and f32 results out, so that each side quantises
the activations as it likes within the time. W has 2560 rows and 6912 columns (the down projection of
BitNet b1.58 2B-4T), the bytes made once by ggml's own quantiser and given to both. *1 column* is a
decode step: enough copies of W are multiplied in turn that they come from memory. *512 columns* is a
batch of a prompt.

- ggml: a graph with one `ggml_mul_mat` per copy on its CPU backend, called by ctypes; the faster of
  plain weights and weights repacked for this CPU, where ggml has that for the type.
- tritlab: `matmul` of crate tritlab-kernels, in a process of its own (benches/src/bin/kernels.rs).

The two take turns, the order reversed every round (A B, B A, ...); the table shows medians. Before
anything is timed both answers are compared with f64: the product of the weights as `gguf` reads them.
tritlab's are also compared with its oracle, bit for bit.

Merges its rows into benches/record/kernels.json and writes kernels.md from that.
"""

from __future__ import annotations

import argparse
import ctypes as c
import importlib.metadata
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("GOMP_SPINCOUNT", "10000")  # ggml's threads must not spin into our turn

import gguf
import numpy as np
from peers import RECORD, machine, middle

ROOT = Path(__file__).resolve().parent.parent.parent
ROWS, COLS = 2560, 6912
TOKENS = (1, 512)
TYPES = [
    *("F32", "F16", "BF16", "Q8_0", "Q6_K", "Q5_1", "Q5_0", "Q5_K"),
    *("Q4_1", "Q4_0", "Q4_K", "IQ4_NL", "Q3_K", "Q2_K", "TQ2_0", "TQ1_0"),
]
DENSE = ("F32", "F16", "BF16")
FAR = 192 << 20
"""Bytes of copies that a decode step goes through: more than a last-level cache."""
CHECKED = 8
"""Tokens whose answers are compared with f64."""
MOST_ERROR = 0.02
"""Largest error of an answer, as a part of it: int8 activations of N(0, 1) make about 0.7 %."""


class Ggml:
    """ggml's CPU backend by its C functions."""

    def __init__(self) -> None:
        spec = importlib.util.find_spec("llama_cpp")
        if spec is None or spec.origin is None:
            raise SystemExit("ggml comes with llama-cpp-python: see the top of this file")
        folder = Path(spec.origin).parent / "lib"
        self.base, self.cpu = (c.CDLL(str(folder / f"libggml-{n}.so")) for n in ("base", "cpu"))
        # ggml reports every repacked tensor; the callback must outlive the calls.
        self.quiet = c.CFUNCTYPE(None, c.c_int, c.c_char_p, c.c_void_p)(
            lambda level, text, data: None
        )
        self.base.ggml_log_set(self.quiet, None)
        pointers = {
            self.base: "ggml_init ggml_new_tensor_2d ggml_mul_mat ggml_new_graph_custom "
            "ggml_backend_alloc_ctx_tensors_from_buft ggml_backend_get_default_buffer_type "
            "ggml_backend_get_device ggml_backend_dev_backend_reg ggml_backend_reg_get_proc_address",
            self.cpu: "ggml_backend_cpu_init",
        }
        for lib, names in pointers.items():
            for name in names.split():
                getattr(lib, name).restype = c.c_void_p
        for name in ("ggml_quantize_chunk", "ggml_nbytes", "ggml_tensor_overhead"):
            getattr(self.base, name).restype = c.c_size_t
        self.base.ggml_graph_overhead_custom.restype = c.c_size_t
        self.base.ggml_backend_dev_supports_op.restype = c.c_bool
        self.backend = c.c_void_p(self.cpu.ggml_backend_cpu_init())
        self.device = c.c_void_p(self.base.ggml_backend_get_device(self.backend))

    def quantize(self, kind: int, weights: np.ndarray) -> np.ndarray:
        """The bytes of f32 weights [rows][cols] in a type."""
        rows, cols = weights.shape
        out = np.empty(weights.nbytes, dtype=np.uint8)
        n = self.base.ggml_quantize_chunk(
            kind,
            pointer(weights),
            pointer(out),
            c.c_int64(0),
            c.c_int64(rows),
            c.c_int64(cols),
            None,
        )
        return out[:n].copy()

    def buffer_types(self) -> dict[str, c.c_void_p]:
        """Where weights can live: as they are, and (repacked when written) in each extra type."""
        types = {"plain": c.c_void_p(self.base.ggml_backend_get_default_buffer_type(self.backend))}
        registry = c.c_void_p(self.base.ggml_backend_dev_backend_reg(self.device))
        address = self.base.ggml_backend_reg_get_proc_address(
            registry, b"ggml_backend_dev_get_extra_bufts"
        )
        if address:
            extra = c.CFUNCTYPE(c.POINTER(c.c_void_p), c.c_void_p)(address)(self.device)
            self.base.ggml_backend_buft_name.restype = c.c_char_p
            for one in extra:
                if one is None:
                    break
                buffer_type = c.c_void_p(one)
                types[self.base.ggml_backend_buft_name(buffer_type).decode()] = buffer_type
        return types


def pointer(array: np.ndarray) -> c.c_void_p:
    return c.c_void_p(array.ctypes.data)


class GgmlProduct:
    """A graph of products, one for each copy of the weights."""

    class Params(c.Structure):
        _fields_ = (
            ("mem_size", c.c_size_t),
            ("mem_buffer", c.c_void_p),
            ("no_alloc", c.c_bool),
        )

    def __init__(
        self,
        ggml: Ggml,
        buffer_type: c.c_void_p,
        kind: int,
        weights: np.ndarray,
        x: np.ndarray,
        copies: int,
    ) -> None:
        self.ggml, base = ggml, ggml.base
        size = base.ggml_tensor_overhead() * (2 * copies + 2)
        size += base.ggml_graph_overhead_custom(c.c_size_t(copies + 1), c.c_bool(False))
        self.contexts, self.buffers = [], []
        plain = c.c_void_p(base.ggml_backend_get_default_buffer_type(ggml.backend))

        def context() -> c.c_void_p:
            made = c.c_void_p(base.ggml_init(self.Params(size, None, True)))
            self.contexts.append(made)
            return made

        def allocate(where: c.c_void_p, what: c.c_void_p) -> None:
            buffer = base.ggml_backend_alloc_ctx_tensors_from_buft(where, what)
            if not buffer:
                raise MemoryError("ggml cannot allocate its tensors")
            self.buffers.append(c.c_void_p(buffer))

        def tensor(where: c.c_void_p, kind: int, cols: int, rows: int) -> c.c_void_p:
            dims = c.c_int64(cols), c.c_int64(rows)
            return c.c_void_p(base.ggml_new_tensor_2d(where, kind, *dims))

        there, here = context(), context()
        copied = [tensor(there, kind, COLS, ROWS) for _ in range(copies)]
        acts = tensor(here, gguf.GGMLQuantizationType.F32, COLS, len(x))
        self.y = [c.c_void_p(base.ggml_mul_mat(here, w, acts)) for w in copied]
        self.shape = len(x), ROWS
        allocate(there, buffer_type)
        allocate(here, plain)
        self.supported = base.ggml_backend_dev_supports_op(ggml.device, self.y[0])
        if not self.supported:
            return
        for w in copied:
            base.ggml_backend_tensor_set(
                w, pointer(weights), c.c_size_t(0), c.c_size_t(weights.nbytes)
            )
        base.ggml_backend_tensor_set(acts, pointer(x), c.c_size_t(0), c.c_size_t(x.nbytes))
        self.graph = c.c_void_p(
            base.ggml_new_graph_custom(here, c.c_size_t(copies + 1), c.c_bool(False))
        )
        for y in self.y:
            base.ggml_build_forward_expand(self.graph, y)

    def time(self, threads: int) -> float:
        """Seconds for all copies."""
        self.ggml.cpu.ggml_backend_cpu_set_n_threads(self.ggml.backend, threads)
        start = time.perf_counter_ns()
        status = self.ggml.base.ggml_backend_graph_compute(self.ggml.backend, self.graph)
        elapsed = time.perf_counter_ns() - start
        if status != 0:
            raise RuntimeError(f"ggml_backend_graph_compute returned {status}")
        return elapsed * 1e-9

    def answer(self) -> np.ndarray:
        self.time(1)
        out = np.empty(self.shape, dtype=np.float32)
        get = self.ggml.base.ggml_backend_tensor_get
        get(self.y[0], pointer(out), c.c_size_t(0), c.c_size_t(out.nbytes))
        return out

    def close(self) -> None:
        for buffer in self.buffers:
            self.ggml.base.ggml_backend_buffer_free(buffer)
        for context in self.contexts:
            self.ggml.base.ggml_free(context)


class Tritlab:
    """The program benches/src/bin/kernels.rs; its source says what the commands are."""

    def __init__(self, folder: Path) -> None:
        build = (
            "cargo build --release --quiet -p tritlab-benches --bin kernels --message-format json"
        )
        out = subprocess.run(build.split(), cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
        messages = [json.loads(line) for line in out.stdout.splitlines()]
        program = next(m["executable"] for m in messages if m.get("executable"))
        self.folder = folder
        self.process = subprocess.Popen(
            [program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )

    def ask(self, *words: Any) -> str:
        assert self.process.stdin and self.process.stdout
        print(*words, file=self.process.stdin, flush=True)
        kind, _, answer = self.process.stdout.readline().strip().partition(" ")
        if kind != "ok":
            raise RuntimeError(f"tritlab: {answer or 'no answer'}")
        return answer

    def load(self, name: str, weights: np.ndarray, x: np.ndarray, copies: int) -> np.ndarray:
        files = [self.folder / n for n in ("weights", "x", "y")]
        weights.tofile(files[0])
        x.tofile(files[1])
        self.ask("load", name, ROWS, COLS, len(x), copies, *files)
        return np.fromfile(files[2], dtype=np.float32).reshape(len(x), ROWS)

    def time(self, threads: int) -> float:
        """Seconds for all copies."""
        return int(self.ask("time", threads)) * 1e-9

    def close(self) -> None:
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait()


def check(who: str, y: np.ndarray, exact: np.ndarray) -> float:
    """The error's root mean square over the answer's, on the tokens that are in `exact`."""
    error = float(np.sqrt(((y[: len(exact)] - exact) ** 2).mean() / (exact**2).mean()))
    if not error <= MOST_ERROR:
        raise SystemExit(f"{who}: wrong by {error:.3f} of the answer")
    return error


def measure(name: str, ggml: Ggml, ours: Tritlab, args: argparse.Namespace) -> list[dict[str, Any]]:
    """The rows of one type."""
    kind = gguf.GGMLQuantizationType[name]
    draw = np.random.default_rng(1)
    w = draw.standard_normal((ROWS, COLS), dtype=np.float32)
    if name.startswith("TQ"):
        w = np.sign(w) * (np.abs(w) > 0.5).astype(np.float32)  # what these types are made for
    weights = ggml.quantize(kind, w)
    decoded = gguf.dequantize(weights.reshape(ROWS, -1), kind).astype(np.float64)
    rows = []
    for tokens in TOKENS:
        copies = 1 if tokens > 1 else max(2, -(-FAR // len(weights)))
        x = draw.standard_normal((tokens, COLS), dtype=np.float32)
        exact = x[:CHECKED].astype(np.float64) @ decoded.T
        engines: dict[str, Any] = {"tritlab": ours}
        errors = {"tritlab": check(f"tritlab {name}", ours.load(name, weights, x, copies), exact)}
        for where, buffer_type in ggml.buffer_types().items():
            product = GgmlProduct(ggml, buffer_type, kind, weights, x, copies)
            if product.supported:
                errors[where] = check(f"ggml {name} {where}", product.answer(), exact)
                engines[where] = product
            else:
                product.close()
        for threads in args.threads:
            times: dict[str, list[float]] = {who: [] for who in engines}
            for turn in range(args.rounds + 1):
                for who in list(engines)[:: 1 if turn % 2 else -1]:
                    time.sleep(args.pause)
                    result = engines[who].time(threads) / copies
                    if turn:  # round 0 warms up
                        times[who].append(result)
            theirs = min((who for who in times if who != "tritlab"), key=lambda w: middle(times[w]))
            rows.append(
                {
                    "type": name,
                    "tokens": tokens,
                    "threads": threads,
                    "bytes": len(weights),
                    "ggml_path": theirs,
                    "ratio": middle(times[theirs])[0] / middle(times["tritlab"])[0],
                    "seconds": times,
                    "error_rms": errors,
                }
            )
            show = ", ".join(f"{who} {middle(t)[0] * 1e3:.3f}" for who, t in times.items())
            print(f"{name} {tokens} x {threads}: {show} ms: {rows[-1]['ratio']:.2f}", flush=True)
        for who, engine in engines.items():
            if who != "tritlab":
                engine.close()
    return rows


def limits(ours: Tritlab, threads: int) -> dict[str, float]:
    read, peak = (float(word) for word in ours.ask("limits", threads).split())
    return {"read_bytes_s": read, "int8_products_s": peak}


def markdown(record: dict[str, Any]) -> str:
    m = record["machine"]
    where = (
        f"{record['date']}, {m['cpu']}, {m['cpus']} CPUs, {' '.join(m.get('cpu_features', []))}, "
        f"{m.get('memory_gib', '?')} GiB, {m['os']}; ggml of llama-cpp-python {record['ggml']}; "
        f"tritlab on {record['backend']}."
    )
    what = (
        f"W is {ROWS} rows x {COLS} columns; times of one product, medians of {record['rounds']} "
        "interleaved rounds, quantising the activations included. ratio = ggml / tritlab: above 1, "
        "tritlab is faster. limit: what tritlab reaches of the memory bandwidth (1 column) or of "
        "the int8 dot-product peak (512). Command: `benches/peers/kernels.py"
        f"{' --backend ' + record['backend'] if record['forced'] else ''}`."
    )
    lines = ["# ggml and tritlab, one matrix product", "", where, "", what, ""]
    for threads, limit in record["limits"].items():
        lines.append(
            f"- {threads} thread(s): memory {limit['read_bytes_s'] / 1e9:.1f} GB/s, "
            f"int8 {limit['int8_products_s'] / 1e9:.0f} G products/s"
        )
    head = [f"{t} col, {n} thr" for t in TOKENS for n in record["limits"]]
    lines += ["", "| type | " + " | ".join(f"{h}: ms | ratio | limit" for h in head) + " |"]
    lines.append("| --- |" + " ---: | ---: | ---: |" * len(head))
    by_key = {(r["type"], r["tokens"], str(r["threads"])): r for r in record["rows"]}
    for name in TYPES:
        cells = []
        for tokens in TOKENS:
            for threads, limit in record["limits"].items():
                row = by_key.get((name, tokens, threads))
                if row is None:
                    cells.append("| | ")
                    continue
                seconds = middle(row["seconds"]["tritlab"])[0]
                if tokens == 1:
                    share = row["bytes"] / seconds / limit["read_bytes_s"]
                else:
                    share = tokens * ROWS * COLS / seconds / limit["int8_products_s"]
                shown = f"{share:.0%}" if tokens == 1 or name not in DENSE else ""
                star = "" if row["ggml_path"] == "plain" else "\\*"
                cells.append(f"{seconds * 1e3:.2f} | {row['ratio']:.2f}{star} | {shown}")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    lines += ["", "\\* ggml's faster path: weights repacked for this CPU."]
    return "\n".join(lines) + "\n"


def summary(record: dict[str, Any]) -> str:
    """One sentence for README.md."""
    parts = []
    for tokens in TOKENS:
        ratios = [r["ratio"] for r in record["rows"] if r["tokens"] == tokens]
        parts.append(
            f"{min(ratios):.2f} to {max(ratios):.2f} times (median {statistics.median(ratios):.2f}) "
            f"with {tokens} column{'s' if tokens > 1 else ''}"
        )
    types = len({r["type"] for r in record["rows"]})
    return f"Over {types} types, a product is as fast as ggml's {' and '.join(parts)}."


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--types", nargs="+", choices=TYPES, default=TYPES)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--pause", type=float, default=0.02, help="seconds between the engines")
    parser.add_argument("--backend", help="of tritlab's (default: the best)")
    parser.add_argument("--out", type=Path, default=RECORD)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    path = args.out / ("kernels" + (f"-{args.backend}" if args.backend else "") + ".json")
    if args.backend:
        os.environ["TRITLAB_BACKEND"] = args.backend
    facts = machine()
    facts.pop("load_average_before", None)
    old = json.loads(path.read_text()) if path.exists() else {}
    if old.get("machine") != facts:
        old = {}  # rows of another machine do not belong in this table
    with tempfile.TemporaryDirectory() as folder:
        ggml, ours = Ggml(), Tritlab(Path(folder))
        backend = ours.ask("backend")
        ratios = {str(n): limits(ours, n) for n in args.threads}
        rows = [row for name in args.types for row in measure(name, ggml, ours, args)]
        for n in args.threads:
            again = limits(ours, n)
            ratios[str(n)] = {k: max(v, again[k]) for k, v in ratios[str(n)].items()}
        ours.close()
    new = {(r["type"], r["tokens"], r["threads"]) for r in rows}
    kept = [r for r in old.get("rows", []) if (r["type"], r["tokens"], r["threads"]) not in new]
    for n, limit in old.get("limits", {}).items():
        mine = ratios.setdefault(n, limit)
        ratios[n] = {k: max(v, limit[k]) for k, v in mine.items()}
    record = {
        "date": time.strftime("%Y-%m-%d"),
        "machine": facts,
        "ggml": importlib.metadata.version("llama-cpp-python"),
        "backend": backend,
        "forced": bool(args.backend),
        "rounds": args.rounds,
        "limits": dict(sorted(ratios.items())),
        "rows": sorted(
            kept + rows, key=lambda r: (TYPES.index(r["type"]), r["tokens"], r["threads"])
        ),
    }
    record["summary"] = summary(record)
    path.write_text(json.dumps(record, indent=1) + "\n")
    path.with_suffix(".md").write_text(text := markdown(record))
    print(text)
    print(record["summary"])
    return 0


if __name__ == "__main__":
    sys.exit(main())
