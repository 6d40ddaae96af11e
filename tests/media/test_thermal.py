"""Thermal images: the two ways of scaling, and what is no thermal image."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from slimbind.errors import LimitError, MediaError, UsageError
from slimbind.media import Limits, preprocessor
from slimbind.media.spec import ThermalSpec


@pytest.fixture(scope="module")
def thermal():
    return preprocessor(ThermalSpec())


@pytest.fixture(scope="module")
def kelvin():
    return preprocessor(ThermalSpec(kelvin_range=(280.0, 320.0)))


def ramp(low: float, high: float) -> np.ndarray:
    return np.broadcast_to(np.linspace(low, high, 224), (224, 224)).copy()


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16, np.int32, np.float32, np.float64])
def test_by_its_own_minimum_and_maximum(thermal, dtype):
    out = thermal(ramp(10, 233).astype(dtype))
    assert out.shape == (1, 1, 224, 224) and out.dtype == np.float32
    np.testing.assert_allclose(out[0, 0], ramp(0, 1), atol=1e-5)


def test_by_a_fixed_range_in_kelvin(kelvin):
    np.testing.assert_allclose(kelvin(ramp(280, 320))[0, 0], ramp(0, 1), atol=1e-5)
    np.testing.assert_allclose(kelvin(np.full((9, 9), 300.0)), 0.5, atol=1e-6)
    np.testing.assert_allclose(kelvin(np.full((9, 9), 400.0)), 1.0)
    np.testing.assert_allclose(kelvin(np.full((9, 9), 30000, np.uint16)), 0.5, atol=1e-6)
    with pytest.raises(MediaError, match="hold no temperatures"):
        kelvin(np.full((9, 9), 200, np.uint8))


def test_an_empty_range():
    with pytest.raises(UsageError, match="is empty"):
        preprocessor(ThermalSpec(kelvin_range=(300.0, 300.0)))


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_16_bit_files(tmp_path, thermal, kelvin, name):
    path = tmp_path / name
    counts = np.round(ramp(28000, 32000)).astype(np.uint16)
    Image.fromarray(counts).save(path)
    for way in (path, path.read_bytes(), Image.open(path), counts):
        np.testing.assert_allclose(thermal(way)[0, 0], ramp(0, 1), atol=1e-3)
        np.testing.assert_allclose(kelvin(way)[0, 0], ramp(0, 1), atol=1e-3)


def test_8_bit_files_and_grey_stored_as_colour(tmp_path, thermal):
    grey = Image.fromarray(np.round(ramp(10, 250)).astype(np.uint8))
    for name in ("a.png", "a.tif", "a.bmp"):
        grey.save(tmp_path / name)
        np.testing.assert_allclose(thermal(tmp_path / name)[0, 0], ramp(0, 1), atol=3e-3)
    grey.convert("RGB").save(tmp_path / "a.jpg", quality=95)
    np.testing.assert_allclose(thermal(tmp_path / "a.jpg")[0, 0], ramp(0, 1), atol=0.03)


def test_npy_and_float_tiff(tmp_path, thermal, kelvin):
    np.save(tmp_path / "a.npy", ramp(280, 320).astype(np.float32))
    Image.fromarray(ramp(280, 320).astype(np.float32)).save(tmp_path / "a.tif")
    for name in ("a.npy", "a.tif"):
        np.testing.assert_allclose(thermal(tmp_path / name)[0, 0], ramp(0, 1), atol=1e-5)
        np.testing.assert_allclose(kelvin(tmp_path / name)[0, 0], ramp(0, 1), atol=1e-5)


def test_false_colours_are_refused(tmp_path, thermal):
    path = tmp_path / "a.png"
    Image.new("RGB", (20, 20), (255, 120, 0)).save(path)
    with pytest.raises(MediaError, match="false-colour"):
        thermal(path)


@pytest.mark.parametrize("mode", ["CMYK", "P", "1"])
def test_other_modes(thermal, mode):
    with pytest.raises(MediaError, match=f"mode {mode}"):
        thermal(Image.new(mode, (9, 9)))


def test_32_bit_pixels(thermal):
    out = thermal(Image.fromarray(np.round(ramp(0, 60000)).astype(np.int32)))
    np.testing.assert_allclose(out[0, 0], ramp(0, 1), atol=1e-3)
    with pytest.raises(MediaError, match="32-bit"):
        thermal(Image.fromarray(np.full((9, 9), 70000, np.int32)))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_dead_pixels_are_refused(thermal, bad):
    plane = ramp(280, 320)
    plane[3, 3] = bad
    with pytest.raises(MediaError, match="NaN or infinite"):
        thermal(plane)


def test_one_single_temperature_is_zero(thermal):
    np.testing.assert_array_equal(thermal(np.full((30, 40), 300.0)), 0)


def test_a_truncated_file(tmp_path, thermal):
    path = tmp_path / "a.png"
    noise = np.random.default_rng(0).integers(0, 2**16, (200, 200)).astype(np.uint16)
    Image.fromarray(noise).save(path)
    with pytest.raises(MediaError, match="cannot decode the image"):
        thermal(path.read_bytes()[:5000])


def test_limits():
    thermal = preprocessor(ThermalSpec(), limits=Limits(max_pixels=100))
    with pytest.raises(LimitError):
        thermal(np.zeros((11, 10)))


@settings(max_examples=60, deadline=None)
@given(hnp.arrays(np.float64, (6, 9), elements=st.floats(allow_nan=False, allow_infinity=False)))
def test_any_numbers_give_values_in_range(thermal, kelvin, plane):
    for out in (thermal(plane), kelvin(plane)):
        assert (out >= 0).all() and (out <= 1).all()
