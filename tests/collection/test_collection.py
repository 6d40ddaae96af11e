"""A collection keeps what it was given, and finds it exactly."""

from __future__ import annotations

import os
import sqlite3
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import slimbind
from slimbind.collection import Collection, Entry, exact
from slimbind.errors import CollectionError, UsageError

from .conftest import DIM, IDS, fill, units


def names(hits):
    return [hit.id for hit in hits]


def test_it_is_a_public_name():
    assert slimbind.Collection is Collection


def test_what_was_added_is_there_after_opening_again(tmp_path):
    with Collection.create(tmp_path / "s", model="mini", encoders=IDS) as shelf:
        assert shelf.dim is None
        entry = Entry("a", "vision", "/p/a.jpg", {"year": 2021, "tags": ["x", None]}, "beef", 5, 7)
        assert shelf.put([entry], units(1), encoders=IDS) == 0
    with Collection.open(tmp_path / "s") as shelf:
        assert (len(shelf), shelf.dim, shelf.model, shelf.encoders) == (1, DIM, "mini", IDS)
        assert shelf.get("a") == entry
        assert shelf.get("b") is None
        assert "a" in shelf and "b" not in shelf and 3 not in shelf
        assert list(shelf.entries()) == [entry]
        np.testing.assert_array_equal(shelf.vectors(["a"]), units(1))
        (hit,) = shelf.search(units(1), 3)
        assert (hit.id, hit.modality, hit.source, hit.metadata) == ("a", "vision", "/p/a.jpg", entry.metadata)
        assert hit.score == pytest.approx(1)


def test_an_empty_collection_answers_with_nothing(tmp_path):
    with Collection.create(tmp_path / "s") as shelf:
        assert shelf.search(units(1), 5) == []
        assert shelf.search_batch(units(1, 3), 5) == [[], [], []]
        assert (len(shelf), list(shelf.entries()), shelf.vectors([]).shape) == (0, [], (0, 0))


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    count=st.integers(1, 40),
    k=st.integers(1, 50),
    drop=st.sets(st.integers(0, 39)),
    seed=st.integers(0, 1000),
    step=st.integers(1, 50),
)
def test_search_is_exact_and_repeatable(tmp_path_factory, monkeypatch, count, k, drop, seed, step):
    monkeypatch.setattr(exact, "_ROWS", step)
    monkeypatch.setattr(exact, "_QUERIES", 2)
    rng = np.random.default_rng(seed)
    rows = rng.integers(-1, 2, (count, 3)).astype(np.float32) + 0.1  # few directions, so that there are ties
    queries = rng.standard_normal((3, 3))
    with Collection.create(tmp_path_factory.mktemp("c") / "s") as shelf:
        shelf.add(rows, ids=[str(n) for n in range(count)])
        shelf.search(queries[0])  # so that what follows is learned by a view that is there already
        shelf.delete([str(n) for n in drop])
        alive = [n for n in range(count) if n not in drop]
        units = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        for query, hits in zip(queries, shelf.search_batch(queries, k), strict=True):
            scores = units @ (query / np.linalg.norm(query))
            assert len(hits) == min(k, len(alive))
            assert [hit.score for hit in hits] == pytest.approx(sorted(scores[alive], reverse=True)[:k], abs=1e-5)
            assert [hit.score for hit in hits] == pytest.approx([scores[int(hit.id)] for hit in hits], abs=1e-5)
            assert len({hit.id for hit in hits}) == len(hits)


@pytest.mark.parametrize("codec", ["f32", "sq4,refine(original)"])
def test_ties_go_by_id_whenever_they_were_written(shelf, monkeypatch, codec):
    monkeypatch.setattr("slimbind.collection.codes.CODES_FROM", 5)
    shelf.compact(codec=codec)
    same = list("igbdafche")
    shelf.add(np.repeat(units(1), 9, axis=0), ids=same, modality="vision", encoders=IDS)
    shelf.add(units(2, 300), ids=[f"{n:03d}" for n in range(300)], modality="vision", encoders=IDS)
    better = (units(1) + 0.01 * units(5))[0]
    shelf.add([better], ids=["z"], modality="vision", encoders=IDS)
    for k in (1, 4, 8, 9, 10, 11, 40):
        found = names(shelf.search(better, k))
        assert found[:10] == ["z", *sorted(same)][:k]
        assert len(found) == k
        assert names(shelf.search(better, k, where="id < 'f' and id >= 'a'")) == list("abcde")[:k]
    both = shelf.search_batch([better, units(2)[0]], 3)
    assert [names(hits) for hits in both] == [["z", "a", "b"], names(shelf.search(units(2)[0], 3))]


