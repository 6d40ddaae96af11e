"""The flat index keeps what it was given, finds it exactly, and survives everything short of a lying disk."""

from __future__ import annotations

import errno
import json
import os

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from slimbind.collection import Entry, FlatIndex, flat, store
from slimbind.errors import CollectionError, UsageError

DIM = 6
IDS = {"vision": "v" * 16, "text": "t" * 16}


def unit(seed):
    vector = np.random.default_rng(seed).standard_normal(DIM).astype(np.float32)
    return vector / np.linalg.norm(vector)


def make(folder, count=5):
    index = FlatIndex.create(folder, dim=DIM, model="mini", encoders=IDS)
    for n in range(count):
        index.put(Entry(f"/p/{n}.jpg", "vision", n, 10 * n), unit(n))
    index.save()
    return index


def files(folder):
    return sorted(path.name for path in folder.iterdir())


def test_what_was_saved_is_read_back(tmp_path):
    make(tmp_path / "i").close()
    with FlatIndex.open(tmp_path / "i") as index:
        assert (len(index), index.dim, index.model, index.encoders) == (5, DIM, "mini", IDS)
        assert index.get("/p/3.jpg", "vision") == Entry("/p/3.jpg", "vision", 3, 30)
        assert index.get("/p/3.jpg", "text") is None
        (hit,) = index.search(unit(3), 1)
        assert (hit.entry.path, round(hit.score, 5)) == ("/p/3.jpg", 1.0)


def test_an_empty_index_answers_with_nothing(tmp_path):
    FlatIndex.create(tmp_path / "i", dim=DIM, model="mini", encoders=IDS).close()
    with FlatIndex.open(tmp_path / "i") as index:
        assert index.search(unit(0), 10) == []


def test_more_answers_than_items_gives_all_of_them_in_order(tmp_path):
    with make(tmp_path / "i") as index:
        hits = index.search(unit(2), 100)
    assert len(hits) == 5
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.integers(0, 60),
    k=st.integers(1, 70),
    step=st.integers(1, 25),
    saved=st.booleans(),
    drop=st.sets(st.integers(0, 59), max_size=20),
    seed=st.integers(0, 9),
)
def test_search_is_exact_and_repeatable(tmp_path_factory, monkeypatch, rows, k, step, saved, drop, seed):
    """Whatever is saved, added, removed and however it is cut in chunks: the answer is that of a plain sort."""
    monkeypatch.setattr(flat, "_ROWS", step)
    # Along the axes every product is exact, whatever order it is summed in, and there are many ties.
    axes = np.concatenate([np.eye(DIM), -np.eye(DIM)]).astype(np.float32)
    vectors = axes[np.random.default_rng(seed).integers(0, len(axes), rows)]
    query = unit(99)
    with FlatIndex.create(tmp_path_factory.mktemp("i"), dim=DIM, model="mini", encoders=IDS) as index:
        for n, vector in enumerate(vectors):
            index.put(Entry(f"{n}", "vision" if n % 3 else "text"), vector)
            if saved and n == rows // 2:
                index.save()
        for n in drop:
            index.remove(f"{n}", "vision" if n % 3 else "text")
        left = [n for n in range(rows) if n not in drop]
        expected = sorted(left, key=lambda n: (-float(vectors[n] @ query), n))[:k]
        assert [int(hit.entry.path) for hit in index.search(query, k)] == expected
        only = [n for n in left if n % 3 == 0]
        expected = sorted(only, key=lambda n: (-float(vectors[n] @ query), n))[:k]
        assert [int(hit.entry.path) for hit in index.search(query, k, modality="text")] == expected


def test_scores_are_cosines(tmp_path):
    vectors = np.stack([unit(n) for n in range(200)])
    with FlatIndex.create(tmp_path / "i", dim=DIM, model="mini", encoders=IDS) as index:
        for n, vector in enumerate(vectors):
            index.put(Entry(f"{n}", "vision"), vector)
        hits = index.search(unit(500), 20)
    cosines = vectors @ unit(500)
    assert [int(hit.entry.path) for hit in hits] == list(np.argsort(-cosines)[:20])
    np.testing.assert_allclose([hit.score for hit in hits], np.sort(cosines)[::-1][:20], atol=1e-6)


def test_a_file_put_again_takes_the_place_of_its_old_self(tmp_path):
    with make(tmp_path / "i") as index:
        index.put(Entry("/p/3.jpg", "vision", 99, 99), unit(77))
        assert len(index) == 5
        index.save()
    with FlatIndex.open(tmp_path / "i") as index:
        assert len(index) == 5
        assert index.get("/p/3.jpg", "vision").size == 99
        assert index.search(unit(77), 1)[0].entry.path == "/p/3.jpg"


