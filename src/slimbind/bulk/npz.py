"""Vectors as ``.npz``, written piece by piece: numpy's own ``savez`` would need all of them in memory."""

from __future__ import annotations

import io
import json
import tempfile
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

import numpy as np

from slimbind.bulk.items import About, Row

_BLOCK = 1 << 20


class _Texts:
    """Strings on disk, one JSON string a line, and the length of the longest."""

    def __init__(self, folder: Path) -> None:
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115  (closed by close)
        self.count = 0
        self.longest = 1  # numpy's strings have at least one character

    def add(self, text: str) -> None:
        self._file.write(json.dumps(text).encode("ascii") + b"\n")
        self.count += 1
        self.longest = max(self.longest, len(text))

    def arrays(self) -> Iterator[bytes]:
        """The strings as the bytes of an array of fixed width, a block at a time."""
        kind = self.dtype
        self._file.seek(0)
        per_block = max(1, _BLOCK // kind.itemsize)
        block: list[str] = []
        for line in self._file:
            block.append(json.loads(line))
            if len(block) == per_block:
                yield np.array(block, kind).tobytes()
                block = []
        yield np.array(block, kind).tobytes()

    @property
    def dtype(self) -> np.dtype[np.str_]:
        return np.dtype(f"<U{self.longest}")

    def close(self) -> None:
        self._file.close()


class Npz:
    """Arrays ``ids`` [n], ``modalities`` [n], ``vectors`` [n, dim] of the good items, ``error_ids`` and ``errors`` [m].

    ``model`` and ``encoders`` (JSON) say where they come from. ``numpy.load`` reads it without pickle.
    """

    def __init__(self, file: BinaryIO, about: About, folder: Path) -> None:
        self._file = file
        self._about = about
        # Beside the output: the system's own place for temporary files may be small, or memory.
        self._vectors = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115  (closed by close)
        self._texts = {name: _Texts(folder) for name in ("ids", "modalities", "error_ids", "errors")}

    def write(self, row: Row) -> None:
        """Spool one row."""
        if row.vector is None:
            self._texts["error_ids"].add(row.item.id)
            self._texts["errors"].add(row.reason)
        else:
            self._vectors.write(row.vector.astype("<f4").tobytes())
            self._texts["ids"].add(row.item.id)
            self._texts["modalities"].add(row.item.modality)

    def finish(self) -> None:
        """Put the archive together from the spools."""
        with zipfile.ZipFile(self._file, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
            shape = self._texts["ids"].count, self._about.dim
            self._vectors.seek(0)
            _member(archive, "vectors", np.dtype("<f4"), shape, iter(lambda: self._vectors.read(_BLOCK), b""))
            for name, texts in self._texts.items():
                _member(archive, name, texts.dtype, (texts.count,), texts.arrays(), zipfile.ZIP_DEFLATED)
            told = {"model": self._about.model, "encoders": json.dumps(dict(self._about.encoders))}
            for name, text in told.items():
                array = np.array(text)
                _member(archive, name, array.dtype, (), [array.tobytes()])

    def close(self) -> None:
        """Drop the spools."""
        for close in (self._vectors.close, *(texts.close for texts in self._texts.values())):
            with suppress(OSError):  # a full disk refuses the last flush; the spool goes away anyway
                close()


def _member(
    archive: zipfile.ZipFile,
    name: str,
    dtype: np.dtype[np.generic],
    shape: tuple[int, ...],
    blocks: Iterable[bytes],
    compression: int = zipfile.ZIP_STORED,
) -> None:
    header = io.BytesIO()
    described = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(header, described)
    info = zipfile.ZipInfo(f"{name}.npy")  # a fixed date: equal vectors make equal files
    info.compress_type = compression
    with archive.open(info, "w", force_zip64=True) as member:
        member.write(header.getvalue())
        for block in blocks:
            member.write(block)
