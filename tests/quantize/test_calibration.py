"""Calibration data: real files, arrays, or what is shipped; held out by item; wrong data is told before any work."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from slimbind.artifact import Artifact
from slimbind.errors import UsageError
from slimbind.quantize.calibration import Calibration, _places, gather

SIX = ("vision", "text", "audio", "depth", "thermal", "imu")


@pytest.fixture(scope="session")
def tiny(split_folder):
    return Artifact.open(split_folder)


def pictures(folder, count, *, size=(40, 30)):
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        pixels = np.random.default_rng(number).integers(0, 255, (*size[::-1], 3)).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:03}.png")
    return folder


def test_without_data_the_shipped_samples_are_used_and_named(tiny):
    found = gather(tiny, SIX, samples=4)
    assert tuple(found) == SIX
    for modality, data in found.items():
        batches = list(data.batches(3))
        assert sum(map(len, batches)) == len(data) and all(0 < len(batch) <= 3 for batch in batches)
        assert all(batch.dtype == (torch.int32 if modality == "text" else torch.float32) for batch in batches)
        assert "4 items, 4 held out" in data.source
    assert found["vision"].source.startswith("the photographs") and found["imu"].source.startswith("made-up")
    assert next(found["vision"].batches()).ndim == 5, "this tower knows time"
    assert found["imu"].digest != found["depth"].digest
    assert gather(tiny, ["imu"], samples=4)["imu"].digest == found["imu"].digest
    assert gather(tiny, ["imu"], samples=5)["imu"].digest != found["imu"].digest


def test_held_out_items_are_others(tiny, tmp_path):
    data = gather(tiny, ["vision"], [str(pictures(tmp_path, 12))])["vision"]
    assert data.source == f"files of {tmp_path.name}: 8 items, 4 held out"
    learned = {batch.numpy().tobytes() for batch in data.batches(1)}
    judged = {batch.numpy().tobytes() for batch in data.held_out(1)}
    assert len(learned) == 8 and len(judged) == 4 and not learned & judged


def test_one_item_is_both_and_says_so(tiny, tmp_path):
    data = gather(tiny, ["vision"], [str(pictures(tmp_path, 1))])["vision"]
    assert "a single item, by which it is judged too" in data.source
    assert torch.equal(next(data.batches()), next(data.held_out()))


def test_bad_files_are_skipped_with_their_reason_unless_all_are(tiny, tmp_path):
    folder = pictures(tmp_path / "some", 3)
    (folder / "bad.png").write_bytes(b"no picture")
    data = gather(tiny, ["vision"], [str(folder)])["vision"]
    (name,) = data.skipped
    assert name.endswith("bad.png") and data.skipped[name]
    (tmp_path / "all").mkdir()
    (tmp_path / "all" / "bad.png").write_bytes(b"no picture")
    with pytest.raises(UsageError, match=r"none of 1 vision items can be read; first: .*bad.png"):
        gather(tiny, ["vision"], [str(tmp_path / "all")])


def test_a_folder_without_the_modality_is_refused(tiny, tmp_path):
    folder = pictures(tmp_path / "photos", 2)
    with pytest.raises(UsageError, match=r"photos holds nothing of audio; it holds 2 vision"):
        gather(tiny, ["audio"], [str(folder)])
    with pytest.raises(UsageError, match="holds no audio; it holds 2 vision"):
        gather(tiny, ["vision", "audio"], [f"audio={folder}"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="it holds nothing"):
        gather(tiny, SIX, [str(tmp_path / "empty")])


def test_one_folder_serves_what_it_can_and_others_get_the_shipped_samples(tiny, tmp_path):
    folder = pictures(tmp_path / "photos", 3)
    found = gather(tiny, ["vision", "imu"], [str(folder)], samples=2)
    assert "photos" in found["vision"].source and "made-up" in found["imu"].source
    with pytest.raises(UsageError, match="none of 3 depth items can be read; first: .* has colours"):
        gather(tiny, ["vision", "depth"], [f"depth={folder}"])


def test_arrays_are_checked(tiny, tmp_path):
    path = tmp_path / "data.npz"
    ids = np.ones((5, 6), np.int64) * 7
    ids[:, 4:] = 0
    motion = np.random.default_rng(0).normal(size=(6, 6, 2000)).astype(np.float32)
    np.savez(path, text=ids, imu=motion)
    found = gather(tiny, ["text", "imu"], [str(path)])
    assert "arrays of data.npz" in found["imu"].source
    assert next(found["text"].batches()).shape[1] == 4, "what is padding is no token"
    shown = torch.cat([*found["imu"].batches(), *found["imu"].held_out()]).numpy()
    assert {row.tobytes() for row in shown} == {row.tobytes() for row in motion}
    np.savez(path, imu=motion[:, :5])
    with pytest.raises(UsageError, match=r"imu is float32 \[6, 5, 2000\]; wanted: floats \[n, 6, 2000\]"):
        gather(tiny, ["imu"], [str(path)])


def test_a_file_of_sentences(tiny, tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_text("a dog\na cat\na horse on a hill\n", encoding="utf-8")
    data = gather(tiny, ["text"], [f"text={path}"])["text"]
    assert len(data) == 2 and "prompts.txt" in data.source


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["nowhere"], "nowhere: no such file or folder"),
        (["smell=nowhere"], "unknown modality 'smell'"),
        (["audio=nowhere"], "unknown modality of this job 'audio'; allowed: imu, vision"),
        (["imu=.", "imu=."], "imu is given twice"),
        (["imu=.", "vision=.", "."], r"\. is given for all modalities, but each has data of its own"),
    ],
)
def test_senseless_wishes_are_told(tiny, given, message):
    with pytest.raises(UsageError, match=message):
        gather(tiny, ["vision", "imu"], given)


@given(st.integers(0, 500), st.integers(1, 200))
def test_items_are_taken_evenly(count, most):
    places = _places(count, most)
    assert len(places) == min(count, most) == len(set(places))
    assert places == sorted(places) and all(0 <= place < count for place in places)
    steps = np.diff(places)
    assert not len(steps) or steps.max() - steps.min() <= 1


def test_the_digest_tells_calibrated_from_held_out():
    a, b = np.zeros((1, 3), np.float32), np.ones((1, 3), np.float32)
    digests = {Calibration([a, b], [a], "x").digest, Calibration([a], [b, a], "x").digest}
    digests |= {Calibration([a, b], [b], "x").digest, Calibration([b, a], [a], "x").digest}
    assert len(digests) == 4


def test_a_folder_that_would_not_be_used_is_refused(tiny, tmp_path):
    given = [str(pictures(tmp_path / name, 3)) for name in ("a", "b")]
    with pytest.raises(UsageError, match=r"b would not be used: .*a is there for vision already"):
        gather(tiny, ["vision", "imu"], given)
