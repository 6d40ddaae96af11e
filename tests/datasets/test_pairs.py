"""Tables of pairs."""

from __future__ import annotations

from pathlib import Path

import pytest

from slimbind import datasets
from slimbind.errors import DatasetError, UsageError

ROWS = [("photos/a.jpg", "a cat, asleep"), ("photos/b.jpg", 'a "dog"'), ("photos/a.jpg", "an animal")]


def _write(path: Path, rows, header=("image", "caption")) -> Path:
    import csv

    if path.suffix == ".parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(
            pa.table({name: list(column) for name, column in zip(header, zip(*rows, strict=True), strict=True)}), path
        )
        return path
    with open(path, "w", encoding="utf-8", newline="") as file:
        csv.writer(file, delimiter="\t" if path.suffix == ".tsv" else ",").writerows([header, *rows])
    return path


@pytest.mark.parametrize("name", ["pairs.csv", "pairs.tsv", "pairs.parquet"])
def test_paths_lie_beside_the_table(tmp_path: Path, name: str) -> None:
    found = datasets.open(_write(tmp_path / name, ROWS))
    assert (found.kind, found.modalities, found.classes) == ("pairs", ("vision", "text"), None)
    assert found.count == (3 if name.endswith("parquet") else None)
    assert [(one.data, one.text, one.other) for one in found] == [(tmp_path / path, text, text) for path, text in ROWS]
    assert [one.id for one in found] == [path for path, _ in ROWS]


def test_columns_are_told_by_their_names_or_named(tmp_path: Path) -> None:
    rows = [(1, "x.wav", "a bell", "y.jpg", "rings")] * 2
    path = _write(tmp_path / "t.csv", rows, ("id", "Audio", "Caption", "picture2", "verb"))
    assert next(iter(datasets.open(path))).text == "a bell"
    both = datasets.open(path, columns=("Audio", "picture2"))
    assert both.modalities == ("audio", "vision")
    one = next(iter(both))
    assert (one.data, one.other, one.text) == (tmp_path / "x.wav", tmp_path / "y.jpg", None)
    turned = datasets.open(path, columns=["verb", "Audio"])
    assert (turned.modalities, next(iter(turned)).text) == (("text", "audio"), "rings")
    with pytest.raises(UsageError, match="unknown column of .* 'image'; allowed: Audio, Caption, id"):
        datasets.open(path, columns=("image", "Caption"))
    with pytest.raises(UsageError, match="name two"):
        datasets.open(path, columns=("Caption",))
    unclear = _write(tmp_path / "u.csv", [(1, 2, 3)], ("a", "b", "c"))
    with pytest.raises(UsageError, match="not clear which two columns .* it has a, b, c"):
        datasets.open(unclear)


def test_a_path_cannot_leave_the_tables_folder(tmp_path: Path) -> None:
    outside = ["../secret.jpg", "/etc/secret.jpg", "a/../../secret.jpg", "http://host/a.jpg", "b\0.jpg"]
    place = tmp_path / "data"
    place.mkdir()
    path = _write(place / "p.parquet", [("good.jpg", "x"), *((name, "x") for name in outside), ("./a/../b.jpg", "y")])
    found = datasets.open(path)
    assert [one.data for one in found] == [place / "good.jpg", place / "b.jpg"]
    assert [name for name, _ in found.skipped] == [f"p.parquet, row {number}" for number in range(2, 7)]
    reasons = [why for _, why in found.skipped]
    assert all(f"lies outside {place}" in why for why in reasons[:3])
    assert "nothing is fetched" in reasons[3] and "no path" in reasons[4]
    wider = datasets.open(path, root=tmp_path)
    assert [one.data for one in wider] == [tmp_path / "good.jpg", tmp_path / "b.jpg"]
    inside = _write(place / "q.csv", [(str(tmp_path / "x.jpg"), "absolute, and inside")])
    assert [one.data for one in datasets.open(inside, root=tmp_path)] == [tmp_path / "x.jpg"]


