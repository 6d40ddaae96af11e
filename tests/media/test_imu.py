"""Inertial recordings: six channels, 200 Hz, ten seconds, whatever the file looks like."""

from __future__ import annotations

import io

import numpy as np
import pytest

from slimbind.errors import LimitError, MediaError
from slimbind.media import Limits, preprocessor
from slimbind.media.spec import ImuSpec

NAMES = "ax,ay,az,gx,gy,gz"


@pytest.fixture(scope="module")
def imu():
    return preprocessor(ImuSpec())


def motion(seconds: float = 10.0, rate: float = 200.0, start: float = 0.0) -> np.ndarray:
    """Readings ``[n, 6]``: slow waves, one frequency per channel, gravity on the third."""
    return at(start + np.arange(round(seconds * rate)) / rate)


def at(times: np.ndarray) -> np.ndarray:
    waves = [np.sin(2 * np.pi * (0.3 + 0.2 * channel) * times + channel) for channel in range(6)]
    return np.stack(waves, axis=1) + [0, 0, 9.81, 0, 0, 0]


def test_ten_seconds_at_200_hz_pass_unchanged(imu):
    for way in (motion(), motion().T, (motion(), 200), motion().astype(np.float32)):
        out = imu(way)
        assert out.shape == (1, 6, 2000) and out.dtype == np.float32
        np.testing.assert_allclose(out[0], motion().T, atol=1e-5)


@pytest.mark.parametrize("rate", [50, 100, 199.5, 400, 1000])
def test_other_rates_are_resampled(imu, rate):
    out = imu((motion(10, rate), rate))
    np.testing.assert_allclose(out[0, :, 40:-40], motion().T[:, 40:-40], atol=0.02)
    np.testing.assert_allclose(out[0], motion().T, atol=0.2)


def test_nothing_folds_back(imu):
    """250 Hz would become 50 Hz, if every fifth reading of 1000 Hz were taken."""
    fast = np.repeat(np.sin(2 * np.pi * 250 * np.arange(10_000) / 1000)[:, None], 6, axis=1)
    assert np.abs(imu((fast, 1000))[0, :, 100:-100]).max() < 1e-3


def test_a_long_recording_keeps_its_middle(imu):
    np.testing.assert_allclose(imu(motion(30))[0], motion(10, start=10).T, atol=1e-5)
    out = imu((motion(30, 100), 100))[0, :, 100:-100]
    np.testing.assert_allclose(out, motion(10, start=10).T[:, 100:-100], atol=0.02)


def test_a_short_recording_holds_its_last_reading(imu):
    out = imu(motion(4))[0]
    np.testing.assert_allclose(out[:, :800], motion(4).T, atol=1e-5)
    np.testing.assert_array_equal(out[:, 800:], np.repeat(out[:, 799:800], 1200, axis=1))


def test_less_than_a_second_is_refused(imu):
    imu(motion(1))
    with pytest.raises(MediaError, match=r"is 0\.99 s long .*at least 1 s"):
        imu(motion(0.99))


@pytest.mark.parametrize("unit", [("t", 1), ("time_s", 1), ("stamp_ms", 1e3), ("t_us", 1e6), ("epoch_ns", 1e9)])
def test_time_stamps_in_front(tmp_path, imu, unit):
    name, scale = unit
    rng = np.random.default_rng(0)
    times = np.arange(1100) / 100 + rng.uniform(-0.002, 0.002, 1100)
    table = np.column_stack([(times + 1000) * scale, at(times)])
    path = tmp_path / "a.csv"
    np.savetxt(path, table, delimiter=",", header=f"{name},{NAMES}", comments="", fmt="%.9g" if scale == 1 else "%.3f")
    out = imu(path)[0, :, 200:-200]
    expected = at(0.5 + times[0] + np.arange(2000) / 200).T[:, 200:-200]
    assert np.abs(out - expected).max() < 0.08


def test_time_stamps_without_a_header_and_in_arrays(tmp_path, imu):
    table = np.column_stack([np.arange(2000) / 200, motion()])
    np.save(tmp_path / "a.npy", table)
    np.savetxt(tmp_path / "a.csv", table)
    for way in (tmp_path / "a.npy", tmp_path / "a.csv", table):
        np.testing.assert_allclose(imu(way)[0], motion().T, atol=1e-3)