def test_a_file_may_be_there_once_per_modality(tmp_path):
    with make(tmp_path / "i") as index:
        index.put(Entry("/p/3.jpg", "text"), unit(50))
        assert len(index) == 6
        assert index.remove("/p/3.jpg", "vision")
        assert not index.remove("/p/3.jpg", "vision")
        assert index.get("/p/3.jpg", "text") is not None


def test_undecodable_and_strange_names_survive(tmp_path):
    names = [
        os.fsdecode(b"/p/\xff\xfe.jpg"),
        "/p/new\nline.jpg",
        "/p/\u65e5\u672c \u2028.jpg",
        '/p/"q".jpg',
        "/p/\x85.jpg",
    ]
    with FlatIndex.create(tmp_path / "i", dim=DIM, model="mini", encoders=IDS) as index:
        for n, name in enumerate(names):
            index.put(Entry(name, "vision"), unit(n))
        index.save()
    with FlatIndex.open(tmp_path / "i") as index:
        assert [entry.path for entry in index.entries()] == names


def test_nothing_unsaved_is_kept_and_saving_nothing_writes_nothing(tmp_path):
    with make(tmp_path / "i") as index:
        before = files(tmp_path / "i")
        assert index.save() is False
        assert files(tmp_path / "i") == before
        index.put(Entry("/p/new.jpg", "vision"), unit(9))
        assert index.unsaved == 1
    with FlatIndex.open(tmp_path / "i") as index:
        assert index.get("/p/new.jpg", "vision") is None


def test_old_files_go_when_new_ones_are_published(tmp_path):
    with make(tmp_path / "i") as index:
        for n in range(3):
            index.put(Entry(f"/p/more{n}.jpg", "vision"), unit(n))
            index.save()
    assert len(files(tmp_path / "i")) == 4  # header, vectors, items, lock


@pytest.mark.parametrize(
    "vector", [np.zeros(DIM), np.full(DIM, np.nan), np.ones(DIM), np.ones(DIM - 1), np.ones((1, DIM))]
)
def test_only_unit_vectors_of_the_right_length_come_in(tmp_path, vector):
    with make(tmp_path / "i") as index:
        with pytest.raises(CollectionError, match="/p/x.jpg"):
            index.put(Entry("/p/x.jpg", "vision"), vector)
        assert len(index) == 5


def test_a_modality_without_encoder_is_refused(tmp_path):
    with make(tmp_path / "i") as index, pytest.raises(UsageError, match="unknown modality of this index 'audio'"):
        index.put(Entry("/p/x.wav", "audio"), unit(1))


@pytest.mark.parametrize("query", [np.full(DIM, np.nan), np.ones(DIM + 1), np.ones((1, DIM))])
def test_a_bad_query_is_refused(tmp_path, query):
    with make(tmp_path / "i") as index, pytest.raises(CollectionError, match="a query is a finite vector"):
        index.search(query)


def test_k_is_at_least_one(tmp_path):
    with make(tmp_path / "i") as index, pytest.raises(UsageError, match="k is 0"):
        index.search(unit(0), 0)


def test_another_encoder_is_refused_and_told_how_to_mend_it(tmp_path):
    with make(tmp_path / "i") as index:
        index.check(IDS, model="mini")
        with pytest.raises(CollectionError, match="vision encoder v+.*cannot be compared.*--model mini") as caught:
            index.check({**IDS, "vision": "x" * 16}, model="other")
        assert "other has vision encoder xxxx" in str(caught.value)
        with pytest.raises(CollectionError, match="shares no modality"):
            index.check({"audio": "a" * 16}, model="other")


def test_a_model_that_grew_a_modality_is_welcome(tmp_path):
    with make(tmp_path / "i") as index:
        index.check({**IDS, "audio": "a" * 16}, model="mini")
        index.put(Entry("/p/x.wav", "audio"), unit(8))
        index.save()
    with FlatIndex.open(tmp_path / "i") as index:
        assert index.encoders["audio"] == "a" * 16


def test_no_index_says_how_to_make_one(tmp_path):
    with pytest.raises(CollectionError, match="there is no index.*slimbind index FOLDER"):
        FlatIndex.open(tmp_path / "nothing")


