"""Tar files of samples, good and hostile."""

from __future__ import annotations

import gzip
import io
import json
import struct
import tarfile
from pathlib import Path

import numpy as np
import pytest

from slimbind import datasets
from slimbind.datasets.tar import members
from slimbind.errors import DatasetError, UsageError


def _tar(path: Path, files: dict[str, bytes] | list[tuple[tarfile.TarInfo, bytes]], mode: str = "w") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as tar:
        for one in files.items() if isinstance(files, dict) else files:
            info, data = (tarfile.TarInfo(one[0]), one[1]) if isinstance(one[0], str) else one
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def test_files_of_one_name_are_a_sample(tmp_path: Path) -> None:
    files = {
        "./a/001.jpg": b"J1",
        "./a/001.cls": b"1\n",
        "./a/001.meta.xml": b"<x>",
        "./a/002.v2.jpg": b"no plain jpg",
        "./a/002.cls": b"0",
        "./a/003.CLS": b"cat",
        "./a/003.JPG": b"J3",
        "./.hidden": b"",
    }
    (tmp_path / "classnames.txt").write_text("cat\ndog\n")
    found = datasets.open(_tar(tmp_path / "test" / "0.tar", files))
    assert (found.kind, found.modalities, found.classes, found.count) == (
        "webdataset",
        ("vision",),
        ["cat", "dog"],
        None,
    )
    assert [(one.id, one.data, one.label) for one in found] == [("0.tar/a/001", b"J1", 1), ("0.tar/a/003", b"J3", 0)]
    assert found.skipped == [("0.tar/a/002", "has no .jpg")]


def test_many_shards_are_one_data_set(tmp_path: Path) -> None:
    for shard in range(3):
        _tar(tmp_path / "w" / f"{shard}.tar.gz", {f"{shard}.wav": b"W", f"{shard}.txt": b" a sound "}, "w:gz")
    folder = datasets.open(tmp_path / "w")
    assert folder.modalities == ("audio", "text")
    assert [(one.id, one.data, one.text, one.other) for one in folder] == [
        (f"{n}.tar.gz/{n}", b"W", "a sound", "a sound") for n in range(3)
    ]
    named = datasets.open(tmp_path / "w" / "2.tar.gz", tmp_path / "w" / "0.tar.gz")
    assert [one.id for one in named] == ["2.tar.gz/2", "0.tar.gz/0"]
    split = _tar(tmp_path / "s" / "train" / "0.tar", {"x.jpg": b"J"}).parents[1]
    with pytest.raises(UsageError, match="holds splits: train"):
        datasets.open(split)
    assert [one.id for one in datasets.open(split, split="train")] == ["0.tar/x"]


def test_json_may_hold_the_caption_and_the_label(tmp_path: Path) -> None:
    told = [{"caption": "a cat", "label": 3}, {"text": "a dog", "cls": "4"}, {"label": None}, [1], {"caption": 5}]
    files = {
        f"{n}.{kind}": data
        for n, one in enumerate(told)
        for kind, data in (("png", b"P"), ("json", json.dumps(one).encode()))
    }
    found = datasets.open(_tar(tmp_path / "x.tar", files | {"9.png": b"P", "9.json": b"{", "91.png": b"P"}))
    assert found.modalities == ("vision", "text")
    assert [(one.text, one.label) for one in found] == [("a cat", 3), ("a dog", 4)]
    assert [why for _, why in found.skipped][:3] == ["has no caption"] * 3
    assert "a .json that is none" in found.skipped[3][1]


