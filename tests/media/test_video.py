"""Video: the reference's clips, frames and crops; found by time; within limits; without reaching outside."""

from __future__ import annotations

import io
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import soundfile

from slimbind.errors import LimitError, MediaError, MissingExtraError
from slimbind.media import Limits, preprocessor, video
from slimbind.media.audio import clip_spans
from slimbind.media.spec import ImageSpec, VideoSpec
from slimbind.media.video import frame_times, is_video

av = pytest.importorskip("av")

# Without normalising, so that values read as levels 0..255.
LEVELS = ImageSpec(mean=(0.0, 0.0, 0.0), std=(1 / 255, 1 / 255, 1 / 255))


def write(
    path: Path | io.BytesIO,
    *,
    frames: int = 300,
    fps: int = 30,
    size: tuple[int, int] = (320, 240),
    codec: str = "libx264",
    times: list[float] | None = None,
    rotation: int | None = None,
    gop: int = 12,
    format_: str | None = None,
    sound: bool = False,
) -> None:
    """A video that counts: the frame's number stands in nine black or white bands; red in the upper left quarter."""
    width, height = size
    with av.open(path, "w", format=format_) as container:
        stream = container.add_stream(codec, rate=fps)
        stream.width, stream.height, stream.pix_fmt, stream.gop_size = width, height, "yuv420p", gop
        base = Fraction(1, 1000) if times else Fraction(1, fps)
        if times:
            stream.codec_context.time_base = base
        if rotation is not None:
            stream.set_display_rotation(rotation)
        for index in range(frames):
            pixels = counted(index, width, height)
            pixels[: height // 4, : width // 4] = (255, 0, 0)
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts = round(times[index] * 1000) if times else index
            frame.time_base = base
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def views(item: object, limits: Limits | None = None, spec: ImageSpec = LEVELS) -> np.ndarray:
    return preprocessor(spec, limits=limits)(item)


def counted(index: int, width: int, height: int) -> np.ndarray:
    """A picture whose lower three quarters spell ``index`` in bands, the lowest bit on top."""
    bands = np.arange(height - height // 4) * 9 // (height - height // 4)
    rows = np.concatenate([np.zeros(height // 4, int), (index >> bands & 1) * 255])
    return np.broadcast_to(rows[:, None, None], (height, width, 3)).astype(np.uint8)


def numbers(out: np.ndarray, crops: int = 3) -> np.ndarray:
    """Frame numbers ``[clips, frames]`` read back from the bands; every crop of a clip has to show the same."""
    centres = 56 + ((np.arange(9) + 0.5) * 168 / 9).astype(int)
    bits = out[:, 0][:, :, centres, 60:160].mean(axis=3) > 127
    found = (bits << np.arange(9)).sum(axis=2).reshape(-1, crops, out.shape[2])
    assert (found == found[:, :1]).all(), "crops of one clip show the same moment"
    return found[:, 0]


# Of ten seconds at 30 per second: the first frame in each clip and the last one.
REFERENCE = np.array([[0, 59], [48, 107], [96, 155], [144, 203], [192, 251]])


def test_clip_times_are_the_references(golden_meta):
    spans = clip_spans(10.0, 5, 2.0)
    np.testing.assert_allclose(spans, golden_meta["video_clips_10s_5x2s"], atol=1e-12)
    times = frame_times(Fraction(10), Fraction(30), VideoSpec())
    assert [[int(time * 30) for time in clip] for clip in times] == REFERENCE.tolist()
    more = frame_times(Fraction(10), Fraction(30), VideoSpec(frames=4))
    assert [int(time * 30) for time in more[1]] == [48, 67, 87, 107]
    assert len(frame_times(Fraction(10), Fraction(30), VideoSpec(frames=1))[0]) == 1


@pytest.mark.parametrize(
    ("name", "codec"), [("a.mp4", "libx264"), ("a.mkv", "libx264"), ("a.webm", "libvpx"), ("a.avi", "mpeg4"),
                        ("a.mov", "mpeg4"), ("a.ts", "mpeg2video"), ("a.flv", "flv")]
)  # fmt: skip
def test_file_types(tmp_path, name, codec):
    path = tmp_path / name
    write(path, codec=codec)
    out = views(path)
    assert out.shape == (15, 3, 2, 224, 224) and out.dtype == np.float32
    np.testing.assert_array_equal(numbers(out), REFERENCE)


def test_every_way_in_gives_the_same(tmp_path):
    path = tmp_path / "a.mp4"
    write(path)
    expected = views(path)
    misnamed = tmp_path / "a.jpg"
    misnamed.write_bytes(path.read_bytes())
    for way in (str(path), path.read_bytes(), io.BytesIO(path.read_bytes()), misnamed):
        np.testing.assert_array_equal(views(way), expected)


def test_a_picture_named_mp4_is_a_picture(tmp_path):
    path = tmp_path / "a.mp4"
    from PIL import Image

    Image.new("RGB", (50, 50)).save(path, "JPEG")
    assert views(path).shape == (1, 3, 224, 224)


@pytest.mark.parametrize("gop", [1, 12, 1000])
def test_key_frames_change_nothing_but_the_work(tmp_path, monkeypatch, gop):
    path = tmp_path / "a.mp4"
    write(path, gop=gop)
    decoded = []
    original = video._Reader._upright
    monkeypatch.setattr(video._Reader, "_upright", lambda self, f: decoded.append(self._decoded) or original(self, f))
    np.testing.assert_array_equal(numbers(views(path)), REFERENCE)
    # Ten frames are wanted; what they depend on is decoded too, never more than once, and nothing else.
    assert max(decoded) <= {1: 40, 12: 110, 1000: 255}[gop]


def test_in_memory_frames_equal_a_file(tmp_path):
    frames = np.stack([counted(index, 80, 60) for index in range(300)])
    np.testing.assert_array_equal(numbers(views((frames, 30))), REFERENCE)


def test_variable_frame_rate_is_read_by_time(tmp_path):
    """Thirty frames in the first second, then one per second: what is on screen at a time counts."""
    times = [i / 30 for i in range(30)] + [float(i) for i in range(1, 10)]
    path = tmp_path / "a.mkv"
    write(path, frames=39, times=times, gop=3)

    def on_screen(when: float) -> int:
        return max(number for number, time in enumerate(times) if time <= max(when, 0))

    for (first, last), (start, end) in zip(numbers(views(path)), clip_spans(9 + 1 / 30, 5, 2.0), strict=True):
        assert on_screen(start - 0.1) <= first <= on_screen(start + 0.3)
        assert on_screen(end - 0.6) <= last <= on_screen(end)


@pytest.mark.parametrize(("rotation", "corner"), [(0, (0, 0)), (90, (-1, 0)), (180, (-1, -1)), (-90, (0, -1))])
def test_rotation_metadata_is_applied(tmp_path, rotation, corner):
    path = tmp_path / "a.mp4"
    write(path, frames=30, size=(240, 240), rotation=rotation)
    out = views(path)
    red = [c for c in ((0, 0), (-1, 0), (-1, -1), (0, -1)) if out[0, 0, 0, c[0], c[1]] > 200]
    assert red == [corner], "the display matrix turns counter-clockwise"


def test_a_short_video_is_one_clip_and_a_square_one_crop(tmp_path):
    path = tmp_path / "a.mp4"
    write(path, frames=45)
    assert views(path).shape == (3, 3, 2, 224, 224)
    write(path, frames=45, size=(240, 240))
    assert views(path).shape == (1, 3, 2, 224, 224)
    write(path, frames=1)
    out = views(path)
    assert out.shape == (3, 3, 2, 224, 224)
    np.testing.assert_array_equal(out[:, :, 0], out[:, :, 1])
    centre = ImageSpec(video=VideoSpec(crops=1, clips=2))
    write(path, frames=90)
    assert views(path, spec=centre).shape == (2, 3, 2, 224, 224)


def test_portrait_crops_go_top_to_bottom(tmp_path):
    frames = np.zeros((4, 300, 100, 3), np.uint8)
    frames[:, :100, :, 0], frames[:, 100:200, :, 1], frames[:, 200:, :, 2] = 255, 255, 255
    out = views((frames, 2))
    for crop, channel in enumerate(range(3)):
        assert out[crop, :, 0].mean(axis=(1, 2)).argmax() == channel


def test_scaling_is_plain_bilinear():
    """By the definition of align_corners=False without antialiasing, at one pixel."""
    frames = np.random.default_rng(0).integers(0, 256, (1, 448, 900, 3), dtype=np.uint8)
    out = views((frames, 30))
    wide = int(900 / 448 * 224)
    y, x = (100 + 0.5) * 2 - 0.5, (50 + 0.5) * (900 / wide) - 0.5
    y0, x0, fy, fx = int(y), int(x), y % 1, x % 1
    four = frames[0, y0 : y0 + 2, x0 : x0 + 2].astype(float)
    expected = (four[0, 0] * (1 - fx) + four[0, 1] * fx) * (1 - fy) + (four[1, 0] * (1 - fx) + four[1, 1] * fx) * fy
    np.testing.assert_allclose(out[0, :, 0, 100, 50], expected, rtol=1e-4)


def test_normalising_is_that_of_images():
    frames = np.full((3, 224, 224, 3), 100, np.uint8)
    still = preprocessor(ImageSpec())(frames[0])
    out = preprocessor(ImageSpec())((frames, 1))
    np.testing.assert_allclose(out[0, :, 0], still[0], atol=1e-6)


def test_limits_are_checked_before_decoding(tmp_path, monkeypatch):
    path = tmp_path / "a.mp4"
    write(path, frames=60)
    monkeypatch.setattr(video._Reader, "picture", lambda *_: pytest.fail("decoded"))
    for limits, cause in (
        (Limits(max_pixels=320 * 240 - 1), "320 x 240"),
        (Limits(max_seconds=1.9), r"is 2\.0 s long"),
        (Limits(max_frames=59), "has 60 frames; the limit is 59"),
        (Limits(max_bytes=500), "max_bytes"),
    ):
        with pytest.raises(LimitError, match=cause):
            views(path, limits)
    frames = np.zeros((60, 8, 8, 3), np.uint8)
    with pytest.raises(LimitError, match="has 60 frames"):
        views((frames, 30), Limits(max_frames=59))
    with pytest.raises(LimitError, match="8 x 8"):
        views((frames, 30), Limits(max_pixels=63))


def test_a_header_that_lies_about_the_frames(tmp_path, monkeypatch):
    path = tmp_path / "a.mkv"
    write(path, frames=90, gop=1000)
    monkeypatch.setattr(video, "_check_length", lambda *_: None)
    with pytest.raises(LimitError, match="frames; the limit is 20"):
        views(path, Limits(max_frames=20))


def test_a_recording_without_a_length(tmp_path):
    """Live recordings that were cut off: no duration, no index."""

    class OneWay(io.RawIOBase):
        def __init__(self) -> None:
            self.data = b""

        def writable(self) -> bool:
            return True

        def write(self, data: bytes) -> int:
            self.data += bytes(data)
            return len(data)

    live = OneWay()
    write(live, format_="matroska", gop=30)
    np.testing.assert_array_equal(numbers(views(live.data)), REFERENCE)
    with pytest.raises(LimitError):
        views(live.data, Limits(max_frames=200))

    write(tmp_path / "a.ts", codec="mpeg2video")
    data = (tmp_path / "a.ts").read_bytes()
    whole, half = numbers(views(data)), numbers(views(data[: len(data) // 188 // 2 * 188]))
    np.testing.assert_allclose(whole, REFERENCE, atol=2)
    assert (np.diff(half[:, 0]) > 10).all() and half.max() < 150


def test_sound_given_as_video(tmp_path):
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 16000), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 16000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    with pytest.raises(MediaError, match="no moving picture, only sound"):
        views(path)
    path = tmp_path / "a.ogg"
    soundfile.write(path, np.zeros(16000), 16000)
    with pytest.raises(MediaError, match="only sound"):
        views(path)


@pytest.mark.parametrize("keep", [0.05, 0.5, 0.9])
@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
def test_a_cut_file_is_an_error_or_shows_what_is_there(tmp_path, name, keep):
    path = tmp_path / name
    write(path)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep)])
    try:
        out = views(path)
    except MediaError as error:
        assert error.hint
    else:
        assert np.isfinite(out).all()


def test_text_named_mp4(tmp_path):
    path = tmp_path / "a.mp4"
    path.write_text("this is no video at all " * 9)
    with pytest.raises(MediaError, match="cannot decode the video"):
        views(path)


@pytest.mark.parametrize("name", ["list.mp4", "list.mkv"])
def test_a_playlist_cannot_open_another_file(tmp_path, name):
    """FFmpeg follows playlists by default: a file from outside could read, or call, what it likes."""
    secret = tmp_path / "secret.ts"
    write(secret, codec="mpeg2video", frames=60)
    playlists = (
        f"#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\nfile://{secret}\n#EXT-X-ENDLIST\n",
        f"ffconcat version 1.0\nfile {secret}\n",
    )
    for playlist in playlists:
        path = tmp_path / name
        path.write_text(playlist)
        with pytest.raises(MediaError):
            views(path)
        with pytest.raises(MediaError):
            views(path.read_bytes())


@pytest.mark.parametrize(
    "item", [(), (np.zeros((4, 8, 8, 3), np.uint8),), (np.zeros((4, 8, 8, 3), np.uint8), 0),
             (np.zeros((4, 8, 8, 3), np.uint8), np.inf), ("a.mp4", 30),
             (np.zeros((4, 8, 8, 3), np.float32), 30), (np.zeros((4, 3, 8, 8), np.uint8), 30)]
)  # fmt: skip
def test_other_objects(item):
    with pytest.raises(MediaError, match="frames"):
        views(item)


def test_without_pyav_the_mend_is_named(tmp_path, monkeypatch):
    path = tmp_path / "a.mp4"
    write(path, frames=3)
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(MissingExtraError, match=r'pip install "slimbind\[video\]"'):
        views(path)
    assert views(np.zeros((9, 9, 3), np.uint8)).shape == (1, 3, 224, 224), "stills need no PyAV"


@pytest.mark.parametrize(
    ("head", "suffix", "expected"),
    [
        (b"\0\0\0\x20ftypisom", "", True),
        (b"\0\0\0\x20ftypavif", ".mp4", False),
        (b"\0\0\0\x20ftypheic", "", False),
        (b"\x1a\x45\xdf\xa3", ".jpg", True),
        (b"RIFF\0\0\0\0AVI LIST", "", True),
        (b"RIFF\0\0\0\0WEBPVP8 ", ".mp4", False),
        (b"GIF89a", "", False),
        (b"plain", ".mp4", True),
        (b"plain", ".png", False),
    ],
)
def test_videos_are_told_by_their_first_bytes(head, suffix, expected):
    assert is_video(head, suffix) is expected
