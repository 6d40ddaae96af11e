"""`slimbind embed`: what goes in comes out with its id, bad items are reported, and the exit code tells."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest


def ids(result):
    return [row["id"] for row in result.rows]


def test_without_output_lines_of_json_go_to_standard_output(cli, toy_folder, monkeypatch):
    monkeypatch.chdir(toy_folder)
    result = cli("embed", "red.png", "sounds", "--text", "blue")
    assert (result.code, result.err) == (0, "")
    assert [(row["id"], row["modality"]) for row in result.rows] == [
        ("blue", "text"),
        ("red.png", "vision"),
        ("sounds/rumble.wav", "audio"),
        ("sounds/whistle.flac", "audio"),
    ]
    for row in result.rows:
        assert np.linalg.norm(row["vector"]) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("suffix", [".npz", ".parquet", ".jsonl"])
def test_a_folder_becomes_a_file(cli, toy_folder, tmp_path, suffix):
    (toy_folder / "bad.png").write_bytes(b"")
    output = tmp_path / f"v{suffix}"
    result = cli("embed", toy_folder, "-o", output)
    assert (result.code, result.out) == (4, b"")
    assert f"failed: {toy_folder}/bad.png: is empty" in result.err
    assert "skipped 1: of no known type" in result.err
    assert f"6 vectors written to {output}, 1 items failed" in result.err
    assert output.stat().st_size > 100


def test_the_npz_holds_what_the_model_says(cli, toy_folder, tmp_path, toy_artifact):
    import slimbind

    assert cli("embed", toy_folder / "red.png", "--text", "red", "-o", tmp_path / "v.npz").code == 0
    with np.load(tmp_path / "v.npz", allow_pickle=False) as data, slimbind.load(toy_artifact) as model:
        assert data["ids"].tolist() == ["red", str(toy_folder / "red.png")]
        np.testing.assert_allclose(data["vectors"][0], model.embed(["red"], "text")[0], atol=1e-6)
        np.testing.assert_allclose(data["vectors"][1], model.embed([toy_folder / "red.png"], "vision")[0], atol=1e-6)
        assert json.loads(str(data["encoders"])) == {name: model.encoder(name).id for name in model.modalities}


def test_standard_input_is_one_text_per_line(cli):
    result = cli("embed", "-", stdin=b"red\n\nblue whistle\n")
    assert (result.code, ids(result)) == (0, ["-:1", "-:3"])
    assert "skipped 1: blank lines" in result.err


def test_text_files_may_hold_one_text_per_line(cli, tmp_path):
    (tmp_path / "t.txt").write_text("red\nblue\n")
    assert ids(cli("embed", tmp_path / "t.txt")) == [f"{tmp_path}/t.txt"]
    assert ids(cli("embed", tmp_path / "t.txt", "--lines")) == [f"{tmp_path}/t.txt:1", f"{tmp_path}/t.txt:2"]


def test_paths_may_be_listed(cli, toy_folder, tmp_path):
    listed = f"{toy_folder}/red.png\n{toy_folder}/green.jpg\n"
    assert len(cli("embed", "--paths-from", "-", stdin=listed.encode()).rows) == 2
    (tmp_path / "list").write_text(listed)
    assert len(cli("embed", "--paths-from", tmp_path / "list").rows) == 2
    result = cli("embed", "--paths-from", "-", "-0", stdin=listed.replace("\n", "\0").encode())
    assert ids(result) == [f"{toy_folder}/red.png", f"{toy_folder}/green.jpg"]


def test_the_modality_may_be_said(cli, toy_folder, make_toy, tmp_path):
    path = toy_folder / "red.picture"
    os.rename(toy_folder / "red.png", path)
    result = cli("embed", path)
    assert result.code == 4
    assert "its type '.picture' does not tell a modality (say what it is: --modality vision|text|audio)" in result.err
    assert cli("embed", path, "--modality", "vision").code == 0


def test_a_file_of_a_modality_the_model_lacks(cli, toy_folder, make_toy, tmp_path):
    only = make_toy(tmp_path / "only", modalities=("vision",))
    result = cli("embed", toy_folder, toy_folder / "notes.txt", "--model", only)
    assert result.code == 4
    assert len([row for row in result.rows if "vector" in row]) == 3
    assert f"failed: {toy_folder}/notes.txt: is text, and {only} has vision only" in result.err
    assert f"skipped 2: audio, for which {only} has no tower" in result.err
    refused = cli("embed", "--text", "red", "--model", only)
    assert (refused.code, refused.out) == (2, b"")
    assert "'text'; allowed: vision" in refused.err


def hostile(folder):
    """Bad files of all kinds, with what must be said about each."""
    from PIL import Image

    folder.mkdir()
    Image.effect_noise((64, 64), 60).convert("RGB").save(folder / "whole.jpg")
    data = (folder / "whole.jpg").read_bytes()
    (folder / "cut.jpg").write_bytes(data[: len(data) // 2])
    (folder / "zero.png").write_bytes(b"")
    (folder / "text.png").write_text("I am no picture")
    Image.new("1", (12_000, 10_000)).save(folder / "bomb.png")
    (folder / "noise.wav").write_bytes(b"RIFF\x00\x00\x00\x00WAVEjunk")
    (folder / "binary.txt").write_bytes(b"\x80\x81\xfe")
    (folder / "lost.png").symlink_to("nowhere")
    (folder / "loop.png").symlink_to("loop.png")
    return {
        "cut.jpg": "",
        "zero.png": "empty",
        "text.png": "",
        "bomb.png": "120000000",
        "noise.wav": "",
        "binary.txt": "UTF-8",
        "lost.png": "link to nothing",
        "loop.png": "symbolic links",
    }


def test_hostile_files_are_reported_one_by_one_and_the_rest_is_done(cli, tmp_path):
    expected = hostile(tmp_path / "h")
    result = cli("embed", tmp_path / "h")
    assert result.code == 4
    rows = {os.path.basename(row["id"]): row for row in result.rows}
    assert set(rows) == {*expected, "whole.jpg"}
    assert "vector" in rows["whole.jpg"]
    for name, part in expected.items():
        assert "vector" not in rows[name]
        assert rows[name]["error"] and part in rows[name]["error"].replace(" ", " "), rows[name]
    assert result.err.count("failed: ") == len(expected)
    assert "Traceback" not in result.err


def test_strange_names_come_back_as_they_are(cli, toy_folder, tmp_path):
    names = [b"\xff\xfe.png", b"new\nline.png", b" sp ace .png", "日本\u2028.png".encode(), b"-o.png"]
    folder = tmp_path / "strange"
    folder.mkdir()
    data = (toy_folder / "red.png").read_bytes()
    for name in names:
        with open(os.path.join(os.fsencode(folder), name), "wb") as file:
            file.write(data)
    result = cli("embed", folder)
    assert result.code == 0
    assert {os.fsencode(os.path.basename(row["id"])) for row in result.rows} == set(names)
    for suffix in (".npz", ".parquet"):
        assert cli("embed", folder, "-o", tmp_path / f"v{suffix}").code == 0
    with np.load(tmp_path / "v.npz") as file:
        assert {os.fsencode(os.path.basename(name)) for name in file["ids"].tolist()} == set(names)


def test_messages_hold_no_control_characters(cli, tmp_path):
    name = tmp_path / "evil\x1b[31m\n.png"
    name.write_bytes(b"")
    result = cli("embed", name)
    assert result.code == 4
    assert "\x1b" not in result.err
    assert len(result.err.splitlines()) == 1


@pytest.mark.parametrize(
    ("args", "match"),
    [
        ([], "nothing to embed"),
        (["x.png", "-o", "v.csv"], "unknown output type '.csv'"),
        (["x.png", "-o", "no/v.npz"], "there is no folder no"),
        (["x.png", "--modality", "smell"], "unknown modality 'smell'; allowed: audio, auto, depth"),
        (["x.png", "--modality", "depth"], "'depth'; allowed: audio, text, vision"),
        (["-", "-"], "standard input is asked for twice"),
        (["-", "--paths-from", "-"], "standard input is asked for twice"),
        (["-", "--modality", "vision"], "- reads texts"),
        (["--paths-from", "missing"], "is no file"),
        (["x.png", "--memory-budget", "lots"], "'lots'"),
        (["x.png", "--batch-size", "0"], "batch-size"),
        (["x.png", "--threads", "0"], "threads"),
        (["x.png", "--nonsense"], "nonsense"),
    ],
)
def test_wrong_usage_is_said_before_any_work(cli, args, match, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = cli("embed", *args)
    assert (result.code, result.out) == (2, b"")
    assert match in result.err
    assert "Traceback" not in result.err
    assert os.listdir(tmp_path) == []


def test_no_model_there_is_an_error_and_leaves_no_output(cli, tmp_path, toy_folder):
    result = cli("embed", toy_folder, "--model", tmp_path / "none", "-o", tmp_path / "v.npz")
    assert result.code in (1, 2)
    assert "error: " in result.err
    assert "Traceback" not in result.err
    assert not (tmp_path / "v.npz").exists()


def test_a_damaged_model_is_an_error(cli, tmp_path, toy_folder, make_toy):
    broken = make_toy(tmp_path / "broken")
    weights = bytearray((broken / "vision" / "tower.bin").read_bytes())
    weights[3] ^= 1
    (broken / "vision" / "tower.bin").write_bytes(weights)
    result = cli("embed", toy_folder / "red.png", "--model", broken, "-o", tmp_path / "v.npz")
    assert result.code == 1
    assert "was changed" in result.err
    assert not list(tmp_path.glob("*v.npz*"))


def test_every_option_has_its_environment_variable(cli, toy_folder, tmp_path, monkeypatch):
    monkeypatch.setenv("SLIMBIND_OUTPUT", str(tmp_path / "v.jsonl"))
    monkeypatch.setenv("SLIMBIND_MODALITY", "vision")
    monkeypatch.setenv("SLIMBIND_BATCH_SIZE", "2")
    monkeypatch.setenv("SLIMBIND_MEMORY_BUDGET", "1GB")
    monkeypatch.setenv("SLIMBIND_PROGRESS", "1")
    result = cli("embed", toy_folder)
    assert result.code == 0
    assert "embedding: 3/3 items, " in result.err
    assert "items/s" in result.err
    assert len((tmp_path / "v.jsonl").read_text().splitlines()) == 3


def test_progress_is_not_shown_where_nobody_looks(cli, toy_folder):
    assert "items/s" not in cli("embed", toy_folder / "red.png").err


def test_a_folder_with_nothing_in_it_is_no_error(cli, tmp_path):
    (tmp_path / "empty").mkdir()
    result = cli("embed", tmp_path / "empty")
    assert (result.code, result.out) == (0, b"")
