"""Images: equal to the reference, upright, flat, and refused where they are broken."""

from __future__ import annotations

import io
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile

from slimbind.errors import LimitError, MediaError, UsageError
from slimbind.media import Limits, preprocessor
from slimbind.media.geometry import resize_and_crop, scaled_size
from slimbind.media.spec import ImageSpec

# Without normalising, so that values read as levels 0..255.
LEVELS = ImageSpec(mean=(0.0, 0.0, 0.0), std=(1 / 255, 1 / 255, 1 / 255))


def levels(item: object, limits: Limits | None = None) -> np.ndarray:
    out = preprocessor(LEVELS, limits=limits)(item)
    assert out.shape == (1, 3, 224, 224) and out.dtype == np.float32
    return out[0]


def picture(width: int = 300, height: int = 200, seed: int = 0) -> np.ndarray:
    noise = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC))


def encoded(image: Image.Image, format_: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format_, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("index", range(4))
def test_equals_the_reference(golden, index):
    out = preprocessor(ImageSpec())(golden[f"image{index}_rgb"])
    np.testing.assert_allclose(out[0], golden[f"image{index}_chw"].astype(np.float32), rtol=0, atol=1 / 255)
    # More than asked: not one pixel is rounded differently.
    assert (out[0].astype(np.float16) == golden[f"image{index}_chw"]).all()


def test_every_way_in_gives_the_same(tmp_path, golden):
    rgb = golden["image0_rgb"]
    path = tmp_path / "a.png"
    Image.fromarray(rgb).save(path)
    data = path.read_bytes()
    expected = levels(rgb)
    with path.open("rb") as file:
        ways = [path, str(path), data, bytearray(data), memoryview(data), io.BytesIO(data), file, Image.open(path)]
        for way in ways:
            np.testing.assert_array_equal(levels(way), expected)
    assert not ways[5].closed, "a file object belongs to its owner"
    assert ways[5].tell() == 0, "and can be given again"
    np.testing.assert_array_equal(levels(rgb / np.float64(255)), expected)


def test_a_file_object_in_the_middle_is_read_from_there():
    data = encoded(Image.fromarray(picture()), "PNG")
    file = io.BytesIO(b"header" + data)
    file.seek(6)
    np.testing.assert_array_equal(levels(file), levels(data))


@pytest.mark.parametrize("format_", ["PNG", "BMP", "TIFF", "PPM", "WEBP", "GIF", "JPEG", "AVIF"])
def test_formats_are_told_by_content_not_by_name(tmp_path, format_):
    options = {"lossless": True} if format_ == "WEBP" else {"quality": 95} if format_ in ("JPEG", "AVIF") else {}
    path = tmp_path / "misnamed.txt"
    path.write_bytes(encoded(Image.fromarray(picture()), format_, **options))
    tolerance = {"GIF": 40, "JPEG": 12, "AVIF": 16}.get(format_, 0)
    assert np.abs(levels(path) - levels(picture())).mean() <= tolerance / 4
    if not tolerance:
        np.testing.assert_array_equal(levels(path), levels(picture()))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation):
    upright = Image.fromarray(picture(64, 40))
    undo = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    stored = upright.transpose(undo[orientation]) if orientation > 1 else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(stored, "PNG", exif=exif.tobytes())
    np.testing.assert_array_equal(levels(data), levels(np.asarray(upright)))


def test_a_broken_exif_block_does_not_lose_the_picture():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        data = encoded(Image.fromarray(picture()), "PNG", exif=b"Exif\0\0II*\0\xff\xff\xff\x7f\x01")
        np.testing.assert_array_equal(levels(data), levels(picture()))


def test_transparency_is_laid_on_white():
    rgba = np.zeros((224, 224, 4), np.uint8)
    rgba[:, :112, 3] = 255  # left: opaque black, right: transparent black
    out = levels(encoded(Image.fromarray(rgba), "PNG"))
    assert out[:, 0, 0].max() == 0
    np.testing.assert_allclose(out[:, 0, -1], 255)
    np.testing.assert_array_equal(levels(rgba), out)


