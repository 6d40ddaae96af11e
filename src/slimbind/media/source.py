"""Where an item comes from: a path, bytes or a file object becomes one opened, seekable, size-checked file."""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

from slimbind.errors import LimitError, MediaError, SlimbindError
from slimbind.media.limits import Limits

_READABLE = "give a path, bytes or a binary file object"


@dataclass(frozen=True)
class Source:
    """An opened item: ``file`` is seekable and stands at its first byte, ``size`` is its length in bytes."""

    name: str
    file: IO[bytes]
    size: int

    def head(self, count: int = 64) -> bytes:
        """The first ``count`` bytes; the file is left at its first byte."""
        self.file.seek(0)
        first = self.file.read(count)
        self.file.seek(0)
        return first

    @property
    def suffix(self) -> str:
        """File type by name, in lower case with the dot; empty where the item has no name."""
        return Path(self.name).suffix.lower()


def describe(item: object) -> str:
    """A short name of an item for messages: its path, or what kind of object it is."""
    if isinstance(item, str | os.PathLike):
        return _shorten(os.fspath(cast("str", item)))
    if isinstance(item, bytes | bytearray | memoryview):
        return f"<{len(item)} bytes>"
    if isinstance(item, tuple) and item:
        return describe(item[0])
    shape = getattr(item, "shape", None)
    if shape is not None:
        return f"<array {tuple(shape)} {getattr(item, 'dtype', '')}>"
    size = getattr(item, "size", None)
    if isinstance(size, tuple):
        return f"<image {'x'.join(map(str, size))}>"
    name = getattr(item, "name", None)
    if isinstance(name, str):
        return _shorten(name)
    return f"<{type(item).__name__}>"


def is_file_like(item: object) -> bool:
    """Whether ``item`` is something ``open_source`` can open: a path, bytes or a file object."""
    return isinstance(item, str | os.PathLike | bytes | bytearray | memoryview) or hasattr(item, "read")


@contextmanager
def open_source(item: object, limits: Limits) -> Iterator[Source]:
    """Open ``item``; its size is compared with ``limits.max_bytes`` before anything is read.

    A path is opened and closed here. A seekable file object that stands at its start is used as it is, left open
    and rewound; any other is read to memory from where it stands, never more than the limit.

    Raises:
        MediaError: missing, unreadable, a directory or another special file, empty, or not a file at all.
        LimitError: larger than ``limits.max_bytes``.
    """
    if isinstance(item, str | os.PathLike):
        with _open_path(os.fspath(item), limits) as source:
            yield source
    elif isinstance(item, bytes | bytearray | memoryview):
        name, size = describe(item), memoryview(item).nbytes
        _check_size(name, size, limits)
        yield Source(name, io.BytesIO(item), size)
    elif hasattr(item, "read"):
        source = _from_file_object(item, limits)
        try:
            yield source
        finally:
            if source.file is item and not item.closed:
                item.seek(0)
    else:
        raise MediaError(describe(item), f"a {type(item).__name__} cannot be read as a file", hint=_READABLE)


@contextmanager
def _open_path(path: str | bytes, limits: Limits) -> Iterator[Source]:
    name = _shorten(os.fsdecode(path))
    try:
        # A pipe would block on open and a device has no end, hence the look before the leap.
        mode = os.stat(path).st_mode
        if stat.S_ISDIR(mode):
            raise MediaError(name, "is a directory, not a file", hint="name the files in it")
        if not stat.S_ISREG(mode):
            raise MediaError(name, "is not a regular file", hint="copy its content to a file, or pass bytes")
        file = open(path, "rb")  # noqa: SIM115  (closed below)
    except FileNotFoundError:
        raise MediaError(name, "no such file", hint="check the path") from None
    except PermissionError:
        raise MediaError(name, "cannot be read: permission denied", hint="check the file's permissions") from None
    except (OSError, ValueError) as error:  # ValueError: a path with a NUL in it
        raise MediaError(name, f"cannot be opened: {_reason(error)}", hint="check the path") from error
    with file:
        size = os.fstat(file.fileno()).st_size
        _check_size(name, size, limits)
        yield Source(name, file, size)


def _from_file_object(item: Any, limits: Limits) -> Source:  # noqa: ANN401  (anything with .read)
    name = describe(item)
    with decoding(name, "read"):
        seekable = hasattr(item, "seekable") and item.seekable()
        if seekable and item.tell() == 0 and isinstance(item.read(0), bytes):
            size = item.seek(0, os.SEEK_END)
            item.seek(0)
            _check_size(name, size, limits)
            return Source(name, item, size)
        cap = min(limits.max_bytes, 2**62)
        data = item.read(int(cap) + 1)
        if not isinstance(data, bytes | bytearray):
            raise MediaError(name, "the file object yields text, not bytes", hint='open it with mode "rb"')
        _check_size(name, len(data), limits)
        return Source(name, io.BytesIO(data), len(data))


def _check_size(name: str, size: int, limits: Limits) -> None:
    if size == 0:
        raise MediaError(name, "is empty (0 bytes)", hint="the file was probably cut while it was copied")
    if size > limits.max_bytes:
        raise LimitError(name, f"has {size} bytes; the limit is {limits.max_bytes}", hint="raise Limits(max_bytes=...)")


@contextmanager
def decoding(name: str, what: str, *, hint: str = "") -> Iterator[None]:
    """Turn whatever a decoder throws into a ``MediaError`` for ``name``; errors of ours pass unchanged.

    Decoders raise nearly anything on bad data (SyntaxError, struct.error, AssertionError, MemoryError ...), so
    everything that is an ``Exception`` counts as bad data here.
    """
    try:
        yield
    except SlimbindError:
        raise
    except Exception as error:
        raise MediaError(name, f"cannot {what}: {_reason(error)}", hint=hint) from error


def _reason(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    text = " ".join(str(error).split())
    return _shorten(text, 160) if text else type(error).__name__


def _shorten(text: str, limit: int = 300) -> str:
    # Messages end up on terminals and in logs: no control characters, no endless lines.
    clean = "".join(c if c.isprintable() else "\ufffd" for c in text)
    return clean if len(clean) <= limit else f"{clean[: limit // 2]}...{clean[-limit // 2 :]}"