def test_the_types_that_belong_together_can_be_named(tmp_path: Path) -> None:
    path = _tar(tmp_path / "x.tar", {"1.txt": b"words", "1.jpg": b"J", "1.wav": b"W", "1.npy": b"N"})
    both = datasets.open(path, columns=("wav", ".JPG"))
    assert both.modalities == ("audio", "vision")
    assert [(one.data, one.other, one.text) for one in both] == [(b"W", b"J", "words")]
    assert datasets.open(path, columns=("npy", "txt"), modalities=("depth", None)).modalities == ("depth", "text")
    assert datasets.open(path, modalities="depth").modalities == ("depth", "text")
    with pytest.raises(UsageError, match="unknown type of file in .* 'png'; allowed: jpg, npy, txt, wav"):
        datasets.open(path, columns=("png",))
    with pytest.raises(UsageError, match="name what is embedded"):
        datasets.open(path, columns=("jpg", "txt", "wav"))
    with pytest.raises(UsageError, match="has no files of a known type: xyz"):
        datasets.open(_tar(tmp_path / "y.tar", {"1.xyz": b""}))
    two = datasets.open(_tar(tmp_path / "z.tar", {"1.jpg": b"J", "1.wav": b"W"}))
    assert two.modalities == ("vision", "audio")


def test_labels_that_are_none_are_left_out(tmp_path: Path) -> None:
    labels = [b"1", b"-1", b"dog", b"", b"\xff", b"9" * 5000, b"1.5"]
    path = _tar(
        tmp_path / "x.tar",
        {f"{n}.{kind}": data for n, one in enumerate(labels) for kind, data in (("jpg", b"J"), ("cls", one))},
    )
    found = datasets.open(path)
    assert found.classes is None and [one.label for one in found] == [1]
    assert len(found.skipped) == 6 and "'dog', which is in no classnames.txt or classes.txt" in found.skipped[1][1]


@pytest.mark.parametrize(
    "content", [b"", b" \n", b"\xff\xfe", b"a\n" * (9 << 20)], ids=["empty", "blank", "binary", "long"]
)
def test_names_of_classes_that_are_none_are_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "classes.txt").write_bytes(content)
    with pytest.raises(DatasetError, match="classes.txt"):
        datasets.open(_tar(tmp_path / "x.tar", {"1.jpg": b"J", "1.cls": b"0"}))


def test_what_is_no_file_or_leaves_the_tar_is_left_out(tmp_path: Path) -> None:
    link = tarfile.TarInfo("2.jpg")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    hard = tarfile.TarInfo("3.jpg")
    hard.type, hard.linkname = tarfile.LNKTYPE, "0.jpg"
    device = tarfile.TarInfo("4.jpg")
    device.type = tarfile.CHRTYPE
    names = ["0.jpg", "../1.jpg", "/abs/1.jpg", "a/../../1.jpg", "b\\..\\1.jpg"]
    entries = [(tarfile.TarInfo(name), b"J") for name in names] + [(one, b"") for one in (link, hard, device)]
    found = datasets.open(_tar(tmp_path / "x.tar", entries))
    assert [one.id for one in found] == ["x.tar/0"]
    assert [why for _, why in found.skipped] == ["has a name that leaves the tar"] * 4 + ["is no regular file"] * 3
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.tar"]


def test_a_type_that_is_twice_in_a_sample_or_too_large_for_a_text_is_left_out(tmp_path: Path) -> None:
    files = [("1.jpg", b"J"), ("1.JPG", b"K"), ("1.txt", b"words"), ("2.jpg", b"L"), ("2.txt", b"x" * (4 << 20 | 1))]
    found = datasets.open(_tar(tmp_path / "x.tar", [(tarfile.TarInfo(name), data) for name, data in files]))
    assert [(one.data, one.text) for one in found] == [(b"J", "words")]
    assert found.skipped == [
        ("x.tar/1.JPG", "is the second .jpg of its sample"),
        ("x.tar/2.txt", "has 4194305 bytes; the limit is 4194304"),
        ("x.tar/2", "has no .txt"),
    ]


def test_a_list_of_holes_has_an_end(tmp_path: Path) -> None:
    """Old GNU tars list a sparse file's pieces in as many blocks as they like, and ``tarfile`` keeps them all."""
    info = tarfile.TarInfo("1.jpg")
    info.type = tarfile.GNUTYPE_SPARSE
    first, more = bytearray(info.tobuf(tarfile.GNU_FORMAT)), bytearray(512)
    first[482], more[504] = 1, 1  # there are more
    for place in range(0, 21 * 24, 12):
        more[place : place + 12] = b"%011o\0" % 512
    first[148:156] = b" " * 8
    first[148:156] = b"%06o\0 " % sum(first)
    (tmp_path / "x.tar.gz").write_bytes(gzip.compress(bytes(first) + bytes(more) * 4096, 1))
    with pytest.raises(DatasetError, match="claims 512 bytes, and may have 0"):
        datasets.open(tmp_path / "x.tar.gz")