def test_a_palette_with_a_transparent_colour():
    image = Image.new("P", (224, 224), 0)
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.paste(1, (112, 0, 224, 224))
    out = levels(encoded(image, "PNG", transparency=0))
    np.testing.assert_allclose(out[:, 5, 5], 255)
    np.testing.assert_allclose(out[:, 5, -5], (0, 0, 255), atol=1e-3)


def test_an_rgb_image_with_a_transparent_colour():
    image = Image.new("RGB", (224, 224), (1, 2, 3))
    np.testing.assert_allclose(levels(encoded(image, "PNG", transparency=(1, 2, 3)))[:, 0, 0], 255)


def test_opaque_alpha_changes_nothing():
    rgb = picture()
    rgba = np.dstack([rgb, np.full(rgb.shape[:2], 255, np.uint8)])
    np.testing.assert_array_equal(levels(rgba), levels(rgb))


def test_of_an_animation_the_first_frame_counts():
    frames = [Image.new("RGB", (224, 224), colour) for colour in ("red", "blue")]
    for format_ in ("GIF", "PNG", "WEBP"):
        data = encoded(frames[0], format_, save_all=True, append_images=frames[1:])
        np.testing.assert_allclose(levels(data)[:, 9, 9], (255, 0, 0), atol=3)


def test_cmyk_jpeg():
    out = levels(encoded(Image.new("CMYK", (224, 224), (0, 255, 255, 0)), "JPEG", quality=100))
    np.testing.assert_allclose(out[:, 9, 9], (255, 0, 0), atol=3)


def test_16_bit_grey_is_scaled_and_not_clipped(tmp_path):
    wide = np.full((224, 224), 0x8080, np.uint16)
    path = tmp_path / "grey.png"
    Image.fromarray(wide).save(path)
    np.testing.assert_allclose(levels(path), 128)
    np.testing.assert_allclose(levels(wide), 128)
    path = tmp_path / "grey.tif"
    Image.fromarray(wide).save(path)
    np.testing.assert_allclose(levels(path), 128)


@pytest.mark.parametrize(
    ("mode", "value", "expected"), [("1", 1, 255), ("L", 7, 7), ("I", 0x8080, 128), ("LA", (9, 255), 9), ("HSV", 0, 0)]
)
def test_other_modes(mode, value, expected):
    np.testing.assert_allclose(levels(Image.new(mode, (224, 224), value)), expected)


def test_pixels_without_a_white_are_refused():
    with pytest.raises(MediaError, match="floating-point"):
        levels(Image.new("F", (10, 10), 0.5))
    with pytest.raises(MediaError, match="32-bit grey"):
        levels(Image.new("I", (10, 10), 70000))


