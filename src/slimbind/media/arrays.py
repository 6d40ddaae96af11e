"""``.npy`` files: the header is checked before the numbers are read, and Python objects are never loaded."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from slimbind.errors import LimitError, MediaError
from slimbind.media.source import Source, decoding

MAGIC = b"\x93NUMPY"
_HEADER_BYTES = 4096


def read_npy(source: Source, *, max_elements: int, mend: str) -> NDArray[Any]:
    """Read one array of real numbers.

    Args:
        source: the opened file.
        max_elements: most numbers the array may have.
        mend: what to do about an array that is too large.

    Raises:
        MediaError: no ``.npy`` file, not of real numbers, or cut short. LimitError: more than ``max_elements``.
    """
    file = source.file
    file.seek(0)
    with decoding(source.name, "read the .npy header", hint="write it again with numpy.save(path, array)"):
        version = npy.read_magic(file)
        if version == (1, 0):
            shape, fortran, dtype = npy.read_array_header_1_0(file, max_header_size=_HEADER_BYTES)
        elif version == (2, 0):
            shape, fortran, dtype = npy.read_array_header_2_0(file, max_header_size=_HEADER_BYTES)
        else:  # 3.0 exists for named fields outside latin-1 only
            raise MediaError(source.name, f"is a .npy file of version {version}", hint="save a plain array of numbers")
    if dtype.kind not in "fiu":
        raise MediaError(source.name, f"holds values of type {dtype}, not real numbers", hint="save it as float32")
    count = 1
    for length in shape:  # Python integers do not wrap around
        count *= int(length)
    if count <= 0:
        raise MediaError(source.name, f"holds an empty array of shape {shape}", hint="save the array again")
    if count > max_elements:
        raise LimitError(source.name, f"holds {count} numbers; the limit is {max_elements}", hint=mend)
    wanted = count * dtype.itemsize
    if source.size - file.tell() < wanted:
        raise MediaError(
            source.name,
            "is cut short: its header promises more numbers than it holds",
            hint="copy the file again",
        )
    with decoding(source.name, "read the array"):
        flat = np.frombuffer(file.read(wanted), dtype=dtype)
        return flat.reshape(shape, order="F" if fortran else "C")
