"""`slimbind index` and `slimbind search`: a folder is searched, kept up to date, and mistakes are explained."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys

import pytest


def names(result):
    return [os.path.basename(hit["path"]) for hit in result.json]


@pytest.fixture
def indexed(cli, toy_folder):
    result = cli("index", toy_folder)
    assert result.code == 0, result.err
    return toy_folder


def test_a_text_finds_the_picture_and_the_sound(cli, indexed):
    assert names(cli("search", "red", "--json", "-k", 1)) == ["red.png"]
    assert names(cli("search", "a whistle", "--json", "-k", 1)) == ["whistle.flac"]
    assert names(cli("search", "--image", indexed / "green.jpg", "--json", "-k", 1)) == ["green.jpg"]
    assert names(cli("search", "--audio", indexed / "sounds" / "rumble.wav", "--json", "-k", 1)) == ["rumble.wav"]


def test_json_says_what_there_is_to_say(cli, indexed):
    result = cli("search", "red", "--json", "-k", 2)
    first = result.json[0]
    assert first["id"] == first["path"] == str(indexed / "red.png")
    assert (first["modality"], first["missing"]) == ("vision", False)
    assert first["score"] == pytest.approx(0.998, abs=0.002)
    assert result.err == ""


def test_piped_output_is_score_tab_path(cli, indexed):
    result = cli("search", "red", "-k", "1")
    assert result.out == b"0.9979\t" + os.fsencode(indexed / "red.png") + b"\n"


def test_on_a_terminal_it_is_a_table(cli, indexed, monkeypatch):
    (indexed / "red.png").unlink()
    real = sys.stdout
    monkeypatch.setattr(type(real), "isatty", lambda self: self is sys.stdout, raising=False)
    result = cli("search", "red", "-k", "2")
    assert result.code == 0
    head, first, second = re.sub(r"\x1b\[[\d;]*m", "", result.out.decode()).splitlines()
    assert head.split() == ["score", "modality", "path"]
    assert first.split() == ["0.998", "vision", str(indexed / "red.png"), "(gone)"]
    assert "green.jpg" in second


def test_more_answers_than_files_is_fine(cli, indexed):
    assert len(cli("search", "red", "-k", "1000", "--json").json) == 5


def test_answers_may_be_of_one_modality(cli, indexed):
    assert {hit["modality"] for hit in cli("search", "red", "--modality", "audio", "--json").json} == {"audio"}


def test_a_file_that_is_gone_is_flagged(cli, indexed):
    (indexed / "red.png").unlink()
    result = cli("search", "red", "--json", "-k", "1")
    assert result.json[0]["missing"] is True
    assert "1 of these files are no longer there" in cli("search", "red", "-k", "1").err
    assert "1 removed" in cli("index", indexed).err
    assert names(cli("search", "red", "--json", "-k", "1")) != ["red.png"]


def test_only_the_tower_of_the_query_is_opened(cli, indexed):
    result = cli("search", "red", "-v")
    assert result.err.count("opened:") == 1
    assert "opened: text, " in result.err
    result = cli("search", "--audio", indexed / "sounds" / "rumble.wav", "-v")
    assert result.err.count("opened:") == 1
    assert "opened: audio, " in result.err


@pytest.mark.parametrize(
    ("args", "match"),
    [
        ([], "no query"),
        (["red", "--image", "x.png"], "2 queries at once"),
        (["red", "--image", "x.png", "--audio", "x.wav"], "3 queries at once"),
        ([""], "the query is empty"),
        (["  \n"], "the query is empty"),
        (["red", "-k", "0"], "-k"),
        (["red", "--modality", "smell"], "unknown modality 'smell'"),
    ],
)
def test_wrong_queries_are_explained(cli, indexed, args, match):
    result = cli("search", *args)
    assert (result.code, result.out) == (2, b"")
    assert match in result.err


@pytest.mark.parametrize("content", [None, b"", b"no picture"])
def test_a_bad_query_file_is_an_error(cli, indexed, tmp_path, content):
    if content is not None:
        (tmp_path / "q.png").write_bytes(content)
    result = cli("search", "--image", tmp_path / "q.png")
    assert (result.code, result.out) == (1, b"")
    assert f"error: {tmp_path}/q.png: " in result.err


def test_no_index_says_how_to_make_one(cli):
    result = cli("search", "red")
    assert result.code == 1
    assert "error: there is no collection at" in result.err
    assert "hint: make one with `slimbind index FOLDER`" in result.err


def test_an_empty_index_says_so(cli, tmp_path):
    (tmp_path / "empty").mkdir()
    assert cli("index", tmp_path / "empty").code == 0
    result = cli("search", "red", "--json")
    assert (result.code, result.json) == (0, [])
    assert "the index is empty" in result.err


def test_the_second_run_embeds_only_what_is_new(cli, indexed):
    result = cli("index", indexed)
    assert "0 added, 0 changed, 5 unchanged, 0 removed, 0 failed" in result.err
    (indexed / "new.png").write_bytes((indexed / "red.png").read_bytes())
    assert "1 added, 0 changed, 5 unchanged" in cli("index", indexed).err
    assert "0 added, 6 changed" in cli("index", indexed, "--refresh").err


def test_a_missing_drive_is_told_and_loses_nothing(cli, indexed):
    indexed.rename(indexed.parent / "unplugged")
    indexed.mkdir()
    result = cli("index", indexed)
    assert result.code == 4
    assert f"5 items of {indexed}, which has no files" in result.err and "--remove-missing" in result.err
    assert "0 removed" in result.err
    assert names(cli("search", "red", "--json", "-k", "1")) == ["red.png"]
    result = cli("index", indexed, "--remove-missing")
    assert (result.code, "5 removed" in result.err) == (0, True)


def test_texts_are_taken_when_asked_for(cli, indexed):
    assert "skipped 1: text, not asked for" in cli("index", indexed).err
    assert "1 added" in cli("index", indexed, "--modality", "text").err
    assert "notes.txt" in names(cli("search", "whistle", "--json", "-k", "2"))


def test_a_bad_file_is_reported_and_the_exit_code_tells(cli, indexed):
    (indexed / "bad.png").write_bytes(b"nothing")
    result = cli("index", indexed)
    assert result.code == 4
    assert f"failed: {indexed}/bad.png: " in result.err
    assert "1 failed" in result.err
    assert names(cli("search", "red", "--json", "-k", "1")) == ["red.png"]


def test_relative_and_absolute_spellings_are_one_folder(cli, indexed, monkeypatch):
    monkeypatch.chdir(indexed.parent)
    assert "5 unchanged" in cli("index", "things").err
    assert "5 unchanged" in cli("index", "./things/../things/").err


def test_an_index_of_another_encoder_is_refused_with_a_mend(cli, indexed, make_toy, tmp_path, monkeypatch):
    other = make_toy(tmp_path / "other", scheme="bf16")
    for args in (["index", indexed], ["search", "red"]):
        result = cli(*args, "--model", other)
        assert result.code == 1
        assert "cannot be compared" in result.err
        assert "hint: use --model" in result.err
        assert "another --index" in result.err


def test_a_model_that_was_changed_is_not_told_to_be_used_instead_of_itself(
    cli, toy_folder, make_toy, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    make_toy(tmp_path / "model")
    assert cli("index", toy_folder, "--model", "model").code == 0
    shutil.rmtree(tmp_path / "model")
    make_toy(tmp_path / "model", scheme="bf16")
    for args in (["index", toy_folder], ["search", "red"]):
        result = cli(*args, "--model", "model")
        assert result.code == 1
        assert "hint: the model was changed since: delete" in result.err


def test_without_model_the_index_knows_its_own(cli, indexed, monkeypatch):
    monkeypatch.delenv("SLIMBIND_MODEL")
    assert names(cli("search", "red", "--json", "-k", "1")) == ["red.png"]
    assert "5 unchanged" in cli("index", indexed).err


def test_a_model_given_by_a_relative_path_is_found_from_elsewhere(cli, toy_folder, toy_artifact, tmp_path, monkeypatch):
    monkeypatch.chdir(toy_artifact.parent)
    assert cli("index", toy_folder, "--model", toy_artifact.name).code == 0
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SLIMBIND_MODEL")
    assert names(cli("search", "red", "--json", "-k", "1")) == ["red.png"]


@pytest.mark.parametrize(
    ("args", "match"),
    [
        (["missing"], "missing does not exist"),
        (["a-file"], "a-file is not a folder"),
        ([".", "--modality", "depth"], "'depth'; allowed: audio, text, vision"),
        ([], "FOLDER"),
    ],
)
def test_wrong_folders_are_said_before_an_index_is_made(cli, args, match, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a-file").write_text("")
    result = cli("index", *args)
    assert result.code == 2
    assert match in result.err
    assert not (tmp_path / "index").exists()


def test_a_model_without_sight_and_hearing_asks_what_to_index(cli, toy_folder, make_toy, tmp_path):
    only = make_toy(tmp_path / "only", modalities=("text",))
    result = cli("index", toy_folder, "--model", only)
    assert result.code == 2
    assert "embeds neither pictures nor sounds, but text" in result.err


def test_an_index_in_a_folder_of_other_things_is_refused(cli, toy_folder):
    result = cli("index", toy_folder, "--index", toy_folder)
    assert result.code == 1
    assert "not empty and not a collection" in result.err


def test_the_index_may_lie_in_the_folder_it_indexes(cli, toy_folder):
    for _ in range(2):
        assert cli("index", toy_folder, "--index", toy_folder / "index").code == 0
    result = cli("index", toy_folder, "--index", toy_folder / "index", "--modality", "text")
    assert "1 added" in result.err


def test_a_damaged_index_is_an_error_with_a_mend(cli, indexed, tmp_path):
    file = tmp_path / "index" / "collection.db"
    file.write_bytes(b"x" * file.stat().st_size)
    for args in (["search", "red"], ["index", indexed]):
        result = cli(*args)
        assert result.code == 1
        assert "is damaged" in result.err
        assert "hint: restore it from a backup, or delete the folder" in result.err


def test_an_index_of_the_first_slimbind_is_refused_with_a_mend(cli, toy_folder, tmp_path):
    (tmp_path / "index").mkdir()
    (tmp_path / "index" / "index.json").write_text("{}")
    for args in (["search", "red"], ["index", toy_folder]):
        result = cli(*args)
        assert result.code == 1
        assert "index of an earlier slimbind" in result.err
        assert "run `slimbind index` again" in result.err


def test_answers_may_be_filtered(cli, indexed):
    assert names(cli("search", "red", "--where", "suffix = '.jpg'", "--json")) == ["green.jpg"]
    few = cli("search", "red", "--where", "modality = 'audio' and not source like '%rumble%'", "--json")
    assert names(few) == ["whistle.flac"]
    assert few.json[0]["metadata"]["suffix"] == ".flac"
    both = cli("search", "red", "--modality", "vision", "--where", "modality = 'audio'", "--json")
    assert both.json == []


def test_a_filter_that_cannot_be_read_says_where(cli, indexed):
    result = cli("search", "red", "--where", "suffix = jpg")
    assert (result.code, result.out) == (2, b"")
    assert "at character 10: a value" in result.err
    assert "suffix = -->jpg" in result.err


def test_strange_names_are_printed_safely_and_whole(cli, toy_folder):
    name = os.path.join(os.fsencode(toy_folder), b"\xff\tnew\nline.png")
    os.rename(os.fsencode(toy_folder / "red.png"), name)
    assert cli("index", toy_folder).code == 0
    result = cli("search", "red", "-k", "1")
    assert result.out.count(b"\n") == 1
    assert b"\xff\\tnew\\nline.png" in result.out
    (hit,) = json.loads(cli("search", "red", "-k", "1", "--json").out)
    assert os.fsencode(hit["path"]) == name


def test_progress_counts_all_files(cli, indexed):
    (indexed / "new.png").write_bytes((indexed / "red.png").read_bytes())
    result = cli("index", indexed, "--progress")
    assert "indexing: 6/6 files, " in result.err


def test_a_home_folder_is_resolved_where_the_shell_did_not(cli, toy_folder, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("USERPROFILE", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    assert cli("index", toy_folder, "--index=~/mine").code == 0
    assert (tmp_path / "home" / "mine" / "collection.db").exists()
    assert not (tmp_path / "~").exists()
    assert cli("search", "red", "--index=~/mine").code == 0


def test_no_home_folder_is_no_traceback(cli, monkeypatch):
    def homeless(*_):
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("SLIMBIND_INDEX")
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    monkeypatch.setattr("slimbind.collection.location.Path.home", homeless)
    monkeypatch.setattr("slimbind.collection.location.sys.platform", "linux")
    result = cli("search", "red")
    assert result.code == 2
    assert "hint: name a folder with --index" in result.err
