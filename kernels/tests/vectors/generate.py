#!/usr/bin/env python3
"""Write the golden block vectors beside this file, with the `gguf` package as the judge.

`gguf` (PyPI, by the llama.cpp authors) is an implementation of the block formats that shares no
code with ours. It encodes the legacy and ternary formats exactly as ggml's reference quantiser
does, and decodes all of them; README.md describes the files this script writes.

    python3 -m venv /tmp/vectors
    /tmp/vectors/bin/pip install gguf==0.19.0 numpy==2.4.6
    /tmp/vectors/bin/python generate.py            # rewrites *.json; `git diff` shows nothing
    /tmp/vectors/bin/python generate.py --check    # writes nothing, fails if a file differs

    # A second judge, optional: ggml itself, from any llama.cpp build (or llama-cpp-python wheel).
    /tmp/vectors/bin/python generate.py --check --ggml PATH/TO/libggml-base.so

The checked-in files were made with gguf 0.19.0 and NumPy 2.4.6 and agree with ggml 0.25.3.

`gguf` has no encoders for the formats that search for their scales. Those vectors, in `encode/`, are
ggml's own and are written or checked only with `--ggml`. ggml's bytes depend on whether its compiler
fused multiplications with additions: take a build for plain x86-64, as in the wheels of
llama-cpp-python (its libggml-base.so has no such instruction). Each file says which build made it.

Seeds: every case draws from its own generator, `np.random.default_rng([SEED, crc32(format),
crc32(case)])`, so adding a case or a format leaves all the others as they are.

Cases with an input (encode, then decode) are made by `input_rows`: see the comment on each.
Cases without one (decode only) are made by `random_blocks`: every byte of a block uniformly
random, but each f16 scale a random *finite* f16 (all exponents, both signs, subnormals and both
zeros among them), because a NaN or infinite scale has no answer worth agreeing on.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import math
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from gguf import GGMLQuantizationType as T
from gguf import quants

HERE = Path(__file__).parent
SEED = 20261124

# format: (weights per block, bytes per block, byte offsets of its f16 scales,
#          weights per encoded case or 0, weights per random case)
FORMATS: dict[str, tuple[int, int, tuple[int, ...], int, int]] = {
    "F16": (1, 2, (0,), 67, 256),
    "BF16": (1, 2, (), 67, 256),
    "Q4_0": (32, 18, (0,), 128, 1024),
    "Q4_1": (32, 20, (0, 2), 128, 1024),
    "Q5_0": (32, 22, (0,), 128, 1024),
    "Q5_1": (32, 24, (0, 2), 128, 1024),
    "Q8_0": (32, 34, (0,), 128, 1024),
    "TQ1_0": (256, 54, (52,), 512, 512),
    "TQ2_0": (256, 66, (64,), 512, 512),
    "Q2_K": (256, 84, (80, 82), 0, 2048),
    "Q3_K": (256, 110, (108,), 0, 2048),
    "Q4_K": (256, 144, (0, 2), 0, 2048),
    "Q5_K": (256, 176, (0, 2), 0, 2048),
    "Q6_K": (256, 210, (208,), 0, 2048),
    "IQ4_NL": (32, 18, (0,), 0, 1024),
}


# Formats whose encoders search: True if also without importances.
SEARCHED = {
    "Q4_0": False,
    "Q4_1": False,
    "Q5_0": False,
    "Q5_1": False,
    "Q2_K": True,
    "Q3_K": True,
    "Q4_K": True,
    "Q5_K": True,
    "Q6_K": True,
    "IQ4_NL": True,
}


def rng(fmt: str, case: str) -> np.random.Generator:
    return np.random.default_rng([SEED, zlib.crc32(fmt.encode()), zlib.crc32(case.encode())])


def input_rows(fmt: str) -> dict[str, np.ndarray]:
    """The rows to encode, by name. All are finite, and so are their scales as f16."""
    block, _, _, n, _ = FORMATS[fmt]
    rows: dict[str, np.ndarray] = {}

    def add(name: str, make: Callable[[np.random.Generator], np.ndarray]) -> None:
        row = np.asarray(make(rng(fmt, name)), dtype=np.float32)
        assert row.shape == (n,) and np.isfinite(row).all(), name
        rows[name] = row

    def one_nonzero(r: np.random.Generator) -> np.ndarray:
        row = np.zeros(n)
        row[r.integers(n)] = -0.37  # every other block stays all zero
        return row

    def outliers(r: np.random.Generator) -> np.ndarray:
        row = 0.02 * r.standard_normal(n)
        row[r.choice(n, max(1, n // 32), replace=False)] *= 60.0
        return row

    def ties(r: np.random.Generator) -> np.ndarray:
        # The largest magnitude occurs with both signs (the encoder must take the first), and the
        # rest are multiples of 1/16 and 1/254 of it: quotients at, or a rounding away from, .5.
        row = np.where(
            r.random(n) < 0.5, r.integers(-16, 17, n) / 16.0, r.integers(-254, 255, n) / 254.0
        )
        for start in range(0, n, max(block, 32)):
            stop = min(start + max(block, 32), n)
            if stop - start >= 2:
                at = r.choice(np.arange(start, stop), 2, replace=False)
                row[at] = (1.0, -1.0) if r.random() < 0.5 else (-1.0, 1.0)
        return row

    def subnormal_values(r: np.random.Generator) -> np.ndarray:
        # f32 subnormals and signed zeros beside ordinary values: they must encode as zero.
        row = np.where(r.random(n) < 0.5, r.standard_normal(n), 1e-40 * r.standard_normal(n))
        row[0], row[1] = 0.0, -0.0
        return row

    add("normal", lambda r: r.standard_normal(n))  # N(0, 1)
    if fmt not in ("TQ1_0", "TQ2_0"):  # large blocks, and nothing new to say about ternary
        add("weights", lambda r: 0.02 * r.standard_normal(n))  # the size of trained weights
        add("uniform", lambda r: r.uniform(-1, 1, n))
        add("positive-only", lambda r: np.abs(r.standard_normal(n)) + 0.01)
        add("subnormal-values", subnormal_values)
    add("student-t", lambda r: 0.05 * r.standard_t(3, n))  # heavy tails, 3 degrees of freedom
    add("outliers", outliers)  # 1 in 32 is 60 times the rest
    add("zeros", lambda r: np.zeros(n))
    add("one-nonzero", one_nonzero)
    add("constant-positive", lambda r: np.full(n, 0.7))
    add("constant-negative", lambda r: np.full(n, -1.3))
    add("negative-only", lambda r: -np.abs(r.standard_normal(n)) - 0.01)
    add("ternary", lambda r: r.integers(-1, 2, n) * np.float32(0.03125 + 0.0123))
    add("ties", ties)
    add("tiny", lambda r: 1e-6 * r.standard_normal(n))  # the f16 scale is subnormal
    add("scale-underflow", lambda r: 1e-20 * r.standard_normal(n))  # ... is zero, codes are not
    add("big", lambda r: r.uniform(-65504, 65504, n))  # up to the largest finite f16
    return rows


def random_blocks(fmt: str, case: str) -> np.ndarray:
    block, size, scales, _, n = FORMATS[fmt]
    r = rng(fmt, case)
    blocks = r.integers(0, 256, (n // block, size), dtype=np.uint8)
    for at in scales:
        blocks[:, at : at + 2] = finite(r, len(blocks), exponent_bits=5)
    if fmt == "BF16":
        blocks = finite(r, len(blocks), exponent_bits=8)
    return blocks.reshape(-1)


def finite(r: np.random.Generator, n: int, exponent_bits: int) -> np.ndarray:
    """Random finite f16 (5 exponent bits) or bf16 (8), as rows of two bytes."""
    mantissa_bits = 15 - exponent_bits
    sign = r.integers(0, 2, n)
    exponent = r.integers(0, (1 << exponent_bits) - 1, n)  # all ones would be infinity or NaN
    mantissa = r.integers(0, 1 << mantissa_bits, n)
    patterns = (sign << 15) | (exponent << mantissa_bits) | mantissa
    return patterns.astype("<u2").view(np.uint8).reshape(-1, 2)


def decode_rows(fmt: str) -> dict[str, np.ndarray]:
    rows = {"random-blocks": random_blocks(fmt, "random-blocks")}
    if fmt == "TQ2_0":
        # Random bytes hold code 3, which no encoder writes and the formula reads as +2 scales.
        rows["random-blocks-with-code-3"] = rows.pop("random-blocks")
        blocks = random_blocks(fmt, "random-blocks").reshape(-1, 66)
        for shift in (0, 2, 4, 6):
            field = (blocks[:, :64] >> shift) & 3
            blocks[:, :64] ^= np.where(field == 3, np.uint8(2 << shift), np.uint8(0))  # 3 -> 1
        rows["random-blocks"] = blocks.reshape(-1)
    return rows


def encode(fmt: str, row: np.ndarray) -> np.ndarray:
    return quants.quantize(row.reshape(1, -1), T[fmt]).reshape(-1).view(np.uint8)


def decode(fmt: str, data: np.ndarray) -> np.ndarray:
    out = quants.dequantize(data.reshape(1, -1), T[fmt]).reshape(-1)
    assert out.dtype == np.float32 and np.isfinite(out).all(), fmt
    return out


def bits(values: np.ndarray) -> str:
    return " ".join(f"{v:08x}" for v in values.view(np.uint32))


def search_rows() -> tuple[dict[str, np.ndarray], np.ndarray]:
    """The rows that all searching encoders get, and the importance of their columns."""
    n = 1024
    r = rng("search", "rows")
    outliers = 0.02 * r.standard_normal(n)
    outliers[r.choice(n, n // 32, replace=False)] *= 60.0
    edges = np.zeros((4, 256))  # a block of zeros, a constant one, ...
    edges[1] = -1.3
    edges[2] = np.where(r.random(256) < 0.5, r.standard_normal(256), 1e-40 * r.standard_normal(256))
    edges[3, 77] = 0.37  # ... and one that is zero but for one weight
    rows = {
        "normal": r.standard_normal(n),
        "uniform": r.uniform(-1, 1, n),
        "student-t": 0.05 * r.standard_t(3, n),
        "outliers": outliers,
        "positive-only": np.abs(r.standard_normal(n)) + 0.01,
        "edges": edges.reshape(-1),
    }
    importance = np.exp(2 * r.standard_normal(n)).astype(np.float32)  # over four decades
    return {name: row.astype(np.float32) for name, row in rows.items()}, importance


ROW_FUNCTION = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)


class Ggml:
    """ggml's own quantiser and dequantiser, through its public C functions."""

    class Traits(ctypes.Structure):
        _fields_ = (
            ("type_name", ctypes.c_char_p),
            ("blck_size", ctypes.c_int64),
            ("blck_size_interleave", ctypes.c_int64),
            ("type_size", ctypes.c_size_t),
            ("is_quantized", ctypes.c_bool),
            ("to_float", ROW_FUNCTION),
            ("from_float_ref", ROW_FUNCTION),
        )

    def __init__(self, path: str) -> None:
        self.differences = 0
        self.lib = ctypes.CDLL(path)
        self.lib.ggml_get_type_traits.restype = ctypes.POINTER(self.Traits)
        self.lib.ggml_version.restype = ctypes.c_char_p
        self.lib.ggml_quantize_chunk.argtypes = [
            ctypes.c_int,
            *[ctypes.c_void_p] * 2,
            *[ctypes.c_int64] * 3,
            ctypes.c_void_p,
        ]

    def search(self, fmt: str, row: np.ndarray, importance: np.ndarray | None) -> np.ndarray:
        block, size, *_ = FORMATS[fmt]
        out = np.zeros(len(row) // block * size, dtype=np.uint8)
        weights = None if importance is None else importance.ctypes.data
        self.lib.ggml_quantize_chunk(
            int(T[fmt]), row.ctypes.data, out.ctypes.data, 0, 1, len(row), weights
        )
        return out

    def traits(self, fmt: str) -> Ggml.Traits:
        traits: Ggml.Traits = self.lib.ggml_get_type_traits(int(T[fmt])).contents
        assert (traits.blck_size, traits.type_size) == FORMATS[fmt][:2], fmt
        return traits

    def encode(self, fmt: str, row: np.ndarray) -> np.ndarray:
        block, size, *_ = FORMATS[fmt]
        out = np.zeros(len(row) // block * size, dtype=np.uint8)
        self.traits(fmt).from_float_ref(row.ctypes.data, out.ctypes.data, len(row))
        return out

    def decode(self, fmt: str, data: np.ndarray) -> np.ndarray:
        block, size, *_ = FORMATS[fmt]
        data = np.ascontiguousarray(data)
        out = np.zeros(len(data) // size * block, dtype=np.float32)
        self.traits(fmt).to_float(data.ctypes.data, out.ctypes.data, len(out))
        return out


def vectors(fmt: str, ggml: Ggml | None) -> str:
    block, size, *_ = FORMATS[fmt]
    cases = []

    def add(name: str, row: np.ndarray | None, data: np.ndarray) -> None:
        output = decode(fmt, data)
        if ggml:
            if row is not None and (ggml.encode(fmt, row) != data).any():
                print(f"ggml encodes {fmt} {name} differently", file=sys.stderr)
                ggml.differences += 1
            if (ggml.decode(fmt, data).view(np.uint32) != output.view(np.uint32)).any():
                print(f"ggml decodes {fmt} {name} differently", file=sys.stderr)
                ggml.differences += 1
        case = {"name": name, "weights": len(output)}
        if row is not None:
            case["input"] = bits(row)
        cases.append(case | {"bytes": data.tobytes().hex(), "output": bits(output)})

    if FORMATS[fmt][3]:
        for name, row in input_rows(fmt).items():
            add(name, row, encode(fmt, row))
    for name, data in decode_rows(fmt).items():
        add(name, None, data)
    head = {"format": fmt, "block": block, "block_bytes": size, "cases": cases}
    return json.dumps(head, indent=1) + "\n"


def searched(ggml: Ggml) -> dict[Path, str]:
    """The files in `encode/`."""
    rows, importance = search_rows()
    listed = [{"name": name, "input": bits(row)} for name, row in rows.items()]
    head = {"importance": bits(importance), "rows": listed}
    files = {HERE / "encode/rows.json": json.dumps(head, indent=1) + "\n"}
    build = f"ggml {ggml.lib.ggml_version().decode()}, x86-64, no fused multiply-adds"
    for fmt, plain in SEARCHED.items():
        cases = []
        for name, row in rows.items():
            for weights in (None, importance) if plain else (importance,):
                data = ggml.search(fmt, row, weights)
                diff = decode(fmt, data).astype(np.float64) - row
                error = math.fsum((1.0 if weights is None else weights) * diff * diff)
                case = {"name": name, "importance": weights is not None, "error": error}
                cases.append(case | {"bytes": data.tobytes().hex()})
        text = json.dumps({"format": fmt, "build": build, "cases": cases}, indent=1) + "\n"
        files[HERE / f"encode/{fmt}.json"] = text
    return files


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--check", action="store_true", help="compare the files, write nothing")
    parser.add_argument("--ggml", metavar="LIB", help="also ask this libggml-base.so")
    args = parser.parse_args()
    ggml = Ggml(args.ggml) if args.ggml else None
    files = {HERE / f"{fmt}.json": vectors(fmt, ggml) for fmt in FORMATS}
    if ggml:
        files |= searched(ggml)
    stale = []
    for path, text in files.items():
        if args.check:
            if not path.exists() or path.read_text() != text:
                stale.append(str(path.relative_to(HERE)))
        else:
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
            print(f"{path.relative_to(HERE)}: {len(text) / 1000:.0f} kB")
    if stale:
        print("differ from what this script writes:", ", ".join(stale), file=sys.stderr)
    return 1 if stale or (ggml and ggml.differences) else 0


if __name__ == "__main__":
    sys.exit(main())
