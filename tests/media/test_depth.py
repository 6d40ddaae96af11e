"""Depth: units, disparity, intrinsics, missing measurements."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from slimbind.errors import LimitError, MediaError, UsageError
from slimbind.media import Limits, preprocessor
from slimbind.media.depth import Intrinsics
from slimbind.media.exr import MAGIC, read_exr
from slimbind.media.source import open_source
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


def exr(path, channels: dict[str, np.ndarray], compression: str = "ZIP", **header: object):
    """Write with the public library, which shares no code with the reader."""
    openexr = pytest.importorskip("OpenEXR")
    header = {"compression": getattr(openexr, f"{compression}_COMPRESSION"), "type": openexr.scanlineimage} | header
    with openexr.File(header, channels) as file:
        file.write(str(path))
    return path


@pytest.mark.parametrize("name", ["Z", "depth", "Y", "V", "whatever"])
def test_exr_is_in_metres(tmp_path, depth, name):
    path = exr(tmp_path / "a.exr", {name: ramp()})
    for way in (path, path.read_bytes(), io.BytesIO(path.read_bytes())):
        np.testing.assert_array_equal(depth(way), depth(ramp()))
    half = exr(tmp_path / "half.exr", {name: ramp().astype(np.float16)})
    np.testing.assert_allclose(depth(half), depth(ramp()), rtol=2e-3)


@pytest.mark.parametrize("compression", ["NO", "RLE", "ZIPS", "ZIP"])
@pytest.mark.parametrize("shape", [(1, 1), (17, 5), (33, 64), (100, 7)])
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_exr_values_are_exact(tmp_path, compression, shape, dtype):
    rng = np.random.default_rng(0)
    smooth = np.cumsum(rng.standard_normal(shape), axis=0).astype(dtype)
    flat = np.full(shape, 2.5, dtype)
    noise = rng.standard_normal(shape).astype(np.float32)
    for plane in (smooth, flat):
        channels = {"A": noise, "Z": plane, "id": np.zeros(shape, np.uint32)}
        path = exr(tmp_path / "a.exr", channels, compression)
        with open_source(path, Limits()) as source:
            out = read_exr(source, Limits())
        assert out.dtype == dtype
        np.testing.assert_array_equal(out, plane)


def test_exr_with_a_data_window_elsewhere(tmp_path, depth):
    window = (np.array([-10, -20], np.int32), np.array([213, 203], np.int32))
    path = exr(tmp_path / "a.exr", {"Z": ramp()}, dataWindow=window)
    np.testing.assert_array_equal(depth(path), depth(ramp()))


def test_exr_without_depth(tmp_path, depth):
    path = exr(tmp_path / "a.exr", {"A": ramp(), "B": ramp()})
    with pytest.raises(MediaError, match="channels A, B, none of them depth"):
        depth(path)
    with pytest.raises(MediaError, match="holds integers"):
        depth(exr(tmp_path / "b.exr", {"Z": ramp().astype(np.uint32)}))


@pytest.mark.parametrize("compression", ["PIZ", "PXR24", "B44", "DWAA"])
def test_exr_compressions_that_are_not_read(tmp_path, depth, compression):
    with pytest.raises(MediaError, match=f"{compression} compression") as caught:
        depth(exr(tmp_path / "a.exr", {"Z": ramp()}, compression))
    assert "ZIP" in caught.value.hint


def test_exr_kinds_that_are_not_read(depth):
    for flag, what in ((0x200, "tiles"), (0x800, "deep"), (0x1000, "parts")):
        with pytest.raises(MediaError, match=what):
            depth(MAGIC + struct.pack("<I", 2 | flag) + bytes(100))


def test_exr_limits(tmp_path):
    path = exr(tmp_path / "a.exr", {"Z": ramp()})
    with pytest.raises(LimitError, match="224 x 224"):
        preprocessor(DepthSpec(), limits=Limits(max_pixels=50_000))(path)


@pytest.mark.parametrize("compression", ["NO", "RLE", "ZIP"])
def test_damaged_exr_says_nothing_on_stdout(tmp_path, depth, capfd, compression):
    data = exr(tmp_path / "a.exr", {"Z": ramp()}, compression).read_bytes()
    capfd.readouterr()
    for keep in (10, 200, 400, 2000, len(data) - 1):
        with pytest.raises(MediaError) as caught:
            depth(data[:keep])
        assert caught.value.hint
    assert capfd.readouterr() == ("", "")


def test_an_exr_block_in_the_wrong_place(tmp_path, depth):
    """Blocks have to cover the picture, each line once: no pixel may be left as memory was."""
    data = bytearray(exr(tmp_path / "a.exr", {"Z": np.ones((32, 8), np.float32)}).read_bytes())
    second = data.rindex(struct.pack("<i", 16))
    for line in (0, 8, 32, -16):
        harmed = data.copy()
        harmed[second : second + 4] = struct.pack("<i", line)
        with pytest.raises(MediaError, match="where none belongs"):
            depth(bytes(harmed))


@pytest.mark.parametrize("window", [(0, 0, -1, 5), (0, 0, 2**30, 2**30), (-(2**31), 0, 2**31 - 1, 5)])
def test_exr_windows_out_of_this_world(tmp_path, depth, window):
    data = exr(tmp_path / "a.exr", {"Z": ramp()}).read_bytes()
    place = data.index(b"dataWindow\0box2i\0") + len(b"dataWindow\0box2i\0") + 4
    with pytest.raises(MediaError, match="empty data window|pixels; the limit"):
        depth(data[:place] + struct.pack("<iiii", *window) + data[place + 16 :])


def test_an_exr_block_that_inflates_without_end(tmp_path, depth):
    path = exr(tmp_path / "a.exr", {"Z": np.ones((1, 8), np.float32)})
    data = path.read_bytes()
    bomb = zlib.compress(bytes(10**7))
    (offset,) = struct.unpack_from("<Q", data, data.index(struct.pack("<Q", len(data) - _block_bytes(data))))
    with pytest.raises(MediaError, match="bytes instead of"):
        depth(data[: offset + 4] + struct.pack("<i", len(bomb)) + bomb)


def _block_bytes(data: bytes) -> int:
    """Length of the only block at the end of a file: line number, size, and that many bytes."""
    return next(n for n in range(9, 200) if struct.unpack_from("<ii", data, len(data) - n) == (0, n - 8))
