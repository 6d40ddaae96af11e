"""OpenEXR files to one depth plane: scan lines, uncompressed or with RLE, ZIPS or ZIP compression.

A small reader of its own, because the public one wants a file on disk, and prints to standard output, where data
goes, when a file is damaged. Format: "OpenEXR File Layout", openexr.com. Not read: tiles, several parts, deep or
subsampled pixels, and the compressions PIZ, PXR24, B44, B44A, DWAA and DWAB; the error says how to save instead.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from slimbind.errors import MediaError
from slimbind.media.geometry import check_pixels
from slimbind.media.limits import Limits
from slimbind.media.source import Source, decoding

MAGIC = b"\x76\x2f\x31\x01"

# Which channel is the depth, the surest name first.
_DEPTH_NAMES = ("Z", "z", "depth", "Depth", "depth.Z", "Y", "V", "R")
_HEADER_BYTES = 1 << 20
_FLAGS = {0x200: "tiles", 0x800: "deep pixels", 0x1000: "several parts"}
_COMPRESSIONS = ("NONE", "RLE", "ZIPS", "ZIP", "PIZ", "PXR24", "B44", "B44A", "DWAA", "DWAB")
_LINES = {"NONE": 1, "RLE": 1, "ZIPS": 1, "ZIP": 16}
_TYPES = (np.dtype("<u4"), np.dtype("<f2"), np.dtype("<f4"))
_RESAVE = "save it in one part, as scan lines with ZIP compression, the depth as HALF or FLOAT in a channel named Z"


@dataclass(frozen=True)
class _Layout:
    """What the header says: size, compression, and where one channel lies within a scan line."""

    width: int
    height: int
    top: int
    compression: str
    line_bytes: int
    channel_start: int
    channel_type: np.dtype[np.generic]
    table: int  # where the table of offsets begins


def read_exr(source: Source, limits: Limits) -> NDArray[np.generic]:
    """The depth channel ``[h, w]``, float16 or float32, in the file's unit, which should be metres.

    Raises:
        MediaError: damaged, without a depth channel, or of a kind that is not read. LimitError: too many pixels.
    """
    with decoding(source.name, "decode the OpenEXR file", hint="the file is damaged; write it again"):
        layout = _layout(source, limits)
        lines = _LINES[layout.compression]
        plane = np.empty((layout.height, layout.width), layout.channel_type)
        missing = set(range(0, layout.height, lines))
        blocks = len(missing)
        source.file.seek(layout.table)
        offsets = np.frombuffer(_exactly(source, 8 * blocks), "<u8")
        for offset in offsets:
            if not layout.table + 8 * blocks <= int(offset) <= source.size - 8:
                raise MediaError(source.name, "lacks some of its lines", hint="it was not written to the end")
            source.file.seek(int(offset))
            y, size = struct.unpack("<ii", _exactly(source, 8))
            first = y - layout.top
            if first not in missing or size < 0:
                raise MediaError(source.name, f"has a block at line {y}, where none belongs", hint="write it again")
            missing.remove(first)
            count = min(lines, layout.height - first)
            raw = _inflate(_exactly(source, size), count * layout.line_bytes, layout.compression)
            rows = np.frombuffer(raw, np.uint8).reshape(count, layout.line_bytes)
            cut = rows[:, layout.channel_start :][:, : layout.width * layout.channel_type.itemsize]
            plane[first : first + count] = np.ascontiguousarray(cut).view(layout.channel_type)
        return plane


def _layout(source: Source, limits: Limits) -> _Layout:
    head = source.head(_HEADER_BYTES)
    name = source.name
    (flags,) = struct.unpack_from("<I", head, 4)
    for bit, what in _FLAGS.items():
        if flags & bit:
            raise MediaError(name, f"is an OpenEXR file with {what}, which is not read", hint=_RESAVE)
    attributes, table = _attributes(head)
    compression = _COMPRESSIONS[attributes["compression"][0]]
    if compression not in _LINES:
        raise MediaError(name, f"has {compression} compression, which is not read", hint=_RESAVE)
    left, top, right, bottom = struct.unpack("<iiii", attributes["dataWindow"])
    width, height = right - left + 1, bottom - top + 1
    channels = _channels(attributes["channels"])
    if width < 1 or height < 1:
        raise MediaError(name, f"has an empty data window of {width} x {height}", hint="write it again")
    check_pixels(name, width * len(channels), height, limits)
    wanted = next((n for n in _DEPTH_NAMES if n in channels), None)
    if wanted is None and len(channels) == 1:
        (wanted,) = channels
    if wanted is None:
        raise MediaError(name, f"has the channels {', '.join(channels)}, none of them depth", hint=_RESAVE)
    if channels[wanted][0].kind != "f":
        raise MediaError(name, f"its channel {wanted} holds integers, not metres", hint=_RESAVE)
    if any(sampling != (1, 1) for _, sampling in channels.values()):
        raise MediaError(name, "has subsampled channels, which are not read", hint=_RESAVE)
    sizes = {channel: width * kind.itemsize for channel, (kind, _) in channels.items()}
    before = list(sizes)[: list(sizes).index(wanted)]
    return _Layout(
        width=width,
        height=height,
        top=top,
        compression=compression,
        line_bytes=sum(sizes.values()),
        channel_start=sum(sizes[channel] for channel in before),
        channel_type=channels[wanted][0],
        table=table,
    )


def _attributes(head: bytes) -> tuple[dict[str, bytes], int]:
    """The header's attributes by name, and where it ends."""
    found: dict[str, bytes] = {}
    at = 8
    while head[at] != 0:
        name_end = head.index(b"\0", at)
        type_end = head.index(b"\0", name_end + 1)
        (size,) = struct.unpack_from("<i", head, type_end + 1)
        start = type_end + 5
        if not 0 <= size <= len(head) - start:
            raise ValueError("an attribute reaches beyond the header")
        found[head[at:name_end].decode("utf-8", "replace")] = head[start : start + size]
        at = start + size
    return found, at + 1


