"""Writes a safetensors file a tensor at a time, and hashes it on the way: memory for one tensor is enough.

The format (https://github.com/huggingface/safetensors, "Format"): the header's length as 8 bytes, a JSON header that
says type, shape and place of every tensor, then their bytes, little-endian, without gaps. Wide types come first, so
that every tensor is aligned to its own size.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from slimbind.errors import CheckpointError

_CHUNK = 8 << 20
TYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
_NAMES = {dtype: name for name, dtype in TYPES.items()}


@dataclass(frozen=True)
class Slot:
    """What the header says of one tensor before its values are read."""

    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def count(self) -> int:
        """How many values it has."""
        return int(torch.Size(self.shape).numel())

    @property
    def bytes(self) -> int:
        """Its size in the file."""
        return self.count * self.dtype.itemsize


def write(
    path: Path,
    slots: Mapping[str, Slot],
    read: Callable[[str], Tensor],
    *,
    on_bytes: Callable[[int], None] = lambda count: None,
) -> str:
    """Write the tensors ``read(key)`` of ``slots`` into ``path`` and return the file's sha256 in hex.

    ``on_bytes`` is told after every chunk how many bytes were written.

    Raises:
        CheckpointError: a tensor is not what its slot says, or holds NaN or infinite values.
        OSError: the file cannot be written.
    """
    order = sorted(slots, key=lambda key: (-slots[key].dtype.itemsize, key))
    digest = hashlib.sha256()
    with open(path, "xb") as file:

        def put(data: bytes | memoryview) -> None:
            file.write(data)
            digest.update(data)

        put(_header(slots, order))
        for key in order:
            for chunk in _chunks(_checked(key, read(key), slots[key])):
                put(chunk)
                on_bytes(len(chunk))
        file.flush()
        os.fsync(file.fileno())
    return digest.hexdigest()


def _header(slots: Mapping[str, Slot], order: list[str]) -> bytes:
    entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
    place = 0
    for key in order:
        slot = slots[key]
        entries[key] = {
            "dtype": _NAMES[slot.dtype],
            "shape": list(slot.shape),
            "data_offsets": [place, place + slot.bytes],
        }
        place += slot.bytes
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the values then start at a multiple of 8
    return len(text).to_bytes(8, "little") + text


def _checked(key: str, value: Tensor, slot: Slot) -> Tensor:
    if tuple(value.shape) != slot.shape or value.dtype != slot.dtype:
        raise CheckpointError(
            f"{key!r} came as {value.dtype} {list(value.shape)}; its header says {slot.dtype} {list(slot.shape)}"
        )
    if value.is_floating_point() and value.numel():
        # The extremes are NaN or infinite as soon as one value is, and finding them needs no second copy.
        low, high = torch.aminmax(value)
        if not (torch.isfinite(low) and torch.isfinite(high)):
            raise CheckpointError(f"{key!r} holds NaN or infinite values", hint="the checkpoint is damaged")
    return value


def _chunks(value: Tensor) -> Iterator[memoryview]:
    raw = value.contiguous().reshape(-1).view(torch.uint8)
    if sys.byteorder == "big":
        raw = raw.reshape(-1, value.dtype.itemsize).flip(1).reshape(-1)
    for start in range(0, raw.numel(), _CHUNK):
        yield raw[start : start + _CHUNK].numpy().data