@pytest.mark.parametrize("mark", [",", ";", "\t", " ", ", "])
@pytest.mark.parametrize("header", [NAMES, "", '"acc x"'])
def test_csv_in_many_shapes(tmp_path, imu, mark, header):
    names = header.replace(",", mark)
    if header.startswith('"'):
        names = mark.join(f'"{name}"' for name in NAMES.split(","))
    path = tmp_path / "a.csv"
    body = "\r\n".join(mark.join(f"{value:.7g}" for value in row) for row in motion(2))
    path.write_text("\ufeff" + (names + "\r\n" if names else "") + body + "\r\n\r\n", encoding="utf-8", newline="")
    for way in (path, path.read_bytes(), io.BytesIO(path.read_bytes())):
        np.testing.assert_allclose(imu(way), imu(motion(2)), atol=1e-5)
    np.testing.assert_allclose(imu((path, 100)), imu((motion(2), 100)), atol=1e-5)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int16])
def test_npy(tmp_path, imu, dtype):
    path = tmp_path / "a.npy"
    np.save(path, (100 * motion()).astype(dtype).T)
    np.testing.assert_allclose(imu(path)[0], 100 * motion().T, atol=1)


@pytest.mark.parametrize("shape", [(2000, 3), (3, 2000), (2000, 9), (2000,), (2, 2000, 6), (0, 6)])
def test_another_number_of_channels(tmp_path, imu, shape):
    path = tmp_path / "a.npy"
    np.save(path, np.ones(shape))
    for item in (np.ones(shape), path):
        with pytest.raises(MediaError, match="6 are needed|shape|empty") as caught:
            imu(item)
    if shape == (2000, 3):
        np.savetxt(tmp_path / "a.csv", np.ones(shape), delimiter=",", header="ax,ay,az", comments="")
        with pytest.raises(MediaError, match="has 3 columns; 6 are needed") as caught:
            imu(tmp_path / "a.csv")
        assert "gyroscope" in caught.value.hint


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        (NAMES + "\n", "header but no readings"),
        (NAMES + "\n1,2,3,4,5,six\n", "cannot read the table"),
        (NAMES + "\n1,2,3,4,5\n", "columns"),
        ("1,2,3,4,5,6\n1,2,3\n", "cannot read the table"),
        (NAMES + "\n" + "1,2,3,nan,5,6\n" * 300, "NaN or infinite"),
        ("t," + NAMES + "\n1,1,2,3,4,5,6\n", "single reading"),
        ("t," + NAMES + "\n2,1,2,3,4,5,6\n1,1,2,3,4,5,6\n", "do not rise"),
        ("t," + NAMES + "\n" + "".join(f"{i * 10},1,2,3,4,5,6\n" for i in range(300)), "readings per second"),
        ("", "0 bytes"),
        ("a\0b", "neither .csv nor .npy"),
        ("\n\n\n", "columns"),
        ("é" * 9, "has 1 columns"),
    ],
)
def test_tables_that_are_no_recording(tmp_path, imu, text, cause):
    path = tmp_path / "a.csv"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(MediaError, match=cause) as caught:
        imu(path)
    assert str(path) in str(caught.value) and caught.value.hint


@pytest.mark.parametrize(
    "item", [(motion(), "fast"), (motion(),), (motion(), 0), (motion(), np.nan), motion() * 1e300, 7, None]
)
def test_other_objects(imu, item):
    with pytest.raises(MediaError):
        imu(item)


def test_limits(tmp_path):
    imu = preprocessor(ImuSpec(), limits=Limits(max_seconds=5))
    with pytest.raises(LimitError, match=r"is 10\.0 s long; the limit is 5 s"):
        imu(motion())
    path = tmp_path / "a.csv"
    np.savetxt(path, motion())
    with pytest.raises(LimitError, match="max_bytes"):
        preprocessor(ImuSpec(), limits=Limits(max_bytes=1000))(path)