def test_a_folder_with_other_things_is_not_taken(tmp_path):
    (tmp_path / "letter.txt").write_text("keep me")
    with pytest.raises(CollectionError, match="not empty and not an index.*letter.txt"):
        FlatIndex.create(tmp_path, dim=DIM, model="mini", encoders=IDS)
    with pytest.raises(CollectionError, match="is a file"):
        FlatIndex.create(tmp_path / "letter.txt", dim=DIM, model="mini", encoders=IDS)
    assert files(tmp_path) == ["letter.txt"]


def test_what_a_crash_in_the_first_save_left_is_written_over(tmp_path):
    for name in ("lock", ".index.json.partial", "vectors-1.npy", "items-1.jsonl"):
        (tmp_path / name).write_bytes(b"half")
    make(tmp_path).close()
    with FlatIndex.open(tmp_path) as index:
        assert len(index) == 5


def test_a_crash_before_publishing_leaves_the_old_state(tmp_path):
    make(tmp_path / "i").close()
    number = store.read_header(tmp_path / "i").generation + 1
    for name in (".index.json.partial", f"vectors-{number}.npy", f"items-{number}.jsonl"):
        (tmp_path / "i" / name).write_bytes(b"half")
    with FlatIndex.open(tmp_path / "i", writable=True) as index:
        assert len(index) == 5
        index.put(Entry("/p/new.jpg", "vision"), unit(9))
        index.save()
    with FlatIndex.open(tmp_path / "i") as index:
        assert len(index) == 6
    assert len(files(tmp_path / "i")) == 4


def test_an_index_is_not_made_over_an_index(tmp_path):
    make(tmp_path / "i").close()
    with pytest.raises(CollectionError, match="is an index already"):
        FlatIndex.create(tmp_path / "i", dim=DIM, model="mini", encoders=IDS)


def test_one_writer_at_a_time_and_readers_never_wait(tmp_path):
    with make(tmp_path / "i") as writer:
        with pytest.raises(CollectionError, match="another process is writing"):
            FlatIndex.open(tmp_path / "i", writable=True)
        with FlatIndex.open(tmp_path / "i") as reader:
            writer.put(Entry("/p/new.jpg", "vision"), unit(9))
            writer.save()
            assert len(reader.search(unit(9), 10)) == 5  # what it opened, although those files are gone by now
    with FlatIndex.open(tmp_path / "i", writable=True) as again:
        assert len(again) == 6


def test_a_reader_cannot_save(tmp_path):
    make(tmp_path / "i").close()
    with FlatIndex.open(tmp_path / "i") as reader:
        reader.remove("/p/1.jpg", "vision")
        with pytest.raises(CollectionError, match="opened for reading"):
            reader.save()


def test_a_reader_that_meets_a_save_reads_the_new_state(tmp_path, monkeypatch):
    writer = make(tmp_path / "i")
    old = store.read_header(tmp_path / "i")
    writer.put(Entry("/p/new.jpg", "vision"), unit(9))
    writer.save()
    writer.close()
    real, calls = store.read_header, []

    def stale_first(folder):
        calls.append(folder)
        return old if len(calls) <= 2 else real(folder)

    monkeypatch.setattr(store, "read_header", stale_first)
    with FlatIndex.open(tmp_path / "i") as index:
        assert len(index) == 6


def _of_kind(folder, pattern):
    (path,) = folder.glob(pattern)
    return path


