"""Two artifacts of one model are compared; those of different ones are refused before anything is opened."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from PIL import Image

import slimbind
from slimbind.artifact import Artifact
from slimbind.errors import ArtifactCorruptError, EngineError, UsageError
from slimbind.evaluate import compare as module
from slimbind.evaluate.compare import compare
from slimbind.runtime import engine


def run(reference, candidate, **options):
    options = {"timed": False, "threads": 1} | options
    return {row.modality: row for row in compare(reference.folder, candidate.folder, **options)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Twelve pictures, one of them broken, and two depth maps that only their folder tells from pictures."""
    place = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    (place / "photos").mkdir()
    for number in range(12):
        pixels = rng.integers(0, 255, (6, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((80, 60)).save(place / "photos" / f"{number:02}.png")
    (place / "photos" / "05.png").write_bytes(b"\x89PNG broken")
    return place


def test_a_model_is_faithful_to_itself(reference):
    found = run(reference, reference, samples=4)
    assert list(found) == ["vision", "text", "depth"]
    for row in found.values():
        told = row.fidelity
        assert (told.cosine_min, told.centred_min) == (pytest.approx(1), pytest.approx(1))
        assert row.size_ratio == 1 and told.reference_bytes == row.reference.bytes
        assert row.pace is None and told.time_ratio is None and row.notes == ()


def test_the_cosines_are_those_of_the_embeddings_the_models_give(reference, candidate, folder):
    row = run(reference, candidate, data=folder, modalities=["vision"])["vision"]
    paths = sorted(path for path in (folder / "photos").iterdir() if path.name != "05.png")
    with slimbind.load(reference.folder, threads=1) as first, slimbind.load(candidate.folder, threads=1) as second:
        left, right = first.embed(paths, "vision"), second.embed(paths, "vision")
    plain = (left * right).sum(1)
    middle = left.mean(0)
    x, y = left - middle, right - middle
    centred = (x * y).sum(1) / np.linalg.norm(x, axis=1) / np.linalg.norm(y, axis=1)
    told = row.fidelity
    assert told.samples == len(paths) == 11
    assert told.cosine_mean == pytest.approx(plain.mean(), abs=1e-6)
    assert told.cosine_min == pytest.approx(plain.min(), abs=1e-6)
    assert told.centred_mean == pytest.approx(centred.mean(), abs=1e-5)
    assert told.centred_min == pytest.approx(centred.min(), abs=1e-5)
    assert told.cosine_min < 1 - 1e-6


def test_a_file_that_cannot_be_read_is_left_out_and_told(reference, candidate, folder):
    row = run(reference, candidate, data=folder, modalities=["vision"])["vision"]
    assert [name.endswith("05.png") for name, _ in row.failed] == [True]


def test_a_larger_error_is_a_lower_cosine(reference, write_model, tmp_path):
    found = [
        run(reference, write_model(tmp_path / str(noise), noise=noise), modalities=["depth"], samples=6)["depth"]
        for noise in (0.01, 0.1, 1.0)
    ]
    cosines = [row.fidelity.cosine_mean for row in found]
    assert cosines == sorted(cosines, reverse=True) and cosines[-1] < 0.95
    assert all(row.fidelity.centred_mean < row.fidelity.cosine_mean for row in found)


def test_timing_tells_a_ratio(reference, candidate):
    row = next(compare(reference.folder, candidate.folder, modalities=["text"], samples=3, threads=1))
    assert row.pace is not None and row.pace.rounds >= 3
    assert row.fidelity.time_ratio == row.pace.ratio > 0


def test_the_samples_are_spread_and_counted(reference, candidate):
    told = run(reference, candidate, modalities=["text"], samples=5)["text"].fidelity
    assert told.samples == 5
    assert told.data.startswith("the sentences that come with slimbind (5 of ")


def test_arrays_are_compared_as_they_are(reference, candidate, tmp_path):
    rng = np.random.default_rng(3)
    np.savez(tmp_path / "inputs.npz", vision=rng.normal(size=(5, 3, 224, 224)).astype(np.float32), text=[[2, 3, 4, 0]])
    found = run(reference, candidate, data=tmp_path / "inputs.npz")
    assert {name: row.fidelity.samples for name, row in found.items()} == {"vision": 5, "text": 1}
    assert found["text"].fidelity.centred_mean is None


def test_data_says_which_modalities_are_compared(reference, candidate, folder):
    assert list(run(reference, candidate, data=folder)) == ["vision"]
    assert list(run(reference, candidate, data=folder, modalities=["vision"])) == ["vision"]


def test_data_without_the_modality_says_what_it_has(reference, candidate, folder):
    with pytest.raises(UsageError, match=r"holds no text; it holds 12 vision"):
        run(reference, candidate, data=folder, modalities=["text"])
    (folder.parent / "odd").mkdir(exist_ok=True)
    (folder.parent / "odd" / "a.xyz").write_text("?")
    with pytest.raises(UsageError, match=r"holds nothing of vision, text, depth; it holds 1 of no known type"):
        run(reference, candidate, data=folder.parent / "odd")


def test_data_in_which_nothing_can_be_read_is_refused(reference, candidate, tmp_path):
    (tmp_path / "a.png").write_bytes(b"no picture")
    with pytest.raises(UsageError, match=r"none of 1 vision items can be read; first: .*a.png"):
        run(reference, candidate, data=tmp_path)


def test_data_that_is_not_there(reference, candidate, tmp_path):
    with pytest.raises(UsageError, match="no such file or folder"):
        run(reference, candidate, data=tmp_path / "nothing")


def test_models_that_do_not_belong_together_are_refused(reference, write_model, tmp_path):
    other = {
        "not the same model: linear .* and other": write_model(tmp_path / "a", name="other"),
        "not the same number of dimensions: 16 .* and 8": write_model(tmp_path / "b", dim=8),
        "vision towers want their input prepared differently: resize is 224 and 256": write_model(
            tmp_path / "c", size=256
        ),
        "text towers have different tokenizers": write_model(
            tmp_path / "d", words=["[PAD]", "[UNK]", *"abcdef"], modalities=("text",)
        ),
    }
    for message, artifact in other.items():
        with pytest.raises(UsageError, match=message):
            compare(reference.folder, artifact.folder)


def test_only_what_both_have_is_compared(reference, write_model, tmp_path):
    depth = write_model(tmp_path / "depth", modalities=("depth",))
    text = write_model(tmp_path / "text", modalities=("text",))
    assert list(run(reference, depth, samples=2)) == ["depth"]
    with pytest.raises(UsageError, match="no modality in common: the reference has text, the candidate depth"):
        compare(text.folder, depth.folder)
    with pytest.raises(UsageError, match="unknown modality of linear 'vision'; allowed: depth"):
        compare(reference.folder, depth.folder, modalities=["vision"])
    with pytest.raises(UsageError, match="unknown modality 'smell'"):
        compare(reference.folder, depth.folder, modalities=["smell"])
    with pytest.raises(UsageError, match="no modality was asked for"):
        compare(reference.folder, depth.folder, modalities=[])


@pytest.mark.parametrize("samples", [0, -1, True, 2.5])
def test_a_number_of_samples_that_is_none(reference, samples):
    with pytest.raises(UsageError, match="samples is"):
        compare(reference.folder, reference.folder, samples=samples)


def test_a_damaged_tower_is_not_compared(reference, tmp_path):
    folder = shutil.copytree(reference.folder, tmp_path / "copy")
    (folder / "depth" / "tower.bin").write_bytes(b"")
    with pytest.raises(ArtifactCorruptError):
        run(reference, Artifact.open(folder), modalities=["depth"], samples=2)


def test_what_weakens_the_comparison_is_said(write_model, tmp_path, candidate):
    odd = write_model(tmp_path / "odd", weights="1" * 64, scheme="bf16")
    notes = run(odd, candidate, modalities=["depth"], samples=2)["depth"].notes
    assert notes == (
        "its record names other fp32 weights than the reference's",
        "the reference itself is bf16, not fp32",
    )


def test_towers_are_closed_even_when_one_fails(reference, candidate, monkeypatch):
    """The reference must not stay in memory because the candidate could not be run."""
    closed, real = [], engine.engine("openvino")

    class Watched:
        def open(self, folder, entry, options, **more):
            session = real.open(folder, entry, options, **more)

            class Session:
                rank = session.rank

                def run(self, inputs):
                    if entry.scheme != "f32":
                        raise EngineError("out of memory")
                    return session.run(inputs)

                def settle(self):
                    session.settle()

                def close(self):
                    closed.append(entry.scheme)
                    session.close()

            return Session()

    monkeypatch.setattr(module, "engine", lambda name: Watched())
    with pytest.raises(EngineError, match="out of memory"):
        run(reference, candidate, modalities=["depth"], samples=2)
    assert sorted(closed) == ["f32", "int8-dynamic"]


def test_a_decoders_surprise_is_one_bad_file(reference, candidate, folder, monkeypatch):
    from slimbind.evaluate import inputs

    real = inputs.preprocessor

    def surprising(*args, **options):
        prepare = real(*args, **options)

        def run(item):
            if item.name == "03.png":
                raise ZeroDivisionError("width 0")
            return prepare(item)

        return run

    monkeypatch.setattr(inputs, "preprocessor", surprising)
    row = run(reference, candidate, data=folder, modalities=["vision"])["vision"]
    assert row.fidelity.samples == 10
    assert any(name.endswith("03.png") and "ZeroDivisionError: width 0" in reason for name, reason in row.failed)
