"""`slimbind info` and `slimbind models`: what is inside, read from the manifest alone."""

from __future__ import annotations

from slimbind.artifact import Artifact


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
