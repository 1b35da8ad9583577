"""`tl.testing` judges kernels: what is right passes, what is wrong is caught and named."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import tritlab as tl
from tritlab.testing import KernelMismatch, strategies

FORMATS = [info["name"] for info in tl.formats()]
INFO = {info["name"]: info for info in tl.formats()}
quick = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])


# --- the worked example: two kernels in NumPy, and how each can go wrong ------------------------


def q4_0(blocks, scales, codes, code_scales):
    rows, groups = len(blocks), len(code_scales)
    block = blocks.reshape(rows, groups, 18)
    d = np.ascontiguousarray(block[..., :2]).view(np.float16)[..., 0].astype(np.float32)
    q = np.concatenate([block[..., 2:] & 15, block[..., 2:] >> 4], axis=-1).astype(np.int32) - 8
    sums = (q * codes.reshape(groups, 32)).sum(axis=-1, dtype=np.int32)
    y = np.zeros(rows, np.float32)
    for g in range(groups):
        y = tl.testing.fma(d[:, g] * code_scales[g], sums[:, g], y)
    return y


def q4_0_pairs(blocks, scales, codes, code_scales):
    """Two blocks at a time: forgets the last of an odd number."""
    even = len(code_scales) // 2 * 2
    return q4_0(blocks[:, : 18 * even], scales, codes[: 32 * even], code_scales[:even])


def ternary(blocks, scales, codes, code_scales, dtype=np.int32):
    q = (blocks[:, :, None] >> np.array([0, 2, 4, 6], np.uint8)) & 3
    q = q.reshape(len(blocks), 4 * blocks.shape[1])[:, : len(codes)].astype(dtype) - dtype(1)
    sums = (q * codes).sum(axis=-1, dtype=dtype)
    return code_scales[0] * sums.astype(np.float32) * scales[0]


def ternary_int16(blocks, scales, codes, code_scales):
    """Sums in int16: too narrow for a long row."""
    return ternary(blocks, scales, codes, code_scales, dtype=np.int16)


def test_right_kernels_pass():
    assert tl.testing.check_matmul(q4_0, "Q4_0") > 80
    assert tl.testing.check_matmul(ternary, "TERNARY") > 80


def test_a_forgotten_block_is_caught_and_named():
    with pytest.raises(KernelMismatch) as caught:
        tl.testing.check_matmul(q4_0_pairs, "Q4_0")
    mismatch = caught.value
    assert isinstance(mismatch, AssertionError)
    assert (mismatch.kernel, mismatch.check, mismatch.format) == ("q4_0_pairs", "matmul", "Q4_0")
    assert (mismatch.shape, mismatch.output, mismatch.index) == ((1, 32, 1), "y", (0,))
    assert mismatch.found == 0.0
    assert mismatch.expected != 0.0
    assert (mismatch.differing, mismatch.of) == (1, 1)
    text = str(mismatch)
    for line in (
        "q4_0_pairs is not matmul of Q4_0",
        f"case:       {mismatch.case}",
        "shape:      1 x 32, 1 token",
        "first bad:  y[0] (1 of 1 differ)",
        "found:      0.0 (0x00000000)",
        f"expected:   {mismatch.expected!s} (0x{mismatch.expected.view(np.uint32):08x})",
        f"rerun with: tl.testing.check_matmul(q4_0_pairs, 'Q4_0', only='{mismatch.case}')",
    ):
        assert line in text, text
    with pytest.raises(KernelMismatch) as again:
        eval(mismatch.rerun, {"tl": tl, "q4_0_pairs": q4_0_pairs})
    assert str(again.value) == text
    assert tl.testing.check_matmul(q4_0, "Q4_0", only=mismatch.case) == 1


def test_a_narrow_sum_is_caught_and_named():
    with pytest.raises(KernelMismatch, match="ternary_int16 is not matmul of TERNARY") as caught:
        tl.testing.check_matmul(ternary_int16, "TERNARY")
    rows, cols, n = caught.value.shape
    assert (rows, n) == (1, 1)
    assert cols > 32767 // 254  # no shorter row overflows: codes are at most 2, activations 127


def test_the_readme_says_what_happens():
    readme = (Path(__file__).parents[3] / "README.md").read_text()
    _, section = readme.split("<!-- kit:begin -->")
    _, code, _, said, _ = section.split("<!-- kit:end -->")[0].split("```")
    with pytest.raises(KernelMismatch) as caught:
        exec(code.removeprefix("python"), {})
    assert said.strip() == f"tritlab.testing.KernelMismatch: {caught.value}"


# --- the four checks ----------------------------------------------------------------------------


def product(format):
    """Ours, over its Python front door."""

    def ours(blocks, scales, x):
        shape = (len(blocks), x.shape[-1])
        w = tl.Matrix.from_bytes(blocks.ravel(), format, shape, scales)
        return np.ascontiguousarray((w @ np.ascontiguousarray(x.T)).T)

    return ours


def dequantize(format):
    def ours(blocks, scales, cols):
        return tl.Matrix.from_bytes(
            blocks.ravel(), format, (len(blocks), cols), scales
        ).dequantize()

    return ours


def quantize(format):
    def ours(weights):
        w = tl.quantize(weights, format)
        rows, cols = weights.shape
        row_bytes = -(-cols // INFO[format]["block"]) * INFO[format]["bytes"]
        blocks = w.bytes.reshape(rows, row_bytes)
        return (blocks, w.scales) if INFO[format]["scales"] in ("row", "tensor") else blocks

    return ours


@pytest.mark.parametrize("format", FORMATS)
def test_ours_pass(format):
    ours = product(format)
    assert tl.testing.check_matmul(ours, format, activations="f32", random=4) > 50
    assert tl.testing.check_matmul(ours, format, activations="f32", batch=True, random=4) > 50
    assert tl.testing.check_dequantize(dequantize(format), format) > 30
    assert tl.testing.check_quantize(quantize(format), format) > 30


@pytest.mark.parametrize("format", ["F32", "BF16", "Q4_K", "Q8_0", "TQ1_0", "SIGN_ROW"])
def test_another_order_is_within_the_bound(format):
    def weight_only(blocks, scales, x):
        return dequantize(format)(blocks, scales, len(x)).astype(np.float64) @ x

    def in_float32(blocks, scales, x):
        return dequantize(format)(blocks, scales, len(x)) @ x

    def loose(blocks, scales, x):
        return np.float32(1.001) * in_float32(blocks, scales, x)

    check = tl.testing.check_matmul
    for kernel in (weight_only, in_float32):
        assert check(kernel, format, activations="f32", rtol=0.0) > 50
    with pytest.raises(KernelMismatch, match="in float64, within"):
        check(loose, format, activations="f32", rtol=0.0)
    assert check(loose, format, activations="f32", rtol=0.002) > 50
    with pytest.raises(KernelMismatch, match=r"float64 .* as y, where float32 .* is wanted"):
        check(weight_only, format, activations="f32")


def to_int8(x, rounding=np.rint):
    codes, scales = np.zeros(len(x), np.int8), np.zeros(-(-len(x) // 32), np.float32)
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        for g in range(len(scales)):
            group = x[32 * g : 32 * g + 32]
            largest = np.abs(group).max()
            inverse = np.float32(127) / largest
            if np.isfinite(inverse):
                scales[g] = largest / np.float32(127)
                codes[32 * g : 32 * g + 32] = rounding(group * inverse)
    return codes, scales


def test_activations():
    assert tl.testing.check_quantize_activations(to_int8, "32") > 100

    def half_up(x):
        return to_int8(x, lambda v: np.floor(v + np.float32(0.5)).clip(-127, 127))

    with pytest.raises(
        KernelMismatch, match=r"half_up is not quantize_activations of 32"
    ) as caught:
        tl.testing.check_quantize_activations(half_up, "32")
    assert caught.value.output == "codes"


def test_wrong_codecs_are_caught():
    def decode(blocks, scales, cols):
        weights = dequantize("Q5_K")(blocks, scales, cols).copy()
        weights[weights == 0] = 0.0  # loses the sign of -0
        return weights

    def encode(weights):
        blocks = quantize("Q4_1")(weights).copy()
        blocks[:, 7:8] ^= 1
        return blocks

    with pytest.raises(KernelMismatch) as caught:
        tl.testing.check_dequantize(decode, "Q5_K")
    assert (caught.value.output, str(caught.value.expected)) == ("weights", "-0.0")
    with pytest.raises(KernelMismatch) as caught:
        tl.testing.check_quantize(encode, "Q4_1")
    assert (caught.value.output, caught.value.index) == ("blocks", (0, 7))
    assert "only='" in caught.value.rerun


# --- what goes wrong around a kernel ------------------------------------------------------------


def test_what_a_kernel_raises_comes_through_with_the_case():
    def broken(blocks, scales, codes, code_scales):
        raise ZeroDivisionError("mine")

    with pytest.raises(KernelMismatch, match=r"broken raised as matmul of Q8_0") as caught:
        tl.testing.check_matmul(broken, "Q8_0")
    mismatch = caught.value
    assert isinstance(mismatch.__cause__, ZeroDivisionError)
    assert mismatch.raised is mismatch.__cause__
    for line in (
        f"  case:       {mismatch.case}\n",
        "  shape:      0 x 32, 1 token\n",
        "  raised:     ZeroDivisionError: mine\n",
        f"  rerun with: tl.testing.check_matmul(broken, 'Q8_0', only='{mismatch.case}')",
    ):
        assert line in str(mismatch), mismatch
    with pytest.raises(KernelMismatch) as again:
        eval(mismatch.rerun, {"tl": tl, "broken": broken})
    assert str(again.value) == str(mismatch)

    def writes(blocks, scales, codes, code_scales):
        blocks[:] = 0

    with pytest.raises(KernelMismatch, match="read-only") as caught:
        tl.testing.check_matmul(writes, "Q8_0")
    assert isinstance(caught.value.__cause__, ValueError)

    def long_rows(blocks, scales, codes, code_scales):
        if len(codes) > 40:
            raise IndexError
        return q4_0(blocks, scales, codes, code_scales)

    with pytest.raises(KernelMismatch, match=r"raised:     IndexError\n") as caught:
        tl.testing.check_matmul(long_rows, "Q4_0")
    assert caught.value.shape == (0, 64, 1)  # the smallest that raises


def test_empty_shapes_can_be_left_out():
    def no_rows(blocks, scales, codes, code_scales):
        assert len(blocks) > 0
        assert len(codes) > 0
        return q4_0(blocks, scales, codes, code_scales)

    assert tl.testing.check_matmul(no_rows, "Q4_0", empty=False) > 70
    with pytest.raises(AssertionError):
        tl.testing.check_matmul(no_rows, "Q4_0")


def test_bad_arguments():
    check = tl.testing.check_matmul
    with pytest.raises(tl.errors.FormatError, match="Q9_9"):
        check(q4_0, "Q9_9")
    with pytest.raises(tl.TritlabError, match="F32 can be multiplied with 'f32' activations"):
        check(q4_0, "F32", activations="int8")
    with pytest.raises(tl.TritlabError, match="'int8' or 'f32'"):
        check(q4_0, "Q4_0", activations="int4")
    with pytest.raises(tl.TritlabError, match="is no case"):
        check(q4_0, "Q4_0", only="painted")
    with pytest.raises(tl.TritlabError, match="33 columns are not a multiple"):
        check(q4_0, "Q4_0", only="quantized*painted/1x33x1/seed=0")
    with pytest.raises(tl.TritlabError, match="unknown grouping"):
        tl.testing.check_quantize_activations(to_int8, "f32")
    with pytest.raises(KernelMismatch, match="NoneType as y, where a NumPy array, float32"):
        check(lambda *_: None, "Q4_0")
    with pytest.raises(AttributeError, match="nothing"):
        tl.testing.nothing  # noqa: B018


def test_random_cases_repeat_with_the_seed():
    native = tl._native.kit_cases
    assert native("gemm", "Q4_0", 9, 5) == native("gemm", "Q4_0", 9, 5)
    assert native("gemm", "Q4_0", 9, 5) != native("gemm", "Q4_0", 9, 6)
    assert native("gemm", "Q4_0", 0, 5) == native("gemm", "Q4_0", 0, 6)


def test_a_missing_hypothesis_says_which_extra():
    code = (
        "import sys, tritlab as tl\n"
        "sys.modules['hypothesis'] = None\n"
        "try: tl.testing.strategies\n"
        "except tl.errors.NotInstalledError as e: print(e)\n"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "pip install 'tritlab[test]'" in out.stdout


# --- strategies ---------------------------------------------------------------------------------


@quick
@given(st.data())
def test_columns_of_a_batch_are_products(data):
    w = data.draw(strategies.formats().flatmap(strategies.matrices))
    x = data.draw(strategies.activations((w.shape[1], 2)))
    both = w @ x
    assert both.shape == (w.shape[0], 2)
    for i in range(2):
        one = w @ np.ascontiguousarray(x[:, i])
        assert np.array_equal(one.view(np.uint32), both[:, i].view(np.uint32))


@quick
@given(st.data())
def test_weights_and_blocks_are_what_a_format_holds(data):
    name = data.draw(strategies.formats())
    block = INFO[name]["block"]
    weights = data.draw(strategies.weights((2, block)))
    assert tl.quantize(weights, name).shape == (2, block)
    blocks = data.draw(strategies.blocks(name, finite=True))
    assert (blocks.dtype, blocks.shape[1]) == (np.uint8, INFO[name]["bytes"])
    scales = {"row": [1.0] * len(blocks), "tensor": [1.0]}.get(INFO[name]["scales"], [])
    w = tl.Matrix.from_bytes(
        blocks.ravel(), name, (len(blocks), block), np.array(scales, np.float32)
    )
    assert np.isfinite(w.dequantize()).all()


@quick
@given(st.tuples(*[st.floats(width=32, allow_nan=False, allow_infinity=False)] * 3))
def test_fma_rounds_once(numbers):
    from fractions import Fraction

    a, b, c = map(np.float32, numbers)
    found = tl.testing.fma(a, b, c)
    exact = Fraction(float(a)) * Fraction(float(b)) + Fraction(float(c))
    if not np.isfinite(found):
        assert abs(exact) >= Fraction(float(np.finfo(np.float32).max))
        return
    for end in (-np.inf, np.inf):
        with np.errstate(over="ignore"):  # beyond the largest number is infinity
            other = np.nextafter(found, np.float32(end))
        if np.isfinite(other):
            assert abs(exact - Fraction(float(found))) <= abs(exact - Fraction(float(other)))
