"""The file of codes: whole or not at all, and never believed without its checksum."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from pathlib import Path

import numpy as np
import pytest

from slimbind.codecs import codefile
from slimbind.errors import CollectionError

ARRAYS = {
    "codes": np.arange(77, dtype=np.uint8).reshape(7, 11),
    "values": np.array([1.5, -2], np.float32),
    "keys": np.array([[1 << 40]], np.int64),
    "none": np.empty((0, 4), np.uint8),
    "alive": np.array([True, False]),
}


def forged(path: Path, header: bytes, length: int | None = None) -> None:
    """A file whose checksum is right and whose header is anything."""
    body = (len(header) if length is None else length).to_bytes(8, "little") + header
    path.write_bytes(b"slimbind codes 1\n" + hashlib.sha256(body).hexdigest().encode() + b"\n" + body)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    codefile.write(tmp_path / "f", {"spec": "sq8", "rows": 7}, ARRAYS)
    meta, arrays = codefile.read(tmp_path / "f")
    assert meta == {"spec": "sq8", "rows": 7} and arrays.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(arrays[name], array)
        assert arrays[name].dtype == array.dtype
    assert [path.name for path in tmp_path.iterdir()] == ["f"]


def test_a_full_disk_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    codefile.write(tmp_path / "f", {"n": 1}, {})

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CollectionError, match="free some space"):
        codefile.write(tmp_path / "f", {"n": 2}, ARRAYS)
    assert codefile.read(tmp_path / "f")[0] == {"n": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["f"]


def test_a_stopped_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(handle: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", stopped)
    with pytest.raises(KeyboardInterrupt):
        codefile.write(tmp_path / "f", {}, ARRAYS)
    assert not list(tmp_path.iterdir())


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(CollectionError, match="was not written"):
        codefile.write(tmp_path / "no" / "f", {}, {})


@pytest.mark.parametrize(
    "table",
    [
        {"a": ["|O8", [1], 0]},
        {"a": ["<f4", [-1], 0]},
        {"a": ["<f4", [1], -8]},
        {"a": ["<f4", [1 << 60, 1 << 60], 0]},
        {"a": ["<f4", [1.5], 0]},
        {"a": ["<f4", [4], 0]},
        {"a": ["<f4", [1]]},
        {"a": 7},
        7,
    ],
)
def test_a_header_that_lies_is_refused(tmp_path: Path, table: object) -> None:
    forged(tmp_path / "f", json.dumps({"meta": {}, "arrays": table}).encode())
    with pytest.raises(CollectionError, match="is damaged"):
        codefile.read(tmp_path / "f")


@pytest.mark.parametrize(("header", "length"), [(b"", None), (b"{}", None), (b"[" * 4000, None), (b"{}", 1 << 62)])
def test_no_header(tmp_path: Path, header: bytes, length: int | None) -> None:
    forged(tmp_path / "f", header, length)
    with pytest.raises(CollectionError, match="is damaged"):
        codefile.read(tmp_path / "f")


def test_other_files_and_other_versions(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"slimbind codes 9\n" + b"0" * 100)
    with pytest.raises(CollectionError, match="another version"):
        codefile.read(tmp_path / "f")
    (tmp_path / "f").write_bytes(b"PK\3\4")
    with pytest.raises(CollectionError, match="is not a file of codes"):
        codefile.read(tmp_path / "f")
