"""Data for calibration and comparison: found where it lies, and told apart by modality."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from slimbind.errors import ArtifactError, UsageError
from slimbind.media import preprocessor, samples
from slimbind.media.spec import AudioSpec, DepthSpec, ImageSpec, ImuSpec, ThermalSpec

SPECS = {"vision": ImageSpec(), "audio": AudioSpec(), "depth": DepthSpec(), "thermal": ThermalSpec(), "imu": ImuSpec()}


@pytest.mark.parametrize("modality", SPECS)
def test_shipped_samples_are_usable_and_differ(modality):
    found = samples.shipped(modality)
    assert len(found.items) >= 14
    prepare = preprocessor(SPECS[modality])
    arrays = [prepare(found.items[number]) for number in (0, 5, -1)]
    assert all(np.isfinite(array).all() and array.std() > 0.01 for array in arrays)
    assert not np.array_equal(arrays[0][:1], arrays[1][:1])
    again = samples.shipped(modality).items[5]
    np.testing.assert_array_equal(prepare(again), arrays[1])


def test_what_is_made_up_says_so_and_what_is_real_does_not():
    for modality in ("vision", "text", "audio", "depth", "thermal", "imu"):
        assert ("made-up" in samples.shipped(modality).source) == (modality in ("depth", "thermal", "imu"))


def test_made_up_scenes_have_the_units_of_their_modality():
    for number in range(0, 96, 8):
        depth, thermal, imu = (samples.shipped(name).items[number] for name in ("depth", "thermal", "imu"))
        assert 0.3 < np.median(depth[depth > 0]) < 12  # metres
        assert 250 < thermal.min() and thermal.max() < 400  # kelvin
        gravity = np.linalg.norm(imu[:, :3].mean(axis=0))
        assert imu.shape == (2000, 6) and 8 < gravity < 12  # m/s2


def test_scenes_are_a_sequence():
    items = samples.shipped("imu").items
    assert len(items[3:9:2]) == 3 and len(list(items)) == len(items)
    np.testing.assert_array_equal(items[-1], items[len(items) - 1])
    with pytest.raises(IndexError):
        items[len(items)]


def test_sentences_are_short_and_long():
    texts = samples.shipped("text").items
    lengths = [len(text.split()) for text in texts]
    assert len(set(texts)) == len(texts) > 150
    assert min(lengths) <= 3 and max(lengths) >= 50


def test_a_folder_is_read_by_type_and_by_the_names_of_subfolders(tmp_path):
    for name in ("a.jpg", "b.png", "deep/c.wav", "depth/d.png", "notes.txt", ".hidden/e.jpg", "x.xyz"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"one\n\n two \n" if name.endswith("txt") else b"")

    def found(modality, **options):
        items = samples.from_path(tmp_path, modality, **({"alone": False} | options)).items
        return [item.relative_to(tmp_path).as_posix() if isinstance(item, Path) else item for item in items]

    assert found("audio") == ["deep/c.wav"]
    assert found("depth") == ["depth/d.png"]
    assert found("text") == ["one", "two"]
    assert found("vision") == ["a.jpg", "b.png"], "what lies under depth/ is depth"
    assert found("thermal") == []
    assert found("thermal", alone=True) == ["a.jpg", "b.png"]
    told = samples.contents(tmp_path).split(", ")
    assert told[0] == "3 vision" and sorted(told[1:]) == ["1 audio", "1 of no known type", "1 text"]


def test_a_file_of_sentences_can_be_named_and_others_not(tmp_path):
    (tmp_path / "t.txt").write_text("a dog\na cat\n" + "x" * 5000, encoding="utf-8")
    assert samples.from_path(tmp_path / "t.txt", "text", alone=True).items == ["a dog", "a cat"]
    assert samples.from_path(tmp_path / "t.txt", "vision", alone=True).items == []
    (tmp_path / "p.png").write_bytes(b"")
    with pytest.raises(UsageError, match=r"p.png is a file"):
        samples.from_path(tmp_path / "p.png", "vision", alone=True)
    with pytest.raises(UsageError, match="there is no folder"):
        samples.from_path(tmp_path / "nowhere", "vision", alone=True)
    (tmp_path / "t.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match="cannot be read"):
        samples.from_path(tmp_path / "t.txt", "text", alone=True)


def test_an_installed_package_has_its_own(tmp_path, monkeypatch):
    package = tmp_path / "site" / "slimbind"
    (package / "media").mkdir(parents=True)
    monkeypatch.setattr(samples, "__file__", str(package / "media" / "samples.py"))
    with pytest.raises(ArtifactError, match="samples that come with slimbind are missing"):
        samples.shipped("vision")
    shutil.copytree(Path(__file__).parents[2] / "samples", package / "samples")
    assert package in samples.shipped("vision").items[0].parents