def _channels(data: bytes) -> dict[str, tuple[np.dtype[np.generic], tuple[int, int]]]:
    """Type and sampling of each channel by name, in the order in which a line holds them."""
    found: dict[str, tuple[np.dtype[np.generic], tuple[int, int]]] = {}
    at = 0
    while data[at] != 0:
        end = data.index(b"\0", at)
        kind, _, x, y = struct.unpack_from("<iIii", data, end + 1)
        found[data[at:end].decode("utf-8", "replace")] = (_TYPES[kind], (x, y))
        at = end + 17
    return found


def _inflate(data: bytes, size: int, compression: str) -> bytes:
    """The ``size`` bytes of a block; a block that would not have become smaller is stored as it is."""
    if len(data) == size:
        return data
    if compression == "NONE":
        raise ValueError(f"a block of {len(data)} bytes instead of {size}")
    packed = _unrun(data, size) if compression == "RLE" else zlib.decompressobj().decompress(data, size + 1)
    if len(packed) != size:
        raise ValueError(f"a block of {len(packed)} bytes instead of {size}")
    # Stored are the differences between neighbours, offset by 128, of first the even and then the odd bytes.
    steps = np.frombuffer(packed, np.uint8) ^ np.uint8(128)
    steps[0] ^= np.uint8(128)
    values = np.cumsum(steps, dtype=np.uint8)
    half = (size + 1) // 2
    joined = np.empty(size, np.uint8)
    joined[0::2], joined[1::2] = values[:half], values[half:]
    return joined.tobytes()


def _unrun(data: bytes, size: int) -> bytes:
    """Undo run-length encoding: a count below 0 starts as many bytes as they are, another repeats the next one."""
    out = bytearray()
    at = 0
    while at < len(data) and len(out) <= size:
        count = data[at] - 256 if data[at] > 127 else data[at]
        if count < 0:
            out += data[at + 1 : at + 1 - count]
            at += 1 - count
        else:
            out += data[at + 1 : at + 2] * (count + 1)
            at += 2
    return bytes(out)


def _exactly(source: Source, count: int) -> bytes:
    data = source.file.read(count)
    if len(data) != count:
        raise MediaError(source.name, "ends early", hint="it was not written to the end; write it again")
    return data
