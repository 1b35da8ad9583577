"""Native half of `tritlab`. Import the names from `tritlab`, not from here.

Arrays are borrowed: C-contiguous, of exactly the stated dtype, never cast or copied behind your
back. Another dtype raises `TypeError`; another shape or layout raises `ShapeError`. Both messages
name what came and what was wanted. Computing calls release the GIL.
"""

from collections.abc import Callable
from os import PathLike
from typing import final

import numpy as np
import numpy.typing as npt

from tritlab._types import (
    BackendInfo,
    BenchTimes,
    ConvertReport,
    Evaluation,
    FieldFacts,
    FolderTensor,
    FormatInfo,
    GgufInfo,
    KernelInfo,
    KitCase,
    MachineFacts,
    Progress,
    QuantizeReport,
    TensorInfo,
    TraceSource,
)
from tritlab.evaluation import Text
from tritlab.statistics import Quality

__version__: str

class TritlabError(ValueError):
    """Base of every error this library raises by itself."""

class FormatError(TritlabError):
    """A format that does not exist, or numbers a format cannot hold (NaN, infinity)."""

class ShapeError(TritlabError):
    """A shape or memory layout that does not fit."""

class BackendError(TritlabError):
    """A backend that does not exist, or that this CPU lacks."""

class GgufError(TritlabError):
    """A file that is truncated, malformed, or not GGUF."""

class TokenizerError(TritlabError):
    """A tokenizer that is missing or not supported."""

class ModelError(TritlabError):
    """An architecture, tensor or setting that the model cannot be built from."""

class EvaluationError(TritlabError):
    """A text too short for one window, or settings that cannot be evaluated."""

def formats() -> list[FormatInfo]:
    """Weight formats, in table order."""

def backends() -> list[BackendInfo]:
    """Instruction-set backends in order of preference; last the scalar oracle, never preferred."""

def kernels() -> list[KernelInfo]:
    """Every kernel: operations × formats × backends."""

def set_backend(name: str | None) -> None:
    """Force a backend for the whole process; `None` chooses the best one again.

    Raises `BackendError` if there is no such backend or the CPU lacks it.
    """

def current_backend() -> str:
    """Name of the backend in use."""

def set_threads(n: int) -> None:
    """Set the number of threads, at least 1."""

def get_threads() -> int:
    """Number of threads in use."""

def machine() -> MachineFacts:
    """Facts about this machine: processor, features, cores, memory."""

def measure_bandwidth(threads: int, seconds: float = 0.3) -> float:
    """Bytes per second that `threads` threads read from memory, far out of cache.

    `seconds` of reading, after some tenths of a second in which the memory is filled.
    """

def measure_dot_peak(threads: int, backend: str | None = None, seconds: float = 0.2) -> float:
    """Int8 multiply-accumulates per second that `threads` threads reach in registers."""

