"""What a collection refuses, and what it says then: vectors, ids, arguments and folders that do not belong."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import numpy as np
import pytest

from slimbind.collection import Collection
from slimbind.errors import CollectionError, UsageError

from .conftest import IDS, fill, units


@pytest.mark.parametrize(
    ("vector", "match"),
    [
        ([np.nan] + [1] * 7, "the vector of 'x' is not finite"),
        ([1e300] + [1] * 7, "the vector of 'x' is not finite"),
        ([np.inf] + [1] * 7, "the vector of 'x' is not finite"),
        ([0] * 8, "the vector of 'x' is zero"),
        ([1] * 7, "holds vectors of 8 dimensions, and these have 7"),
    ],
)
def test_vectors_that_cannot_be_compared_are_refused_as_a_whole(shelf, vector, match):
    rows = np.ones((2, len(vector)))
    rows[1] = vector
    with pytest.raises(CollectionError, match=match):
        shelf.add(rows, ids=["good", "x"], modality="vision", encoders=IDS)
    assert len(shelf) == 0
    with pytest.raises(CollectionError):
        fill(shelf, 1)
        shelf.search(vector)


@pytest.mark.parametrize("rows", [["words"], [["a", "b"]], np.ones((2, 2, 2)), [[1, 2], [3]], np.empty((1, 0)), [[1j]]])
def test_what_are_no_vectors_is_refused(shelf, rows):
    with pytest.raises(UsageError, match="vectors"):
        shelf.add(rows, ids=["x"])


def test_vectors_of_another_encoder_are_refused(shelf):
    fill(shelf, 1)
    with pytest.raises(CollectionError, match=f"of encoder {'v' * 16}; these are of encoder other, and cannot"):
        shelf.add(units(1), ids=["x"], modality="vision", encoders={"vision": "other"})
    with pytest.raises(CollectionError, match="do not say which encoder made them.*encoders="):
        shelf.add(units(1), ids=["x"], modality="vision")
    shelf.add(units(1), ids=["x"], modality="audio", encoders={"audio": "a" * 16})  # a modality that is new
    assert shelf.encoders == {**IDS, "audio": "a" * 16}
    with pytest.raises(CollectionError, match="these are of encoder b"):
        shelf.add(units(1), ids=["y"], modality="audio", encoders={"audio": "b"})


def test_encoder_ids_are_kept_or_refused_and_never_forgotten(tmp_path):
    with Collection.create(tmp_path / "shelf") as shelf:
        for modality, match in (("", "given for text, vision, and 'x' has no modality"), ("audio", "'x' is audio")):
            for write in (shelf.add, shelf.upsert):
                with pytest.raises(UsageError, match=match):
                    write(units(1), ids=["x"], modality=modality, encoders=IDS)
        assert (len(shelf), shelf.encoders) == (0, {})
        shelf.add(units(1), ids=["x"], modality="vision", encoders=IDS)
        assert shelf.encoders == IDS  # that of texts as well, in which the pictures will be asked for
        with pytest.raises(CollectionError, match=f"text of encoder {'t' * 16}; these are of encoder other"):
            shelf.add(units(2), ids=["y"], modality="vision", encoders={**IDS, "text": "other"})
        shelf.add(units(2), ids=["y"], modality="vision", encoders={"vision": IDS["vision"]})
        shelf.add(units(3), ids=["z"])  # nothing is known of it, and nothing was said
        assert shelf.encoders == IDS


def test_a_model_that_does_not_fit_is_told_how_to_mend_it(shelf):
    shelf.check(IDS, model="mini")
    shelf.check({**IDS, "audio": "a"}, model="mini")
    with pytest.raises(CollectionError, match="cannot be compared .*use --model mini, or another --index for other"):
        shelf.check({**IDS, "vision": "x"}, model="other")
    with pytest.raises(CollectionError, match="the model was changed since: delete"):
        shelf.check({**IDS, "vision": "x"}, model="mini")
    with pytest.raises(CollectionError, match="shares no modality with other"):
        shelf.check({"audio": "x"}, model="other")


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"ids": ["a"]}, "1 ids and 2 vectors"),
        ({"ids": ["a", "a"]}, "'a' is there twice"),
        ({"ids": ["a", ""]}, "an id is empty"),
        ({"ids": ["a", "b\0"]}, "NUL"),
        ({"ids": ["a", "\ud800"]}, "is no text"),
        ({"ids": "ab"}, "ids are a list"),
        ({"ids": Path("ab")}, "ids are a list"),
        ({"ids": 7}, "ids are a list"),
        ({"ids": []}, "0 ids and 2 vectors"),
        ({"ids": [1, 2]}, "the id 1 is no text but int"),
        ({"ids": ["a", b"b"]}, "the id b'b' is no text but bytes"),
        ({"ids": ["a", "b"], "sources": []}, "2 ids and 0 of sources"),
        ({"ids": ["a", "b"], "modality": None}, "modality is None"),
        ({"ids": ["a", "b"], "hashes": ["x", 5]}, "the hash 5 is no text but int"),
        ({"ids": ["a", "b"], "metadata": [{}]}, "2 ids and 1 of metadata"),
        ({"ids": ["a", "b"], "sources": ["x"]}, "2 ids and 1 of sources"),
        ({"ids": ["a", "b"], "modality": ["vision"]}, "2 ids and 1 of modality"),
        ({"ids": ["a", "b"], "metadata": [{}, {"x": object()}]}, "metadata of 'b' cannot be kept"),
        ({"ids": ["a", "b"], "metadata": [{}, {"x": float("nan")}]}, "metadata of 'b' cannot be kept"),
        ({"ids": ["a", "b"], "metadata": [{}, {1: 2}]}, "its names are not all strings"),
        ({"ids": ["a", "b"], "metadata": [{}, {"x": "a\0b"}]}, "NUL"),
        ({"ids": ["a", "b"], "metadata": [{}, {"x": "\ud800"}]}, "metadata of 'b' cannot be kept"),
        ({"ids": ["a", "b"], "metadata": [{}, {"x": "a" * (1 << 20)}]}, "allowed are 1048576"),
    ],
)
def test_arguments_that_do_not_fit_are_refused_before_anything_is_written(tmp_path, arguments, match):
    with Collection.create(tmp_path / "s") as shelf:
        with pytest.raises(UsageError, match=match):
            shelf.add(units(1, 2), **arguments)
        assert (len(shelf), shelf.dim) == (0, None)


def test_a_backslash_before_u0000_is_no_nul(tmp_path):
    with Collection.create(tmp_path / "s") as shelf:
        shelf.add(units(1), ids=["a"], metadata=[{"x": "\\u0000"}])
        assert shelf.get("a").metadata == {"x": "\\u0000"}
        assert [hit.id for hit in shelf.search(units(1), where=r"x = '\u0000'")] == ["a"]


def test_ids_given_as_one_text_are_a_mistake(shelf):
    with pytest.raises(UsageError, match="ids are a list, and 'i1' is one id"):
        shelf.delete("i1")


@pytest.mark.parametrize("k", [0, -1, 1.5, "3", None, True])
def test_k_is_at_least_one(shelf, k):
    with pytest.raises(UsageError, match=f"k is {k}"):
        shelf.search(units(1), k)


@pytest.mark.parametrize(("options", "match"), [({"dtype": "f8"}, "dtype 'f8'"), ({"dim": 0}, "dim is 0")])
def test_a_collection_that_cannot_be_is_not_made(tmp_path, options, match):
    with pytest.raises(UsageError, match=match):
        Collection.create(tmp_path / "s", **options)
    assert not (tmp_path / "s").exists()


def test_no_collection_says_how_to_make_one(tmp_path):
    with pytest.raises(CollectionError, match="there is no collection at .*slimbind index FOLDER"):
        Collection.open(tmp_path / "s")


def test_a_collection_is_not_made_over_something(shelf, tmp_path):
    fill(shelf, 2)
    with pytest.raises(CollectionError, match="is a collection already .*open it instead"):
        Collection.create(shelf.folder)
    assert len(shelf) == 2
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "x").write_text("")
    with pytest.raises(CollectionError, match="not empty and not a collection .it has 'x'"):
        Collection.create(tmp_path / "other")
    with pytest.raises(CollectionError, match="is a file, not a folder"):
        Collection.create(tmp_path / "other" / "x")
    with pytest.raises(CollectionError, match="cannot make .*: Not a directory"):
        Collection.create(tmp_path / "other" / "x" / "y")


def test_an_index_of_the_first_version_is_refused(tmp_path):
    (tmp_path / "index.json").write_text("{}")
    for call in (Collection.open, Collection.create):
        with pytest.raises(CollectionError, match="an earlier slimbind.*run `slimbind index` again"):
            call(tmp_path)


def test_a_newer_format_is_refused(shelf):
    for change in ("UPDATE header SET format_version = 2", "ALTER TABLE header RENAME COLUMN dim TO other"):
        with sqlite3.connect(shelf.folder / "collection.db") as raw:
            raw.execute(change)
        raw.close()
        with pytest.raises(CollectionError, match="format version 2; this slimbind reads up to 1"):
            Collection.open(shelf.folder)


def test_a_creation_that_was_killed_is_no_obstacle(tmp_path):
    sqlite3.connect(tmp_path / "collection.db").execute("PRAGMA journal_mode = WAL").connection.close()
    with Collection.create(tmp_path) as shelf:
        fill(shelf, 1)
        assert len(shelf) == 1


@pytest.mark.parametrize("left", ["nothing", "a page", "a full disk"])
def test_a_collection_that_was_never_finished_can_be_made(tmp_path, monkeypatch, left):
    """Killed, or out of space, in the very first moment."""
    file = tmp_path / "s" / "collection.db"
    file.parent.mkdir()
    if left == "a full disk":
        with monkeypatch.context() as patch:
            patch.setattr("slimbind.collection.header.change", lambda *_, **__: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                Collection.create(file.parent)
    else:
        raw = sqlite3.connect(file)
        if left == "a page":
            raw.execute("PRAGMA page_size = 16384")
            raw.execute("PRAGMA journal_mode = WAL")
        raw.close()
    assert file.exists()
    assert not Collection.exists(file.parent)
    with pytest.raises(CollectionError, match="there is no collection at"):
        Collection.open(file.parent)
    with Collection.create(file.parent) as shelf:
        assert Collection.exists(file.parent)
        shelf.add(units(1), ids=["a"])
        assert len(shelf) == 1


@pytest.mark.parametrize("damage", [b"no database at all, but long enough to be read as one" * 100])
def test_a_file_that_is_no_collection_is_refused(tmp_path, damage):
    (tmp_path / "collection.db").write_bytes(damage)
    with pytest.raises(CollectionError, match="is damaged"):
        Collection.open(tmp_path)


def test_a_closed_collection_says_so(shelf):
    shelf.close()
    with pytest.raises(CollectionError, match="was closed .open it again"):
        shelf.search(units(1))
