"""Codes made of 4-bit parts, and the order in which FastScan keeps them: blocks of 32 vectors, part after part.

A block holds 16 bytes for each part: byte ``j`` has the part's code of vector ``ORDER[j]`` in its low half and that of
vector ``ORDER[j] + 16`` in its high half. Reading and writing it here makes it possible to look at single codes, and
to add codes without finding the nearest codebook entry again.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from slimbind.codecs.binary import BinaryCodec
from slimbind.codecs.checks import Vectors
from slimbind.codecs.codec import Codec, Codes
from slimbind.codecs.product import ProductCodec
from slimbind.codecs.scalar import ScalarCodec

BLOCK = 32
ORDER = np.array([0, 8, 1, 9, 2, 10, 3, 11, 4, 12, 5, 13, 6, 14, 7, 15])
_PLACE = np.argsort(ORDER)


def codebooks(codec: Codec) -> NDArray[np.float32] | None:
    """``[parts, 16, width]``: what each half byte of a codec's codes stands for; None if they are not of that kind."""
    if isinstance(codec, ProductCodec) and codec.spec.bits == 4 and codec.spec.fast:
        return codec.centroids
    if isinstance(codec, ScalarCodec) and codec.spec.bits == 4:
        return codec.levels[:, :, None]
    if isinstance(codec, BinaryCodec):
        low, high = codec.decode(np.array([[0], [255]], np.uint8).repeat(codec.bytes_per_vector, axis=1))
        parts = -(-codec.dim // 4)
        both = np.zeros((2, parts * 4), np.float32)
        both[0, : codec.dim], both[1, : codec.dim] = low, high
        bits = (np.arange(16)[:, None] >> np.arange(4)) & 1  # [16, 4]
        below, above = both.reshape(2, parts, 1, 4)
        return np.where(bits[None] == 1, above, below)
    return None


def asked(codec: Codec, queries: Vectors) -> Vectors:
    """Queries ``[q, parts * width]`` as they are compared with ``codebooks``."""
    found = codec.asked(queries)
    if isinstance(codec, ProductCodec):
        return np.ascontiguousarray(codec.turned(found))
    if isinstance(codec, BinaryCodec) and codec.dim % 4:
        return np.pad(found, ((0, 0), (0, -codec.dim % 4)))
    return found


def pack(codes: Codes, parts: int) -> Codes:
    """Blocks ``[ceil(n / 32), stride]`` of ``codes`` ``[n, bytes]``, filled up with zeros."""
    rows = -(-len(codes) // BLOCK) * BLOCK
    halves = np.zeros((rows, -(-parts // 2) * 2), np.uint8)
    halves[: len(codes), 0::2] = codes[:, : halves.shape[1] // 2] & 15
    halves[: len(codes), 1::2] = codes[:, : halves.shape[1] // 2] >> 4
    blocks = halves.reshape(-1, 2, BLOCK // 2, halves.shape[1])
    both = blocks[:, 0] | (blocks[:, 1] << 4)
    return np.ascontiguousarray(both[:, ORDER].transpose(0, 2, 1)).reshape(len(blocks), -1)


def unpack(blocks: Codes, rows: NDArray[np.int64], parts: int) -> Codes:
    """Codes ``[m, bytes]`` of the vectors at ``rows`` ``[m]``, from ``blocks`` ``[any, stride]``."""
    within = rows % BLOCK
    even = -(-parts // 2) * 2
    columns = 16 * np.arange(even)[None] + _PLACE[within % 16][:, None]
    halves = blocks[(rows // BLOCK)[:, None], columns]
    halves = np.where((within >= 16)[:, None], halves >> 4, halves & 15)
    return np.asarray(halves[:, 0::2] | (halves[:, 1::2] << 4), np.uint8)
