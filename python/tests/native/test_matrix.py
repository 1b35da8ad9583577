from __future__ import annotations

import gc
import os
import signal
import time

import gguf
import numpy as np
import pytest

import tritlab as tl

FORMATS = [info["name"] for info in tl.formats()]
BACKENDS = [info["name"] for info in tl.backends() if info["available"]]


def quantized(rng, format, rows=7, cols=512):
    return tl.quantize(rng.standard_normal((rows, cols), dtype=np.float32), format)


@pytest.mark.parametrize("format", FORMATS)
def test_facts(rng, format):
    w = quantized(rng, format)
    info = next(item for item in tl.formats() if item["name"] == format)
    assert (w.shape, w.format) == ((7, 512), format)
    assert w.bytes.nbytes == 7 * -(-512 // info["block"]) * info["bytes"]
    assert w.nbytes == w.bytes.nbytes + w.scales.nbytes
    assert w.bits_per_weight == pytest.approx(8 * w.nbytes / (7 * 512))
    assert format in repr(w)
    assert "7" in repr(w)


@pytest.mark.parametrize("format", FORMATS)
def test_product_is_near_that_of_the_decoded_weights(rng, format):
    w = quantized(rng, format)
    x = rng.standard_normal(512, dtype=np.float32)
    y = w @ x
    assert (y.dtype, y.shape) == (np.float32, (7,))
    decoded = w.dequantize()
    assert (decoded.dtype, decoded.shape) == (np.float32, (7, 512))
    bound = 0.01 * np.abs(decoded).astype(np.float64) @ np.abs(x).astype(np.float64) + 1e-5
    assert np.all(np.abs(y - decoded.astype(np.float64) @ x) <= bound)


@pytest.mark.parametrize("format", FORMATS)
def test_same_bits_on_every_backend_and_thread_count(rng, format):
    w = quantized(rng, format, rows=130)
    x = np.ascontiguousarray(rng.standard_normal((512, 3), dtype=np.float32))
    with tl.backend("oracle"):
        wanted = w @ x
    assert wanted.shape == (130, 3)
    for name in BACKENDS:
        for threads in (1, 2):
            tl.threads(threads)
            with tl.backend(name):
                assert np.array_equal((w @ x).view(np.uint32), wanted.view(np.uint32)), name
                for i in range(3):
                    column = w @ np.ascontiguousarray(x[:, i])
                    assert np.array_equal(column.view(np.uint32), wanted[:, i].view(np.uint32))


@pytest.mark.parametrize("format", ["Q4_0", "Q4_1", "Q8_0", "TQ2_0", "F16", "BF16"])
def test_bytes_are_gguf_s(rng, format):
    weights = rng.standard_normal((4, 512), dtype=np.float32)
    kind = gguf.GGMLQuantizationType[format]
    wanted = gguf.quantize(weights, kind)
    assert np.array_equal(tl.quantize(weights, format).bytes, wanted.view(np.uint8).ravel())
    loaded = tl.Matrix.from_bytes(wanted.view(np.uint8).ravel(), format, (4, 512))
    assert np.array_equal(loaded.dequantize(), gguf.dequantize(wanted, kind))


def test_bytes_are_a_view_that_keeps_the_matrix_alive(rng):
    w = quantized(rng, "Q4_0")
    first, second = w.bytes, w.bytes
    assert first.ctypes.data == second.ctypes.data
    assert first.dtype == np.uint8
    assert not first.flags.owndata
    assert not first.flags.writeable
    kept = first.copy()
    del w, second
    gc.collect()
    assert np.array_equal(first, kept)
    with pytest.raises(ValueError, match="read-only"):
        first[0] = 1


def test_bytes_and_back(rng):
    for name in FORMATS:
        w = quantized(rng, name)
        scales = w.scales if w.scales.size else None
        again = tl.Matrix.from_bytes(w.bytes, name, w.shape, scales)
        assert np.array_equal(again.dequantize(), w.dequantize())


def test_inputs_are_not_changed(rng):
    weights = rng.standard_normal((4, 256), dtype=np.float32)
    x = rng.standard_normal(256, dtype=np.float32)
    for array in (weights, x):
        array.flags.writeable = False
    before = weights.copy(), x.copy()
    _ = tl.quantize(weights, "Q8_0") @ x
    assert np.array_equal(weights, before[0])
    assert np.array_equal(x, before[1])


def test_wrong_weights(rng):
    good = rng.standard_normal((4, 256), dtype=np.float32)
    with pytest.raises(TypeError, match=r"(?s)float32.*float64|float64.*float32"):
        tl.quantize(good.astype(np.float64), "Q8_0")
    with pytest.raises(TypeError):
        tl.quantize(good.tolist(), "Q8_0")
    with pytest.raises(ValueError, match="contiguous"):
        tl.quantize(good.T, "Q8_0")
    with pytest.raises(ValueError, match="contiguous"):
        tl.quantize(good[:, ::2], "Q8_0")
    with pytest.raises(tl.errors.ShapeError, match="256"):
        tl.quantize(good[0], "Q8_0")
    with pytest.raises(tl.errors.ShapeError, match="255"):
        tl.quantize(np.ascontiguousarray(good[:, :255]), "Q8_0")
    for bad in (np.nan, np.inf, -np.inf):
        wrong = good.copy()
        wrong[2, 3] = bad
        with pytest.raises(tl.errors.FormatError):
            tl.quantize(wrong, "Q8_0")


def test_wrong_format_lists_the_right_ones(rng):
    with pytest.raises(tl.errors.FormatError, match=r"Q9_9") as caught:
        quantized(rng, "Q9_9")
    assert all(name in str(caught.value) for name in FORMATS)


def test_wrong_vectors(rng):
    w = quantized(rng, "Q8_0")
    x = rng.standard_normal(512, dtype=np.float32)
    with pytest.raises(TypeError, match="float32"):
        w @ x.astype(np.float64)
    with pytest.raises(TypeError, match="float32"):
        w @ x.astype(np.float16)
    with pytest.raises(ValueError, match="contiguous"):
        w @ np.repeat(x, 2)[::2]
    with pytest.raises(tl.errors.ShapeError, match=r"(?s)512.*511|511.*512"):
        w @ x[:511]
    with pytest.raises(tl.errors.ShapeError):
        w @ np.zeros((512, 1, 1), np.float32)
    assert (w @ np.zeros((512, 0), np.float32)).shape == (7, 0)


def test_wrong_bytes(rng):
    w = quantized(rng, "Q8_0")
    with pytest.raises(tl.TritlabError):
        tl.Matrix.from_bytes(w.bytes[:-1], "Q8_0", w.shape)
    with pytest.raises(TypeError, match="uint8"):
        tl.Matrix.from_bytes(w.bytes.view(np.int8), "Q8_0", w.shape)
    with pytest.raises(tl.TritlabError):
        tl.Matrix.from_bytes(w.bytes, "Q8_0", w.shape, np.ones(3, np.float32))


def test_backend_context():
    before = tl._native.current_backend()
    with tl.backend("portable") as name:
        assert name == "portable"
        assert [b["name"] for b in tl.backends() if b["selected"]] == ["portable"]
        with pytest.raises(RuntimeError, match="inside"), tl.backend("oracle"):
            raise RuntimeError("inside")
        assert tl._native.current_backend() == "portable"
    assert tl._native.current_backend() == before


def test_wrong_backend():
    with pytest.raises(tl.errors.BackendError, match="sse9"), tl.backend("sse9"):
        pass
    for info in tl.backends():
        if not info["available"]:
            with (
                pytest.raises(tl.errors.BackendError, match=info["name"]),
                tl.backend(info["name"]),
            ):
                pass


def test_threads():
    assert tl.threads(2) == 2
    assert tl.threads() == 2
    with pytest.raises(ValueError, match="0"):
        tl.threads(0)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_child_computes():
    """The pool's threads do not survive a fork; the child builds its own pool."""
    rng = np.random.default_rng(0)
    w = tl.quantize(rng.standard_normal((256, 256), dtype=np.float32), "Q4_0")
    x = np.ones((256, 8), dtype=np.float32)
    expected = w @ x  # the pool exists now
    child = os.fork()
    if child == 0:
        os._exit(0 if np.array_equal(w @ x, expected) else 1)
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            assert status == 0
            return
        time.sleep(0.01)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    pytest.fail("the child hangs")


def test_measured_products_take_time_that_grows_with_the_work():
    weights = np.random.default_rng(0).standard_normal((512, 512), dtype=np.float32)
    square = tl.Matrix.quantize(weights, "Q8_0")
    wide = tl.Matrix.quantize(weights[:64], "TERNARY")
    measure = tl._native.measure_products
    assert measure([], 4) >= 0
    assert measure([square], 0) >= 0
    assert measure([square, wide], 1) > 0
    # 64 times the products; on a busy machine the best of a few says what it takes.
    once, often = (min(measure([square] * k, 8) for _ in range(9)) for k in (1, 64))
    assert often > 4 * once


def test_measured_products_name_what_they_cannot_do():
    matrix = tl.Matrix.quantize(np.ones((64, 64), np.float32), "Q8_0")
    with pytest.raises(tl.TritlabError, match="n is -1"):
        tl._native.measure_products([matrix], -1)
    with pytest.raises(TypeError):
        tl._native.measure_products([None], 1)
