"""From pairs to a cut-off: ``slimbind eval calibrate``, and ``slimbind search --min-score``."""

from __future__ import annotations

import csv
import itertools
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image

from slimbind.artifact import Artifact
from slimbind.cli.scores import say_dropped
from slimbind.media import samples
from slimbind.scores import Curve, Scores


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Mixtures of colours with the words for them, and one row that is no picture."""
    folder = tmp_path_factory.mktemp("pairs")
    rows = []
    for number, mixture in enumerate(itertools.product(range(4), repeat=3)):
        if any(mixture):
            Image.new("RGB", (8, 8), tuple(80 * part for part in mixture)).save(folder / f"{number}.png")
            words = [word for word, times in zip(("red", "green", "blue"), mixture, strict=True) for _ in range(times)]
            rows.append((f"{number}.png", " ".join(words)))
    with open(folder / "good.csv", "w", newline="") as file:
        csv.writer(file).writerows([("image", "caption"), *rows])
    (folder / "bad.png").write_bytes(b"no picture")
    with open(folder / "mixed.csv", "w", newline="") as file:
        csv.writer(file).writerows([("image", "caption"), *rows, ("bad.png", "red")])
    with open(folder / "few.csv", "w", newline="") as file:
        csv.writer(file).writerows([("image", "caption"), *rows[:12]])
    return folder


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for name, colour in (("red", (220, 10, 10)), ("green", (10, 200, 10)), ("grey", (120, 120, 120))):
        Image.new("RGB", (8, 8), colour).save(folder / f"{name}.png")
    return folder


def test_a_curve_goes_into_a_file_and_search_cuts_off_by_it(cli, pairs: Path, pictures: Path, tmp_path: Path) -> None:
    cli("index", pictures)
    before = cli("search", "red", "--json")
    assert [hit["probability"] for hit in before.json] == [None] * 3
    refused = cli("search", "red", "--min-score", "0.5")
    assert refused.code == 2 and "nobody has fitted what scores of vision and text mean" in refused.err
    for told in ("slimbind eval calibrate", "--scores", "--min-cosine", "--modality"):
        assert told in refused.err

    file = tmp_path / "scores.json"
    made = cli("eval", "calibrate", pairs / "good.csv", "-o", file, "--json")
    assert made.code == 0 and f"written: {file}" in made.err
    measures = made.json["measures"]
    assert measures["Brier score after"]["value"] < measures["Brier score before"]["value"]
    assert measures["ECE after"]["low"] <= measures["ECE after"]["value"] <= measures["ECE after"]["high"]

    found = cli("search", "red", "--scores", file, "--json").json
    assert [hit["id"] for hit in found] == [hit["id"] for hit in before.json]
    probabilities = [hit["probability"] for hit in found]
    assert probabilities == sorted(probabilities, reverse=True) and probabilities[0] > 0.8 > 0.2 > probabilities[1]
    some = cli("search", "red", "--scores", file, "--min-score", "0.8", "--json")
    assert [Path(hit["path"]).name for hit in some.json] == ["red.png"]
    assert "2 of the 3 nearest files do not match so well" in some.err
    assert len(cli("search", "red", "--scores", file, "--min-score", "0", "--json").json) == 3

    again = cli("eval", "calibrate", pairs / "good.csv", "-o", file, "--seed", "7")
    assert again.code == 0 and len(Scores.read(file).curves) == 1


def test_a_cut_off_by_cosine_needs_no_curve(cli, pictures: Path) -> None:
    cli("index", pictures)
    whole = cli("search", "red", "--json").json
    least = whole[1]["score"]
    assert [hit["id"] for hit in cli("search", "red", "--min-cosine", least - 1e-4, "--json").json] == [
        hit["id"] for hit in whole[:2]
    ]
    assert cli("search", "red", "--min-cosine", "1.5").code == 2
    assert cli("search", "red", "--min-score", "-0.1").code == 2


def test_probabilities_stand_in_the_table(cli, pairs: Path, pictures: Path, tmp_path: Path, monkeypatch) -> None:
    import sys

    cli("index", pictures)
    cli("eval", "calibrate", pairs / "good.csv", "-o", tmp_path / "s.json")
    monkeypatch.setenv("SLIMBIND_SCORES", str(tmp_path / "s.json"))
    assert all(len(line.split("\t")) == 2 for line in cli("search", "red").lines)
    monkeypatch.setattr(type(sys.stdout), "isatty", lambda self: True)
    head, first, *_ = [re.sub(r"\x1b\[[0-9;]*m", "", line) for line in cli("search", "red").lines]
    assert head.split() == ["score", "match", "modality", "path"]
    assert first.split()[2] == "%" and 80 < int(first.split()[1]) < 100


def test_a_curve_goes_into_the_models_folder(
    cli, pairs: Path, pictures: Path, toy_artifact: Path, tmp_path: Path
) -> None:
    model = tmp_path / "model"
    shutil.copytree(toy_artifact, model)
    made = cli("eval", "calibrate", pairs / "good.csv", "--model", model, "--write", "--html", tmp_path / "page.html")
    assert made.code == 0 and "written" in made.err
    assert "Brier score" in (tmp_path / "page.html").read_text(encoding="utf-8")
    (curve,) = Artifact.open(model).manifest.scores.curves
    assert curve.modalities == ("vision", "text")
    cli("index", pictures, "--model", model)
    assert len(cli("search", "red", "--min-score", "0.8", "--model", model, "--json").json) == 1
    stranger = tmp_path / "scores.json"
    Scores(curves=(curve.model_copy(update={"encoders": ("0" * 16, "1" * 16)}),)).write(stranger)
    refused = cli("search", "red", "--scores", stranger, "--model", model, "--json")
    assert refused.code == 1 and "was fitted with the encoders 0000" in refused.err


def test_nothing_is_kept_unless_it_is_asked_for(cli, pairs: Path, toy_artifact: Path) -> None:
    before = (toy_artifact / "manifest.json").read_bytes()
    made = cli("eval", "calibrate", pairs / "mixed.csv")
    assert made.code == 4 and "kept nowhere" in made.err and "failed: bad.png" in made.err
    assert (toy_artifact / "manifest.json").read_bytes() == before


def test_what_cannot_be_done_is_refused_before_any_work(cli, pairs: Path, pictures: Path, tmp_path: Path) -> None:
    (tmp_path / "other.json").write_text("{}!")
    for arguments, message in (
        ((pairs / "few.csv",), "12 matching pairs"),
        ((pairs / "good.csv", "--model", "mini", "--write"), "mini is no folder of yours"),
        ((pairs / "good.csv", "-o", tmp_path), "is a folder"),
        ((pairs / "good.csv", "-o", tmp_path / "no" / "s.json"), "there is no folder"),
        ((pairs / "good.csv", "-o", tmp_path / "other.json"), "is no record of scores"),
        ((pairs / "good.csv", "--columns", "image,words"), "unknown column"),
        ((pairs / "good.csv", "--modalities", "depth,text"), "unknown modality of toy 'depth'"),
        ((pictures,), "no data set of a known kind"),
        ((tmp_path / "nowhere",), "no such file or folder"),
    ):
        result = cli("eval", "calibrate", *arguments)
        assert result.code in (1, 2) and message in result.err, (arguments, result.err)
        assert not result.out


def test_a_cut_off_means_the_same_for_pictures_and_sounds(
    cli, pairs: Path, toy_artifact: Path, toy_folder: Path, tmp_path: Path
) -> None:
    """Two curves in one model, and one index of both: each query keeps what it means, and nothing else."""
    model, tones = tmp_path / "model", tmp_path / "tones"
    shutil.copytree(toy_artifact, model)
    for name, hertz in (("rumble", 60), ("whistle", 6000)):
        for number in range(12):
            (tones / name).mkdir(parents=True, exist_ok=True)
            wave = np.sin(2 * np.pi * (hertz + 7 * number) * np.arange(8000) / 16000)
            soundfile.write(tones / name / f"{number}.wav", 0.5 * wave, 16000)
    assert cli("eval", "calibrate", pairs / "good.csv", "--model", model, "--write").code == 0
    assert cli("eval", "calibrate", tones, "-t", "none", "--model", model, "--write").code == 0
    curves = Artifact.open(model).manifest.scores.curves
    assert [one.modalities for one in curves] == [("vision", "text"), ("text", "audio")]

    (toy_folder / "notes.txt").unlink()
    cli("index", toy_folder, "--model", model)
    for query, name in (("red", "red.png"), ("whistle", "whistle.flac"), ("green", "green.jpg"), ("low", "rumble.wav")):
        good = cli("search", query, "--min-score", "0.6", "--model", model, "--json").json
        assert [Path(hit["path"]).name for hit in good] == [name], query
    every = cli("search", "red", "--model", model, "--json").json
    assert {hit["modality"] for hit in every} == {"vision", "audio"}
    assert all(hit["probability"] is not None for hit in every)


def test_what_has_larger_cosines_does_not_keep_out_what_matches(cli, toy_artifact: Path, toy_folder: Path) -> None:
    """Pictures are nearer, and by these curves no picture matches while every sound does."""
    ids = {name: Artifact.open(toy_artifact).tower(name).encoder_id for name in ("vision", "text", "audio")}

    def curve(first: str, second: str, intercept: float) -> Curve:
        told = {"modalities": (first, second), "encoders": (ids[first], ids[second])}
        return Curve.model_validate(told | {"slope": 1.0, "intercept": intercept, "pairs": 20, "data": "made up"})

    scores = toy_folder.parent / "scores.json"
    Scores(curves=(curve("vision", "text", -9.0), curve("text", "audio", 9.0))).write(scores)
    (toy_folder / "notes.txt").unlink()
    cli("index", toy_folder)
    assert [hit["modality"] for hit in cli("search", "red", "-k", "1", "--json").json] == ["vision"]
    best = cli("search", "red", "-k", "1", "--scores", scores, "--min-score", "0.5", "--json").json
    assert [hit["modality"] for hit in best] == ["audio"]
    every = cli("search", "red", "--scores", scores, "--min-score", "0", "--json").json
    told = [hit["probability"] for hit in every]
    assert told == sorted(told, reverse=True) and [hit["modality"] for hit in every][-1] == "vision"
    only = cli("search", "red", "-k", "1", "--modality", "vision", "--scores", scores, "--min-score", "0.5", "--json")
    assert only.json == []


def test_paths_of_a_table_may_begin_elsewhere(cli, pairs: Path, tmp_path: Path) -> None:
    table = tmp_path / "table.csv"
    shutil.copy(pairs / "good.csv", table)
    assert cli("eval", "calibrate", table).code == 2  # no such files here
    assert cli("eval", "calibrate", table, "--root", pairs).code == 0


def test_mini_knows_a_good_match_by_its_name(cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole way with the model that comes with slimbind, its photographs, and their names."""
    monkeypatch.setenv("SLIMBIND_MODEL", "mini")
    monkeypatch.delenv("SLIMBIND_SCORES", raising=False)
    photos = [Path(str(item)) for item in samples.shipped("vision").items if Path(str(item)).parent.name == "photos"]
    with open(tmp_path / "pairs.csv", "w", newline="") as file:
        rows = [(path.name, f"a photo of {path.stem.replace('-', ' ')}") for path in photos]
        csv.writer(file).writerows([("image", "caption"), *rows])
    for path in photos:  # a table names only what lies beside it
        shutil.copy(path, tmp_path / path.name)
    scores = tmp_path / "scores.json"
    made = cli("eval", "calibrate", tmp_path / "pairs.csv", "-o", scores, "--json")
    assert made.code == 0, made.err
    measures = {name: one["value"] for name, one in made.json["measures"].items()}
    assert measures["Brier score after"] < 0.15 < 0.2 < measures["Brier score before"]
    assert measures["recall of matching pairs at 0.5"] > 0.7 > 0.3 > measures["share of other pairs at 0.5"]
    few = tmp_path / "few"
    few.mkdir()
    for name in ("giraffes.jpg", "pancakes.jpg", "hammer.jpg", "owl-on-a-branch.jpg"):
        shutil.copy(tmp_path / name, few / name)
    cli("index", few)
    good = cli("search", "a photo of a hammer", "--scores", scores, "--min-score", "0.9", "--json")
    assert [Path(hit["path"]).name for hit in good.json] == ["hammer.jpg"]
    nothing = cli("search", "quarterly tax report", "--scores", scores, "--min-score", "0.5", "--json")
    assert nothing.json == [] and "4 of the 4 nearest files do not match so well" in nothing.err


def test_a_smaller_model_says_what_it_did_not_keep(
    cli, pairs: Path, toy_artifact: Path, make_toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "source"
    shutil.copytree(toy_artifact, source)
    assert cli("eval", "calibrate", pairs / "good.csv", "--model", source, "--write").code == 0
    told: list[str] = []
    monkeypatch.setattr("slimbind.cli.console.say", told.append)
    say_dropped(source, Artifact.open(source))
    say_dropped(source, Artifact.open(make_toy(tmp_path / "sounds", modalities=("audio",), scheme="int8-dynamic")))
    say_dropped(toy_artifact, Artifact.open(source))
    say_dropped(tmp_path / "nowhere", Artifact.open(source))
    assert not told
    say_dropped(source, Artifact.open(make_toy(tmp_path / "small", scheme="int8-dynamic")))
    assert len(told) == 1 and "not kept: what scores of vision and text mean" in told[0]
    assert f"--model {tmp_path / 'small'} --write" in told[0]