def test_of_very_many_equal_items_some_are_given(shelf, monkeypatch):
    monkeypatch.setattr("slimbind.collection.searching._TIES", 10)
    ids = [f"{n:03d}" for n in reversed(range(300))]
    shelf.add(np.repeat(units(1), 300, axis=0), ids=ids, modality="vision", encoders=IDS)
    assert names(shelf.search(units(1), 3)) == ["287", "288", "289"]  # of the 13 that were written first
    assert sorted(names(shelf.search(units(1), 300))) == sorted(ids)


def test_one_query_and_many(shelf):
    fill(shelf, 20)
    queries = units(99, 5)
    assert [names(hits) for hits in shelf.search_batch(queries, 4)] == [names(shelf.search(one, 4)) for one in queries]
    assert names(shelf.search(queries[:1])) == names(shelf.search(queries[0]))
    with pytest.raises(UsageError, match="search takes one query, and there are 5.*search_batch"):
        shelf.search(queries)


def test_vectors_are_brought_to_length_one_and_unit_vectors_stay_as_they_are(tmp_path):
    with Collection.create(tmp_path / "s") as shelf:
        shelf.add([[3, 4], [0.6, 0.8]], ids=["a", "b"])
        assert shelf.vectors(["b", "a"]).tolist() == np.float32([[0.6, 0.8], [0.6, 0.8]]).tolist()
        assert [hit.score for hit in shelf.search([30, 40])] == pytest.approx([1, 1])


def test_half_precision_takes_half_the_place(tmp_path):
    with Collection.create(tmp_path / "s", dtype="f16") as shelf:
        shelf.add(units(1, 4), ids=list("abcd"))
        with sqlite3.connect(tmp_path / "s" / "collection.db") as raw:
            assert {row[0] for row in raw.execute("SELECT length(vector) FROM vectors")} == {2 * DIM}
        raw.close()
        np.testing.assert_allclose(shelf.vectors(["c"])[0], units(1, 4)[2], atol=1e-3)


def test_half_precision_scores_are_cosines_too(tmp_path):
    rows = units(1, 300, 64)
    with Collection.create(tmp_path / "s", dtype="f16") as shelf:
        shelf.add(rows, ids=[str(n) for n in range(300)])
        kept = shelf.vectors([str(n) for n in range(300)])
        np.testing.assert_allclose(np.linalg.norm(kept, axis=1), 1, atol=1e-6)
        for n in range(300):
            hit = shelf.search(kept[n], 1)[0]
            assert (hit.id, hit.score) == (str(n), pytest.approx(1, abs=1e-6))


def test_a_score_does_not_depend_on_what_else_is_asked_or_there(tmp_path):
    rows = units(1, 997, 512)
    rows[::7] = rows[0]
    queries = units(2, 50, 512)
    queries[0] = rows[0]
    with Collection.create(tmp_path / "s") as shelf:
        shelf.add(rows, ids=[str(n) for n in range(997)], metadata=[{"n": n} for n in range(997)])
        together = shelf.search_batch(queries, 20)
        assert together == [shelf.search(query, 20) for query in queries]
        assert names(together[0]) == sorted(str(7 * n) for n in range(143))[:20]  # the same vector, by id
        scores = {hit.id: hit.score for hit in shelf.search(queries[1], 997)}
        some = shelf.search(queries[1], 997, where="n < 331")
        assert len(some) == 331 and all(scores[hit.id] == hit.score for hit in some)
        assert len({scores[str(7 * n)] for n in range(100)}) == 1


def test_adding_what_is_there_is_refused_as_a_whole_and_upsert_replaces_it(shelf):
    fill(shelf, 3)
    with pytest.raises(CollectionError, match="'i1' is in the collection .* already; nothing was added .*upsert"):
        shelf.add(units(7, 2), ids=["new", "i1"], modality="vision", encoders=IDS)
    assert len(shelf) == 3 and "new" not in shelf
    assert shelf.upsert(units(7, 2), ids=["new", "i1"], modality="vision", encoders=IDS) == 1
    assert len(shelf) == 4
    assert names(shelf.search(units(7, 2)[1], 1)) == ["i1"]
    assert names(shelf.search(units(1), 1)) != ["i1"]
    assert shelf.get("i1").metadata == {}


