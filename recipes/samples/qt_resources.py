"""Read the members of a Qt binary resource file (.rcc), as far as the samples need it.

Layout, after Qt's `rcc` tool: the magic `qres`, then big-endian format version and the offsets of the tree, the
data and the names. A tree node is 14 bytes (22 from version 2): name offset, flags, and either (count, first child)
or (territory, language, data offset). A member is a length and its bytes, zlib-compressed when flag 1 is set.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator

COMPRESSED, DIRECTORY = 1, 2


def members(data: bytes) -> Iterator[tuple[str, bytes]]:
    """Yield (path, content) for every file in the resource `data`; ValueError if it is not one."""
    if data[:4] != b"qres":
        raise ValueError("not a Qt resource file: it does not begin with 'qres'")
    version, tree, contents, names = struct.unpack_from(">4I", data, 4)
    node_bytes = 14 if version < 2 else 22

    def name_at(offset: int) -> str:
        (length,) = struct.unpack_from(">H", data, names + offset)
        start = names + offset + 6  # past the length and a hash
        return data[start : start + 2 * length].decode("utf-16-be")

    def walk(index: int, prefix: str) -> Iterator[tuple[str, bytes]]:
        node = tree + index * node_bytes
        name_offset, flags = struct.unpack_from(">IH", data, node)
        path = f"{prefix}/{name_at(name_offset)}".lstrip("/") if index else ""
        if flags & DIRECTORY:
            count, first = struct.unpack_from(">2I", data, node + 6)
            for child in range(first, first + count):
                yield from walk(child, path)
            return
        (offset,) = struct.unpack_from(">I", data, node + 10)
        (length,) = struct.unpack_from(">I", data, contents + offset)
        content = data[contents + offset + 4 :][:length]
        # A compressed member opens with its plain length, which zlib does not need.
        yield path, zlib.decompress(content[4:]) if flags & COMPRESSED else content

    yield from walk(0, "")
