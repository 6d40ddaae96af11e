"""What goes out comes back; and folders that others made are taken in."""

from __future__ import annotations

import os

import numpy as np
import pytest

from slimbind.collection import Collection, Entry, exchange
from slimbind.collection.exchange import export, import_into, parts_of
from slimbind.errors import CollectionError, MissingExtraError, UsageError

from .conftest import IDS, fill, units

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")


def contents(shelf):
    return {entry.id: (entry, shelf.vectors([entry.id])[0].tolist()) for entry in shelf.entries()}


def write(folder, *, images=None, texts=None, number=0, **columns):
    """A part as clip-retrieval writes it."""
    for name, rows in (("img_emb", images), ("text_emb", texts)):
        if rows is not None:
            (folder / name).mkdir(parents=True, exist_ok=True)
            np.save(folder / name / f"{name}_{number}.npy", rows.astype(np.float16))
    if columns:
        (folder / "metadata").mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table(columns), folder / "metadata" / f"metadata_{number}.parquet")
    return folder


@pytest.fixture
def target(tmp_path):
    with Collection.create(tmp_path / "target") as made:
        yield made


@pytest.mark.parametrize("modalities", [["vision"], ["vision", "text"], [""]])
def test_what_went_out_comes_back(shelf, target, tmp_path, monkeypatch, modalities):
    monkeypatch.setattr(exchange, "_PART", 4)
    names = ["a", os.fsdecode(b"/p/\xff.jpg"), "日本\n", "'", *(f"n{n}" for n in range(8))]
    entries = [
        Entry(f"{name}{m}", m, name, {"year": 2000, "nested": {"a": [1, None, "ü"]}}, "ab", 5, 10**18)
        for m in modalities
        for name in names
    ]
    shelf.put(entries, units(3, len(entries)), encoders=IDS)
    assert export(shelf, tmp_path / "out") == len(entries)
    assert [part.model() for part in parts_of(tmp_path / "out")][0] == "mini"
    assert import_into(target, tmp_path / "out") == len(entries)
    assert contents(target) == contents(shelf)
    assert target.encoders == shelf.encoders == IDS


def test_half_precision_stays_half_precision(tmp_path):
    with (
        Collection.create(tmp_path / "a", dtype="f16") as shelf,
        Collection.create(tmp_path / "b", dtype="f16") as back,
    ):
        fill(shelf, 30)
        export(shelf, tmp_path / "out")
        assert np.load(tmp_path / "out" / "img_emb" / "img_emb_0.npy").dtype == np.float16
        import_into(back, tmp_path / "out")
        np.testing.assert_allclose(back.vectors(["i7"]), shelf.vectors(["i7"]), atol=1e-3)


def test_some_items_go_out(shelf, target, tmp_path):
    fill(shelf, 20)
    assert export(shelf, tmp_path / "out", where="number < 5") == 5
    assert import_into(target, tmp_path / "out") == 5
    assert {entry.id for entry in target.entries()} == {f"i{n}" for n in range(5)}
    with pytest.raises(UsageError, match="the filter is wrong"):
        export(shelf, tmp_path / "other", where="number <")
    assert not (tmp_path / "other").exists()


