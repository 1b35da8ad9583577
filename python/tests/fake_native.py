"""A pure-Python stand-in for `tritlab._native`, for tests of the report code only.

It obeys the stub's signatures. Its "models" are random numbers whose size of error, bits and speed
look like those of a 135 M parameter model, so that tables and figures look like real ones.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np

__version__ = "0.0.0"


class TritlabError(ValueError):
    pass


class FormatError(TritlabError):
    pass


class ShapeError(TritlabError):
    pass


class BackendError(TritlabError):
    pass


class GgufError(TritlabError):
    pass


class TokenizerError(TritlabError):
    pass


class ModelError(TritlabError):
    pass


class EvaluationError(TritlabError):
    pass


class MissingFileError(TritlabError, FileNotFoundError):
    pass


# name: block, bytes, activation, error of logits, decode share of bandwidth, prefill tok/s
_TABLE = {
    "F32": (1, 4, "dense", 0.0, 0.90, 700),
    "F16": (1, 2, "dense", 0.0, 0.88, 720),
    "BF16": (1, 2, "dense", 0.01, 0.88, 710),
    "TERNARY": (4, 1, "token", 3.2, 0.62, 3300),
    "TERNARY_ROW": (4, 1, "token", 3.1, 0.62, 3290),
    "TQ2_0": (256, 66, "256", 3.0, 0.60, 3000),
    "Q4_0": (32, 18, "32", 0.22, 0.74, 2400),
    "Q4_1": (32, 20, "32", 0.06, 0.72, 2250),
    "Q8_0": (32, 34, "32", 0.05, 0.83, 2300),
}
_LINEAR, _REST = 106_168_320, 28_346_944
_BANDWIDTH = 41.3e9
_state: dict = {"threads": 2, "backend": "avx512"}


def formats():
    return [
        {
            "name": name,
            "block": block,
            "bytes": size,
            "bits_per_weight": 8 * size / block,
            "activation": activation,
            "scales": "block",
            "summary": "",
            "in_gguf": not name.startswith("TERNARY"),
        }
        for name, (block, size, activation, *_) in _TABLE.items()
    ]


def backends():
    return [
        {"name": name, "available": name != "neon", "selected": name == _state["backend"]}
        for name in ("oracle", "portable", "avx2", "avx512", "neon")
    ]


_COUNTS = {
    "total": 12.5,
    "loads": 5.0,
    "stores": 0.0,
    "dots": 4.0,
    "shuffles": 0.25,
    "multiplies": 0.125,
    "other": 4.0,
    "bytes_read": 80.0,
}
_INSTRUCTION = {
    "at": 16,
    "text": "vpdpbusd zmm0, zmm1, [rsi]{1to16}",
    "kind": "dot",
    "bytes_read": 4,
    "bytes_written": 0,
    "executed": 4.0,
}


class Disassembly:
    per, tokens, share, compiler = "256 weights", 1, 0.9, "rustc 1.0"

    def __init__(self, kernel):
        self.kernel, self.counts, self.instructions = kernel, _COUNTS, [_INSTRUCTION]

    @property
    def text(self):
        return f"{self.kernel}: 12.5 instructions\nvpdpbusd zmm0, zmm1, [rsi]{{1to16}}\n"

    def to_html(self):
        return f"<pre>{self.text}</pre>"


class Kernel:
    def __init__(self, op, format, backend):
        self.name = f"{op}-{format.lower()}-{backend}" if format else f"{op}-{backend}"
        self.op, self.format, self.backend = op, format, backend
        self.available, self.selected = backend != "neon", backend == _state["backend"]

    def disassemble(self):
        if not self.available:
            raise BackendError(f"{self.name} cannot be disassembled: this CPU lacks the backend")
        return Disassembly(self.name)


def kernels():
    out = {}
    for backend in backends():
        made = [Kernel(op, name, backend["name"]) for name in _TABLE for op in ("gemv", "gemm")]
        made.append(Kernel("rms_norm", None, backend["name"]))
        out |= {kernel.name: kernel for kernel in made}
    return out


def set_backend(name):
    names = [item["name"] for item in backends() if item["available"]]
    if name is not None and name not in names:
        raise BackendError(f"no backend {name!r} on this CPU; there are: {', '.join(names)}")
    _state["backend"] = name or "avx512"


def current_backend():
    return _state["backend"]


def set_threads(n):
    _state["threads"] = n


def get_threads():
    return _state["threads"]


def machine():
    return {
        "cpu": "Example CPU",
        "features": ["avx2", "avx512f"],
        "cores": 2,
        "memory_bytes": 8 << 30,
        "arch": "x86_64",
        "os": "linux",
    }


def measure_bandwidth(threads, seconds=0.3):
    return _BANDWIDTH


def measure_cache_bandwidth(threads, seconds=0.2):
    return 3 * _BANDWIDTH


def measure_dot_peak(threads, backend=None, seconds=0.2):
    return 0.61e12


def measure_products(matrices, n):
    products.extend((matrix.format, matrix.shape, n) for matrix in matrices)
    return 1e-3


class Activations:
    pass


class Ternary:
    pass


def packings():
    return []


def project(weights, projection="absmean", *, per=None, refit=False):
    raise NotImplementedError


def quantize_activations(x, per):
    raise NotImplementedError


class Matrix:
    """Sizes of a matrix, without its weights; every product is 0."""

    codes = group_scales = None

    def __init__(self, format, shape):
        self.format, self.shape = format, shape
        block, size, *_ = _TABLE[format]
        self.nbytes = shape[0] * -(-shape[1] // block) * size
        self.bytes = np.zeros(self.nbytes, np.uint8)
        self.scales = np.ones(1 if format == "TERNARY" else 0, np.float32)

    @staticmethod
    def quantize(weights, format, *, importance=None):
        return Matrix(format, weights.shape)

    @staticmethod
    def from_bytes(data, format, shape, scales=None):
        return Matrix(format, shape)

    def __matmul__(self, x):
        assert x.shape[0] == self.shape[1]
        return np.zeros((self.shape[0], *x.shape[1:]), np.float32)


products = []
"""(format, shape, number of vectors) of every product that was timed."""


class Trace:
    weight, steps, sources = 0.5, ["d · q[1]", "0.5"], []

    def __str__(self):
        return "w[1] = d · q[1]\n"


class Explanation:
    format, formula, fields = "Q4_0", "w[i] = d · q[i]", []

    def __init__(self, data=b"", scale=None):
        self.bytes, self.scale = data, scale
        self.weights = np.zeros(2, np.float32)

    def trace(self, i):
        return Trace()

    def to_html(self):
        return "<div>drawn</div>"

    def __str__(self):
        return f"drawn {self.bytes.hex()} {self.scale}\n"


def explain(format, block, scale=None):
    return Explanation(block, scale)


def _i2_s_order(name):
    if name not in ("I2_S", "I2_S_64", "I2_S_ROWS4"):
        raise FormatError(f"unknown packing {name}")


def explain_gguf(path, tensor, row=0, block=0, *, i2_s="I2_S"):
    _i2_s_order(i2_s)
    if tensor != "blk.0.attn_q.weight":
        raise ModelError(f"the tensor `{tensor}` is missing")
    return Explanation(bytes([row, block]))


# Two layers' tensors with what a squared error of each costs, and the embedding.
_SENSITIVE = {"blk.0.attn_q.weight": 0.5, "token_embd.weight": 4.0}


class Model:
    def __init__(self, path, format, overrides=None):
        self.path = str(path)
        self._asked = format
        self._overrides = dict(overrides or {})
        self._kind = format or "Q4_1"
        block, size, _, self._noise, self._share, self._prefill = _TABLE[self._kind]
        if format is None:
            self._noise /= 2
        self.linear_params = _LINEAR
        self.linear_bytes = _LINEAR * size // block
        self.total_bytes = sum(tensor["nbytes"] for tensor in self.tensors())
        self.bytes_per_token = self.total_bytes
        self.architecture, self.name = "llama", "Example <135M>"
        self.n_params, self.n_layers, self.n_vocab = _LINEAR + _REST, 30, 256
        self.context, self.format = 2048, format

    @staticmethod
    def load(
        path,
        format=None,
        *,
        head=None,
        overrides=None,
        fallback=None,
        recipe=None,
        context=2048,
        longrope="length",
        i2_s="I2_S",
        imatrix=None,
        activations="int8",
        progress=None,
    ):
        _i2_s_order(i2_s)
        if Path(path).read_bytes()[:4] != b"GGUF":
            raise GgufError(f"{path} is not a GGUF file")
        if format == "TQ2_0":
            raise ShapeError("the tensor `blk.0.attn_q.weight`: 576 columns do not fit TQ2_0")
        if progress:
            progress(1, 1, "load")
        if recipe is not None:
            overrides = _recipe(recipe)
        elif Path(path).read_bytes()[4:5] == b"{":
            overrides = json.loads(Path(path).read_bytes()[4:])
        return Model(path, format, overrides)

    def requantize(self, overrides, *, progress=None):
        unknown = [name for name in overrides if name not in _SENSITIVE]
        if unknown:
            raise ModelError(f"the override {unknown[0]!r} of a tensor's format: it matches none")
        return Model(self.path, self._asked, {**self._overrides, **overrides})

    def _with_overrides(self, tensors):
        for tensor in tensors:
            name = self._overrides.get(tensor["name"])
            if name not in (None, tensor["format"]):
                block, size, _, noise, *_ = _TABLE[name]
                tensor |= {
                    "format": name,
                    "nbytes": tensor["n_params"] * size // block,
                    "rel_error": 0.4 * noise,
                }
        return tensors

    def tensors(self):
        return self._with_overrides(self._tensors())

    def _tensors(self):
        common = {"file_type": "Q4_1", "bits_per_weight": 0.0}
        error = {"TERNARY": 0.52, "TERNARY_ROW": 0.51, "TQ2_0": 0.5}.get(
            self._kind, 0.4 * self._noise
        )
        return [
            {
                **common,
                "name": "blk.0.attn_q.weight",
                "gguf_name": "blk.0.attn_q.weight",
                "role": "linear",
                "format": self._kind,
                "shape": (576, 576),
                "n_params": _LINEAR,
                "nbytes": self.linear_bytes,
                "rel_error": 0.0 if self._asked is None else error,
            },
            {
                **common,
                "name": "token_embd.weight",
                "gguf_name": "token_embd.weight",
                "role": "embedding",
                "format": "Q8_0",
                "shape": (256, 576),
                "n_params": _REST,
                "nbytes": _REST * 34 // 32,
                "rel_error": 0.0,
            },
        ]

    def matrix(self, name):
        raise NotImplementedError

    def tokenize(self, text, add_special=True, *, parse_special=False):
        return np.frombuffer(text.encode(), np.uint8).astype(np.int32)

    def detokenize(self, ids):
        return bytes(ids.astype(np.uint8)).decode(errors="replace")

    def fingerprint(self, ids):
        changed = [(t["name"], t["format"]) for t in self.tensors()] != [
            (t["name"], t["format"]) for t in self._tensors()
        ]
        what = f"{[t['format'] for t in self.tensors()]}" if changed else self._kind
        return hashlib.sha256(what.encode() + ids.tobytes()).hexdigest()

    def evaluate(self, ids, context=512, reference=None, progress=None):
        chunks = len(ids) // context
        n = chunks * (context - 1 - context // 2)
        base = np.random.default_rng(7).gamma(1.2, 2.6, n)
        rng = np.random.default_rng(int.from_bytes(self._kind.encode(), "little") % 2**32)
        kl = rng.lognormal(0, 1.3, n) * self._noise**2 / 2
        if reference is self:
            kl = np.zeros(n)
        elif self._overrides:  # a mean that is known, and costs that add up
            errors = {t["name"]: t["rel_error"] for t in self.tensors()}
            kl = np.full(n, sum(_SENSITIVE[name] * e**2 for name, e in errors.items()))
        nll = base + rng.normal(0, self._noise, n) + kl * 0.5
        out = {
            "n_chunks": chunks,
            "nll": nll,
            "token": np.zeros(n, np.int32),
            "position": np.arange(n, dtype=np.int64),
        }
        if reference is not None:
            out |= {
                "ref_nll": base,
                "kl": kl,
                "same_top": rng.random(n) > min(0.95, 0.4 * self._noise),
                "p": np.exp(-np.maximum(nll, 0)),
                "ref_p": np.exp(-base),
            }
        if progress:
            progress(chunks, chunks, "evaluate")
        return out

    def generate(self, prompt, *, callback=None, **settings):
        if callback:
            callback(" and")
            callback(" so on")
        return " and so on"

    def stream(self, messages, **settings):
        said = messages[-1]["content"]
        return TextStream([f"{len(messages)}: ", said.upper()])

    def apply_chat_template(self, messages):
        return "".join(message["content"] for message in messages)

    def bench(self, n_prompt=512, n_gen=128, repetitions=5, progress=None):
        decode = self._share * _BANDWIDTH / self.bytes_per_token
        wobble = 1 + 0.01 * np.arange(repetitions)
        return {
            "prompt_ns": [int(n_prompt / self._prefill * w * 1e9) for w in wobble],
            "gen_ns": [int(n_gen / decode * w * 1e9) for w in wobble],
        }


class TextStream:
    def __init__(self, pieces):
        self._pieces = iter(pieces)

    def __iter__(self):
        return self._pieces

    def __enter__(self):
        return self

    def __exit__(self, *args):
        pass


class Imatrix:
    datasets = ("text",)

    def __init__(self, chunks, chunk_size):
        self.chunks, self.chunk_size = chunks, chunk_size

    @staticmethod
    def collect(model, ids, *, context=512, dataset="", progress=None):
        if progress:
            progress(1, 1, "imatrix")
        return Imatrix(len(ids) // context, context)

    def save(self, path):
        Path(path).write_bytes(b"GGUF imatrix")

    def arrays(self):
        return {"blk.0.attn_q.weight": np.ones(576, np.float32)}


def _recipe(recipe):
    from tritlab.recipe import arguments

    return dict(arguments(recipe)["overrides"])


def quantize_gguf(
    src,
    dst,
    format=None,
    *,
    head=None,
    overrides=None,
    fallback=None,
    recipe=None,
    i2_s="I2_S",
    imatrix=None,
    progress=None,
):
    _i2_s_order(i2_s)
    if imatrix is not None and Path(imatrix).read_bytes() != b"GGUF imatrix":
        raise ModelError("the importance matrix: general.type")
    said = b"" if recipe is None else json.dumps(_recipe(recipe)).encode()
    Path(dst).write_bytes(b"GGUF" + said)
    return {
        "format": format,
        "tensors": 2,
        "quantized": 1,
        "fallbacks": int(fallback is not None),
        "weight_error": 0.05,
        "replaced": [{"type": "Q5_1", "tensors": 1, "weights": 32, "bytes": 24}]
        if fallback
        else [],
        "types": [{"type": format, "tensors": 2, "weights": 64, "bytes": 50}],
        "bytes_in": 100,
        "bytes_out": 50,
    }


def convert(src, dst, *, i2_s="I2_S", force=False, progress=None):
    _i2_s_order(i2_s)
    if Path(dst).exists() and not force:
        raise FileExistsError(f"{dst}: it exists already")
    Path(dst).write_bytes(b"GGUF")
    return {"tensors": 2, "bytes_out": 4, "tokenizer": False}


def inspect_folder(path):
    tensor = {"name": "lm_head.weight", "shape": (4, 2), "type": "F32", "nbytes": 32}
    return {"tensors": [tensor], "cache": {"context": 64, "f32": 1024, "f16": 512}}


def verify_models(first, second, *, rtol=0.0, i2_s="I2_S", progress=None):
    same = Path(first).read_bytes() == Path(second).read_bytes()
    found = {
        "kind": "value",
        "tensor": "blk.0.attn_q.weight",
        "row": 1,
        "col": 2,
        "first": 0.5,
        "second": 0.0,
        "types": ("I2_S", "TQ2_0"),
        "shapes": None,
    }
    return {"tensors": 2, "weights": 64, "difference": None if same else found}


def verify_matrices(first, second, *, rtol=0.0):
    raise NotImplementedError


def inspect_gguf(path):
    if Path(path).read_bytes()[:4] != b"GGUF":
        raise GgufError(f"{path} is not a GGUF file:\nmagic is wrong")
    return {
        "version": 3,
        "metadata": {
            "general.architecture": "llama",
            "general.name": "Example [135M]",
            "tokenizer.ggml.tokens": [str(i) for i in range(256)],
        },
        "tensors": [
            {
                "name": "blk.0.attn_q.weight",
                "shape": (576, 576),
                "type": "Q4_1",
                "offset": 0,
                "nbytes": 576 * 576 * 20 // 32,
            }
        ],
        "cache": {"context": 8192, "f32": 377_487_360, "f16": 188_743_680},
    }


# The kit is of no use without kernels: `native/test_testing.py` has the real one.


def kit_cases(check, subject, random, seed):
    raise NotImplementedError


def kit_simpler(check, subject, case):
    raise NotImplementedError


def kit_case(check, subject, case, judge):
    raise NotImplementedError


def kit_columns(format):
    raise NotImplementedError


def kit_make_finite(format, blocks):
    raise NotImplementedError
