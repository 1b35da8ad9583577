"""Ternary weights, projections, other projects' layouts, and activations of one's own."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import tritlab as tl

TERNARY = [f["name"] for f in tl.formats() if f["name"].startswith(("TERNARY", "TQ"))]
PACKINGS = [p["name"] for p in tl.packings()]
PROJECTIONS = ["absmean", "absmax", "twn", "optimal", "sign", "centred_sign"]


def random_ternary(rng, rows=8, cols=256, scale=0.5):
    codes = rng.integers(-1, 2, (rows, cols), dtype=np.int8)
    return tl.Ternary(codes, np.array([scale], np.float32))


def test_facts(rng):
    t = random_ternary(rng)
    assert (t.shape, t.per, t.scales.tolist()) == ((8, 256), "tensor", [0.5])
    assert t.codes.dtype == np.int8
    assert np.array_equal(t.dequantize(), 0.5 * t.codes.astype(np.float32))
    assert t.zeros == np.mean(t.codes == 0)
    p = np.array([np.mean(t.codes == q) for q in (-1, 0, 1)])
    assert t.entropy == pytest.approx(-(p * np.log2(p)).sum())
    assert (t.sqnr, t.cosine) == (None, None)
    assert "8 × 256" in repr(t)


@pytest.mark.parametrize("format", [*TERNARY, "F32", "F16", "BF16"])
def test_into_a_format_and_back(rng, format):
    t = random_ternary(rng)
    w = t.to_matrix(format)
    assert w.format == format
    assert np.array_equal(w.dequantize(), t.dequantize())
    back = w.ternary()
    assert np.array_equal(back.codes, t.codes)
    assert (back.per, back.scales.tolist()) == ("tensor", [0.5])


@pytest.mark.parametrize("packing", PACKINGS)
def test_into_a_packing_and_back(rng, packing):
    t = random_ternary(rng)
    info = next(p for p in tl.packings() if p["name"] == packing)
    data, scale = t.pack(packing)
    assert (scale is not None) == info["scale_outside"]
    scales = None if scale is None else np.array([scale], np.float32)
    w = tl.Matrix.from_bytes(data, packing, t.shape, scales)
    assert w.format == {"tensor": "TERNARY", "row": "TERNARY_ROW"}[info["scales"]]
    assert np.array_equal(w.dequantize(), t.dequantize())
    again, scale_again = w.pack(packing)
    assert np.array_equal(again, data)
    assert scale_again == scale


def test_hugging_face_layout(rng):
    """The layout of transformers' unpack_weights, and both scale conventions."""
    packed = rng.choice(np.arange(81), (3, 5))  # three codes of 0 to 2 and more, as digits
    fields = np.stack([packed // 3**i % 3 for i in range(4)]).astype(np.uint8)
    data = (fields << np.array([0, 2, 4, 6], np.uint8)[:, None, None]).sum(0).astype(np.uint8)
    codes = fields.reshape(12, 5).astype(np.float32) - 1
    four = np.array([4], np.float32)
    for packing, scale in [("HF_PACKED", 4.0), ("HF_PACKED_DIVIDE", 0.25)]:
        w = tl.Matrix.from_bytes(np.ascontiguousarray(data.reshape(-1)), packing, (12, 5), four)
        assert np.array_equal(w.dequantize(), codes * np.float32(scale))


def test_what_is_refused(rng):
    t = random_ternary(rng)
    with pytest.raises(tl.errors.FormatError, match="it is 0"):
        t.to_matrix("SIGN")
    with pytest.raises(tl.errors.FormatError, match="not ternary"):
        t.to_matrix("Q4_0")
    with pytest.raises(tl.errors.FormatError, match="the known ones are I2_S"):
        t.pack("Q9")
    with pytest.raises(tl.errors.FormatError, match="row 0, column 1 is"):
        tl.quantize(np.arange(512, dtype=np.float32).reshape(2, 256) + 1, "F32").ternary()
    with pytest.raises(tl.errors.FormatError, match="-1, 0 or 1"):
        tl.Ternary(np.full((1, 1), 2, np.int8), np.ones(1, np.float32))
    with pytest.raises(tl.errors.ShapeError, match="have the shape"):
        tl.Ternary(np.zeros((2, 4), np.int8), np.ones(1, np.float32), "row")
    with pytest.raises(TypeError, match="per:"):
        tl.project(np.ones((1, 4), np.float32), "twn", per="column")
    with pytest.raises(tl.errors.FormatError, match="unknown projection"):
        tl.project(np.ones((1, 4), np.float32), "best")
    data = np.full(64 // 4 + 4, 0xFF, np.uint8)
    data[:4] = 0
    with pytest.raises(tl.errors.FormatError, match="0xff at row 0, column 0"):
        tl.Matrix.from_bytes(data, "IQ2_BN", (1, 64))
    with pytest.raises(tl.errors.ShapeError, match="multiple of 64"):
        tl.Matrix.from_bytes(data, "IQ2_BN", (1, 63))
    with pytest.raises(tl.errors.FormatError, match="outside the bytes"):
        tl.Matrix.from_bytes(np.zeros(4, np.uint8), "HF_PACKED", (4, 4))


@pytest.mark.parametrize("per", ["tensor", "row", 32])
@pytest.mark.parametrize("projection", PROJECTIONS)
def test_projections(rng, projection, per):
    w = rng.standard_normal((6, 64), dtype=np.float32)
    t = tl.project(w, projection, per=per)
    best = tl.project(w, projection, per=per, refit=True)
    shape = {"tensor": (1,), "row": (6,), 32: (6, 2)}[per]
    assert (t.per, t.scales.shape, t.codes.shape) == (per, shape, (6, 64))
    assert np.array_equal(best.codes, t.codes)
    assert (t.zeros == 0) == ("sign" in projection)
    # The same by NumPy, from the definitions.
    size = {"tensor": w.size, "row": 64, 32: 32}[per]
    for i, group in enumerate(w.reshape(-1, size).astype(np.float64)):
        q = t.codes.reshape(-1, size)[i].astype(np.float64)
        mean = np.abs(group).mean()
        kept = np.abs(group) > 0.7 * mean
        gains = np.cumsum(np.sort(np.abs(group))[::-1]) ** 2 / np.arange(1, size + 1)
        most = np.sort(np.abs(group))[::-1][: gains.argmax() + 1]
        scale = {
            "absmax": np.abs(group).max(),
            "twn": np.abs(group[kept]).mean(),
            "optimal": most.mean(),
        }
        assert t.scales.reshape(-1)[i] == np.float32(scale.get(projection, mean))
        assert best.scales.reshape(-1)[i] == pytest.approx((group * q).sum() / (q * q).sum())
        if projection == "twn":
            assert np.array_equal(q, np.sign(group) * kept)
        if projection == "optimal":
            assert np.array_equal(q, np.sign(group) * (np.abs(group) >= most.min()))
        if projection == "centred_sign":
            assert np.array_equal(q, np.where(group > group.mean(), 1, -1))
    error = w.astype(np.float64) - best.dequantize()
    assert best.sqnr == pytest.approx(
        10 * np.log10((w.astype(np.float64) ** 2).sum() / (error**2).sum())
    )
    assert best.sqnr >= t.sqnr
    v = t.dequantize().astype(np.float64)
    assert t.cosine == pytest.approx((w * v).sum() / np.linalg.norm(w) / np.linalg.norm(v))


def test_quantize_by_a_projection(rng):
    w = rng.standard_normal((4, 256), dtype=np.float32)
    for name in ("TERNARY", "TERNARY_ROW", "TERNARY_B3"):
        own = tl.quantize(w, name)
        assert np.array_equal(tl.quantize(w, name, projection="absmean").bytes, own.bytes)
    twn = tl.quantize(w, "ternary_row", projection="twn", refit=True)
    wanted = tl.project(w, "twn", per="row", refit=True)
    assert np.array_equal(twn.dequantize(), wanted.dequantize())
    groups = tl.quantize(w, "TERNARY_G32", projection="twn")
    wanted = tl.project(w, "twn", per=32)
    assert np.array_equal(groups.ternary().codes, wanted.codes)
    scales = wanted.scales.astype(np.float16).astype(np.float32)
    assert np.array_equal(groups.dequantize(), np.repeat(scales, 32, 1) * wanted.codes)
    assert np.array_equal(
        tl.quantize(w, "SIGN", projection="sign").bytes, tl.quantize(w, "SIGN").bytes
    )
    with pytest.raises(ValueError, match="refit needs a projection"):
        tl.quantize(w, "TERNARY", refit=True)
    with pytest.raises(ValueError, match="one of the two"):
        tl.quantize(w, "TERNARY", projection="twn", importance=np.ones(256, np.float32))
    with pytest.raises(tl.errors.FormatError, match="unknown format"):
        tl.quantize(w, "Q9", projection="twn")


def test_a_scale_that_cannot_divide():
    data = np.full(128, 0x55, np.uint8)
    for scale in (0.0, np.inf, np.nan, 1e-45):
        scales = np.array([scale], np.float32)
        with pytest.raises(tl.errors.FormatError, match=r"divided by their scale: .*inverse"):
            tl.Matrix.from_bytes(data, "HF_PACKED_DIVIDE", (8, 64), scales)


def test_weights_as_large_as_float32():
    """Finite scales, and products that overflow only as float32 does."""
    largest = np.finfo(np.float32).max
    w = np.full((2, 1000), largest)
    w[1] *= -1
    x = np.zeros(1000, np.float32)
    x[7] = 0.5
    for name in ("TERNARY", "TERNARY_ROW", "TERNARY_B3", "TERNARY_B3_ROW", "SIGN", "SIGN_ROW"):
        q = tl.quantize(w, name)
        assert np.all(q.scales == largest), name
        assert np.isfinite(q @ x).all(), name
        assert np.array_equal(q @ np.full(1000, 2, np.float32), [np.inf, -np.inf]), name


def test_importance(rng):
    w = rng.standard_normal((16, 256), dtype=np.float32)
    importance = np.where(np.arange(256) % 8 == 0, 100, 0.01).astype(np.float32)
    for name in ("Q4_K", "Q2_K", "Q4_0"):
        plain = tl.quantize(w, name).dequantize() - w
        weighed = tl.quantize(w, name, importance=importance).dequantize() - w
        assert (weighed**2 * importance).sum() < (plain**2 * importance).sum(), name
    for column, value in ((0, -1), (9, np.nan), (255, np.inf)):
        wrong = importance.copy()
        wrong[column] = value
        with pytest.raises(
            tl.errors.FormatError, match=f"importance: column {column} is (?i:{value})"
        ):
            tl.quantize(w, "Q4_K", importance=wrong)
    # Only ratios count, at any size; all 0 says as much as all 1.
    equal = tl.quantize(w, "Q4_K", importance=np.ones(256, np.float32)).bytes
    for value in (0.0, 2.0**-140, 2.0**100, 2.0**127):
        found = tl.quantize(w, "Q4_K", importance=np.full(256, value, np.float32))
        assert np.array_equal(found.bytes, equal)
    with pytest.raises(tl.errors.ShapeError, match="importance"):
        tl.quantize(w, "Q4_K", importance=importance[:255])


@pytest.mark.parametrize("format", [f["name"] for f in tl.formats() if f["activation"] != "f32"])
def test_products_with_activations_of_ones_own(rng, format):
    per = next(f["activation"] for f in tl.formats() if f["name"] == format)
    w = tl.quantize(rng.standard_normal((5, 512), dtype=np.float32), format)
    x = rng.standard_normal((512, 3), dtype=np.float32)
    acts = tl.quantize_activations(x, per)
    wanted = w @ x
    assert np.array_equal((w @ acts).view(np.uint32), wanted.view(np.uint32))
    own = tl.Activations(acts.codes, acts.scales, per)
    assert np.array_equal((w @ own).view(np.uint32), wanted.view(np.uint32))
    assert np.array_equal(own.dequantize(), acts.dequantize())
    assert np.abs(acts.dequantize() - x).max() <= np.abs(x).max() / 127 * 0.51
    other = tl.quantize_activations(x, "64" if per != "64" else "32")
    with pytest.raises(tl.errors.ShapeError, match="grouped per"):
        w @ other
    q8_k = tl.quantize_activations(x, "Q8_K")
    assert q8_k.per == "256"
    if per == "256":
        with tl.backend("oracle"):
            wanted = w @ q8_k
        assert np.array_equal((w @ q8_k).view(np.uint32), wanted.view(np.uint32))


def test_q8_k(rng):
    x = rng.standard_normal((512, 2), dtype=np.float32)
    acts = tl.quantize_activations(x, "Q8_K")
    blocks = x.T.reshape(4, 256)
    largest = np.take_along_axis(blocks, np.abs(blocks).argmax(1)[:, None], 1)
    inverse = np.float32(-127) / largest
    codes = np.minimum(127, np.rint(inverse * blocks)).astype(np.int8)
    assert np.array_equal(acts.codes, codes.reshape(2, 512).T)
    assert np.array_equal(acts.scales, (np.float32(1) / inverse).reshape(2, 2).T)
    data = acts.to_q8_k()
    assert data.size == 4 * 292
    again = tl.Activations.from_q8_k(data, 512)
    assert np.array_equal(again.codes, acts.codes)
    assert np.array_equal(again.scales, acts.scales)
    data[260] ^= 1
    with pytest.raises(tl.errors.FormatError, match="block 0: sum 0"):
        tl.Activations.from_q8_k(data, 512)
    with pytest.raises(tl.errors.ShapeError):
        tl.Activations.from_q8_k(data[:-1], 512)
    with pytest.raises(tl.errors.ShapeError):
        tl.Activations.from_q8_k(data, 100)
    with pytest.raises(tl.TritlabError, match='"1" is none of token, 256, 128, 64, 32, Q8_K'):
        tl.quantize_activations(x, "1")
    with pytest.raises(tl.errors.FormatError, match="-128"):
        tl.Activations(np.full((4, 1), -128, np.int8), np.ones((1, 1), np.float32), "token")


@settings(deadline=None, max_examples=60)
@given(
    hnp.arrays(np.int8, st.tuples(st.just(4), st.just(128)), elements=st.integers(-1, 1)),
    st.floats(2.0**-14, 2.0**15, width=16),
    st.sampled_from(PACKINGS),
)
def test_any_codes_survive_any_packing(codes, scale, packing):
    t = tl.Ternary(codes, np.array([scale], np.float32))
    try:
        data, outside = t.pack(packing)
    except tl.errors.FormatError:
        assert packing == "HF_PACKED_DIVIDE"  # not every number is 1 divided by one
        return
    scales = None if outside is None else np.array([outside], np.float32)
    w = tl.Matrix.from_bytes(data, packing, (4, 128), scales)
    assert np.array_equal(w.dequantize(), t.dequantize())
