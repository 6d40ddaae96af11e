"""What is in a collection, how it is searched, and what it takes on disk."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from slimbind.collection import codes, items
from slimbind.collection.header import Header


@dataclass(frozen=True, slots=True)
class Stats:
    """Counts and sizes.

    Args:
        folder: where it is.
        items: how many there are.
        modalities: how many of each.
        dim: length of the vectors; None until there is one.
        dtype: how they are kept.
        model: what to load to embed queries.
        encoders: encoder id by modality.
        codec: what was asked for: ``auto``, or a codec.
        method: how the next search will work: ``exact``, or codec and kind.
        codes: what the code file holds, None where there is none: ``count`` vectors of ``bytes_per_vector`` bytes in
            memory, trained on ``trained_on``; ``gain`` is what the gap-aware transform was predicted to gain.
        waiting: vectors that are not in the code file yet, and so compared exactly.
        queries: sample queries by modality, which codes are fitted to.
        duplicates: items that have the content of an earlier one.
        database_bytes: of the database.
        codes_bytes: of the code file.
        format_version: of the database.
        created_by: the program that made it.
    """

    folder: str
    items: int
    modalities: Mapping[str, int]
    dim: int | None
    dtype: str
    model: str
    encoders: Mapping[str, str]
    codec: str
    method: str
    codes: Mapping[str, object] | None
    waiting: int
    queries: Mapping[str, int]
    duplicates: int
    database_bytes: int
    codes_bytes: int
    format_version: int
    created_by: str


def gather(connection: sqlite3.Connection, known: Header, folder: Path) -> Stats:
    """All of it, as one transaction sees it."""
    counts = dict(connection.execute("SELECT modality, count(*) FROM items GROUP BY modality ORDER BY modality"))
    count = sum(counts.values())
    choice = codes.choose(known.codec, count, known.dim)
    record = codes.record_of(known)
    method = "exact" if choice is None else f"{choice[0]}, {choice[1]}"
    told = None
    waiting = count
    if record is not None and known.dim is not None:
        from slimbind.codecs import parse

        per_vector = parse(record.spec, known.dim).bytes_per_vector
        told = {"spec": record.spec, "kind": record.kind, "count": record.count, "bytes_per_vector": per_vector}
        method = f"{record.spec}, {record.kind}"
        told |= {"trained_on": record.trained_on, "gain": record.gain, "file": record.file}
        (waiting,) = connection.execute("SELECT count(*) FROM items WHERE key > ?", (record.until,)).fetchone()
    return Stats(
        folder=str(folder),
        items=count,
        modalities=counts,
        dim=known.dim,
        dtype=known.dtype,
        model=known.model,
        encoders=dict(known.encoders),
        codec=known.codec,
        method=method,
        codes=told,
        waiting=waiting,
        queries=dict(connection.execute("SELECT modality, count(*) FROM queries GROUP BY modality")),
        duplicates=sum(len(group) - 1 for group in items.duplicates(connection)),
        database_bytes=_size(folder, "collection.db*"),
        codes_bytes=_size(folder, "codes-*"),
        format_version=known.format_version,
        created_by=known.created_by,
    )


def bytes_of(folder: Path) -> int:
    """What the whole collection takes on disk."""
    return _size(folder, "*")


def _size(folder: Path, pattern: str) -> int:
    total = 0
    for path in folder.glob(pattern):
        with contextlib.suppress(OSError):  # gone since it was listed
            total += path.stat().st_size
    return total
