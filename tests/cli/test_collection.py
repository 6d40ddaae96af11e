"""`slimbind collection`: look in, check, tidy up, carry in and out."""

from __future__ import annotations

import os

import pytest

from slimbind.collection import Collection


@pytest.fixture
def indexed(cli, toy_folder):
    result = cli("index", toy_folder)
    assert result.code == 0, result.err
    return toy_folder


def test_stats(cli, indexed, toy_artifact, tmp_path):
    told = cli("collection", "stats", "--json").json
    assert told["folder"] == str(tmp_path / "index")
    assert (told["items"], told["modalities"], told["dim"]) == (5, {"audio": 2, "vision": 3}, 8)
    assert (told["codec"], told["method"], told["model"]) == ("auto", "exact", str(toy_artifact))
    lines = cli("collection", "stats", tmp_path / "index").lines
    assert "items          5" in lines
    assert "modalities     audio 2, vision 3" in lines


def test_verify(cli, indexed, tmp_path):
    result = cli("collection", "verify")
    assert (result.code, result.lines) == (0, ["5 items checked, no problems"])
    with Collection.open(tmp_path / "index") as shelf, shelf._db.writing() as connection:
        connection.execute("UPDATE items SET metadata = '{}' WHERE key = 1")
    result = cli("collection", "verify", "--json")
    assert (result.code, result.json["ok"], len(result.json["problems"])) == (1, False, 1)
    result = cli("collection", "verify")
    assert result.code == 1
    assert result.lines[0] == "5 items checked, 1 problems" and "it is not what was written" in result.lines[1]


def test_compact_and_the_codec(cli, indexed):
    result = cli("collection", "compact", "--codec", "sq8")
    assert result.code == 0
    assert "5 items" in result.err and "exact" in result.err
    assert cli("collection", "stats", "--json").json["codec"] == "sq8"
    assert "unknown codec 'zip'" in cli("collection", "compact", "--codec", "zip").err


def test_a_codec_is_chosen_when_an_index_is_made(cli, toy_folder, tmp_path):
    assert cli("index", toy_folder, "--codec", "wrong").code == 2
    assert not (tmp_path / "index").exists()
    assert cli("index", toy_folder, "--codec", "f32").code == 0
    assert cli("collection", "stats", "--json").json["codec"] == "f32"


def test_damaged_codes_are_told_and_no_loss(cli, indexed, tmp_path, monkeypatch):
    monkeypatch.setattr("slimbind.codecs.index.EXACT_BELOW", 5)
    assert "sq4" in cli("collection", "compact").err
    result = cli("collection", "verify")
    assert result.lines[-1].startswith("recall of the ten best, in 5 searches: ")
    (file,) = (tmp_path / "index").glob("codes-*")
    file.write_bytes(file.read_bytes()[:-1])
    result = cli("collection", "verify")
    assert result.code == 0
    assert any(line.startswith("code file: ") and line.endswith("makes it again") for line in result.lines)
    assert cli("search", "red").code == 0


def test_out_and_in_again(cli, indexed, toy_artifact, tmp_path):
    assert "5 items written to" in cli("collection", "export", tmp_path / "out").err
    assert "3 items written to" in cli("collection", "export", tmp_path / "p", "--where", "modality = 'vision'").err
    for extra in ([], ["--model", toy_artifact]):
        result = cli("collection", "import", tmp_path / "out", tmp_path / "back", *extra)
        assert (result.code, f"{tmp_path}/back holds 5" in result.err) == (0, True), result.err
        (hit,) = cli("search", "red", "--index", tmp_path / "back", "-k", "1", "--json").json
        assert hit["path"] == str(indexed / "red.png")
    assert "5 unchanged" in cli("index", indexed, "--index", tmp_path / "back").err


def test_vectors_of_another_model_are_not_taken_in(cli, indexed, make_toy, tmp_path):
    cli("collection", "export", tmp_path / "out")
    other = make_toy(tmp_path / "other", scheme="bf16")
    assert cli("index", indexed, "--model", other, "--index", tmp_path / "there").code == 0
    result = cli("collection", "import", tmp_path / "out", tmp_path / "there")
    assert result.code == 1
    assert "cannot be compared" in result.err


def test_drop(cli, indexed, tmp_path):
    result = cli("collection", "drop", tmp_path / "index")
    assert (result.code, "5 items would be deleted" in result.err) == (2, True)
    assert "is gone, with 5 items" in cli("collection", "drop", tmp_path / "index", "--yes").err
    assert not (tmp_path / "index").exists()
    assert (indexed / "red.png").exists()
    assert cli("collection", "drop", tmp_path / "index", "--yes").code == 1