def _broken(kind: str, whole: bytes) -> bytes:
    header = bytearray(whole[:512])
    if kind == "huge":
        header[124:136] = b"\x80" + (1 << 70).to_bytes(11, "big")
    if kind == "negative":
        header[124:136] = b"\xff" + (-4096).to_bytes(11, "big", signed=True)
    if kind == "long name":
        header[156:157], header[124:136] = b"L", b"%011o\0" % (1 << 31)
    if kind == "pax":
        header[156:157], header[124:136] = b"x", b"%011o\0" % (1 << 31)
    if kind == "many pax":
        header[156:157], header[124:136] = b"x", b"%011o\0" % 0
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    if kind == "many pax":
        return bytes(header) * 5000
    return bytes(header) + whole[512:]


@pytest.mark.parametrize("kind", ["huge", "negative", "long name", "pax", "many pax"])
def test_headers_that_lie_are_refused(tmp_path: Path, kind: str) -> None:
    whole = _tar(tmp_path / "x.tar", {"1.jpg": b"J" * 600, "1.cls": b"1"}).read_bytes()
    path = tmp_path / "y.tar"
    path.write_bytes(_broken(kind, whole))
    with pytest.raises(DatasetError):
        list(datasets.open(path))


@pytest.mark.parametrize("end", [100, 512, 1000, 1024 + 100])
def test_a_tar_that_was_cut_is_refused(tmp_path: Path, end: int) -> None:
    whole = _tar(tmp_path / "x.tar", {"1.jpg": b"J" * 600, "2.jpg": b"K"}).read_bytes()
    path = tmp_path / "y.tar"
    path.write_bytes(whole[:end])
    with pytest.raises(DatasetError, match="cannot be read as a tar"):
        list(datasets.open(path))
    path.write_bytes(gzip.compress(whole)[:-20])
    with pytest.raises(DatasetError, match="cannot be read as a tar"):
        list(datasets.open(path))


def test_a_tar_that_was_cut_in_a_large_file_is_refused_as_well(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).bytes(500_000)
    whole = _tar(tmp_path / "x.tar", {"1.jpg": b"J", "2.jpg": noise}).read_bytes()
    path = tmp_path / "y.tar"
    for cut in (whole[:200_000], gzip.compress(whole)[:200_000], gzip.compress(whole)[:200_000] + bytes(300_000)):
        path.write_bytes(cut)
        with pytest.raises(DatasetError, match="cannot be read as a tar"):
            list(datasets.open(path))


def test_damage_in_the_middle_is_no_end(tmp_path: Path) -> None:
    whole = bytearray(_tar(tmp_path / "x.tar", {"1.jpg": b"J", "2.jpg": b"K"}).read_bytes())
    whole[1024 + 20] ^= 255
    (tmp_path / "y.tar").write_bytes(whole)
    with pytest.raises(DatasetError, match="was cut, or is damaged"):
        list(datasets.open(tmp_path / "y.tar"))


@pytest.mark.parametrize("content", [b"", b"no tar", struct.pack("<Q", 7) * 200, b"\x1f\x8b" + bytes(50)])
def test_what_is_no_tar_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.tar").write_bytes(content)
    with pytest.raises(DatasetError, match="cannot be read as a tar"):
        datasets.open(tmp_path / "x.tar")


def test_a_member_has_a_limit(tmp_path: Path) -> None:
    path = _tar(tmp_path / "x.tar", {"small": b"x" * 10, "large": b"x" * 11, "last": b""})
    told: list[tuple[str, str]] = []
    found = members(path, max_bytes=10, left_out=lambda name, why: told.append((name, why)))
    assert [(one.name, one.read()) for one in found] == [("small", b"x" * 10), ("last", b"")]
    assert told == [("large", "has 11 bytes; the limit is 10")]
