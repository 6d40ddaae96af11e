"""Hostile input: whatever the bytes, the answer is an array of finite numbers or a MediaError, and nothing else."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import threading
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache

import numpy as np
import pytest
import soundfile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from slimbind.errors import LimitError, MediaError
from slimbind.media import Limits, Preprocessor, preprocessor
from slimbind.media.spec import AudioSpec, DepthSpec, ImageSpec, ImuSpec, TextSpec, ThermalSpec

TIGHT = Limits(max_bytes=200_000, max_pixels=300_000, max_seconds=30, max_frames=200, max_characters=5_000)
SPECS = {
    "vision": ImageSpec(size=32, resize=32),
    "audio": AudioSpec(),
    "depth": DepthSpec(size=32),
    "thermal": ThermalSpec(size=32),
    "imu": ImuSpec(),
    "text": TextSpec(),
}


@lru_cache(maxsize=16)
def prepare(modality: str) -> Preprocessor:
    return preprocessor(SPECS[modality], limits=TIGHT)


def _pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)


def _image(format_: str, mode: str = "RGB", **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(_pixels()).convert(mode).save(buffer, format_, **options)
    return buffer.getvalue()


def _exif_jpeg() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return _image("JPEG", exif=exif.tobytes())


def _wide_png() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(_pixels()[:, :, 0].astype(np.uint16) * 200).save(buffer, "PNG")
    return buffer.getvalue()


def _sound(format_: str, subtype: str | None = None, rate: int = 22050) -> bytes:
    buffer = io.BytesIO()
    wave = np.sin(np.arange(rate // 2) / 9).astype(np.float32)
    soundfile.write(buffer, wave, rate, format=format_, subtype=subtype)
    return buffer.getvalue()


def _video(format_: str, codec: str) -> bytes:
    av = pytest.importorskip("av")
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=format_) as container:
        stream = container.add_stream(codec, rate=10)
        stream.width, stream.height, stream.pix_fmt = 48, 32, "yuv420p"
        for index in range(25):
            frame = av.VideoFrame.from_ndarray(np.roll(_pixels(), index)[:, :40], format="rgb24").reformat(48, 32)
            frame.pts = index
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return buffer.getvalue()


def _npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def _csv() -> bytes:
    rows = "\n".join(f"{i / 50},0.1,0.2,9.8,0.0,-0.1,{i}" for i in range(100))
    return ("t,ax,ay,az,gx,gy,gz\n" + rows).encode()


def _exr() -> bytes:
    openexr = pytest.importorskip("OpenEXR")
    import tempfile
    from pathlib import Path

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.exr"
        header = {"compression": openexr.ZIP_COMPRESSION, "type": openexr.scanlineimage}
        with openexr.File(header, {"Z": np.linspace(1, 5, 1200, dtype=np.float32).reshape(30, 40)}) as file:
            file.write(str(path))
        return path.read_bytes()


VALID: dict[str, tuple[str, Callable[[], bytes]]] = {
    "jpeg": ("vision", lambda: _image("JPEG")),
    "jpeg-exif": ("vision", _exif_jpeg),
    "jpeg-progressive": ("vision", lambda: _image("JPEG", progressive=True)),
    "jpeg-cmyk": ("vision", lambda: _image("JPEG", "CMYK")),
    "png": ("vision", lambda: _image("PNG")),
    "png-palette": ("vision", lambda: _image("PNG", "P", transparency=3)),
    "webp": ("vision", lambda: _image("WEBP")),
    "webp-lossless": ("vision", lambda: _image("WEBP", "RGBA", lossless=True)),
    "gif": ("vision", lambda: _image("GIF")),
    "tiff": ("vision", lambda: _image("TIFF", compression="tiff_lzw")),
    "bmp": ("vision", lambda: _image("BMP")),
    "avif": ("vision", lambda: _image("AVIF")),
    "ppm": ("vision", lambda: _image("PPM")),
    "mp4": ("vision", lambda: _video("mp4", "libx264")),
    "mkv": ("vision", lambda: _video("matroska", "mpeg4")),
    "avi": ("vision", lambda: _video("avi", "mpeg4")),
    "ts": ("vision", lambda: _video("mpegts", "mpeg2video")),
    "wav": ("audio", lambda: _sound("WAV")),
    "wav-float": ("audio", lambda: _sound("WAV", "FLOAT")),
    "flac": ("audio", lambda: _sound("FLAC")),
    "ogg": ("audio", lambda: _sound("OGG")),
    "opus": ("audio", lambda: _sound("OGG", "OPUS", 24000)),
    "mp3": ("audio", lambda: _sound("MP3")),
    "aiff": ("audio", lambda: _sound("AIFF")),
    "depth-png": ("depth", _wide_png),
    "depth-npy": ("depth", lambda: _npy(np.ones((20, 30), np.float32))),
    "depth-exr": ("depth", _exr),
    "thermal-png": ("thermal", _wide_png),
    "imu-npy": ("imu", lambda: _npy(np.ones((300, 6), np.float32))),
    "imu-csv": ("imu", _csv),
    "text": ("text", lambda: "a dog — ein Hund".encode()),
}


@lru_cache(maxsize=64)
def valid(name: str) -> bytes:
    return VALID[name][1]()


def attempt(modality: str, data: bytes) -> bool:
    """Whether the bytes were accepted; anything but an array or a MediaError fails the test."""
    try:
        out = prepare(modality)(data)
    except MediaError as error:
        assert error.item and error.reason
        return False
    assert np.isfinite(out).all()
    return True


@pytest.mark.parametrize("name", VALID)
def test_the_files_are_valid_before_they_are_harmed(name):
    assert attempt(VALID[name][0], valid(name))


# A decoder may warn about what it reads; here only what it raises counts.
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", VALID)
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_mutated_files(name, data):
    modality, _ = VALID[name]
    harmed = bytearray(valid(name))
    # Headers are where decoders go wrong, so half of the harm is done there.
    places = st.one_of(st.integers(0, min(200, len(harmed) - 1)), st.integers(0, len(harmed) - 1))
    for place, value in data.draw(st.lists(st.tuples(places, st.integers(0, 255)), min_size=1, max_size=6)):
        harmed[place] = value
    if data.draw(st.booleans()):
        harmed = harmed[: data.draw(st.integers(1, len(harmed)))]
    attempt(modality, bytes(harmed))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("modality", SPECS)
@settings(max_examples=60, deadline=None)
@given(data=st.binary(max_size=300))
def test_random_bytes(modality, data):
    attempt(modality, data)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("modality", ["vision", "audio", "depth", "thermal", "imu"])
@pytest.mark.parametrize("name", VALID)
def test_a_file_of_one_modality_given_as_another(modality, name):
    if VALID[name][0] == "text" or valid(name):
        attempt(modality, valid(name))


def test_a_png_that_inflates_without_end():
    """A megabyte of zeros packed a thousandfold, in a picture that claims to be small."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", 8, 8, 8, 2, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(10**8)))
    data += chunk(b"IDAT", zlib.compress(bytes(10**7))) + chunk(b"IEND", b"")
    attempt("vision", data)


