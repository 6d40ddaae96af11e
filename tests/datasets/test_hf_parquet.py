"""Parquet with pictures and sounds inside."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from slimbind import datasets
from slimbind.datasets.parquet import parquet_rows
from slimbind.errors import DatasetError, MissingExtraError, UsageError

MEDIA = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def _write(path: Path, columns: dict[str, pa.Array], features: object = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.table(columns)
    if features is not None:
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pq.write_table(table, path)
    return path


def _media(*cells: object) -> pa.Array:
    return pa.array(
        [cell if cell is None or isinstance(cell, dict) else {"bytes": cell, "path": None} for cell in cells], MEDIA
    )


LABELLED = {"img": {"_type": "Image"}, "label": {"names": ["cat", "dog"], "_type": "ClassLabel"}}


def test_classes_have_the_names_of_the_metadata(tmp_path: Path) -> None:
    columns = {"img": _media(b"P0", b"P1", None, b"P3", b""), "label": pa.array([1, 0, 1, 2, None])}
    found = datasets.open(_write(tmp_path / "train.parquet", columns, LABELLED))
    assert (found.kind, found.modalities, found.classes, len(found)) == ("hf-parquet", ("vision",), ["cat", "dog"], 5)
    assert [(one.id, one.data, one.label) for one in found] == [
        ("train.parquet, row 1", b"P0", 1),
        ("train.parquet, row 2", b"P1", 0),
    ]
    assert [why for _, why in found.skipped] == ["is empty", "has the label 2", "is empty"]


@pytest.mark.parametrize("repeated", [False, True])
def test_classes_may_be_spelled_out(tmp_path: Path, repeated: bool) -> None:
    for number, labels in enumerate((["dog", None, " cat"], ["emu", "dog", ""])):
        told = pa.array(labels, pa.string())
        columns = {
            "image": _media(*(f"{number}{place}".encode() for place in range(3))),
            "label": told.dictionary_encode() if repeated else told,
            "caption": pa.array(["words"] * 3),
        }
        _write(tmp_path / f"train-{number}.parquet", columns)
    found = datasets.open(tmp_path, modalities=("vision",))
    assert (found.modalities, found.classes) == (("vision",), ["cat", "dog", "emu"])
    assert [(one.data, one.label) for one in found] == [(b"00", 1), (b"02", 0), (b"10", 2), (b"11", 1)]
    assert [why for _, why in found.skipped] == ["has the label None", "has the label ''"]


def test_what_is_no_class_is_refused(tmp_path: Path) -> None:
    numbers = _write(tmp_path / "a-1.parquet", {"image": _media(b"P"), "label": pa.array([1])})
    _write(tmp_path / "a-0.parquet", {"image": _media(b"P"), "label": pa.array(["x"])})
    found = datasets.open(tmp_path, modalities=("vision",))
    assert [one.label for one in found] == [0] and found.skipped == [(f"{numbers.name}, row 1", "has the label 1")]
    _write(tmp_path / "b" / "b.parquet", {"image": _media(b"P"), "label": pa.array([None], pa.string())})
    with pytest.raises(DatasetError, match="no names of classes"):
        datasets.open(tmp_path / "b", modalities=("vision",))
    many = [f"class {number}" for number in range(100_001)]
    _write(tmp_path / "c" / "c.parquet", {"image": _media(*[None] * len(many)), "label": pa.array(many)})
    with pytest.raises(DatasetError, match="over 100,000 different values"):
        datasets.open(tmp_path / "c", modalities=("vision",))


@pytest.mark.parametrize("column", ["text", "image"])
def test_a_value_that_repeats_itself_is_not_in_memory_for_each_row(tmp_path: Path, column: str) -> None:
    """Kilobytes on the disk; 640 MB if as many rows as usual were read together."""

    def repeated(value: str | bytes) -> pa.Array:
        return pa.DictionaryArray.from_arrays(pa.array([0] * 32, pa.int32()), pa.array([value]))

    large = "x" * 20_000_000
    columns = {"image": _media(*[b"P"] * 32), "text": repeated(large)}
    if column == "image":
        cells = [repeated(large.encode()), repeated("x.jpg")]
        columns = {"image": pa.StructArray.from_arrays(cells, ["bytes", "path"])}
    pq.write_table(pa.table(columns), tmp_path / "x.parquet", compression="zstd", store_schema=False)
    del columns
    assert (tmp_path / "x.parquet").stat().st_size < 100_000
    rows = parquet_rows(tmp_path / "x.parquet", [column], 32)
    (first,) = next(rows)
    assert len(first["bytes"] if column == "image" else first) == len(large)
    assert pa.total_allocated_bytes() < 400_000_000


def test_splits_are_in_the_names_of_files(tmp_path: Path) -> None:
    for name, label in (("train-00000-of-00002", 0), ("train-00001-of-00002", 1), ("test-00000-of-00001", 0)):
        columns = {"img": _media(name.encode()), "label": pa.array([label])}
        _write(tmp_path / "plain_text" / f"{name}.parquet", columns, LABELLED)
    with pytest.raises(UsageError, match="holds splits: test, train"):
        datasets.open(tmp_path)
    train = datasets.open(tmp_path, split="train")
    assert [one.label for one in train] == [0, 1] and len(train) == 2
    with pytest.raises(UsageError, match="unknown split .*'val'; allowed: test, train"):
        datasets.open(tmp_path, split="val")
    odd = _write(tmp_path / "plain_text" / "test-1.parquet", {"img": _media(b"x")}, LABELLED)
    with pytest.raises(DatasetError, match=f"{odd.name} has no column label"):
        datasets.open(tmp_path, split="test")


def test_captions_make_pairs_and_a_list_makes_several(tmp_path: Path) -> None:
    captions = pa.array([["a cat", " one more "], [], None, ["", "a dog"]])
    columns = {"audio": _media(b"0", b"1", b"2", b"3"), "caption": captions, "seconds": pa.array([1.0] * 4)}
    found = datasets.open(_write(tmp_path / "x.parquet", columns, {"audio": {"_type": "Audio"}}))
    assert (found.modalities, found.classes) == (("audio", "text"), None)
    assert [(one.data, one.text, one.other) for one in found] == [
        (b"0", "a cat", "a cat"),
        (b"0", "one more", "one more"),
        (b"3", "a dog", "a dog"),
    ]
    assert [why for _, why in found.skipped] == ["nothing in column caption"] * 2


def test_texts_are_texts_however_they_are_kept(tmp_path: Path) -> None:
    kinds = [
        pa.large_string(),
        pa.dictionary(pa.int8(), pa.string()),
        pa.large_list(pa.string()),
        pa.list_(pa.string(), 1),
    ]
    for number, kind in enumerate(kinds):
        cells = [["words"]] if "list" in str(kind) else ["words"]
        columns = {"image": _media(b"P"), "caption": pa.array(cells, kind)}
        found = datasets.open(_write(tmp_path / f"{number}.parquet", columns, {"image": {"_type": "Image"}}))
        assert [one.text for one in found] == ["words"], kind


def test_a_path_that_is_no_text_tells_nothing(tmp_path: Path) -> None:
    cells = pa.array([{"bytes": b"P", "path": 5}], pa.struct([("bytes", pa.binary()), ("path", pa.int64())]))
    with pytest.raises(UsageError, match="does not tell its modality"):
        datasets.open(_write(tmp_path / "x.parquet", {"image": cells}))


def test_a_path_in_a_cell_stays_beside_the_file(tmp_path: Path) -> None:
    cells = [{"bytes": None, "path": path} for path in ("a/b.wav", "../x.wav", "/etc/x.wav", None)]
    path = _write(tmp_path / "d" / "x.parquet", {"clip": _media(*cells), "label": pa.array([7, 7, 7, 7])})
    found = datasets.open(path)
    assert (found.modalities, found.classes) == (("audio",), None)  # told by the paths; names of classes nowhere
    assert [(one.data, one.label) for one in found] == [(path.parent / "a/b.wav", 7)]
    assert ["lies outside" in why for _, why in found.skipped] == [True, True, False]


def test_columns_can_be_named(tmp_path: Path) -> None:
    columns = {
        "photo": _media(b"P"),
        "sound": _media(b"S"),
        "label": pa.array([0]),
        "coarse": pa.array([1]),
        "text": pa.array(["words"]),
    }
    features = {
        "photo": {"_type": "Image"},
        "sound": {"_type": "Audio"},
        "coarse": {"_type": "ClassLabel", "names": ["x", "y"]},
    }
    path = _write(tmp_path / "x.parquet", columns, features)
    assert datasets.open(path).modalities == ("vision",)
    coarse = datasets.open(path, columns=("photo", "coarse"))
    assert (coarse.classes, next(iter(coarse)).label) == (["x", "y"], 1)
    both = datasets.open(path, columns=("sound", "photo"))
    assert (both.modalities, next(iter(both)).data, next(iter(both)).other) == (("audio", "vision"), b"S", b"P")
    words = datasets.open(path, columns=("photo", "text"))
    assert (words.modalities, next(iter(words)).text) == (("vision", "text"), "words")
    assert datasets.open(path, modalities=("thermal",)).modalities == ("thermal",)
    with pytest.raises(UsageError, match="unknown column"):
        datasets.open(path, columns=("image",))
    with pytest.raises(UsageError, match="columns is"):
        datasets.open(path, columns=("text", "photo"))


@pytest.mark.parametrize("metadata", [b"{", b"[]", b'{"info": 5}', b'{"info": {"features": [1]}}', b"[" * 100_000])
def test_metadata_that_are_none_are_no_harm(tmp_path: Path, metadata: bytes) -> None:
    table = pa.table({"image": _media({"bytes": b"P", "path": "x.jpg"}), "label": pa.array([3])})
    pq.write_table(table.replace_schema_metadata({"huggingface": metadata}), tmp_path / "x.parquet")
    assert [(one.data, one.label) for one in datasets.open(tmp_path / "x.parquet")] == [(b"P", 3)]


def test_what_cannot_be_told_must_be_said(tmp_path: Path) -> None:
    path = _write(tmp_path / "x.parquet", {"thing": _media(b"P")})
    with pytest.raises(UsageError, match="column thing .* does not tell its modality"):
        datasets.open(path)
    assert datasets.open(path, modalities="vision").modalities == ("vision",)
    numbers = _write(tmp_path / "y.parquet", {"a": pa.array([1])})
    with pytest.raises(DatasetError, match="no column of pictures or sounds"):
        datasets.open(numbers, kind="hf-parquet")
    with pytest.raises(DatasetError, match="has no parquet files"):
        datasets.open(_write(tmp_path / "e" / "x.txt", {"a": pa.array([1])}).parent, kind="hf-parquet")


def test_without_pyarrow_the_error_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = _write(tmp_path / "x.parquet", {"image": _media(b"P")})
    monkeypatch.setattr("slimbind.datasets.parquet.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match="slimbind\\[parquet\\]"):
        datasets.open(path)
