"""The flat index on disk: three files, published together or not at all, checked by sha256 when read.

    index.json            format, model, encoder ids, and name, size and sha256 of the other two
    vectors-<n>.npy       [rows, dim] float32
    items-<n>.jsonl       one entry a line, in the order of the rows

A save writes new files under the next number and then replaces ``index.json``; until that moment the old ones are the
index, and a crash at any point leaves either the old state or the new one. Nothing here is ever unpickled.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from slimbind.collection.entry import Entry
from slimbind.errors import CollectionError

HEADER = "index.json"
FORMAT_VERSION = 1
_MAX_HEADER_BYTES = 1 << 20
_CHUNK = 1 << 20
_MEND = "delete the folder and run `slimbind index` again"

Vectors = NDArray[np.float32]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class DataFile(_Record):
    """One of the two data files."""

    name: str = Field(pattern=r"^(vectors-\d+\.npy|items-\d+\.jsonl)$")
    bytes: int = Field(ge=0)
    sha256: str = Field(pattern="^[0-9a-f]{64}$")


class Header(_Record):
    """The contents of ``index.json``: ``model`` is what to load for queries, ``encoders`` the id for each modality."""

    format: Literal["slimbind-index"] = "slimbind-index"
    format_version: int = FORMAT_VERSION
    created_by: str
    generation: int = Field(0, ge=0)
    model: str
    dim: int = Field(ge=1)
    encoders: dict[str, str]
    rows: int = Field(0, ge=0)
    vectors: DataFile | None = None
    items: DataFile | None = None


def read_header(folder: Path) -> Header:
    """Read and validate ``index.json``.

    Raises:
        CollectionError: there is none, it was written by a newer version, or it is damaged.
    """
    path = folder / HEADER
    try:
        raw = path.read_bytes() if path.stat().st_size <= _MAX_HEADER_BYTES else b""
    except (FileNotFoundError, NotADirectoryError):
        raise CollectionError(f"there is no index at {folder}", hint="make one with `slimbind index FOLDER`") from None
    except OSError as error:
        raise CollectionError(f"{path} cannot be read: {error.strerror}") from error
    try:
        version = json.loads(raw)["format_version"]
        if isinstance(version, int) and version > FORMAT_VERSION:
            raise CollectionError(
                f"the index {folder} has format version {version}; this slimbind reads up to {FORMAT_VERSION}",
                hint="pip install --upgrade slimbind",
            )
        return Header.model_validate_json(raw)
    except (ValidationError, ValueError, KeyError, TypeError, RecursionError) as error:
        first = str(error).splitlines()[0]
        raise CollectionError(f"{path} is damaged: {first}", hint=_MEND) from error


def read_data(folder: Path, header: Header) -> tuple[Vectors, list[Entry]]:
    """The vectors ``[rows, dim]``, memory-mapped, and their entries, both checked against the header.

    Raises:
        CollectionError: a file is missing, cut or changed.
    """
    if header.vectors is None or header.items is None:
        return np.empty((0, header.dim), np.float32), []
    for file in (header.vectors, header.items):
        _verify(folder / file.name, file)
    vectors = map_vectors(folder, header)
    entries = list(_read_entries(folder / header.items.name))
    if len(entries) != header.rows:
        raise CollectionError(f"{folder} is damaged: {len(entries)} items for {header.rows} vectors", hint=_MEND)
    return vectors, entries


def map_vectors(folder: Path, header: Header) -> Vectors:
    """The vectors ``[rows, dim]``, memory-mapped, without looking at their checksum.

    Raises:
        CollectionError: the file is not what the header says.
    """
    if header.vectors is None or not header.rows:  # an empty file cannot be mapped
        return np.empty((0, header.dim), np.float32)
    path = folder / header.vectors.name
    try:
        vectors: Vectors = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError) as error:
        raise CollectionError(f"{path} is damaged: {error}", hint=_MEND) from error
    if vectors.shape != (header.rows, header.dim) or vectors.dtype != np.float32:
        raise CollectionError(
            f"{path} is damaged: {vectors.dtype} {list(vectors.shape)}, not float32 {[header.rows, header.dim]}",
            hint=_MEND,
        )
    return vectors


def write(folder: Path, header: Header, chunks: Iterable[Vectors], entries: Iterable[Entry]) -> Header:
    """Write a new generation and make it the index; returns its header.

    Args:
        folder: the index folder; it exists.
        header: the state before; ``rows`` is already the new count.
        chunks: the vectors in order, ``[any, dim]`` each, ``rows`` in all.
        entries: their entries, in the same order.

    Raises:
        CollectionError: the disk is full or not writable; the old state is still there.
    """
    # A save that was interrupted after it had published left a state on disk that the caller does not know of.
    number = max(header.generation, _published(folder)) + 1
    names = f"vectors-{number}.npy", f"items-{number}.jsonl"
    temp = folder / f".{HEADER}.partial"
    try:
        vectors = _write_file(folder / names[0], _npy_blocks(header.rows, header.dim, chunks))
        items = _write_file(folder / names[1], _entry_lines(entries))
        new = header.model_copy(update={"generation": number, "vectors": vectors, "items": items})
        _write_file(temp, [new.model_dump_json(indent=1).encode() + b"\n"])
        os.replace(temp, folder / HEADER)
    except BaseException as error:
        # Ctrl-C may arrive when the new state is the index already: its files must stay then.
        if _published(folder) != number:
            for path in (folder / names[0], folder / names[1], temp):
                with contextlib.suppress(OSError):
                    path.unlink()
        if isinstance(error, OSError):
            mend = "free some space and run again" if error.errno in (errno.ENOSPC, errno.EDQUOT) else ""
            raise CollectionError(f"the index {folder} was not saved: {error.strerror}", hint=mend) from error
        raise
    _sync_folder(folder)
    _sweep(folder, keep=names)
    return new


def _published(folder: Path) -> int:
    """The number of the state on disk; 0 where there is none that can be read."""
    try:
        return read_header(folder).generation
    except CollectionError:
        return 0


def _write_file(path: Path, blocks: Iterable[bytes]) -> DataFile:
    digest = hashlib.sha256()
    size = 0
    with open(path, "wb") as file:
        for block in blocks:
            file.write(block)
            digest.update(block)
            size += len(block)
        file.flush()
        os.fsync(file.fileno())
    # The header is written by this function too; its name is of no interest then.
    return DataFile.model_construct(name=path.name, bytes=size, sha256=digest.hexdigest())


def _npy_blocks(rows: int, dim: int, chunks: Iterable[Vectors]) -> Iterator[bytes]:
    yield _npy_header((rows, dim))
    for chunk in chunks:
        yield np.ascontiguousarray(chunk, "<f4").tobytes()


def _npy_header(shape: tuple[int, int]) -> bytes:
    buffer = io.BytesIO()
    described = {"descr": np.lib.format.dtype_to_descr(np.dtype("<f4")), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(buffer, described)
    return buffer.getvalue()


def _entry_lines(entries: Iterable[Entry]) -> Iterator[bytes]:
    for entry in entries:
        # ASCII JSON: surrogate escapes of undecodable names survive as \udcXX.
        yield json.dumps([entry.path, entry.modality, entry.size, entry.mtime_ns]).encode("ascii") + b"\n"


def _read_entries(path: Path) -> Iterator[Entry]:
    try:
        with open(path, encoding="ascii") as file:
            for line in file:
                where, modality, size, mtime_ns = json.loads(line)
                yield Entry(str(where), str(modality), int(size), int(mtime_ns))
    except (ValueError, TypeError, RecursionError) as error:
        raise CollectionError(f"{path} is damaged: {error}", hint=_MEND) from error


def _verify(path: Path, expected: DataFile) -> None:
    digest = hashlib.sha256()
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size != expected.bytes:
                raise CollectionError(f"{path} has {size} bytes, not {expected.bytes}", hint=_MEND)
            while block := file.read(_CHUNK):
                digest.update(block)
    except OSError as error:
        raise CollectionError(f"{path} cannot be read: {error.strerror}", hint=_MEND) from error
    if digest.hexdigest() != expected.sha256:
        raise CollectionError(f"{path} was changed: its sha256 is not the recorded one", hint=_MEND)


def _sweep(folder: Path, keep: tuple[str, str]) -> None:
    for pattern in ("vectors-*.npy", "items-*.jsonl"):
        for path in folder.glob(pattern):
            if path.name not in keep:
                with contextlib.suppress(OSError):  # Windows keeps a mapped file; the next save takes it
                    path.unlink()


def _sync_folder(folder: Path) -> None:
    with contextlib.suppress(OSError):  # Windows cannot open a folder
        fd = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
