"""Vectors on their way in and out: checked, brought to length 1, packed as blobs, and checksummed with their item."""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from slimbind.collection.entry import Entry
from slimbind.errors import CollectionError, UsageError

TYPES: dict[str, np.dtype[Any]] = {"f32": np.dtype("<f4"), "f16": np.dtype("<f2")}
_UNIT = 1e-5  # a vector this near to length 1 is kept to the last bit
_MAX_METADATA = 1 << 20  # bytes of JSON
_NUL = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")


def unit_rows(vectors: ArrayLike, names: Sequence[str] | None = None) -> NDArray[np.float32]:
    """Vectors ``[n, dim]`` at length 1, float32.

    Args:
        vectors: ``[n, dim]``, or one ``[dim]``.
        names: of the rows, for messages.

    Raises:
        CollectionError: one is not finite, or is zero and so has no direction.
        UsageError: they are not numbers, or of another shape.
    """
    try:
        array = np.asarray(vectors)
        if array.dtype.kind not in "fiu":
            raise TypeError(f"numbers were expected, not {array.dtype}")
        with np.errstate(over="ignore"):  # it is told below
            rows = np.atleast_2d(array).astype(np.float32, copy=False)
    except (ValueError, TypeError) as error:
        raise UsageError(f"vectors cannot be read: {error}", hint="give an array [n, dim] of floats") from None
    if rows.ndim != 2 or rows.shape[1] == 0:
        raise UsageError(f"vectors have the shape {list(array.shape)}", hint="give an array [n, dim] of floats")
    with np.errstate(over="ignore", invalid="ignore"):
        norms = np.sqrt(np.einsum("ij,ij->i", rows, rows, dtype=np.float64))
    for bad, why in ((~np.isfinite(norms), "is not finite"), (norms == 0, "is zero and points nowhere")):
        if bad.any():
            row = int(np.flatnonzero(bad)[0])
            what = f"the vector of {names[row]!r}" if names is not None else f"vector {row}"
            raise CollectionError(f"{what} {why}", hint="leave it out; nothing was changed")
    off = np.abs(norms - 1) > _UNIT
    if off.any():
        rows = rows.copy()
        rows[off] = (rows[off] / norms[off, None]).astype(np.float32)
    return rows


def pack(rows: NDArray[np.float32], dtype: str) -> Iterator[bytes]:
    """Each row as it is kept, one after the other: many rows are not copied as a whole."""
    return (row.astype(TYPES[dtype]).tobytes() for row in rows)


def unpack(blobs: Sequence[bytes], dtype: str, dim: int) -> NDArray[np.float32]:
    """Rows ``[n, dim]`` float32 out of what is kept; those of half precision are brought to length 1 again.

    Raises:
        CollectionError: a blob has another length.
    """
    size = TYPES[dtype].itemsize * dim
    if any(len(blob) != size for blob in blobs):
        raise CollectionError(f"a stored vector does not have {size} bytes", hint="see `slimbind collection verify`")
    rows = np.frombuffer(b"".join(blobs), TYPES[dtype]).reshape(-1, dim).astype(np.float32)
    if dtype == "f16":
        # Rounding made them a little shorter or longer, and a score is the cosine wherever it is computed.
        with np.errstate(invalid="ignore", divide="ignore"):  # damaged ones, which verify tells
            rows /= np.sqrt(np.einsum("ij,ij->i", rows, rows))[:, None]
    return rows


def metadata_text(entry_id: str, metadata: Mapping[str, Any]) -> str:
    """Metadata as the JSON that is kept.

    Raises:
        UsageError: it is no JSON object, has a number that JSON has not, a NUL or half a character, or is too long.
    """
    if not metadata:
        return "{}"
    try:
        if any(not isinstance(name, str) for name in metadata):
            raise TypeError("its names are not all strings")
        told = json.dumps(dict(metadata), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        size = len(told.encode("utf-8"))
    except (TypeError, ValueError, RecursionError) as error:
        raise UsageError(
            f"the metadata of {entry_id!r} cannot be kept: {error}", hint="give what JSON can say, by name"
        ) from None
    # SQLite's functions for JSON end a text at this character, and so would compare only its beginning.
    if _NUL.search(told):
        raise UsageError(f"the metadata of {entry_id!r} have a NUL character", hint="leave it out")
    if size > _MAX_METADATA:
        raise UsageError(f"the metadata of {entry_id!r} are {size} bytes; allowed are {_MAX_METADATA}")
    return told


def utf8(what: str, value: str) -> bytes:
    """A text column as it is kept; bytes of file names that are no UTF-8 pass through.

    Raises:
        UsageError: it has a NUL character or half of one that no file name can have.
    """
    if not isinstance(value, str):
        raise UsageError(f"the {what} {value!r} is no text but {type(value).__name__}", hint="give a text")
    try:
        told = value.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        raise UsageError(f"the {what} {value!r} is no text", hint="give text that UTF-8 can say") from None
    if b"\0" in told:
        raise UsageError(f"the {what} {value!r} has a NUL character", hint="leave it out")
    return told


def checksum(entry: Entry, metadata: str, blob: bytes) -> int:
    """CRC-32 over all that is kept of an item, so that ``verify`` finds a flipped bit that SQLite cannot see."""
    fields = (entry.id, entry.modality, entry.source, metadata, entry.hash, entry.size, entry.mtime_ns)
    return checksum_of(fields, blob)


def checksum_of(columns: Sequence[object], blob: bytes) -> int:
    """The same from columns: id, modality, source, metadata, hash, size, mtime_ns."""
    return zlib.crc32(blob, zlib.crc32("\0".join(map(str, columns)).encode("utf-8", "surrogateescape")))
