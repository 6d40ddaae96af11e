"""`slimbind info` and `slimbind models`: what is inside, read from the manifest alone."""

from __future__ import annotations

import pytest

from slimbind.artifact import Artifact
from slimbind.evaluate.calibration import store
from slimbind.scores import Curve, Measured, Scores


def test_info_shows_each_tower(cli, toy_artifact):
    result = cli("info", toy_artifact)
    text = result.out.decode()
    assert result.code == 0
    entry = Artifact.open(toy_artifact).tower("vision")
    for part in ("toy", "CC0-1.0", "vision", "audio", "openvino", "f32", entry.encoder_id, "sample_rate 16000"):
        assert part in text
    assert max(len(line) for line in result.lines) > 100  # not wrapped at the width of a terminal that is not there


def test_info_as_json_is_the_manifest_and_what_follows_from_it(cli, toy_artifact):
    told = cli("info", toy_artifact, "--json").json
    artifact = Artifact.open(toy_artifact)
    assert told["folder"] == str(toy_artifact)
    assert told["model"]["id"] == "toy"
    assert list(told["towers"]) == ["vision", "text", "audio"]
    assert told["towers"]["text"]["encoder_id"] == artifact.tower("text").encoder_id
    assert told["towers"]["text"]["bytes"] == artifact.tower("text").bytes
    assert told["towers"]["text"]["preprocess"]["context"] == 16


def test_info_says_how_each_tower_would_use_the_cores(cli, toy_artifact, monkeypatch):
    monkeypatch.setenv("SLIMBIND_THREADS", "4")
    lines = [line for line in cli("info", toy_artifact).lines if "on 4 cores" in line]
    assert [line.split(": ", 2)[2].split(" (")[0] for line in lines] == [
        "2 forward passes side by side, 2 threads each",
        "4 forward passes side by side, 1 thread each",
        "2 forward passes side by side, 2 threads each",
    ]
    told = cli("info", toy_artifact, "--json").json["towers"]["text"]["layout"]
    assert told == {"streams": 4, "threads": 1, "why": "sentences are short"}


def test_info_lists_what_scores_mean(cli, make_toy, tmp_path):
    folder = make_toy(tmp_path / "toy")
    assert "scores: nobody has fitted what they mean" in cli("info", folder).lines[-1]
    assert cli("info", folder, "--json").json["scores"]["curves"] == []
    artifact = Artifact.open(folder)
    ids = {name: artifact.tower(name).encoder_id for name in artifact.modalities}
    curve = Curve(
        modalities=("vision", "text"),
        encoders=(ids["vision"], ids["text"]),
        slope=10.0,
        intercept=-2.0,
        pairs=40,
        data="my captions",
        fitted="2026-01-02T03:04:05+00:00",
        measured=Measured(pairs=38, brier_before=0.3, brier_after=0.125, ece_before=0.4, ece_after=0.05),
    )
    store(artifact, curve)
    assert cli("info", folder).lines[-1] == (
        "scores of vision and text: fitted on 40 pairs (data: my captions), 2026-01-02T03:04:05+00:00; Brier score "
        "0.300 before and 0.125 after on 38 others; probability 0.5 at cosine 0.200, 0.9 at cosine 0.420"
    )
    (told,) = cli("info", folder, "--json").json["scores"]["curves"]
    assert told["fitted"] == curve.fitted and told["usable"] is True
    assert told["reached_at"]["0.5"] == pytest.approx(0.2)


def test_info_says_that_a_curve_of_other_encoders_is_not_used(cli, make_toy, tmp_path):
    folder = make_toy(tmp_path / "toy")
    manifest = Artifact.open(folder).manifest
    strange = Curve(
        modalities=("vision", "text"), encoders=("0" * 16, "1" * 16), slope=1.0, intercept=0.0, pairs=20, data="x"
    )
    (folder / "manifest.json").write_text(
        manifest.model_copy(update={"scores": Scores(curves=(strange,))}).model_dump_json()
    )
    assert "other encoders than these, and so not used" in cli("info", folder).lines[-1]
    assert cli("info", folder, "--json").json["scores"]["curves"][0]["usable"] is False


def test_info_of_what_is_no_model(cli, tmp_path):
    (tmp_path / "x").mkdir()
    for target in (tmp_path / "x", tmp_path / "missing", "no-such-name"):
        result = cli("info", target)
        assert result.code in (1, 2)
        assert "error: " in result.err
        assert "Traceback" not in result.err


def test_models_lists_the_catalogue(cli):
    result = cli("models")
    assert result.code == 0
    assert "mini" in result.lines[1]
    assert any("CC-BY-NC-4.0" in line and line.startswith("imagebind-huge") for line in result.lines)
    told = {model["name"]: model for model in cli("models", "--json").json}
    assert told["mini"]["needs_split"] is False
    assert told["imagebind-huge"]["needs_split"] is True