@pytest.mark.parametrize("pattern", ["vectors-*.npy", "items-*.jsonl"])
@pytest.mark.parametrize("damage", ["flip", "cut", "remove"])
def test_a_damaged_file_is_noticed(tmp_path, pattern, damage):
    make(tmp_path / "i").close()
    path = _of_kind(tmp_path / "i", pattern)
    data = bytearray(path.read_bytes())
    if damage == "flip":
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    elif damage == "cut":
        path.write_bytes(data[:-1])
    else:
        path.unlink()
    with pytest.raises(CollectionError, match=path.name) as caught:
        FlatIndex.open(tmp_path / "i")
    assert "run `slimbind index` again" in str(caught.value)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(position=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_a_flipped_bit_in_the_header_is_an_error_or_harmless(tmp_path, position, bit):
    folder = tmp_path / "i"
    if not folder.exists():
        make(folder).close()
    path = folder / store.HEADER
    good = path.read_bytes()
    data = bytearray(good)
    data[int(position * len(data))] ^= 1 << bit
    path.write_bytes(data)
    try:
        with FlatIndex.open(folder) as index:
            assert index.search(unit(1), 1)[0].entry.path == "/p/1.jpg"
    except CollectionError:
        pass
    finally:
        path.write_bytes(good)


@pytest.mark.parametrize(
    "text", ["", "null", "[]", "{}", "not json", '{"format_version": 1}', "[" * 100_000, '{"format_version": "1"}']
)
def test_a_header_that_is_none_is_refused(tmp_path, text):
    make(tmp_path / "i").close()
    (tmp_path / "i" / store.HEADER).write_text(text)
    with pytest.raises(CollectionError, match="is damaged"):
        FlatIndex.open(tmp_path / "i")


@pytest.mark.parametrize(
    ("field", "value", "match"),
    [
        ("format_version", 2, "format version 2.*pip install --upgrade"),
        ("dim", DIM + 1, "damaged"),
        ("rows", 4, "damaged"),
        ("vectors", {"name": "../../etc/passwd", "bytes": 1, "sha256": "0" * 64}, "damaged"),
        ("surprise", 1, "damaged"),
    ],
)
def test_a_header_that_does_not_fit_is_refused(tmp_path, field, value, match):
    make(tmp_path / "i").close()
    path = tmp_path / "i" / store.HEADER
    path.write_text(json.dumps(json.loads(path.read_text()) | {field: value}))
    with pytest.raises(CollectionError, match=match):
        FlatIndex.open(tmp_path / "i")


def test_a_pickled_array_is_never_opened(tmp_path):
    """Checksums right, contents hostile: an object array would be unpickled by a careless reader."""
    make(tmp_path / "i").close()
    path = _of_kind(tmp_path / "i", "vectors-*.npy")
    np.save(path, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    header = tmp_path / "i" / store.HEADER
    told = json.loads(header.read_text())
    import hashlib

    told["vectors"] |= {"bytes": path.stat().st_size, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    header.write_text(json.dumps(told))
    with pytest.raises(CollectionError, match="damaged"):
        FlatIndex.open(tmp_path / "i")


@pytest.mark.parametrize("fail_at", range(4))
def test_a_full_disk_leaves_the_old_state(tmp_path, monkeypatch, fail_at):
    """The n-th fsync or rename fails: vectors, items, header, publishing."""
    index = make(tmp_path / "i")
    before = files(tmp_path / "i")
    calls = []

    def full(real):
        def call(*args):
            calls.append(args)
            if len(calls) > fail_at:
                raise OSError(errno.ENOSPC, "No space left on device")
            return real(*args)

        return call

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full(os.fsync))
        patch.setattr(os, "replace", full(os.replace))
        index.put(Entry("/p/new.jpg", "vision"), unit(9))
        with pytest.raises(CollectionError, match="was not saved: No space left.*free some space"):
            index.save()
    assert files(tmp_path / "i") == before
    with FlatIndex.open(tmp_path / "i") as reader:
        assert len(reader) == 5
    assert index.save() is True  # room again: nothing was lost
    index.close()
    with FlatIndex.open(tmp_path / "i") as reader:
        assert len(reader) == 6


def test_ctrl_c_while_saving_leaves_the_old_state(tmp_path, monkeypatch):
    index = make(tmp_path / "i")
    before = files(tmp_path / "i")

    def interrupt(*args):
        raise KeyboardInterrupt

    index.put(Entry("/p/new.jpg", "vision"), unit(9))
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", interrupt)
        with pytest.raises(KeyboardInterrupt):
            index.save()
    index.close()
    assert files(tmp_path / "i") == before


def test_ctrl_c_just_after_publishing_keeps_what_was_published(tmp_path, monkeypatch):
    folder = tmp_path / "i"
    with make(folder) as index:
        index.put(Entry("/p/new.jpg", "vision"), unit(9))
        replace = os.replace

        def interrupted(source, target):
            replace(source, target)
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(store.os, "replace", interrupted)
            with pytest.raises(KeyboardInterrupt):
                index.save()
        with FlatIndex.open(folder) as other:
            assert len(other) == 6
        published = files(folder)
        assert index.save(), "the writer does not know that it was published, and saves again"
        assert not set(files(folder)) & {name for name in published if name.startswith(("vectors", "items"))}, (
            "files that were the index while they were written would be lost in a crash"
        )
    with FlatIndex.open(folder) as other:
        assert len(other) == 6


def test_a_place_that_cannot_be_written_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CollectionError, match="cannot make|is a file"):
        FlatIndex.create(tmp_path / "file" / "i", dim=DIM, model="mini", encoders=IDS)


def test_the_vectors_are_a_plain_npy_file(tmp_path):
    make(tmp_path / "i").close()
    vectors = np.load(_of_kind(tmp_path / "i", "vectors-*.npy"), allow_pickle=False)
    np.testing.assert_array_equal(vectors, np.stack([unit(n) for n in range(5)]))