def test_a_wav_with_a_thousand_channels_and_an_absurd_rate():
    def wav(channels: int, rate: int) -> bytes:
        form = struct.pack("<HHIIHH", 1, channels, rate, rate * channels & 0xFFFFFFFF, channels, 8)
        body = b"WAVEfmt " + struct.pack("<I", 16) + form + b"data" + struct.pack("<I", 100_000) + bytes(100_000)
        return b"RIFF" + struct.pack("<I", len(body)) + body

    assert attempt("audio", wav(1000, 1000)) in (True, False)
    with pytest.raises(MediaError, match="sampling rate"):
        prepare("audio")(wav(1, 2**31 - 1))
    with pytest.raises(MediaError, match="sampling rate"):
        prepare("audio")(wav(1, 3))


def test_a_csv_of_one_endless_line():
    with pytest.raises(MediaError, match="columns"):
        prepare("imu")(b"1," * 90_000)


def test_text_that_is_expensive_to_clean():
    for text in ("&" * 5000, "&amp;" * 1000, "Ã¢" * 2500, "\u0301" * 5000, "a" * 5000, "\ud800" * 10, "\0" * 10):
        assert len(prepare("text")(text)) <= 77
    with pytest.raises(LimitError):
        prepare("text")("a" * 5001)


def test_many_threads_get_the_same_arrays():
    items = {name: valid(name) for name in ("jpeg", "png", "mp4", "flac", "mp3", "depth-png", "imu-csv", "text")}
    expected = {name: prepare(VALID[name][0])(data) for name, data in items.items()}
    start = threading.Barrier(8)

    def work(worker: int) -> None:
        start.wait()
        for name in list(items)[worker % 4 :] + list(items):
            np.testing.assert_array_equal(prepare(VALID[name][0])(items[name]), expected[name])

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))


def test_one_file_object_per_thread_is_enough(tmp_path):
    path = tmp_path / "a.flac"
    path.write_bytes(valid("flac"))
    with ThreadPoolExecutor(4) as pool:
        first, *others = pool.map(prepare("audio"), [path] * 8)
    for other in others:
        np.testing.assert_array_equal(other, first)


def test_media_needs_no_torch_and_importing_it_no_decoder():
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "import slimbind.media\n"
        "heavy = {'PIL', 'soundfile', 'soxr', 'av', 'tokenizers', 'ftfy', 'numpy'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "from slimbind.media.spec import *\n"
        "for spec in (ImageSpec(), AudioSpec(), TextSpec(), DepthSpec(), ThermalSpec(), ImuSpec()):\n"
        "    slimbind.media.preprocessor(spec)\n"
        "assert not {'av', 'OpenEXR', 'scipy'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