def test_rows_that_lack_something_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "p.csv"
    path.write_text("image,caption\na.jpg,one\nb.jpg,\nc.jpg\n\n ,four\nd.jpg,five,six\n", encoding="utf-8-sig")
    found = datasets.open(path)
    assert [one.text for one in found] == ["one", "five"]
    assert found.skipped == [
        ("p.csv, row 2", "nothing in column caption"),
        ("p.csv, row 3", "nothing in column caption"),
        ("p.csv, row 4", "nothing in column image"),
    ]
    assert [one.text for one in found] == ["one", "five"] and len(found.skipped) == 3  # counted anew in each pass


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("empty.csv", b""),
        ("header.csv", b"image,caption\n"),
        ("binary.csv", b"image,caption\n\xff\xfe\x00\x01"),
        ("quote.csv", b'image,caption\n"a.jpg,one\n'),
        ("one line.csv", b"image,caption\n" + b"a," * 600_000),
        ("many columns.csv", b"c," * 600_000),
        ("one row of many lines.csv", b'image,caption\n"a.jpg' + b'\n","' * 300_000),
        ("utf-16.csv", "image,caption\na.jpg,one\n".encode("utf-16")),
        ("endless.csv", b"image,caption\na.jpg," + b"x" * 200_000),
        ("empty.parquet", b""),
        ("rubbish.parquet", b"PAR1" + bytes(64) + b"PAR1"),
    ],
)
def test_what_is_no_table_is_refused(tmp_path: Path, name: str, content: bytes) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DatasetError):
        list(datasets.open(path, kind="pairs"))


def test_the_line_that_is_wrong_is_named(tmp_path: Path) -> None:
    path = tmp_path / "p.csv"
    path.write_text('image,caption\na.jpg,"one\ntwo"\nb.jpg,"x" y\n')
    with pytest.raises(DatasetError, match="p.csv is no table: line 4: "):
        list(datasets.open(path, kind="pairs"))


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_lines_may_end_as_anywhere_and_begin_with_a_mark(tmp_path: Path, end: str, encoding: str) -> None:
    path = tmp_path / "p.csv"
    path.write_bytes(end.join(["image,caption", "a.jpg,été", 'b.jpg,"two', 'lines"', ""]).encode(encoding))
    assert [one.text for one in datasets.open(path)] == ["été", f"two{end}lines"]


def test_texts_in_a_dictionary_are_texts(tmp_path: Path) -> None:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    table = pa.table({"image": ["a.jpg", "b.jpg"], "caption": pa.array(["x", "x"]).dictionary_encode()})
    pq.write_table(table, tmp_path / "p.parquet")
    assert [one.text for one in datasets.open(tmp_path / "p.parquet")] == ["x", "x"]


def test_two_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    pq.write_table(pa.table([["a.jpg"], ["x"], ["y"]], names=["image", "caption", "caption"]), tmp_path / "p.parquet")
    with pytest.raises(DatasetError, match="caption"):
        datasets.open(tmp_path / "p.parquet")


def test_a_parquet_file_that_was_cut_is_refused(tmp_path: Path) -> None:
    path = _write(tmp_path / "p.parquet", ROWS * 500)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DatasetError, match="cannot be read as parquet"):
        datasets.open(path, kind="pairs")
    path.write_bytes(bytes(byte ^ 255 if 40 < place < 90 else byte for place, byte in enumerate(whole)))
    with pytest.raises(DatasetError):
        list(datasets.open(path, kind="pairs"))


def test_a_few_odd_cells_do_not_make_pictures_texts(tmp_path: Path) -> None:
    found = datasets.open(_write(tmp_path / "p.csv", [*ROWS, ("N/A", "?"), ("/etc/passwd", "?")]))
    assert found.modalities == ("vision", "text")
    assert [one.data.name for one in found] == ["a.jpg", "b.jpg", "a.jpg", "A"]
    assert len(found.skipped) == 1 and "lies outside" in found.skipped[0][1]
    with pytest.raises(UsageError, match="column image of .* has no files of a known type, such as '/etc/passwd'"):
        datasets.open(_write(tmp_path / "q.csv", [("/etc/passwd", "?"), ("x", "a.jpg")]))
    named = datasets.open(_write(tmp_path / "q.csv", [("scan0001", "a room")]), modalities=("depth", "text"))
    assert next(iter(named)).data == tmp_path / "scan0001"


def test_a_depth_map_is_one_where_it_is_said(tmp_path: Path) -> None:
    path = _write(tmp_path / "p.csv", [("a.png", "a room")])
    assert datasets.open(path).modalities == ("vision", "text")
    assert datasets.open(path, modalities=("depth", None)).modalities == ("depth", "text")
    assert next(iter(datasets.open(path, modalities=("text", "text")))).data == "a.png"
