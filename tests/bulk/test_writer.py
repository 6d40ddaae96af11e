"""Vectors reach the file as they were, in every format, and a file is there whole or not at all."""

from __future__ import annotations

import errno
import importlib.util
import json
import os
import tracemalloc
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from slimbind.bulk import About, Item, Row, open_writer
from slimbind.bulk.writer import Stream, check_output, to_json
from slimbind.errors import MediaError, MissingExtraError, SlimbindError, UsageError

ABOUT = About("toy", 3, {"vision": "v" * 16})
FORMATS = [".npz", ".parquet", ".jsonl"]


def good(name, *values, modality="vision"):
    return Row(Item(name, modality), np.array(values, np.float32))


def bad(name, why="is cut", modality="vision"):
    return Row(Item(name, modality), error=MediaError(name, why, hint="copy it again"))


def write(path, rows, about=ABOUT):
    with open_writer(path, about) as writer:
        for row in rows:
            writer.write(row)
    return read(path)


def read(path):
    """ids, modalities, vectors, and errors by id."""
    if path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as data:
            errors = dict(zip(data["error_ids"].tolist(), data["errors"].tolist(), strict=True))
            assert (str(data["model"]), json.loads(str(data["encoders"]))) == ("toy", dict(ABOUT.encoders))
            return data["ids"].tolist(), data["modalities"].tolist(), data["vectors"], errors
    if path.suffix == ".parquet":
        import pyarrow.parquet as pq

        table = pq.read_table(path)
        assert table.schema.metadata[b"slimbind.model"] == b"toy"
        rows = table.to_pylist()
    else:
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    done = [row for row in rows if row.get("vector") is not None]
    vectors = np.array([row["vector"] for row in done], np.float32).reshape(-1, ABOUT.dim)
    errors = {row["id"]: row["error"] for row in rows if row.get("error") is not None}
    return [row["id"] for row in done], [row["modality"] for row in done], vectors, errors


@pytest.mark.parametrize("suffix", FORMATS)
def test_ids_vectors_and_errors_are_all_there(tmp_path, suffix):
    rows = [good("a.png", 1, 0, 0), bad("b.png"), good("c.wav", 0.6, 0.8, 0, modality="audio"), bad("d", modality="")]
    ids, modalities, vectors, errors = write(tmp_path / f"v{suffix}", rows)
    assert (ids, modalities) == (["a.png", "c.wav"], ["vision", "audio"])
    assert vectors.dtype == np.float32
    np.testing.assert_array_equal(vectors, np.array([[1, 0, 0], [0.6, 0.8, 0]], np.float32))
    assert errors == {"b.png": "is cut (copy it again)", "d": "is cut (copy it again)"}
    assert [path.name for path in tmp_path.iterdir()] == [f"v{suffix}"]


@pytest.mark.parametrize("suffix", FORMATS)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    data=st.data(),
    names=st.lists(st.text(st.characters(exclude_characters="\0"), min_size=1), max_size=12, unique=True),
)
def test_every_float_and_every_name_survives(tmp_path, suffix, data, names):
    floats = st.lists(st.floats(-1, 1, width=32), min_size=3, max_size=3)
    values = [data.draw(floats) for _ in names]
    rows = [good(name, *value) for name, value in zip(names, values, strict=True)]
    ids, _, vectors, errors = write(tmp_path / f"v{suffix}", rows)
    expected = names
    if suffix == ".parquet":
        expected = [name.encode("utf-8", "backslashreplace").decode() for name in names]
    assert ids == expected
    np.testing.assert_array_equal(vectors, np.array(values, np.float32).reshape(-1, 3))
    assert errors == {}


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("rows", [[], [bad("a")]], ids=["nothing", "only errors"])
def test_no_vector_at_all_is_a_valid_file(tmp_path, suffix, rows):
    ids, _, vectors, errors = write(tmp_path / f"v{suffix}", rows)
    assert (ids, vectors.shape, len(errors)) == ([], (0, 3), len(rows))


@pytest.mark.parametrize("suffix", FORMATS)
def test_many_rows_in_several_blocks(tmp_path, suffix):
    rows = [good(f"{n}.png" + "x" * (n % 50), n, n + 0.5, -n) for n in range(9000)]
    ids, _, vectors, _ = write(tmp_path / f"v{suffix}", rows)
    assert ids == [row.item.id for row in rows]
    np.testing.assert_array_equal(vectors, np.stack([row.vector for row in rows]))