def test_a_truncated_jpeg_is_an_error_and_not_a_grey_picture():
    data = encoded(Image.fromarray(picture()), "JPEG")
    with pytest.raises(MediaError, match="truncated"):
        levels(data[: len(data) // 2])
    assert not ImageFile.LOAD_TRUNCATED_IMAGES


@pytest.mark.parametrize(
    ("content", "cause"),
    [
        (b"just some text, named .png\n", "looks like text"),
        (b"\x00\x01\x02\x03", "00 01 02 03"),
        (b"\0\0\0\x18ftypheic", "HEIC"),
        (b"", "0 bytes"),
    ],
)
def test_no_image(tmp_path, content, cause):
    path = tmp_path / "fake.png"
    path.write_bytes(content)
    with pytest.raises(MediaError, match=cause) as caught:
        levels(path)
    assert caught.value.item == str(path) and caught.value.hint


def test_postscript_is_not_opened():
    with pytest.raises(MediaError, match="is no image"):
        levels(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n")


def bomb(tmp_path: Path) -> Path:
    path = tmp_path / "bomb.png"
    Image.new("1", (10_000, 10_001)).save(path)
    return path


def test_a_bomb_is_refused_from_its_header(tmp_path, monkeypatch):
    path = bomb(tmp_path)
    assert path.stat().st_size < 100_000
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda self: pytest.fail("decoded"))
    with pytest.raises(LimitError, match="10000 x 10001 = 100010000 pixels; the limit is 80000000") as caught:
        levels(path)
    assert "max_pixels" in caught.value.hint


def test_limits_belong_to_the_call(tmp_path):
    path = bomb(tmp_path)
    before = Image.MAX_IMAGE_PIXELS
    levels(path, Limits(max_pixels=101_000_000))
    assert Image.MAX_IMAGE_PIXELS == before
    with pytest.raises(LimitError):
        levels(picture(), Limits(max_pixels=300 * 200 - 1))
    with pytest.raises(LimitError):
        levels(Image.fromarray(picture()), Limits(max_pixels=300 * 200 - 1))
    levels(picture(), Limits(max_pixels=300 * 200))


@pytest.mark.parametrize("lossless", [True, False])
def test_webp_canvas_is_checked_before_it_is_allocated(lossless, monkeypatch):
    data = encoded(Image.new("RGB", (3000, 2000)), "WEBP", lossless=lossless)
    monkeypatch.setitem(Image.OPEN, "WEBP", (lambda *_: pytest.fail("opened"), Image.OPEN["WEBP"][1]))
    with pytest.raises(LimitError, match="3000 x 2000"):
        levels(data, Limits(max_pixels=1_000_000))


def test_webp_with_alpha_is_checked_too():
    data = encoded(Image.new("RGBA", (3000, 2000), (1, 2, 3, 4)), "WEBP")
    with pytest.raises(LimitError, match="3000 x 2000"):
        levels(data, Limits(max_pixels=1_000_000))


def test_an_extreme_strip_takes_no_gigabytes():
    strip = np.repeat(picture(20_000, 1), 2, axis=0)
    out = levels(strip)
    assert np.isfinite(out).all()
    middle = strip[:, 9999:10001].mean(axis=(0, 1))
    np.testing.assert_allclose(out.mean(axis=(1, 2)), middle, atol=3)


@settings(max_examples=30, deadline=None)
@given(st.integers(60, 400), st.integers(60, 400), st.integers(0, 99))
def test_cropping_first_equals_cropping_last(width, height, seed):
    """The short cut for strips is the same picture, up to rounding."""
    image = Image.fromarray(picture(width, height, seed))
    whole = resize_and_crop(image, 56, 56, Image.Resampling.BICUBIC)
    new_width, new_height = scaled_size(width, height, 56)
    left, top = round((new_width - 56) / 2), round((new_height - 56) / 2)
    box = (left * width / new_width, top * height / new_height)
    box += ((left + 56) * width / new_width, (top + 56) * height / new_height)
    cropped = image.resize((56, 56), Image.Resampling.BICUBIC, box=box)
    assert np.abs(np.asarray(whole, int) - np.asarray(cropped, int)).max() <= 3


@pytest.mark.parametrize("array", [np.zeros((3, 224, 224), np.uint8), np.zeros((0, 5, 3), np.uint8), np.zeros(7)])
def test_arrays_of_another_shape(array):
    with pytest.raises(MediaError, match=r"height first, channels last"):
        levels(array)


@pytest.mark.parametrize(
    "array", [np.full((9, 9, 3), 200.0), np.full((9, 9, 3), np.nan), np.full((9, 9, 3), 5, np.int32)]
)
def test_arrays_of_another_range_or_type(array):
    with pytest.raises(MediaError, match=r"0\.\.1"):
        levels(array)


@pytest.mark.parametrize("item", [None, 7, {"a": 1}, ["a.png"]])
def test_other_objects(item):
    with pytest.raises(MediaError, match="is no image"):
        levels(item)


def test_other_sizes_and_interpolations():
    out = preprocessor(ImageSpec(size=32, resize=36, interpolation="bilinear"))(picture())
    assert out.shape == (1, 3, 32, 32)
    reference = Image.fromarray(picture()).resize((54, 36), Image.Resampling.BILINEAR).crop((11, 2, 43, 34))
    spec = ImageSpec()
    expected = (np.asarray(reference) / 255 - spec.mean) / spec.std
    np.testing.assert_allclose(out[0], expected.transpose(2, 0, 1), atol=1e-5)
    with pytest.raises(UsageError, match="size <= resize"):
        preprocessor(ImageSpec(size=64, resize=32))