@final
class Matrix:
    """A quantised weight matrix, row-major. Immutable."""

    @staticmethod
    def quantize(weights: npt.NDArray[np.float32], format: str) -> Matrix:
        """Quantise `weights`, float32 [rows, cols]. `FormatError` on NaN or infinity."""
    @staticmethod
    def from_bytes(
        data: npt.NDArray[np.uint8],
        format: str,
        shape: tuple[int, int],
        scales: npt.NDArray[np.float32] | None = None,
    ) -> Matrix:
        """Take packed blocks as they lie in a file: uint8 [nbytes], copied once.

        `scales` is float32 [1] or [rows] for formats with a scale per tensor or row.
        """
    @property
    def shape(self) -> tuple[int, int]:
        """(rows, cols)."""
    @property
    def format(self) -> str:
        """Name of the format."""
    @property
    def bits_per_weight(self) -> float:
        """8 × nbytes / (rows × cols)."""
    @property
    def nbytes(self) -> int:
        """Bytes of the blocks and the separate scales."""
    @property
    def bytes(self) -> npt.NDArray[np.uint8]:
        """The packed blocks: read-only view uint8 [n], no copy; it keeps the matrix alive."""
    @property
    def scales(self) -> npt.NDArray[np.float32]:
        """Scales that lie outside the blocks: float32 [0], [1] or [rows], read-only."""
    def __matmul__(self, x: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Multiply by x, float32 [cols] or [cols, n]; gives float32 [rows] or [rows, n].

        The first product packs the matrix into the layout that kernels read, and keeps that.

        Activations are quantised as the format says. The bits of the result do not depend on
        backend, thread count, or n.
        """
    def dequantize(self) -> npt.NDArray[np.float32]:
        """Decoded weights, float32 [rows, cols], a new array."""
    def explain(self, row: int = 0, block: int = 0) -> Explanation:
        """Explain block `block` of row `row`: its bytes as fields, and the weights in them."""

@final
class Explanation:
    """One block of a format, explained: `print` draws it, a notebook shows it in colours."""

    @property
    def format(self) -> str:
        """Name of the format."""
    @property
    def bytes(self) -> bytes:
        """The block's bytes."""
    @property
    def formula(self) -> str:
        """The meaning of all weights, in symbols."""
    @property
    def fields(self) -> list[FieldFacts]:
        """The fields in the order of the bytes, with the numbers they hold."""
    @property
    def weights(self) -> npt.NDArray[np.float32]:
        """Decoded weights, float32 [n], a new array; padding of a row's last block is left out.

        In units of the scale where that lies outside the block and was not given.
        """
    def trace(self, i: int) -> Trace:
        """How weight `i` comes out: the formula with its numbers, and the bits they come from."""
    def to_html(self) -> str:
        """The drawing for notebooks: one HTML element that needs nothing from elsewhere."""
    def _repr_html_(self) -> str: ...

@final
class Trace:
    """How one weight comes out of a block's bytes: `print` draws it."""

    @property
    def weight(self) -> float:
        """The weight."""
    @property
    def steps(self) -> list[str]:
        """The formula in symbols, with numbers, then evaluated step by step."""
    @property
    def sources(self) -> list[TraceSource]:
        """The numbers in it; bits as (byte, bit), the most significant first."""

@final
class Model:
    """A decoder model, ready to run. Immutable; may be shared between threads."""

    @staticmethod
    def load(
        path: str | PathLike[str],
        format: str | None = None,
        *,
        head: str | None = None,
        context: int = 2048,
        i2_s: str = "I2_S",
        progress: Progress | None = None,
    ) -> Model:
        """Load a GGUF file, or a Hugging Face folder (`config.json` and safetensors).

        `format` re-quantises every linear layer of the blocks in memory; `None` keeps the file's
        own types. `head` does the same for the embedding and the output head; `None` keeps the
        file's own types, whatever `format` is. `tensors()` shows what became of each tensor.
        `context` is the longest sequence that the other calls accept; it costs no memory here.
        `i2_s` is the order of the codes of I2_S tensors, which a file does not tell: "I2_S" (x86
        and published files), "I2_S_64" (Arm) or "I2_S_ROWS4"; a wrong one talks nonsense.
        """
    @property
    def path(self) -> str:
        """The file it was loaded from, as given."""
    @property
    def architecture(self) -> str:
        """`general.architecture` of the file; of a folder, what its GGUF file would have."""
    @property
    def name(self) -> str:
        """`general.name` of the file, or the file's name."""
    @property
    def n_params(self) -> int:
        """Number of weights."""
    @property
    def n_layers(self) -> int:
        """Number of decoder blocks."""
    @property
    def n_vocab(self) -> int:
        """Number of tokens in the vocabulary."""
    @property
    def context(self) -> int:
        """Longest sequence it was loaded for, tokens."""
    @property
    def format(self) -> str | None:
        """The format asked of `load`; `None` for the file's own types."""
    @property
    def linear_bytes(self) -> int:
        """Bytes of all linear layers, without the head."""
    @property
    def linear_params(self) -> int:
        """Weights of all linear layers, without the head."""
    @property
    def total_bytes(self) -> int:
        """Bytes of all weights in memory."""
    @property
    def bytes_per_token(self) -> int:
        """Bytes of weights that one decode step reads."""
    def tensors(self) -> list[TensorInfo]:
        """Every weight tensor, in the order in which the model reads them."""
    def tokenize(self, text: str, add_special: bool = True) -> npt.NDArray[np.int32]:
        """Token ids of a text, int32 [n]. `TokenizerError` if the file has no tokenizer."""
    def detokenize(self, ids: npt.NDArray[np.int32]) -> str:
        """Text of token ids, int32 [n]. Bytes that are not UTF-8 become U+FFFD."""
    def logits(self, ids: npt.NDArray[np.int32]) -> npt.NDArray[np.float32]:
        """Logits after each of `ids`, int32 [n], from an empty cache: float32 [n, vocab].

        The array is all the memory this needs beside the cache: 4 · n · vocab bytes.
        """
    def fingerprint(self, ids: npt.NDArray[np.int32]) -> str:
        """SHA-256 of the bits of `logits(ids)`, hexadecimal: the same on every machine."""
    def evaluate(
        self,
        ids: npt.NDArray[np.int32],
        context: int = 512,
        reference: Model | None = None,
        progress: Progress | None = None,
    ) -> Evaluation:
        """Score a text by llama.cpp's convention.

        `ids`, int32 [n], is cut into windows of `context` tokens without overlap; the second half
        of each is scored. With `reference`, the arrays that compare the two models come too.
        `EvaluationError` if there is not one whole window.
        """
    def perplexity(
        self,
        text: Text,
        *,
        reference: Model | None = None,
        context: int = 512,
        chunks: int | None = None,
        progress: Progress | None = None,
    ) -> Quality:
        """Perplexity of a text, as `tritlab.perplexity(model, text, ...)`."""
    def generate(
        self,
        prompt: str,
        *,
        max_tokens: int = 128,
        temperature: float = 0.0,
        top_k: int = 0,
        top_p: float = 1.0,
        seed: int = 0,
        callback: Callable[[str], object] | None = None,
    ) -> str:
        """Continue `prompt`; temperature 0 is greedy, top_k 0 and top_p 1 cut nothing.

        `callback` gets each piece of text as soon as it is whole UTF-8; returning `False` stops.
        It runs on the calling thread. The result is the continuation without the prompt.
        """
    def bench(
        self,
        n_prompt: int = 512,
        n_gen: int = 128,
        repetitions: int = 5,
        progress: Progress | None = None,
    ) -> BenchTimes:
        """Time prefill of `n_prompt` tokens and decoding of `n_gen`, after an untimed warm-up."""

def quantize_gguf(
    src: str | PathLike[str],
    dst: str | PathLike[str],
    format: str,
    *,
    head: str | None = None,
    fallback: str | None = None,
    i2_s: str = "I2_S",
    progress: Progress | None = None,
) -> QuantizeReport:
    """Write a copy of a GGUF file with its linear layers in `format`, atomically.

    `head` is the format of the embedding and the output head; `None` leaves them as they are.
    `fallback` is the format of tensors whose rows do not fit, "llama.cpp" for the choices of
    llama-quantize; `None` makes them a `FormatError`.
    `i2_s` is the order of the source's I2_S codes, as in `Model.load`.
    """

def explain(
    format: str, block: bytes | bytearray | npt.NDArray[np.uint8], scale: float | None = None
) -> Explanation:
    """Explain one block: bytes, or uint8 [nbytes], in the format's layout.

    `scale` is the row or tensor scale of formats that keep it outside; without it their weights are
    in units of it. `Matrix.explain` takes a block from a matrix. `ShapeError` if this is not one
    block.
    """

def explain_gguf(
    path: str | PathLike[str], tensor: str, row: int = 0, block: int = 0
) -> Explanation:
    """Explain a block of a tensor of a GGUF file."""
def convert(
    src: str | PathLike[str],
    dst: str | PathLike[str],
    *,
    progress: Progress | None = None,
) -> ConvertReport:
    """Write a Hugging Face folder as a GGUF file, or a GGUF file as a new folder, atomically.

    Weights keep their bits where the other side can hold them; quantised types become F32 in a
    folder. `rounded` names the tensors that are not exact: scales that no inverse equals.
    """

def inspect_folder(path: str | PathLike[str]) -> list[FolderTensor]:
    """Read the tensor tables of a Hugging Face folder, not its weights; checks its configuration."""

def inspect_gguf(path: str | PathLike[str]) -> GgufInfo:
    """Read version, metadata and tensor table of a GGUF file, not its weights."""

def kit_cases(check: str, subject: str, random: int, seed: int) -> list[str]:
    """Names of the kit's cases for a check, then of `random` ones drawn from `seed`.

    `check` is "gemv", "gemm", "dequantize" or "quantize" with a format as subject, or
    "quantize_activations" with a grouping: "token", "256", "128", "64" or "32".
    """

def kit_simpler(check: str, subject: str, case: str) -> list[str]:
    """Names of smaller cases to try when one fails, the smallest first."""

def kit_case(check: str, subject: str, case: str, judge: str) -> KitCase:
    """The arrays of a case: what a kernel gets, and what it must give.

    `judge` says which answers a product gets: "bits" those of the oracle, "int8" or "f32" the sums
    in float64 with quantised or with plain activations.
    """

def kit_columns(format: str) -> list[int]:
    """Numbers of columns that the kit tries for a format, in ascending order."""

def kit_make_finite(format: str, blocks: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """A copy of raw blocks, uint8 [n], in which scales and dense elements are finite."""
