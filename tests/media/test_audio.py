"""Sound: equal to the reference, the same in every format and rate, and only the seconds needed are read."""

from __future__ import annotations

import io
import wave
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr

from slimbind.errors import LimitError, MediaError
from slimbind.media import Limits, audio, preprocessor
from slimbind.media.audio import clip_ranges, clip_spans
from slimbind.media.mel import MelBank
from slimbind.media.spec import AudioSpec

RATE = 16000


@pytest.fixture(scope="module")
def mel():
    return preprocessor(AudioSpec())


def tone(seconds: float, rate: int = RATE, channels: int = 1) -> np.ndarray:
    """A rising tone with a few partials and a little noise; every moment sounds different."""
    t = np.arange(int(seconds * rate)) / rate
    phase = 2 * np.pi * (200 * t + 900 * t**2 / max(seconds, 1))
    x = sum(np.sin(k * phase) / (3 * k) for k in (1, 2, 3))
    x = 0.5 * x + 0.01 * np.random.default_rng(0).standard_normal(len(t))
    return np.stack([x] * channels, axis=1).astype(np.float32) if channels > 1 else x.astype(np.float32)


@pytest.mark.parametrize("index", range(4))
def test_equals_the_reference(golden, mel, index):
    expected = golden[f"audio{index}_mel"].astype(np.float32)
    out = mel.clips((golden[f"audio{index}_pcm16"], RATE))
    assert out.dtype == np.float32
    np.testing.assert_allclose(out, expected, rtol=0, atol=1e-3)


@pytest.mark.parametrize("index", range(4))
def test_clip_times_are_the_references(golden, golden_meta, index):
    duration = len(golden[f"audio{index}_pcm16"]) / RATE
    assert clip_spans(duration, 3, 2.0) == [tuple(span) for span in golden_meta[f"audio{index}"]]
    ranges = clip_ranges(duration, AudioSpec())
    assert ranges == [(int(a * RATE), int(b * RATE)) for a, b in golden_meta[f"audio{index}"]]


def test_equal_clips_are_given_once(golden, mel):
    short = (golden["audio1_pcm16"], RATE)
    assert mel(short).shape == (1, 1, 128, 204)
    clips = mel.clips(short)
    assert clips.shape == (3, 1, 128, 204)
    for clip in clips:
        np.testing.assert_array_equal(clip, mel(short)[0])
    assert mel((tone(2.01), RATE)).shape == (3, 1, 128, 204)


def test_short_sound_is_padded_with_zero_before_normalising(mel):
    spec = AudioSpec()
    out = mel((tone(1.0), RATE))
    frames = 1 + (RATE - 400) // 160
    np.testing.assert_allclose(out[..., frames:], -spec.mean / spec.std, rtol=1e-6)
    assert out[..., :frames].std() > 0.1


def test_bands_without_a_bin_of_their_own_stay_empty(mel):
    noise = np.random.default_rng(0).uniform(-1, 1, 32000).astype(np.float32)
    spec = AudioSpec()
    floor = (np.log(np.finfo(np.float32).eps) - spec.mean) / spec.std
    empty = np.isclose(mel((noise, RATE))[0, 0, :, :198], floor, atol=1e-6).all(axis=1)
    assert 0 < empty.sum() < 20 and empty[:20].sum() == empty.sum()


@pytest.mark.parametrize(
    ("name", "subtype", "tolerance"),
    [
        ("a.wav", "FLOAT", 1e-6),
        ("a.wav", "PCM_16", 0.01),
        ("a.wav", "PCM_24", 1e-3),
        ("a.flac", "PCM_24", 1e-3),
        ("a.aiff", "PCM_24", 1e-3),
        ("a.ogg", "VORBIS", 0.3),
        ("a.mp3", "MPEG_LAYER_III", 0.3),
    ],
)
def test_file_types(tmp_path, mel, name, subtype, tolerance):
    x = tone(5.0)
    path = tmp_path / name
    soundfile.write(path, x, RATE, subtype=subtype)
    difference = np.abs(mel(path) - mel((x, RATE)))
    assert np.median(difference) <= tolerance
    assert difference[:, :, 40:80].mean() <= max(1e-5, tolerance)


def test_every_way_in_gives_the_same(tmp_path, mel):
    path = tmp_path / "a.flac"
    soundfile.write(path, tone(3.0), RATE)
    data = path.read_bytes()
    expected = mel(path)
    with path.open("rb") as file:
        for way in (str(path), data, io.BytesIO(data), file):
            np.testing.assert_array_equal(mel(way), expected)
        assert not file.closed


