"""The shipped samples: every file credited, openly licensed, small, and really decodable."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image

from slimbind.media import preprocessor
from slimbind.media.spec import AudioSpec

SAMPLES = Path(__file__).parents[2] / "samples"
CATALOGUE = SAMPLES.parent / "recipes" / "samples" / "catalogue.toml"
ALLOWED = {
    "BSD-3-Clause", "CC-BY-2.0", "CC-BY-3.0", "CC-BY-4.0", "CC-BY-SA-3.0", "CC-BY-SA-4.0", "CC0-1.0", "Public-Domain",
}  # fmt: skip
ABOUT = {"ATTRIBUTION.md", "attribution.json", "queries.json"}
RECORDS = json.loads((SAMPLES / "attribution.json").read_text(encoding="utf-8"))
QUERIES = json.loads((SAMPLES / "queries.json").read_text(encoding="utf-8"))
FILES = sorted(
    str(path.relative_to(SAMPLES).as_posix())
    for path in SAMPLES.rglob("*")
    if path.is_file() and path.name not in ABOUT and not path.name.startswith(".")
)
PICTURES = [name for name in FILES if name.startswith(("photos/", "illustrations/"))]
SOUNDS = [name for name in FILES if name.startswith("sounds/")]


def test_every_file_is_credited_once_and_every_credit_has_its_file() -> None:
    assert sorted(record["file"] for record in RECORDS["files"]) == FILES
    assert set(FILES) == set(PICTURES) | set(SOUNDS)


def test_there_is_enough_to_search_in_and_it_stays_small() -> None:
    assert len(PICTURES) >= 60
    assert len(SOUNDS) >= 10
    assert {Path(name).suffix for name in SOUNDS} == {".wav", ".flac", ".ogg", ".mp3"}
    assert sum((SAMPLES / name).stat().st_size for name in FILES) <= 6_000_000


@pytest.mark.parametrize("record", RECORDS["files"], ids=lambda record: record["file"])
def test_a_credit_says_who_under_which_licence_and_from_where(record: dict) -> None:
    assert record["license"] in ALLOWED
    assert RECORDS["licenses"][record["license"]].startswith("https://")
    assert record["title"].strip() and record["author"].strip() and record["changes"].strip()
    assert all(record["source"][key] for key in ("registry", "package", "version", "path", "license_evidence"))
    row = f"| {Path(record['file']).name} |"
    (line,) = [text for text in (SAMPLES / "ATTRIBUTION.md").read_text(encoding="utf-8").splitlines() if row in text]
    assert record["author"] in line and record["license"] in line and record["source"]["package"] in line


def test_the_credits_name_the_pinned_packages() -> None:
    tomllib = pytest.importorskip("tomllib")
    catalogue = tomllib.loads(CATALOGUE.read_text(encoding="utf-8"))
    pinned = {(package["name"], package["version"]) for package in catalogue["package"].values()}
    assert {(record["source"]["package"], record["source"]["version"]) for record in RECORDS["files"]} == pinned
    assert all(len(package["sha256"]) == 64 for package in catalogue["package"].values())
    assert sorted(item["file"] for item in catalogue["item"]) == FILES


@pytest.mark.parametrize("name", PICTURES)
def test_a_picture_decodes_is_small_and_carries_no_metadata(name: str) -> None:
    with Image.open(SAMPLES / name) as picture:
        picture.load()
        assert 80 <= min(picture.size) and max(picture.size) <= 512
        assert not picture.getexif()
        pixels = np.asarray(picture.convert("L"), dtype=np.float32)
    assert pixels.std() > 10  # not a blank


@pytest.mark.parametrize("name", SOUNDS)
def test_a_sound_decodes_is_short_and_is_not_silence(name: str) -> None:
    samples, rate = soundfile.read(SAMPLES / name, always_2d=True)
    assert np.isfinite(samples).all()
    assert 0.1 <= len(samples) / rate <= 5.0
    assert np.abs(samples).max() > 0.1


@pytest.mark.parametrize("name", SOUNDS)
def test_a_sound_becomes_clips_of_what_it_really_holds(name: str) -> None:
    # Some of the MP3s do not say how long they are, and the decoder's guess is twice too long.
    samples, rate = soundfile.read(SAMPLES / name, dtype="float32", always_2d=True)
    mel = preprocessor(AudioSpec())
    np.testing.assert_allclose(mel(SAMPLES / name), mel((samples.mean(axis=1), rate)), atol=1e-3)


def test_the_queries_name_files_that_are_there() -> None:
    assert len(QUERIES) >= 30
    for query, answers in QUERIES.items():
        assert query.strip() and answers, query
        assert len(set(answers)) == len(answers), query
        assert set(answers) <= set(FILES), query


def test_the_queries_reach_most_of_the_pictures() -> None:
    asked = {answer for answers in QUERIES.values() for answer in answers}
    assert len(asked & set(PICTURES)) >= 0.8 * len(PICTURES)
