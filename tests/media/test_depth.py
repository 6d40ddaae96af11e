"""Depth: units, disparity, intrinsics, missing measurements."""

from __future__ import annotations

import io
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from slimbind.errors import LimitError, MediaError, MissingExtraError, UsageError
from slimbind.media import Limits, preprocessor
from slimbind.media.depth import Intrinsics
from slimbind.media.spec import DepthSpec

KINECT = 0.075 * 518.86


@pytest.fixture(scope="module")
def depth():
    return preprocessor(DepthSpec())


def ramp() -> np.ndarray:
    """Metres, 0.6 on the left to 6 on the right."""
    return np.broadcast_to(np.linspace(0.6, 6.0, 224, dtype=np.float32), (224, 224)).copy()


def test_the_formula(depth):
    out = depth(ramp())
    assert out.shape == (1, 1, 224, 224) and out.dtype == np.float32
    np.testing.assert_allclose(out[0, 0], np.clip(KINECT / ramp(), 0.01, 75) / 75, rtol=1e-5)


@pytest.mark.parametrize(("metres", "value"), [(0.001, 1.0), (KINECT / 75, 1.0), (KINECT, 1 / 75), (1e6, 0.01 / 75)])
def test_the_clamp(depth, metres, value):
    np.testing.assert_allclose(depth(np.full((9, 9), metres)), value, rtol=1e-5)


@pytest.mark.parametrize("missing", [0.0, -1.0, np.nan, np.inf])
def test_missing_measurements_are_far_away(depth, missing):
    plane = ramp()
    plane[:, 100:] = missing
    out = depth(plane)[0, 0]
    np.testing.assert_allclose(out[:, 100:], 0.01 / 75, rtol=1e-5)
    np.testing.assert_allclose(out[:, :100], depth(ramp())[0, 0, :, :100])


def test_no_measurement_at_all(depth):
    for missing in (0.0, np.nan, -np.inf):
        with pytest.raises(MediaError, match="no valid depth"):
            depth(np.full((9, 9), missing))


def test_intrinsics(depth):
    camera = Intrinsics(focal=1000.0, baseline=0.1)
    np.testing.assert_allclose(depth((np.full((9, 9), 10.0), camera)), 10 / 75, rtol=1e-5)
    spec = preprocessor(DepthSpec(focal=1000.0, baseline=0.1))
    np.testing.assert_array_equal(spec(ramp()), depth((ramp(), camera)))
    with pytest.raises(UsageError, match="above 0"):
        Intrinsics(focal=0)
    with pytest.raises(UsageError, match="above 0"):
        Intrinsics(focal=float("nan"))
    with pytest.raises(MediaError, match="Intrinsics"):
        depth((ramp(), 518.0))


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_16_bit_files_are_in_millimetres(tmp_path, depth, name):
    millimetres = np.round(ramp() * 1000).astype(np.uint16)
    path = tmp_path / name
    Image.fromarray(millimetres).save(path)
    expected = depth(millimetres.astype(np.float64) / 1000)
    for way in (path, str(path), path.read_bytes(), io.BytesIO(path.read_bytes()), Image.open(path), millimetres):
        np.testing.assert_allclose(depth(way), expected, rtol=1e-5)
    np.testing.assert_allclose(depth((path, Intrinsics(2 * 518.86))), np.minimum(2 * expected, 1), rtol=1e-4)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, ">f4"])
def test_npy_floats_are_in_metres(tmp_path, depth, dtype):
    path = tmp_path / "a.npy"
    np.save(path, ramp().astype(dtype))
    np.testing.assert_allclose(depth(path), depth(ramp()), rtol=2e-3)
    np.save(path, np.asfortranarray(ramp()[None]))
    np.testing.assert_array_equal(depth(path), depth(ramp()))
    np.save(path, (ramp() * 1000).astype(np.int32))
    np.testing.assert_allclose(depth(path), depth(ramp()), rtol=2e-3)


def test_float_tiff_is_in_metres(tmp_path, depth):
    path = tmp_path / "a.tif"
    Image.fromarray(ramp()).save(path)
    np.testing.assert_array_equal(depth(path), depth(ramp()))