@pytest.mark.parametrize("rate", [8000, 11025, 22050, 32000, 44100, 48000, 96000, 44099])
def test_resampling_a_piece_equals_resampling_the_whole(tmp_path, mel, rate):
    x = tone(9.7, rate)
    path = tmp_path / "a.wav"
    soundfile.write(path, x, rate, subtype="FLOAT")
    whole = soxr.resample(x, rate, RATE, quality="HQ")
    ranges = clip_ranges(len(x) / rate, AudioSpec())
    for (start, stop), got in zip(ranges, _waves(path, rate), strict=True):
        expected = whole[start:stop]
        assert abs(len(got) - len(expected)) <= 1
        np.testing.assert_allclose(got[: len(expected)], expected[: len(got)], atol=2e-5)


def _waves(path: Path, rate: int) -> list[np.ndarray]:
    with soundfile.SoundFile(path) as sound:
        return [
            audio._piece("a", sound.frames, rate, lambda a, b: audio._read_mono(sound, a, b), start, stop, RATE)
            for start, stop in clip_ranges(sound.frames / rate, AudioSpec())
        ]


def test_rates_agree(mel):
    """The same sound at 16 and 48 kHz looks alike below 7 kHz, where there is any."""
    low = mel((tone(4.0, 16000), 16000))
    high = mel((tone(4.0, 48000), 48000))
    loud = (low > 0.5)[:, :, :110]
    assert loud.mean() > 0.05
    assert np.abs(low - high)[:, :, :110][loud].mean() < 0.03


def test_channels_are_averaged(mel):
    x = tone(2.0)
    np.testing.assert_allclose(mel((np.stack([x, 0 * x], 1), RATE)), mel((x / 2, RATE)), atol=1e-5)
    np.testing.assert_array_equal(mel((np.stack([x, x], 0), RATE)), mel((np.stack([x, x], 1), RATE)))


@pytest.mark.parametrize(
    ("dtype", "scale", "middle"), [(np.int16, 32768, 0), (np.int32, 2**31, 0), (np.uint8, 128, 128), (np.int8, 128, 0)]
)
def test_integers_are_at_full_scale(mel, dtype, scale, middle):
    x = np.round(np.clip(tone(2.0), -0.99, 0.99) * 127) / 128
    integers = (x * scale + middle).astype(dtype)
    np.testing.assert_allclose(mel((integers, RATE)), mel((x, RATE)), atol=1e-4)


def test_only_the_clips_are_read_even_of_ten_hours(tmp_path, mel, monkeypatch):
    path = tmp_path / "long.wav"
    samples = 10 * 3600 * 8000
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(1)
        file.setframerate(8000)
        file.setnframes(samples)
        file.writeframes(b"")
    header = path.read_bytes()[:36] + b"data" + samples.to_bytes(4, "little")
    with path.open("wb") as file:
        file.write(header[:4] + (36 + samples).to_bytes(4, "little") + header[8:])
        file.truncate(44 + samples)  # sparse: takes no disk
    read = []
    original = audio._read_mono
    monkeypatch.setattr(audio, "_read_mono", lambda *args: read.append(args[2] - args[1]) or original(*args))
    assert mel(path).shape == (3, 1, 128, 204)
    assert sum(read) < 3 * 3 * 8000


def test_too_long_is_known_from_the_header(tmp_path, monkeypatch):
    path = tmp_path / "a.wav"
    soundfile.write(path, tone(3.0), RATE)
    monkeypatch.setattr(audio, "_read_mono", lambda *_: pytest.fail("decoded"))
    with pytest.raises(LimitError, match=r"is 3\.0 s long; the limit is 2\.5 s"):
        preprocessor(AudioSpec(), limits=Limits(max_seconds=2.5))(path)
    with pytest.raises(LimitError, match="max_bytes"):
        preprocessor(AudioSpec(), limits=Limits(max_bytes=1000))(path)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_not_a_number_is_refused(tmp_path, mel, bad):
    x = tone(2.0)
    x[1000] = bad
    path = tmp_path / "nan.wav"
    soundfile.write(path, x, RATE, subtype="FLOAT")
    for item in (path, (x, RATE)):
        with pytest.raises(MediaError, match="NaN or infinite"):
            mel(item)
    path48 = tmp_path / "nan48.wav"
    soundfile.write(path48, x, 48000, subtype="FLOAT")
    with pytest.raises(MediaError, match="NaN or infinite"):
        mel(path48)