def test_an_item_that_was_taken_out_is_not_found_and_may_come_back(shelf):
    fill(shelf, 5)
    assert names(shelf.search(units(2), 1)) == ["i2"]
    assert shelf.delete(["i2", "i4", "nothing"]) == 2
    assert shelf.delete([]) == shelf.delete(["i2"]) == 0
    assert sorted(names(shelf.search(units(2), 9))) == ["i0", "i1", "i3"]
    shelf.add(units(2), ids=["i2"], modality="vision", encoders=IDS)
    assert names(shelf.search(units(2), 1)) == ["i2"]


def test_writing_and_removing_in_one_step(shelf):
    fill(shelf, 3)
    assert shelf.put([Entry("b", "vision")], units(50), encoders=IDS, remove=["i0", "i1"]) == 0
    assert sorted(entry.id for entry in shelf.entries()) == ["b", "i2"]
    shelf.put([], [], remove=["b"])
    assert names(shelf.search(units(50), 9)) == ["i2"]
    assert shelf.put([], []) == 0


def test_what_is_known_about_an_item_changes_without_its_vector(shelf):
    fill(shelf, 2)
    shelf.update([Entry("i1", "vision", "/new", {"a": 1}, "ff", 3, 4)])
    assert shelf.get("i1") == Entry("i1", "vision", "/new", {"a": 1}, "ff", 3, 4)
    assert shelf.search(units(1), 1)[0].metadata == {"a": 1}
    shelf.update([])
    with pytest.raises(CollectionError, match="'none' is not in the collection .*nothing was changed"):
        shelf.update([Entry("i0", "vision", "/other"), Entry("none")])
    assert shelf.get("i0").source == "i0"


def test_a_long_life_of_changes_does_not_fill_the_memory(shelf, monkeypatch):
    for turn in range(12):
        shelf.upsert(units(turn, 10), ids=[str(n) for n in range(10)], modality="vision", encoders=IDS)
        assert len(shelf.search(units(turn), 50)) == 10
    with shelf._db.reading() as connection:
        assert len(shelf._searcher.view(connection)[1].keys) <= 30


def test_entries_are_those_of_the_moment_of_the_call(shelf, monkeypatch):
    monkeypatch.setattr("slimbind.collection.items._PAGE", 2)
    fill(shelf, 5)
    entries = shelf.entries()
    fill(shelf, 3, start=5)
    assert [entry.id for entry in entries] == [f"i{n}" for n in range(5)]
    assert len(list(shelf.entries())) == 8


def test_many_ids_at_once(shelf, monkeypatch):
    monkeypatch.setattr("slimbind.collection.items._MANY", 3)
    fill(shelf, 10)
    wanted = [f"i{n}" for n in (9, 0, 5, 3, 7)]
    np.testing.assert_array_equal(shelf.vectors(wanted), np.concatenate([units(n) for n in (9, 0, 5, 3, 7)]))
    assert set(shelf.get_many([*wanted, "other"])) == set(wanted)
    with pytest.raises(CollectionError, match="'other' is not in the collection"):
        shelf.vectors(["other"])
    assert shelf.delete([f"i{n}" for n in range(8)]) == 8


def test_undecodable_and_strange_names_survive(tmp_path):
    strange = [os.fsdecode(b"/p/\xff\xfe.jpg"), "/p/new\nline", "'; DROP TABLE items; --", "日本", "a" * 5000]
    with Collection.create(tmp_path / "s") as shelf:
        shelf.add(units(1, 5), ids=strange)
    with Collection.open(tmp_path / "s") as shelf:
        assert [entry.id for entry in shelf.entries()] == [entry.source for entry in shelf.entries()] == strange
        assert names(shelf.search(units(1, 5)[0], 1)) == strange[:1]
        assert shelf.delete(strange[:1]) == 1