def test_larger_maps_are_scaled_and_cropped_without_overshoot(depth):
    plane = np.full((300, 500), 2.0)
    plane[:, 250:] = 0.0
    out = depth(plane)[0, 0]
    assert out.min() >= np.float32(0.01 / 75) * 0.999 and out.max() <= KINECT / 2 / 75 * 1.001
    np.testing.assert_allclose(out[:, :100], KINECT / 2 / 75, rtol=1e-4)


@pytest.mark.parametrize("image", [Image.new("L", (9, 9), 200), Image.new("P", (9, 9))])
def test_8_bits_are_no_depth(depth, image):
    with pytest.raises(MediaError, match="8 bits|mode P"):
        depth(image)


def test_a_coloured_picture_is_no_depth(depth):
    with pytest.raises(MediaError, match="false-colour"):
        depth(Image.new("RGB", (9, 9), (200, 0, 0)))


@pytest.mark.parametrize("array", [np.zeros((2, 9, 9)), np.zeros(9), np.zeros((0, 9)), np.zeros((9, 9), complex)])
def test_arrays_of_another_shape(depth, array):
    with pytest.raises(MediaError, match=r"\[h, w\]"):
        depth(array)


def test_limits(tmp_path):
    depth = preprocessor(DepthSpec(), limits=Limits(max_pixels=100))
    path = tmp_path / "a.npy"
    np.save(path, ramp())
    for item in (ramp(), path, Image.fromarray(ramp())):
        with pytest.raises(LimitError, match="limit is 100"):
            depth(item)
    assert depth(np.ones((10, 10))).shape == (1, 1, 224, 224)


@settings(max_examples=60, deadline=None)
@given(hnp.arrays(np.float32, (7, 9), elements=st.floats(width=32)))
def test_any_numbers_give_values_in_range_or_an_error(depth, plane):
    try:
        out = depth(plane)
    except MediaError:
        assert not (plane > 0).any()
    else:
        assert (out >= 0.0099 / 75).all() and (out <= 1.0001).all()


def exr(path, channels: dict[str, np.ndarray]):
    openexr = pytest.importorskip("OpenEXR")
    header = {"compression": openexr.ZIP_COMPRESSION, "type": openexr.scanlineimage}
    with openexr.File(header, channels) as file:
        file.write(str(path))
    return path


@pytest.mark.parametrize("name", ["Z", "depth", "Y", "V", "whatever"])
def test_exr_is_in_metres(tmp_path, depth, name):
    path = exr(tmp_path / "a.exr", {name: ramp()})
    for way in (path, path.read_bytes()):
        np.testing.assert_array_equal(depth(way), depth(ramp()))
    half = exr(tmp_path / "half.exr", {name: ramp().astype(np.float16)})
    np.testing.assert_allclose(depth(half), depth(ramp()), rtol=2e-3)


def test_exr_depth_among_other_channels(tmp_path, depth):
    other = np.zeros_like(ramp())
    path = exr(tmp_path / "a.exr", {"R": other, "G": other, "B": other, "Z": ramp()})
    np.testing.assert_array_equal(depth(path), depth(ramp()))


def test_exr_without_depth(tmp_path, depth):
    path = exr(tmp_path / "a.exr", {"A": ramp(), "B": ramp()})
    with pytest.raises(MediaError, match="channels A, B, none of them depth"):
        depth(path)
    with pytest.raises(MediaError, match="integers"):
        depth(exr(tmp_path / "b.exr", {"Z": ramp().astype(np.uint32)}))


def test_exr_limits_and_damage(tmp_path, depth):
    path = exr(tmp_path / "a.exr", {"Z": ramp()})
    with pytest.raises(LimitError, match="224 x 224"):
        preprocessor(DepthSpec(), limits=Limits(max_pixels=50_000))(path)
    with pytest.raises(MediaError, match="OpenEXR"):
        depth(path.read_bytes()[:400])


def test_without_openexr_the_mend_is_named(tmp_path, depth, monkeypatch):
    path = tmp_path / "a.exr"
    path.write_bytes(b"\x76\x2f\x31\x01" + bytes(100))
    monkeypatch.setitem(sys.modules, "OpenEXR", None)
    with pytest.raises(MissingExtraError, match=r'pip install "slimbind\[depth\]"'):
        depth(path)