def test_samples_out_of_this_world_are_refused(mel):
    assert np.isfinite(mel((tone(1.0) * 32768, RATE))).all()
    with pytest.raises(MediaError, match=r"a sample of 1e\+30 .*from -1 to 1"):
        mel((np.array([0.0, 1e30] * 500, np.float32), RATE))


def test_no_sound_and_almost_none(tmp_path, mel):
    path = tmp_path / "empty.wav"
    soundfile.write(path, np.zeros(0, np.float32), RATE)
    with pytest.raises(MediaError, match="0 samples"):
        mel(path)
    with pytest.raises(MediaError, match="shorter than one analysis window"):
        mel((tone(0.02), RATE))
    assert mel((tone(0.025), RATE)).shape == (1, 1, 128, 204)


def test_silence_is_sound(mel):
    assert np.isfinite(mel((np.zeros(RATE), RATE))).all()


def test_an_mp3_cut_in_half_is_an_error(tmp_path, mel):
    path = tmp_path / "a.mp3"
    soundfile.write(path, tone(30.0), RATE)
    data = path.read_bytes()
    with pytest.raises(MediaError, match="cut|damaged"):
        mel(data[: len(data) // 3])


def test_an_mp3_that_does_not_say_its_length_is_as_long_as_it_is(tmp_path, mel):
    # Without the Xing frame the decoder guesses the length from the first frame, here one of silence: twice too much.
    path = tmp_path / "a.mp3"
    soundfile.write(path, np.concatenate([np.zeros(RATE), tone(9.0)]), RATE, bitrate_mode="VARIABLE")
    data = path.read_bytes()
    start = next(place for place in range(100, len(data)) if data[place] == 0xFF and data[place + 1] >= 0xF2)
    assert b"Xing" in data[:start] or b"Info" in data[:start]
    path.write_bytes(data[start:])
    whole, rate = soundfile.read(path, dtype="float32")
    with soundfile.SoundFile(path) as sound:
        assert sound.frames > 1.2 * len(whole)
    np.testing.assert_allclose(mel(path), mel((whole, rate)), atol=1e-3)


@pytest.mark.parametrize(
    "item",
    [np.zeros(100), (np.zeros(100),), (np.zeros(100), "16000"), (np.zeros(100), True), (np.zeros((9, 9, 9)), RATE),
     (np.zeros((99, 99)), RATE), (np.zeros(100, complex), RATE), (np.zeros(0), RATE), (np.zeros(9999), 10),
     (np.zeros(9999), 16000.5), (np.zeros(9999), np.nan), (np.zeros(9999), np.inf),
     (np.full(9999, 1e300), RATE), ([[1, 2], [3]], RATE), 5, None],
)  # fmt: skip
def test_other_objects(mel, item):
    with pytest.raises(MediaError) as caught:
        mel(item)
    assert caught.value.hint


def test_a_text_named_wav(tmp_path, mel):
    path = tmp_path / "fake.wav"
    path.write_text("this is no sound")
    with pytest.raises(MediaError, match="cannot decode the sound") as caught:
        mel(path)
    assert str(path) in str(caught.value) and "FLAC" in caught.value.hint


def test_the_mel_bank_by_the_definition():
    """One window, computed with plain loops from Kaldi's definition."""
    x = np.random.default_rng(3).uniform(-0.5, 0.5, 400)
    frame = x - x.mean()
    frame = np.array([frame[i] - 0.97 * frame[max(i - 1, 0)] for i in range(400)])
    frame *= [0.5 - 0.5 * np.cos(2 * np.pi * i / 399) for i in range(400)]
    power = np.abs(np.fft.rfft(frame, 512)) ** 2
    edges = np.linspace(1127 * np.log(1 + 20 / 700), 1127 * np.log(1 + 8000 / 700), 26)
    expected = []
    for left, centre, right in zip(edges, edges[1:], edges[2:], strict=False):
        energy = 0.0
        for k in range(256):
            m = 1127 * np.log(1 + k * RATE / 512 / 700)
            if left < m < right:
                energy += power[k] * ((m - left) / (centre - left) if m <= centre else (right - m) / (right - centre))
        expected.append(np.log(max(energy, np.finfo(np.float32).eps)))
    got = MelBank(RATE, 24)(x.astype(np.float32))
    assert got.shape == (24, 1)
    np.testing.assert_allclose(got[:, 0], expected, atol=1e-3)
