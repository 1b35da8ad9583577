"""The kernel table, its machine code, and the machine's limits."""

from __future__ import annotations

import platform

import pytest

import tritlab as tl
from tritlab import _types

STEPS = platform.machine() == "x86_64" and platform.system() == "Linux"
needs_steps = pytest.mark.skipif(not STEPS, reason="disassembly is for x86-64 Linux")


def test_the_table_is_a_mapping():
    table = tl.kernels()
    formats, backends = len(tl.formats()), len(tl.backends())
    assert len([k for k in table.values() if k.op == "gemv"]) == formats * backends
    for name, kernel in table.items():
        assert kernel.name == name
        assert name.endswith(f"-{kernel.backend}")
        assert kernel.available or not kernel.selected
    kernel = table["gemv-q4_0-portable"]
    assert (kernel.op, kernel.format, kernel.backend) == ("gemv", "Q4_0", "portable")
    assert table["rms_norm-portable"].format is None


def test_what_runs_is_what_is_selected():
    with tl.backend("portable"):
        chosen = {k.backend for k in tl.kernels().values() if k.selected}
    assert chosen == {"portable"}


@needs_steps
@pytest.mark.parametrize("name", ["TERNARY", "Q4_0", "Q8_0", "Q4_K", "Q6_K"])
@pytest.mark.parametrize("backend", ["avx512", "avx2", "portable"])
def test_a_kernel_shows_its_code(name, backend):
    kernel = tl.kernels()[f"gemv-{name.lower()}-{backend}"]
    if not kernel.available:
        with pytest.raises(tl.errors.BackendError, match="this CPU lacks"):
            kernel.disassemble()
        return
    code = kernel.disassemble()
    assert (code.kernel, code.per, code.tokens) == (kernel.name, "256 weights", 1)
    assert set(code.counts) == set(_types.InstructionCounts.__annotations__)
    assert set(code.instructions[0]) == set(_types.InstructionInfo.__annotations__)
    assert 0 < code.share <= 1
    text = str(code)
    assert text == code.text
    assert all(i["text"] in text for i in code.instructions)
    assert code.compiler.startswith("rustc ")
    assert code._repr_html_() == code.to_html()
    # Codes alone: 256 weights of so many bits, in registers of the backend's width.
    bits = {"TERNARY": 2, "Q4_0": 4, "Q8_0": 8, "Q4_K": 4, "Q6_K": 6}[name]
    assert code.counts["bytes_read"] >= 256 * bits / 8
    if backend == "avx512":
        dots = [i for i in code.instructions if i["text"].startswith("vpdpbusd")]
        assert sum(i["executed"] for i in dots) == 4, "64 products each"
        # Whole lines that the loop reads, but for sums that wait on the stack: the codes.
        lines = [i for i in code.instructions if i["bytes_read"] == 64 and "[rsp" not in i["text"]]
        read = sum(i["executed"] * 64 for i in lines)
        assert read == 64 if name == "TERNARY" else read >= 32 * bits
        if name == "TERNARY":
            assert code.counts["shuffles"] == 0


@needs_steps
def test_several_tokens_share_what_is_unpacked():
    table = tl.kernels()
    if not table["gemm-q4_0-avx2"].available:
        pytest.skip("no AVX2 here")
    one, many = (table[f"{op}-q4_0-avx2"].disassemble() for op in ("gemv", "gemm"))
    assert many.tokens > 1
    assert many.per == "256 weights and token"
    assert many.counts["total"] < one.counts["total"]
    assert many.counts["bytes_read"] < one.counts["bytes_read"] * 2


def test_limits_are_positive_and_tidy():
    found = tl.roofline(1, seconds=0.03)
    here = [b["name"] for b in tl.backends() if b["available"] and b["name"] != "oracle"]
    assert len(found.records) == 2 + len(here)
    assert all(row["value"] > 1e6 for row in found.records)
    assert {row["unit"] for row in found.records} == {"bytes/s", "products/s"}
    assert found.limit(1, "memory read") == found.records[0]["value"]
    assert found.machine["cpu"] in str(found)
    with pytest.raises(KeyError, match="was not measured"):
        found.limit(1, "cache read", "avx2")


@pytest.mark.parametrize("threads", [0, 100_000, []])
def test_threads_that_cannot_be_measured_are_refused(threads):
    with pytest.raises(ValueError, match="threads is"):
        tl.roofline(threads)