def test_what_changes_a_collection_says_so_in_json(cli, indexed, tmp_path):
    index, out, back = tmp_path / "index", tmp_path / "out", tmp_path / "back"
    told = cli("collection", "compact", "--json").json
    size = (index / "collection.db").stat().st_size
    assert (told["folder"], told["items"], told["method"]) == (str(index), 5, "exact")
    assert told["bytes"] >= size and isinstance(told["freed_bytes"], int)
    result = cli("collection", "export", out, "--where", "modality = 'vision'", "--json")
    assert (result.json, result.err) == ({"folder": str(out), "items": 3}, "")
    for made in (True, False):
        result = cli("collection", "import", out, back, "--json")
        assert result.json == {"folder": str(back), "taken_in": 3, "items": 3, "made": made}
    assert cli("collection", "drop", back, "--yes", "--json").json == {"folder": str(back), "items": 3}
    assert not back.exists()


def test_json_is_of_what_was_done_alone(cli, indexed, tmp_path):
    for command in (("drop", tmp_path / "index"), ("export", indexed), ("compact", "--codec", "zip")):
        result = cli("collection", *command, "--json")
        assert (result.code > 0, result.out) == (True, b""), command


def test_drop_leaves_what_is_not_its_own(cli, indexed, tmp_path):
    (tmp_path / "index" / "mine.txt").write_text("keep")
    cli("collection", "drop", tmp_path / "index", "--yes")
    assert os.listdir(tmp_path / "index") == ["mine.txt"]


@pytest.mark.parametrize("command", ["stats", "verify", "compact"])
def test_no_collection_says_so(cli, command):
    result = cli("collection", command)
    assert (result.code, "there is no collection at" in result.err) == (1, True)


def test_without_a_command_it_shows_what_there_is(cli):
    result = cli("collection")
    assert b"verify" in result.out and b"compact" in result.out


def test_push_and_search_elsewhere(cli, indexed, tmp_path):
    pytest.importorskip("lancedb", reason="lancedb is not installed")
    there = f"lancedb://{tmp_path}/lance"
    result = cli("push", tmp_path / "index", there, "--table", "pictures")
    assert (result.code, f"5 items written to {there}, table pictures" in result.err) == (0, True), result.err
    asked = ("search", "red", "--index", there, "--table", "pictures", "--json")
    mine, theirs = cli("search", "red", "--json").json, cli(*asked).json
    assert [hit["id"] for hit in mine] == [hit["id"] for hit in theirs]
    assert [hit["path"] for hit in cli(*asked, "--where", "suffix = '.jpg'").json] == [str(indexed / "green.jpg")]
    result = cli("search", "red", "--index", there)
    assert (result.code, "has no collection 'slimbind'" in result.err) == (1, True)
    assert cli("push", tmp_path / "index", "ftp://x").code == 2


def test_a_collection_that_is_there_keeps_its_codec_and_says_so(cli, indexed, tmp_path):
    result = cli("index", indexed, "--codec", "SQ8")
    assert (result.code, "the codec stays auto: `slimbind collection compact --codec sq8`" in result.err) == (0, True)
    assert "unknown codec 'zip'" in cli("index", indexed, "--codec", "zip").err
    assert "codec stays" not in cli("index", indexed).err
    cli("collection", "export", tmp_path / "out")
    assert cli("collection", "import", tmp_path / "out", tmp_path / "new", "--codec", "f32").err.count("stays") == 0
    assert (
        "the codec stays f32" in cli("collection", "import", tmp_path / "out", tmp_path / "new", "--codec", "sq8").err
    )


def test_home_folders_are_resolved_where_the_shell_did_not(cli, indexed, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("USERPROFILE", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    cli("collection", "export", tmp_path / "out")
    assert cli("collection", "import", tmp_path / "out", "~/mine").code == 0
    assert (tmp_path / "home" / "mine" / "collection.db").exists()
    assert cli("collection", "export", "~/out", "~/mine").code == 0
    assert cli("collection", "import", "~/out", "~/again").code == 0
    assert cli("collection", "drop", "~/mine", "--yes").code == 0
    assert not (tmp_path / "home" / "mine").exists()
    assert not (tmp_path / "~").exists()


@pytest.mark.parametrize("address", ["lancedb:///x/y", "postgresql://me:secret@host/db"])
def test_an_address_is_no_folder(cli, toy_folder, address, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = sorted(path.name for path in tmp_path.iterdir())
    for args in (["index", toy_folder, "--index", address], ["collection", "stats", address]):
        result = cli(*args)
        assert (result.code, "is an address, not a folder" in result.err) == (2, True), result.err
        assert "secret" not in result.err
    assert sorted(path.name for path in tmp_path.iterdir()) == before