def test_paths_are_ids(tmp_path):
    paths = [Path("x") / "a.jpg", Path("x") / "b.jpg"]
    with Collection.create(tmp_path / "s") as shelf:
        shelf.add(units(1, 2), ids=paths, sources=np.array(["one", "two"]))
        assert paths[0] in shelf and Path("c") not in shelf
        assert shelf.get(paths[1]).source == "two"
        assert list(shelf.get_many(paths)) == [str(path) for path in paths]
        np.testing.assert_array_equal(shelf.vectors(paths[1:]), units(1, 2)[1:])
        assert shelf.upsert(units(2), ids=paths[:1], sources=paths[1:]) == 1
        assert shelf.get(paths[0]).source == str(paths[1])
        assert shelf.delete(paths) == 2


def test_it_reads_as_the_first_page_shows(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    paths = [Path("dog.jpg"), Path("cat.png")]
    shelf = slimbind.Collection.create("photos.slim", codec="sq8")
    shelf.add(units(1, 2), ids=paths)
    hits = shelf.search(units(1, 2)[1:], k=10)
    assert (names(hits), hits[0].score) == (["cat.png", "dog.jpg"], pytest.approx(1))
    shelf.close()


def test_asking_for_very_many_takes_no_more_memory_than_there_is(shelf):
    fill(shelf, 3)
    assert len(shelf.search(units(1), 10**15)) == 3
    assert len(shelf.search(units(1), 10**15, where="number < 2")) == 2
    assert shelf.search(units(1), 10**15, where="number > 2") == []
    shelf.delete(["i0", "i1", "i2"])
    assert shelf.search_batch(units(1, 2), 10**15) == [[], []]


def test_the_answer_of_a_filter_is_kept_until_something_changes(shelf, monkeypatch):
    from slimbind.collection import filters_sql

    fill(shelf, 6)
    asked = []
    plain = filters_sql.keys_of

    def counted(connection, node):
        asked.append(node)
        return plain(connection, node)

    monkeypatch.setattr(filters_sql, "keys_of", counted)
    with Collection.open(shelf.folder) as other:
        for expected in (["i4", "i5"], ["i5"], ["i5", "new"]):
            for _ in range(2):
                assert sorted(names(shelf.search(units(0), 9, where="number > 3"))) == expected
            if expected == ["i5"]:
                other.add(units(9), ids=["new"], modality="vision", metadata=[{"number": 4}], encoders=IDS)
            else:
                other.delete(["i4"])
        assert len(asked) == 3
    for bound in range(9):  # not for ever
        shelf.search(units(0), 1, where=f"number > {bound}")
    assert len(shelf._searcher._allowed) == 4


def test_filters_that_python_takes_for_one_are_two(shelf):
    told = [{"x": True}, {"x": 1}, {"x": 1.5}, {"x": "1"}]
    shelf.add(units(0, 4), ids=list("abcd"), modality="vision", metadata=told, encoders=IDS)
    for where, expected in (
        ("x = 1", "b"),
        ("x = true", "a"),
        ("x = 1.0", "b"),
        ("x in (1)", "b"),
        ("x in (true)", "a"),
    ):
        assert names(shelf.search(units(0), 9, where=where)) == [expected], where


def test_what_was_removed_does_not_pile_up(shelf, monkeypatch):
    monkeypatch.setattr("slimbind.collection.header._REMOVED", 30)
    with Collection.open(shelf.folder) as other:
        for turn in range(20):
            shelf.upsert(units(turn, 10), ids=[str(n) for n in range(10)], modality="vision", encoders=IDS)
            shelf.delete([str(turn % 10)])
            for one in (shelf, other):
                assert sorted(names(one.search(units(turn), 50))) == [str(n) for n in range(10) if n != turn % 10]
            with shelf._db.reading() as connection:
                assert connection.execute("SELECT count(*) FROM removed").fetchone()[0] <= 50
        assert other.verify().ok


def test_adding_very_many_does_not_copy_them(tmp_path):
    rows = units(1, 4000, 512)
    names_of_all = [str(n) for n in range(4000)]
    with Collection.create(tmp_path / "s", dtype="f16") as shelf:
        tracemalloc.start()
        shelf.add(rows, ids=names_of_all)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        np.testing.assert_allclose(shelf.vectors(["3999"])[0], rows[3999], atol=1e-3)
    assert peak < rows.nbytes / 2
