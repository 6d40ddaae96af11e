"""One file of named arrays with a checksum over all of it, written whole or not at all. Nothing in it is unpickled.

slimbind codes 1\\n        magic and version
<64 hex digits>\\n         sha256 of everything after this line
<8 bytes>                 length of the header
<JSON>                    {"meta": ..., "arrays": {name: [dtype, shape, offset]}}
<arrays>                  each at a multiple of 64 after the header
"""

from __future__ import annotations

import errno
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slimbind.errors import CollectionError
from slimbind.whole import Whole

_MAGIC = b"slimbind codes 1\n"
_ALIGN = 64
_TYPES = {"|u1", "<u4", "<i4", "<i8", "<f4", "<f8", "|b1"}
_MEND = "it is derived from the collection: have it built again"
_MAX_HEADER = 1 << 20

Arrays = dict[str, NDArray[np.generic]]


def write(path: Path, meta: Mapping[str, Any], arrays: Mapping[str, NDArray[np.generic]]) -> None:
    """Write the file under a temporary name, flush it to the disk, and give it its name.

    Raises:
        CollectionError: the disk is full or not writable; what was there before is still there.
    """
    table: dict[str, tuple[str, list[int], int]] = {}
    end = 0
    for name, array in arrays.items():
        table[name] = (array.dtype.newbyteorder("<").str, list(array.shape), end)
        end = -(-(end + array.nbytes) // _ALIGN) * _ALIGN
    header = json.dumps({"meta": meta, "arrays": table}).encode()
    try:
        with Whole(path) as file:
            digest = hashlib.sha256()
            file.write(_MAGIC + b"0" * 64 + b"\n")

            def put(data: bytes | memoryview) -> None:
                file.write(data)
                digest.update(data)

            put(len(header).to_bytes(8, "little"))
            put(header)
            for array in arrays.values():
                plain = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
                put(plain.reshape(-1).view(np.uint8).data)
                put(b"\0" * (-plain.nbytes % _ALIGN))
            file.seek(len(_MAGIC))
            file.write(digest.hexdigest().encode())
    except OSError as error:
        mend = "free some space and try again" if error.errno in (errno.ENOSPC, errno.EDQUOT) else ""
        raise CollectionError(f"{path} was not written: {error.strerror}", hint=mend) from error


def read(path: Path) -> tuple[dict[str, Any], Arrays]:
    """Meta data and arrays of a file, after its checksum was found right.

    Raises:
        CollectionError: there is no such file, it is of a newer version, or it is damaged.
    """
    try:
        raw = np.fromfile(path, np.uint8)
    except OSError as error:
        raise CollectionError(f"{path} cannot be read: {error.strerror}", hint=_MEND) from error
    start = len(_MAGIC) + 65
    found = raw[:start].tobytes()
    if found[: len(_MAGIC)] != _MAGIC:
        other = found.startswith(_MAGIC[:-2])
        why = "was written by another version of slimbind" if other else "is not a file of codes"
        raise CollectionError(f"{path} {why}", hint=_MEND)
    body = raw[start:]
    if hashlib.sha256(body.data).hexdigest().encode() != found[len(_MAGIC) : -1]:
        raise CollectionError(f"{path} is damaged: its sha256 is not the recorded one", hint=_MEND)
    try:
        length = int.from_bytes(body[:8].tobytes(), "little")
        if not 0 < length <= min(_MAX_HEADER, len(body) - 8):
            raise ValueError(f"a header of {length} bytes")
        header = json.loads(body[8 : 8 + length].tobytes())
        return dict(header["meta"]), _arrays(body[8 + length :], header["arrays"])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CollectionError(f"{path} is damaged: {error}", hint=_MEND) from error


def _arrays(data: NDArray[np.uint8], table: Mapping[str, Any]) -> Arrays:
    found: Arrays = {}
    for name, (kind, shape, start) in table.items():
        if kind not in _TYPES or any(not isinstance(n, int) or n < 0 for n in [*shape, start]):
            raise ValueError(f"array {name} of type {kind} and shape {shape}")
        dtype = np.dtype(kind)
        size = int(np.prod(shape, dtype=object)) * dtype.itemsize
        if start + size > len(data):
            raise ValueError(f"array {name} ends behind the end of the file")
        # A copy, because the header moves it off the boundary that its type needs.
        found[name] = np.frombuffer(data[start : start + size].tobytes(), dtype).reshape(shape)
    return found
