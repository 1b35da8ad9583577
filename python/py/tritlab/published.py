"""Memory of published models from their shapes: no file has to be downloaded to know it.

Shapes are those of the models' config.json; counts are those their authors publish.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

from tritlab import _native
from tritlab.errors import FormatError

FALLBACK = {"Q4_K": "Q5_0", "Q5_K": "Q5_1", "Q6_K": "Q8_0", "Q3_K": "IQ4_NL", "Q2_K": "IQ4_NL"}
"""What llama-quantize gives rows that are no multiple of 256 weights (llama-quant.cpp)."""


@dataclass(frozen=True)
class Shape:
    """Sizes of a decoder: grouped-query attention and a gated feed-forward network per layer."""

    name: str
    hidden: int
    ffn: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    tied: bool  # whether the embedding is the output head too
    family: str = "llama"  # of its norms: "llama", "qwen3", "gemma3" or "bitnet"
    window: int = 0  # tokens that a local layer sees; 0: all layers see everything
    pattern: int = 6  # with a window: every such layer sees everything

    @classmethod
    def of(cls, path: str | os.PathLike[str]) -> Shape:
        """The shape of a GGUF file."""
        info = _native.inspect_gguf(path)
        meta, tensors = info["metadata"], {t["name"]: t for t in info["tensors"]}
        arch = str(meta["general.architecture"])

        def get(key: str, default: Any = None) -> int:
            return int(meta.get(f"{arch}.{key}", default))

        hidden, heads = get("embedding_length"), get("attention.head_count")
        family = "bitnet" if arch.startswith("bitnet") else arch
        return cls(
            str(meta.get("general.name", arch)),
            hidden,
            get("feed_forward_length"),
            get("block_count"),
            heads,
            get("attention.head_count_kv", heads),
            get("attention.key_length", hidden // heads),
            int(tensors["token_embd.weight"]["shape"][0]),
            "output.weight" not in tensors,
            family if family in ("qwen3", "gemma3", "bitnet") else "llama",
            get("attention.sliding_window", 0) if arch == "gemma3" else 0,
        )

    @property
    def linear_shapes(self) -> list[tuple[int, int]]:
        """(rows, columns) of the linear layers of one block: q, k, v, output, gate, up, down."""
        q, kv = self.heads * self.head_dim, self.kv_heads * self.head_dim
        return [
            (q, self.hidden),
            (kv, self.hidden),
            (kv, self.hidden),
            (self.hidden, q),
            (self.ffn, self.hidden),
            (self.ffn, self.hidden),
            (self.hidden, self.ffn),
        ]

    @property
    def linear(self) -> int:
        """Weights of all linear layers, without embedding and head."""
        return self.layers * sum(rows * cols for rows, cols in self.linear_shapes)

    @property
    def embedding(self) -> int:
        """Weights of the embedding, and of the head where that is another matrix."""
        return self.vocab * self.hidden * (1 if self.tied else 2)

    @property
    def norms(self) -> int:
        """Weights of all norms."""
        e, d = self.hidden, self.head_dim
        block = {
            "llama": 2 * e,
            "qwen3": 2 * e + 2 * d,
            "gemma3": 4 * e + 2 * d,
            "bitnet": 3 * e + self.ffn,
        }[self.family]
        return self.layers * block + e

    @property
    def params(self) -> int:
        """All weights."""
        return self.linear + self.embedding + self.norms

    def linear_bytes(self, format: str) -> int:
        """Bytes of all linear layers, rows that do not fit a k-quant in its `FALLBACK`."""
        return self.layers * sum(matrix_bytes(r, c, format) for r, c in self.linear_shapes)

    def embedding_bytes(self, format: str) -> int:
        """Bytes of the embedding, and of the head where that is another matrix."""
        return matrix_bytes(self.vocab, self.hidden, format) * (1 if self.tied else 2)

    def kv_bytes(self, tokens: int, element: int = 2) -> int:
        """Bytes of keys and values of `tokens` tokens, `element` bytes each (2 for f16).

        Layers with a window keep no more than the window.
        """
        globals_ = self.layers // self.pattern if self.window else self.layers
        kept = globals_ * tokens + (self.layers - globals_) * min(tokens, self.window)
        return 2 * self.kv_heads * self.head_dim * element * kept


def matrix_bytes(rows: int, cols: int, format: str) -> int:
    """Bytes of a matrix in a format, its separate scales included, norms not."""
    info = next((f for f in _native.formats() if f["name"] == format), None)
    if info is None:
        raise FormatError(f"no format {format!r}")
    if info["scales"] == "block" and cols % info["block"]:
        if format not in FALLBACK:
            raise FormatError(f"{format} needs rows of a multiple of {info['block']}, not {cols}")
        return matrix_bytes(rows, cols, FALLBACK[format])
    scales = {"row": 4 * rows, "tensor": 4}.get(info["scales"], 0)
    return rows * -(-cols // info["block"]) * info["bytes"] + scales


MODELS = (
    Shape("Gemma 3 270M", 640, 2048, 18, 4, 1, 256, 262144, True, "gemma3", 512),
    Shape("Qwen3 0.6B", 1024, 3072, 28, 16, 8, 128, 151936, True, "qwen3"),
    Shape("Gemma 3 1B", 1152, 6912, 26, 4, 1, 256, 262144, True, "gemma3", 512),
    Shape("Qwen3 1.7B", 2048, 6144, 28, 16, 8, 128, 151936, True, "qwen3"),
    Shape("BitNet 2B-4T", 2560, 6912, 30, 20, 5, 128, 128256, True, "bitnet"),
    Shape("Phi-4-mini 3.8B", 3072, 8192, 32, 24, 8, 128, 200064, True),
    Shape("Gemma 3 4B", 2560, 10240, 34, 8, 4, 256, 262208, True, "gemma3", 1024),
    Shape("Qwen3 4B", 2560, 9728, 36, 32, 8, 128, 151936, True, "qwen3"),
    Shape("Llama 3 8B", 4096, 14336, 32, 32, 8, 128, 128256, False),
)

PUBLISHED = {
    "Gemma 3 270M": (("embedding", 170e6, 10e6), ("rest", 100e6, 10e6)),
    "Qwen3 0.6B": (("total", 0.6e9, 0.1e9), ("rest", 0.44e9, 0.01e9)),
    "Gemma 3 1B": (("embedding", 302e6, 1e6), ("rest", 698e6, 1e6)),
    "Qwen3 1.7B": (("total", 1.7e9, 0.1e9), ("rest", 1.4e9, 0.1e9)),
    "BitNet 2B-4T": (("total", 2e9, 1e9),),
    "Phi-4-mini 3.8B": (("total", 3.8e9, 0.1e9),),
    "Gemma 3 4B": (("embedding", 675e6, 1e6), ("rest", 3209e6, 1e6)),
    "Qwen3 4B": (("total", 4.0e9, 0.1e9), ("rest", 3.6e9, 0.1e9)),
    "Llama 3 8B": (("total", 8030261248, 1),),
}
"""What the authors say: which part, how many weights, and the unit of the last digit they give.

From the model cards of Qwen3 and Llama 3 (its safetensors index), the Phi-4-mini and BitNet b1.58
2B4T technical reports, Gemma 3's report (table 1) and the announcement of Gemma 3 270M. Gemma's
text models only: the 4B also has a vision encoder.
"""


def published_error(shape: Shape) -> list[tuple[str, float, int, float]]:
    """(part, published, ours, error relative to the published number beyond its rounding)."""
    ours = {
        "total": shape.params,
        "embedding": shape.embedding,
        "rest": shape.params - shape.embedding,
    }
    return [
        (part, said, ours[part], max(abs(ours[part] - said) - unit / 2, 0) / said)
        for part, said, unit in PUBLISHED[shape.name]
    ]


def model(name: str) -> Shape:
    """One of `MODELS` by its name."""
    for shape in MODELS:
        if shape.name == name:
            return shape
    raise KeyError(f"no shapes of {name!r}; there are: {', '.join(s.name for s in MODELS)}")