def test_others_can_read_what_we_write(shelf, tmp_path):
    fill(shelf, 3)
    export(shelf, tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["img_emb", "metadata"]
    table = pq.read_table(tmp_path / "out" / "metadata" / "metadata_0.parquet")
    assert table["image_path"].to_pylist() == ["i0", "i1", "i2"]
    assert np.load(tmp_path / "out" / "img_emb" / "img_emb_0.npy").shape == (3, 8)


def test_a_folder_of_clip_retrieval_is_taken_in(target, tmp_path):
    paths = ["/x/a.jpg", "/x/b.jpg", "/x/c.jpg"]
    more = {"image_path": paths, "caption": ["a", "b", None], "width": [1, 2, 3], "score": [0.5, float("nan"), 2.0]}
    write(tmp_path / "in", images=units(1, 3), texts=units(2, 3), **more)
    write(tmp_path / "in", images=units(5, 1), texts=units(6, 1), number=1, image_path=["/y"], caption=["y"])
    assert import_into(target, tmp_path / "in", encoders={"vision": "v"}) == 8
    picture, text = target.get("/x/b.jpg"), target.get("/x/b.jpg#text")
    told = {"image_path": "/x/b.jpg", "caption": "b", "width": 2}
    assert picture == Entry("/x/b.jpg", "vision", "/x/b.jpg", told)
    assert text == Entry("/x/b.jpg#text", "text", "b", told)
    assert target.get("/x/a.jpg").metadata["score"] == 0.5
    np.testing.assert_allclose(
        target.vectors(["/x/c.jpg", "/x/c.jpg#text"]), [units(1, 3)[2], units(2, 3)[2]], atol=1e-3
    )
    np.testing.assert_allclose(np.linalg.norm(target.vectors(["/x/a.jpg"])), 1, atol=1e-6)
    assert target.encoders == {"vision": "v"}


def test_rows_are_named_by_a_column_or_numbered(target, tmp_path, monkeypatch):
    monkeypatch.setattr(exchange, "_BATCH", 2)
    write(tmp_path / "in", images=units(1, 3))
    assert import_into(target, tmp_path / "in") == 3
    assert {entry.id for entry in target.entries()} == {"0-0", "0-1", "0-2"}
    write(tmp_path / "keys", texts=units(1, 2), key=[7, 8], name=["x", "y"])
    import_into(target, tmp_path / "keys")
    assert "7" in target and target.get("8").modality == "text"
    import_into(target, tmp_path / "keys", id_column="name")
    assert "x" in target
    with pytest.raises(UsageError, match="row 0-0 has no 'other' .its columns are key, name"):
        import_into(target, tmp_path / "keys", id_column="other")


def test_taking_in_again_replaces(target, tmp_path):
    write(tmp_path / "in", images=units(1, 3), key=["a", "b", "c"])
    for _ in range(2):
        assert import_into(target, tmp_path / "in") == 3
        assert len(target) == 3


def test_files_that_do_not_fit_are_refused(target, tmp_path):
    with pytest.raises(CollectionError, match="holds no vectors .name a folder with img_emb"):
        import_into(target, tmp_path)
    with pytest.raises(CollectionError, match="different numbers of rows: .*img_emb_0.npy has 3, .*parquet has 2"):
        import_into(target, write(tmp_path / "a", images=units(1, 3), key=["a", "b"]))
    broken = write(tmp_path / "b", images=units(1, 2), key=["a", "b"])
    (broken / "metadata" / "metadata_0.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(CollectionError, match="metadata_0.parquet cannot be read"):
        import_into(target, broken)
    (broken / "img_emb" / "img_emb_0.npy").write_bytes(b"\x93NUMPY")
    with pytest.raises(CollectionError, match="img_emb_0.npy cannot be read"):
        import_into(target, broken)
    np.save(broken / "img_emb" / "img_emb_0.npy", np.array([object()]), allow_pickle=True)
    with pytest.raises(CollectionError, match="img_emb_0.npy cannot be read"):
        import_into(target, broken)
    np.save(broken / "img_emb" / "img_emb_0.npy", np.arange(3))
    with pytest.raises(CollectionError, match=r"holds int64 \[3\], not floats \[n, dim\]"):
        import_into(target, broken)
    assert len(target) == 0


def test_an_export_is_whole_or_not_there(shelf, tmp_path, monkeypatch):
    fill(shelf, 3)

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    (tmp_path / "empty").mkdir()
    with monkeypatch.context() as patch:
        patch.setattr(np, "save", full)
        with pytest.raises(CollectionError, match="was not written: No space left"):
            export(shelf, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "shelf"]
    export(shelf, tmp_path / "empty")
    with pytest.raises(CollectionError, match="is there already"):
        export(shelf, tmp_path / "empty")


def test_a_modality_that_looks_like_a_path_stays_in_the_folder(tmp_path, target):
    odd = ["../../evil", "/tmp/evil", "a/b", "Vision", "vision", "x_emb", "metadata", "", ".", "日本", "img"]
    with Collection.create(tmp_path / "s") as shelf:
        for n, modality in enumerate(odd):
            shelf.add(units(n), ids=[str(n)], modality=modality)
        before = sorted(tmp_path.rglob("*"))
        export(shelf, tmp_path / "deep" / "out")
        assert sorted(path for path in tmp_path.rglob("*") if "deep" not in path.parts) == before
        places = [path.name for path in (tmp_path / "deep" / "out").iterdir()]
        assert len({name.lower() for name in places}) == len(odd)  # also where capital letters do not count
        assert import_into(target, tmp_path / "deep" / "out") == len(odd)
        assert contents(target) == contents(shelf)
    with Collection.create(tmp_path / "one") as shelf:
        shelf.add(units(1), ids=["a"], modality="../../evil")
        export(shelf, tmp_path / "deep" / "alone")
        assert [path.name for path in (tmp_path / "deep").glob("*evil*")] == []


@pytest.mark.parametrize(
    ("columns", "about"),
    [
        ({"id": [b"a"], "metadata": ["{}"]}, {}),  # columns are missing
        ({"id": [b"a"], "metadata": ["no json"], **dict.fromkeys(("modality", "source", "hash"), [b""])}, {}),
        ({"id": [b"a"], "metadata": ["{}"], **dict.fromkeys(("modality", "source", "hash"), [None])}, {}),
        ({"key": ["a"]}, {"slimbind.encoders": "no json"}),
        ({"key": ["a"]}, {"slimbind.encoders": "[]"}),
    ],
)
def test_rows_that_only_look_like_ours_are_told(target, tmp_path, columns, about):
    folder = write(tmp_path / "in", images=units(1), key=["a"])
    if "id" in columns:
        columns = {"size": [1], "mtime_ns": [1], **columns}
    table = pa.table(columns).replace_schema_metadata(about)
    pq.write_table(table, folder / "metadata" / "metadata_0.parquet")
    with pytest.raises(CollectionError, match="metadata_0.parquet cannot be read"):
        import_into(target, folder)
    assert len(target) == 0


def test_damage_in_the_middle_of_a_file_is_told(target, tmp_path):
    folder = write(tmp_path / "in", images=units(1, 500), key=[f"{n:09}" for n in range(500)])
    path = folder / "metadata" / "metadata_0.parquet"
    data = path.read_bytes()
    path.write_bytes(data[:40] + b"\xff" * 400 + data[440:])
    with pytest.raises(CollectionError, match="metadata_0.parquet cannot be read"):
        import_into(target, folder)


def test_of_rows_that_are_called_alike_the_last_one_counts(target, tmp_path):
    write(tmp_path / "in", images=units(1, 3), key=["a", "b", "a"], n=[1, 2, 3])
    import_into(target, tmp_path / "in")
    assert (len(target), target.get("a").metadata["n"]) == (2, 3)
    np.testing.assert_allclose(target.vectors(["a"])[0], units(1, 3)[2], atol=1e-3)


def test_without_pyarrow_it_says_what_to_install(shelf, tmp_path, monkeypatch):
    monkeypatch.setattr(exchange, "find_spec", lambda name: None)
    for call in (lambda: export(shelf, tmp_path / "out"), lambda: import_into(shelf, tmp_path)):
        with pytest.raises(MissingExtraError, match=r"slimbind\[parquet\]"):
            call()
    with pytest.raises(MissingExtraError, match=r"slimbind\[parquet\]"):
        parts_of(write(tmp_path / "in", images=units(1), key=["a"]))[0].model()
