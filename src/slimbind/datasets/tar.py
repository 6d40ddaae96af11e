"""Tar files, plain or compressed, read member by member; nothing of them is written to the disk."""

from __future__ import annotations

import gzip
import io
import tarfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO, cast

from slimbind.errors import DatasetError

SUFFIXES = (".tar", ".tar.gz", ".tgz")
MEMBER_BYTES = 512 << 20  # the largest member that is read; CIFAR-100's training set is 155 MB
_BLOCK = 512
_HEADER_BYTES = 1 << 20  # of all that stands before a member: its name, mostly
_MEND = "copy or download it again"


@dataclass(frozen=True)
class Member:
    """One regular file in a tar, readable until the next one is asked for; ``read`` raises what ``members`` does."""

    name: str
    size: int
    read: Callable[[], bytes]


class _Bounded(io.RawIOBase):
    """A file of which nobody reads more than it was granted, and that knows what was read last.

    ``tarfile`` reads long names and lists of holes whole, and a few compressed bytes can promise gigabytes of them.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.granted = 0
        self.last = b""

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= self.granted:
            raise tarfile.ReadError(f"something in it claims {size} bytes, and may have {self.granted}")
        self.granted -= size
        self.last = self._file.read(size)
        return self.last

    def seek(self, place: int, whence: int = io.SEEK_SET) -> int:
        return self._file.seek(place, whence)

    def tell(self) -> int:
        return self._file.tell()

    def seekable(self) -> bool:
        return True


def is_tar(path: Path) -> bool:
    """Whether a file is called like a tar."""
    return path.name.lower().endswith(SUFFIXES) and path.is_file()


def members(
    path: Path, *, max_bytes: int = MEMBER_BYTES, left_out: Callable[[str, str], object] = lambda name, why: None
) -> Iterator[Member]:
    """The regular files of a tar, in its order.

    Args:
        path: the tar.
        max_bytes: the largest member.
        left_out: is told the names of links, devices, members that are too large or whose name leaves the tar, and why.

    Raises:
        DatasetError: it is no tar, or was cut or damaged; as soon as that is noticed.
    """
    with _explained(path):
        with open(path, "rb") as raw:
            packed = raw.read(2) == b"\x1f\x8b"
        with gzip.open(path) if packed else open(path, "rb") as file:
            yield from _members(path, _Bounded(cast("IO[bytes]", file)), max_bytes, left_out)


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except (tarfile.TarError, OSError, EOFError, ValueError, zlib.error, RecursionError) as error:
        raise DatasetError(f"{path} cannot be read as a tar: {error}", hint=_MEND) from error


def _members(path: Path, file: _Bounded, max_bytes: int, left_out: Callable[[str, str], object]) -> Iterator[Member]:
    file.granted = _HEADER_BYTES
    with tarfile.open(fileobj=file, mode="r:") as tar:
        end = 0
        while (found := tar.next()) is not None:
            tar.members = []  # type: ignore[attr-defined]  # it remembers them all otherwise
            if tar.offset <= end:
                raise tarfile.ReadError(f"{found.name} claims {found.size} bytes")
            end = tar.offset
            if found.isdir():
                pass
            elif why := _problem(found, max_bytes):
                left_out(found.name, why)
            else:
                yield Member(found.name, found.size, partial(_content, path, tar, found, file))
            file.granted = _HEADER_BYTES
        # A damaged header in the middle is the end to tarfile. A tar ends with a block of zeros, or with its file.
        if file.last.strip(b"\0") or 0 < len(file.last) < _BLOCK:
            raise tarfile.ReadError("it was cut, or is damaged")


def _problem(found: tarfile.TarInfo, max_bytes: int) -> str:
    name = PurePosixPath(found.name)
    if not found.isreg() or found.issparse():
        return "is no regular file"
    if name.is_absolute() or ".." in name.parts or "\\" in found.name or "\0" in found.name:
        return "has a name that leaves the tar"
    if found.size > max_bytes:
        return f"has {found.size} bytes; the limit is {max_bytes}"
    return ""


def _content(path: Path, tar: tarfile.TarFile, found: tarfile.TarInfo, file: _Bounded) -> bytes:
    with _explained(path):  # it is read while `members` waits, which therefore does not see what goes wrong
        inner = tar.extractfile(found)
        file.granted = found.size
        return b"" if inner is None else inner.read()
