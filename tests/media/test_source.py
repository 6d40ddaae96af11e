"""Opening items: every kind of thing that is no readable file says so."""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path

import numpy as np
import pytest

from slimbind.errors import LimitError, MediaError, UsageError
from slimbind.media import Limits
from slimbind.media.source import decoding, describe, open_source

LIMITS = Limits(max_bytes=100)


def content(item: object, limits: Limits = LIMITS) -> bytes:
    with open_source(item, limits) as source:
        assert source.file.tell() == 0
        data = source.file.read()
        assert source.size == len(data)
        return data


def test_paths(tmp_path):
    path = tmp_path / "a.bin"
    path.write_bytes(b"abc")
    for way in (path, str(path)):
        assert content(way) == b"abc"
    with open_source(path, LIMITS) as source:
        assert source.head(2) == b"ab" and source.file.tell() == 0 and source.suffix == ".bin"
    assert source.file.closed


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_bytes(kind):
    assert content(kind(b"abc")) == b"abc"


def test_file_objects_stay_open_and_are_rewound():
    file = io.BytesIO(b"abc")
    assert content(file) == b"abc"
    assert file.tell() == 0 and not file.closed
    with pytest.raises(ZeroDivisionError), open_source(file, LIMITS) as source:
        source.file.read(2)
        1 / 0  # noqa: B018
    assert file.tell() == 0, "also after an error"


class Stream(io.RawIOBase):
    """Bytes without an end and without a way back."""

    name = "camera"
    taken = 0

    def readable(self):
        return True

    def readinto(self, buffer):
        self.taken += len(buffer)
        buffer[:] = bytes(len(buffer))
        return len(buffer)


def test_an_endless_stream_is_read_no_further_than_the_limit():
    stream = Stream()
    with pytest.raises(LimitError, match="camera: has 101 bytes; the limit is 100"):
        content(stream)
    assert stream.taken == 101


def test_sizes_are_checked_before_reading(tmp_path):
    path = tmp_path / "large"
    with path.open("wb") as file:
        file.truncate(10**13)
    for item in (bytes(101), io.BytesIO(bytes(101)), path, bytearray(101), memoryview(bytes(101))):
        with pytest.raises(LimitError, match="the limit is 100") as caught:
            content(item)
        assert "max_bytes" in caught.value.hint
    assert len(content(bytes(100))) == 100


@pytest.mark.parametrize("item", [b"", io.BytesIO(), bytearray()])
def test_nothing(item):
    with pytest.raises(MediaError, match=r"is empty \(0 bytes\)"):
        content(item)


def test_a_zero_byte_file(tmp_path):
    (tmp_path / "a.png").touch()
    with pytest.raises(MediaError, match=r"a\.png: is empty"):
        content(tmp_path / "a.png")


def test_what_is_no_file(tmp_path):
    with pytest.raises(MediaError, match=r"gone\.png: no such file"):
        content(tmp_path / "gone.png")
    with pytest.raises(MediaError, match="is a directory"):
        content(tmp_path)
    with pytest.raises(MediaError, match="cannot be opened"):
        content("a\0b")
    (tmp_path / "file").write_bytes(b"a")
    with pytest.raises(MediaError, match="cannot be opened"):
        content(tmp_path / "file" / "below")
    with pytest.raises(MediaError, match="cannot be opened"):
        content("x" * 5000)
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(MediaError, match="cannot be opened"):
        content(tmp_path / "loop")


@pytest.mark.skipif(sys.platform == "win32", reason="no named pipes in folders")
def test_a_pipe_does_not_block(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(MediaError, match="not a regular file"):
        content(tmp_path / "pipe")
    with pytest.raises(MediaError, match="not a regular file"):
        content("/dev/zero")


def test_an_unreadable_file(tmp_path, monkeypatch):
    path = tmp_path / "a"
    path.write_bytes(b"a")
    path.chmod(0)
    if os.access(path, os.R_OK):  # root reads everything

        def refuse(*_: object) -> None:
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(MediaError, match="permission denied"):
        content(path)


def test_text_file_objects_are_refused():
    with pytest.raises(MediaError, match='mode "rb"|text, not bytes'):
        content(io.StringIO("abc"))


def test_a_closed_file_object():
    file = io.BytesIO(b"abc")
    file.close()
    with pytest.raises(MediaError, match="closed"):
        content(file)


@pytest.mark.parametrize("item", [None, 3, 2.5, ["a"], {"a": 1}, object()])
def test_other_objects(item):
    with pytest.raises(MediaError, match="cannot be read as a file"):
        content(item)


def test_names_are_safe_to_print():
    assert "\x1b" not in describe("evil\x1b[2J.png") and "\n" not in describe("two\nlines.png")
    assert len(describe("x" * 9999)) < 400
    assert describe(Path("a/b.png")) == str(Path("a/b.png"))
    assert describe(b"abc") == "<3 bytes>"
    assert describe(np.zeros((2, 3), np.uint8)) == "<array (2, 3) uint8>"
    assert describe((np.zeros(4, np.float32), 16000)) == "<array (4,) float32>"
    assert describe(None) == "<NoneType>"


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (AssertionError(), "AssertionError"),
        (MemoryError(), "MemoryError"),
        (RecursionError("deep"), "deep"),
        (OSError(5, "Input/output error"), "Input/output error"),
        (KeyError("x" * 999), "x"),
    ],
)
def test_odd_exceptions_become_media_errors(error, cause):
    with pytest.raises(MediaError, match=f"a.png: cannot decode: .*{cause}") as caught, decoding("a.png", "decode"):
        raise error
    assert caught.value.__cause__ is error and len(str(caught.value)) < 300


@pytest.mark.parametrize("error", [LimitError("a", "b"), UsageError("c"), KeyboardInterrupt()])
def test_our_own_errors_and_interrupts_pass(error):
    with pytest.raises(type(error)) as caught, decoding("a.png", "decode"):
        raise error
    assert caught.value is error


@pytest.mark.parametrize("value", [0, -1, float("nan"), "9", None, True])
def test_limits_have_to_be_positive_numbers(value):
    with pytest.raises(UsageError, match="max_pixels"):
        Limits(max_pixels=value)
