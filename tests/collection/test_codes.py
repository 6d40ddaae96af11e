"""Codes follow the database: made when there are enough items, extended, made again when damaged, never the truth."""

from __future__ import annotations

import numpy as np
import pytest

from slimbind.collection import Collection, codes
from slimbind.errors import CollectionError, UsageError

from .conftest import units

DIM = 16


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Codes from 100 items on, extended by 10."""
    monkeypatch.setattr("slimbind.codecs.index.EXACT_BELOW", 100)
    monkeypatch.setattr(codes, "CODES_FROM", 100)
    monkeypatch.setattr(codes, "_TAIL", 10)
    monkeypatch.setattr(codes, "_YOUNG", 0.0)


def rows(first, last):
    return units(7, 2000, DIM)[first:last]


def add(shelf, first, last, modality=""):
    shelf.add(rows(first, last), ids=[str(n) for n in range(first, last)], modality=modality)


def files(shelf):
    return sorted(path.name for path in shelf.folder.glob("codes-*"))


def record(shelf):
    return codes.record_of(shelf._header())


@pytest.fixture
def shelf(tmp_path):
    with Collection.create(tmp_path / "s") as made:
        add(made, 0, 200)
        yield made


def agrees_with_exact(shelf, alive, k=5):
    """Every answer is alive, and nearly all are those of exact search; scores are exact, as originals are looked at."""
    queries = units(99, 20, DIM)
    numbers = np.array(sorted(alive))
    good = 0
    for query, hits in zip(queries, shelf.search_batch(queries, k), strict=True):
        scores = rows(0, 2000)[numbers] @ query
        exact = {str(numbers[n]) for n in np.argsort(-scores)[:k]}
        found = [hit.id for hit in hits]
        assert len(found) == min(k, len(numbers)) and set(map(int, found)) <= set(alive)
        assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
        np.testing.assert_allclose(
            [hit.score for hit in hits], [rows(0, 2000)[int(n)] @ query for n in found], atol=1e-5
        )
        good += len(exact & set(found))
    assert good / (20 * min(k, len(numbers))) > 0.95


def test_few_items_are_compared_exactly_and_many_by_codes(tmp_path):
    with Collection.create(tmp_path / "s") as shelf:
        add(shelf, 0, 99)
        agrees_with_exact(shelf, range(99))
        assert (files(shelf), shelf.stats().method, shelf.stats().codes) == ([], "exact", None)
        add(shelf, 99, 100)
        agrees_with_exact(shelf, range(100))
        assert files(shelf) == [record(shelf).file]
        told = shelf.stats()
        assert told.method == "sq4,refine(original), flat"
        assert (told.codes["count"], told.waiting, told.codes["bytes_per_vector"]) == (100, 0, DIM // 2)


def test_very_many_items_lie_in_cells(tmp_path, monkeypatch):
    monkeypatch.setattr("slimbind.codecs.index.LISTS_FROM", 1000)
    with Collection.create(tmp_path / "s") as shelf:
        add(shelf, 0, 1200)
        shelf.build()
        assert shelf.stats().method == f"pq{DIM // 2}x4fs,refine(original), ivf"
        add(shelf, 1200, 1205)
        shelf.delete([str(n) for n in range(100)])
        queries = rows(1000, 1010)
        with Collection.open(shelf.folder) as again:
            for n, hits in enumerate(again.search_batch(queries, 3), 1000):
                assert hits[0].id == str(n)  # its own cell is visited, if any is
                assert all(100 <= int(hit.id) < 1205 for hit in hits)
            assert again.verify(samples=50).recall > 0.5


def test_cells_do_not_hide_what_is_asked_for(tmp_path, monkeypatch):
    monkeypatch.setattr("slimbind.codecs.index.LISTS_FROM", 1000)
    with Collection.create(tmp_path / "s") as shelf:
        add(shelf, 0, 1500)
        shelf.build()
        assert shelf.stats().method.endswith("ivf")
        for k in (1000, 1500):
            assert len(shelf.search(rows(0, 1), k)) == k
        shelf.delete(["1", "2"])
        assert len(shelf.search(rows(0, 1), 2000)) == 1498


def test_codes_are_read_and_not_made_again_by_the_next_process(shelf, monkeypatch):
    agrees_with_exact(shelf, range(200))
    monkeypatch.setattr(codes, "build", None)
    monkeypatch.setattr(codes, "extend", None)
    with Collection.open(shelf.folder) as again:
        agrees_with_exact(again, range(200))


@pytest.mark.parametrize("fresh", [False, True])
def test_what_came_and_went_since_is_seen(shelf, fresh):
    agrees_with_exact(shelf, range(200))
    before = files(shelf)
    add(shelf, 200, 209)
    shelf.delete([str(n) for n in range(0, 30)])
    shelf.upsert(rows(30, 31), ids=["30"])
    with Collection.open(shelf.folder) as other:
        agrees_with_exact(other if fresh else shelf, range(30, 209))
    assert files(shelf) == before
    assert shelf.stats().waiting == 10


def test_many_dead_among_the_best_do_not_hide_the_living(shelf):
    shelf.build()
    query = units(99, 20, DIM)[0]
    best = [hit.id for hit in shelf.search(query, 35)]
    shelf.delete(best[:30])
    assert [hit.id for hit in shelf.search(query, 5)] == best[30:35]
    assert shelf.search(query, 300)[-1].score >= -1
    assert len(shelf.search(query, 300)) == 170


def test_codes_are_extended_when_much_is_waiting_and_trained_again_when_much_more_is(shelf):
    agrees_with_exact(shelf, range(200))
    first = record(shelf)
    add(shelf, 200, 250)
    agrees_with_exact(shelf, range(250))
    second = record(shelf)
    assert (second.count, second.trained_on) == (250, 200)
    assert files(shelf) == [second.file] != [first.file]
    add(shelf, 250, 900)
    agrees_with_exact(shelf, range(900))
    assert (record(shelf).count, record(shelf).trained_on) == (900, 900)


def test_another_mixture_is_learned_anew(shelf):
    shelf.build()
    add(shelf, 200, 240, modality="text")
    shelf.build()
    assert record(shelf).trained_on == 200
    add(shelf, 240, 300, modality="text")
    shelf.build()
    assert record(shelf).trained_on == 300
    assert record(shelf).mix == pytest.approx({"": 2 / 3, "text": 1 / 3})


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "gone", "other"])
def test_a_damaged_code_file_is_noticed_and_made_again(shelf, damage):
    agrees_with_exact(shelf, range(200))
    path = shelf.folder / record(shelf).file
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    if damage == "gone":
        path.unlink()
    elif damage == "other":
        with Collection.create(shelf.folder.parent / "o") as other:
            add(other, 0, 300)
            other.build()
            path.write_bytes((other.folder / record(other).file).read_bytes())
    else:
        path.write_bytes({"flip": bytes(data), "cut": bytes(data[:-9]), "empty": b""}[damage])
    with Collection.open(shelf.folder) as again:
        report = again.verify(samples=5)
        assert report.ok and report.codes
        agrees_with_exact(again, range(200))
        assert record(again).file != path.name
        assert again.verify(samples=5).codes == ""


def test_every_byte_of_the_code_file_is_guarded(shelf):
    shelf.build()
    path = shelf.folder / record(shelf).file
    good = path.read_bytes()
    for place in range(0, len(good), 97):
        path.write_bytes(good[:place] + bytes([good[place] ^ 8]) + good[place + 1 :])
        with pytest.raises(CollectionError):
            codes.load(shelf.folder, record(shelf), DIM)
    path.write_bytes(good)
    codes.load(shelf.folder, record(shelf), DIM)


def test_filters_hold_among_codes(shelf, monkeypatch):
    from slimbind.collection import view

    shelf.build()
    shelf.update([shelf.get(str(n)).__class__(str(n), metadata={"n": n}) for n in range(200)])
    add(shelf, 200, 205)
    query = units(99, 20, DIM)[0]
    for narrow in (2000, 0):
        monkeypatch.setattr(view, "_NARROW", narrow)
        hits = shelf.search(query, 20, where="n < 30 or id = '203'")
        scores = rows(0, 205) @ query
        exact = sorted([*range(30), 203], key=lambda n: -scores[n])[:20]
        assert len({int(hit.id) for hit in hits} & set(exact)) >= 19
        assert all(int(hit.id) < 30 or hit.id == "203" for hit in hits)


def test_a_codec_may_be_asked_for(tmp_path):
    with Collection.create(tmp_path / "s", codec="SQ8") as shelf:
        add(shelf, 0, 300)
        agrees_with_exact_ids = [hit.id for hit in shelf.search(rows(3, 4), 1)]
        assert agrees_with_exact_ids == ["3"]
        assert (shelf.stats().codec, shelf.stats().method) == ("sq8", "sq8, flat")
        assert shelf.stats().codes["bytes_per_vector"] == DIM
        shelf.compact(codec="f32")
        assert (shelf.stats().method, shelf.stats().codes, files(shelf)) == ("exact", None, [])
        shelf.compact(codec="pq4x4fs,refine(original)")
        assert shelf.stats().codes["spec"] == "pq4x4fs,refine(original)"
        assert shelf.search(rows(3, 4), 1)[0].id == "3"


def test_a_codec_that_is_none_is_refused_before_anything_is_made(tmp_path):
    with pytest.raises(UsageError, match="unknown codec 'sq9'"):
        Collection.create(tmp_path / "s", codec="sq9")
    with pytest.raises(UsageError, match="cannot be cut into 5"):
        Collection.create(tmp_path / "s", codec="pq5x8", dim=16)
    assert not (tmp_path / "s").exists()
    with Collection.create(tmp_path / "s", codec="pq5x8") as shelf:
        with pytest.raises(UsageError, match="cannot be cut into 5"):
            add(shelf, 0, 5)
        assert (len(shelf), shelf.dim) == (0, None)
        with pytest.raises(UsageError, match="cannot be cut into 5"):
            shelf.learn_queries(rows(0, 5), "text")
        assert shelf.dim is None
        with pytest.raises(UsageError, match="unknown codec 'x'"):
            shelf.compact(codec="x")


def test_two_processes_that_make_codes_at_once_end_with_one_file(shelf):
    with Collection.open(shelf.folder) as other:
        with shelf._db.reading() as first, other._db.reading() as second:
            shelf._searcher.view(first)
            other._searcher.view(second)
        agrees_with_exact(shelf, range(200))
        agrees_with_exact(other, range(200))
        assert files(shelf) == [record(shelf).file]


def test_a_folder_that_cannot_be_written_is_searched_all_the_same(shelf, monkeypatch):
    from slimbind.codecs import CodeIndex

    tried = []

    def refuse(self, path):
        tried.append(path)
        raise CollectionError("the disk is full")

    monkeypatch.setattr(CodeIndex, "save", refuse)
    for _ in range(3):
        agrees_with_exact(shelf, range(200))
    assert (record(shelf), len(tried)) == (None, 1)  # not again and again
    add(shelf, 200, 205)
    agrees_with_exact(shelf, range(205))
    with pytest.raises(CollectionError, match="the disk is full"), Collection.open(shelf.folder) as again:
        again.build()


def test_compact_encodes_all_and_forgets_what_was_removed(shelf):
    shelf.build()
    add(shelf, 200, 205)
    shelf.delete(["1", "2"])
    assert shelf.stats().waiting == 5
    shelf.compact()
    assert (shelf.stats().waiting, shelf.stats().codes["count"]) == (0, 203)
    with shelf._db.reading() as connection:
        assert connection.execute("SELECT count(*) FROM removed").fetchone() == (0,)
    agrees_with_exact(shelf, [0, *range(3, 205)])
    before = files(shelf)
    shelf.compact()
    assert files(shelf) == before  # nothing changed, nothing is made again


def test_compact_gives_space_back(tmp_path):
    with Collection.create(tmp_path / "s", codec="f32") as shelf:
        shelf.add(units(1, 2000, 256), ids=[str(n) for n in range(2000)])
        shelf.search(units(1, 1, 256))
        shelf.delete([str(n) for n in range(1500)])
        assert shelf.compact() > 1_000_000
        assert shelf.stats().database_bytes < 1_000_000
        assert len(shelf.search(units(1, 1, 256), 1000)) == 500


def test_learned_queries_shape_the_codes(tmp_path):
    """Questions from elsewhere than the items: the codes know it, and `verify` asks them too."""
    rng = np.random.default_rng(0)
    axes = np.linspace(3, 0.1, DIM)
    items = rng.standard_normal((1500, DIM)) * axes + 2
    asked = rng.standard_normal((300, DIM)) * axes[::-1]
    with Collection.create(tmp_path / "s", codec="rabitq1,refine(original)") as shelf:
        shelf.learn_queries(asked[:200], "text")
        shelf.add(items, ids=[str(n) for n in range(len(items))], modality="vision")
        shelf.compact()
        assert shelf.stats().queries == {"text": 200}
        assert shelf.stats().codes["gain"] > 1.2
        report = shelf.verify(samples=50)
        assert (report.queries, report.ok) == (100, True)
        assert report.recall > 0.3
        with pytest.raises(CollectionError, match="queries have 3 dimensions, the collection 16"):
            shelf.learn_queries(np.ones((2, 3)), "text")


def test_a_folder_given_by_a_relative_path_stays_the_same_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with Collection.create("here") as shelf:
        add(shelf, 0, 200)
        (tmp_path / "deeper").mkdir()
        monkeypatch.chdir(tmp_path / "deeper")
        shelf.build()
        assert files(shelf) == [path.name for path in (tmp_path / "here").glob("codes-*")] != []
        agrees_with_exact(shelf, range(200))


def test_files_of_others_stay_where_codes_come_and_go(shelf):
    theirs = ["barcodes-2024.csv", "codes-of-conduct.txt", "codes-1-2.bin", "collection.db-backup"]
    for name in theirs:
        (shelf.folder / name).write_text("keep")
    (shelf.folder / ".codes-1-0123abcd.bin.x1y2").write_text("half of a file that was never finished")
    shelf.build()
    shelf.delete([str(n) for n in range(50)])
    shelf.compact()
    assert files(shelf) == sorted(["codes-1-2.bin", "codes-of-conduct.txt", record(shelf).file])
    shelf.close()
    Collection.drop(shelf.folder)
    assert sorted(path.name for path in shelf.folder.iterdir()) == sorted(theirs)


def test_codes_that_a_search_could_not_write_are_written_by_build(shelf):
    with Collection.open(shelf.folder) as other, other._db.writing():
        agrees_with_exact(shelf, range(200))  # another process writes: the codes stay in memory
        assert record(shelf) is None
    agrees_with_exact(shelf, range(200))
    shelf.build()
    assert files(shelf) == [record(shelf).file]
    shelf.build()
    assert files(shelf) == [record(shelf).file]
    with Collection.open(shelf.folder) as again:
        agrees_with_exact(again, range(200))


@pytest.mark.parametrize("coded", [False, True])
def test_an_interrupted_search_leaves_nothing_half_done(shelf, monkeypatch, coded):
    """Ctrl-C in a notebook, while a search reads what came since the last one."""
    from slimbind.collection import items

    if coded:
        shelf.build()
    agrees_with_exact(shelf, range(200))
    add(shelf, 200, 205)
    shelf.delete(["3"])
    alive = [n for n in range(205) if n != 3]
    real = items.read_vectors

    def interrupted(*args, **options):
        yield from real(*args, **options)
        raise KeyboardInterrupt

    for call in (lambda: shelf.search(rows(0, 1)), shelf.build):
        with monkeypatch.context() as patch:
            patch.setattr(items, "read_vectors", interrupted)
            with pytest.raises(KeyboardInterrupt):
                call()
        agrees_with_exact(shelf, alive)
        assert len(shelf.search(rows(0, 1), 500)) == len(alive)
        add(shelf, 300 + len(alive), 301 + len(alive))
        alive.append(300 + len(alive))


def test_compact_beside_somebody_who_reads_an_older_state(tmp_path):
    with Collection.create(tmp_path / "s", timeout=0.1) as shelf, Collection.open(tmp_path / "s") as other:
        shelf.add(rows(0, 1000), ids=[str(n) for n in range(1000)])
        shelf.build()
        reading = other.batches()
        first = next(reading)
        shelf.delete([str(n) for n in range(800)])
        shelf.compact()
        assert len(first[0]) + sum(len(entries) for entries, _ in reading) == 1000
        assert len(other.search(rows(0, 1), 1000)) == len(shelf.search(rows(0, 1), 1000)) == 200
        assert shelf.compact() > 0
        assert shelf.verify().ok and other.verify().ok