@pytest.mark.parametrize("suffix", [".npz", ".jsonl"])
def test_memory_does_not_grow_with_the_rows(tmp_path, suffix):
    about = About("toy", 256, {})
    vector = np.ones(256, np.float32)
    with open_writer(tmp_path / f"v{suffix}", about) as writer:
        tracemalloc.start()
        for n in range(2000):  # 2 MB of vectors
            writer.write(Row(Item(f"{n}.png", "vision"), vector))
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert peak < 500_000


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("error", [KeyboardInterrupt, SlimbindError])
def test_an_interrupted_job_leaves_what_was_there_before(tmp_path, suffix, error):
    path = tmp_path / f"v{suffix}"
    path.write_bytes(b"old")
    with pytest.raises(error), open_writer(path, ABOUT) as writer:
        writer.write(good("a", 1, 0, 0))
        raise error("stop")
    assert path.read_bytes() == b"old"
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
@pytest.mark.parametrize("suffix", FORMATS)
def test_a_disk_that_is_really_full_is_said(tmp_path, suffix, monkeypatch):
    monkeypatch.setattr("slimbind.whole.open", lambda path, mode: open("/dev/full", "wb"), raising=False)
    with pytest.raises(SlimbindError, match="No space left"):
        write(tmp_path / f"v{suffix}", [good("a", 1, 0, 0)] * 5000)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_full_disk_leaves_nothing(tmp_path, suffix, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(SlimbindError, match="was not written: No space left.*free some space"):
        write(tmp_path / f"v{suffix}", [good("a", 1, 0, 0)])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
@pytest.mark.parametrize("rows", [1, 5000])
def test_a_disk_without_room_for_the_spools_leaves_nothing(tmp_path, monkeypatch, rows):
    def full(**_):
        return open("/dev/full", "w+b", buffering=0 if rows == 1 else -1)

    monkeypatch.setattr("tempfile.TemporaryFile", full)
    with pytest.raises(SlimbindError, match="was not written: No space left"):
        write(tmp_path / "v.npz", [good("a", 1, 0, 0)] * rows)
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_fills_up_on_the_way_leaves_nothing(tmp_path):
    class Full:
        def __init__(self, *_):
            pass

        def write(self, row):
            raise OSError(errno.ENOSPC, "No space left on device")

        def close(self):
            pass

    from slimbind.bulk.writer import Writer

    with pytest.raises(SlimbindError, match="No space left"), Writer(tmp_path / "v.jsonl", Full, ABOUT) as writer:
        writer.write(good("a", 1, 0, 0))
    assert list(tmp_path.iterdir()) == []


def test_an_existing_file_is_replaced_when_all_went_well(tmp_path):
    path = tmp_path / "v.jsonl"
    path.write_bytes(b"old")
    ids, *_ = write(path, [good("a", 1, 0, 0)])
    assert ids == ["a"]


def test_the_file_has_the_usual_permissions(tmp_path):
    before = os.umask(0o027)
    try:
        write(tmp_path / "v.jsonl", [])
    finally:
        os.umask(before)
    assert (tmp_path / "v.jsonl").stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("v.csv", r"unknown output type '.csv'; allowed: .jsonl, .npz, .parquet \(for example v.npz\)"),
        ("v", "unknown output type ''"),
        ("missing/v.npz", "there is no folder"),
        ("folder.npz", "is a folder"),
    ],
)
def test_an_output_that_cannot_be_is_refused_before_any_work(tmp_path, name, match):
    (tmp_path / "folder.npz").mkdir()
    with pytest.raises(UsageError, match=match):
        check_output(tmp_path / name)


def test_parquet_without_pyarrow_says_what_to_install(tmp_path, monkeypatch):
    real = importlib.util.find_spec
    monkeypatch.setattr("slimbind.bulk.parquet.find_spec", lambda name: None if name == "pyarrow" else real(name))
    with pytest.raises(MissingExtraError, match=r'pip install "slimbind\[parquet\]"'):
        check_output(tmp_path / "v.parquet")
    assert list(tmp_path.iterdir()) == []


def test_equal_rows_make_equal_npz_files(tmp_path):
    for name in ("a.npz", "b.npz"):
        write(tmp_path / name, [good("a", 1, 0, 0), bad("b")])
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


def test_a_stream_gets_each_line_at_once():
    class Flushed(BytesIO):
        seen = 0

        def flush(self):
            self.seen = self.tell()

    out = Flushed()
    with Stream(out, ABOUT) as writer:
        writer.write(good("a", 1, 0, 0))
        assert json.loads(out.getvalue()) == {"id": "a", "modality": "vision", "vector": [1, 0, 0]}
        assert out.seen == len(out.getvalue())


def test_names_that_are_no_text_stay_valid_json():
    name = os.fsdecode(b"\xff.png")
    assert json.loads(to_json({"id": name}).encode("utf-8")) == {"id": name}
    assert "日" in to_json({"id": "日"})


def test_an_unwritable_folder_is_known_at_once(tmp_path: Path, monkeypatch):
    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("slimbind.whole.open", refuse, raising=False)
    with pytest.raises(SlimbindError, match="was not written: Permission denied"):
        open_writer(tmp_path / "v.npz", ABOUT)
