"""What a collection knows about one item, and what a search says about it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from slimbind.errors import UsageError


@dataclass(frozen=True, slots=True)
class Entry:
    """One item as it is kept, without its vector.

    Args:
        id: its name, unique in the collection; it never changes and is never given to another item by itself.
        modality: the tower that embedded it; empty where nobody said.
        source: where it came from: a path, an address, a text. Bytes of a path that are no UTF-8 are kept as surrogate
            escapes, as Python's ``os`` does.
        metadata: anything JSON can say, by name.
        hash: a hash of its content; items of the same content and modality have the same.
        size: bytes of its file when it was embedded.
        mtime_ns: time of the file's last change in nanoseconds, when it was embedded; -1 where that was too short a
            time before to tell it from a later change.
    """

    id: str
    modality: str = ""
    source: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    hash: str = ""
    size: int = 0
    mtime_ns: int = 0


@dataclass(frozen=True, slots=True)
class Hit:
    """One answer: an item and its score, the dot product of unit vectors (-1..1, higher is nearer)."""

    id: str
    score: float
    modality: str
    source: str
    metadata: Mapping[str, Any]


def id_of(name: object) -> str:
    """An id as it is kept; a path is one as well.

    Raises:
        UsageError: it is neither text nor path.
    """
    told = os.fspath(name) if isinstance(name, os.PathLike) else name
    if not isinstance(told, str):
        raise UsageError(f"the id {name!r} is no text but {type(name).__name__}", hint="ids are texts or paths")
    return told


def ids_of(names: object) -> list[str]:
    """Ids out of a list.

    Raises:
        UsageError: it is one id and no list, or one in it is none.
    """
    if isinstance(names, str | os.PathLike) or not isinstance(names, Iterable):
        raise UsageError(f"ids are a list, and {names!r} is one id", hint="put it into a list")
    return [id_of(name) for name in names]


def described(
    ids: Sequence[str | os.PathLike[str]],
    modality: str | Sequence[str],
    sources: Sequence[str | os.PathLike[str]] | None,
    metadata: Sequence[Mapping[str, Any]] | None,
    hashes: Sequence[str] | None,
    encoders: Mapping[str, str] | None,
) -> list[Entry]:
    """Entries out of columns; the arguments are those of ``Collection.add``.

    Raises:
        UsageError: the columns are not of one length, or not of what they should be; or encoder ids are given, and
            none for the modality of an item.
    """
    names = ids_of(ids)
    count = len(names)
    modalities = [modality] * count if isinstance(modality, str) else modality
    columns: list[Sequence[Any]] = [
        modalities,
        names
        if sources is None
        else [os.fspath(source) if isinstance(source, os.PathLike) else source for source in sources],
        [{}] * count if metadata is None else metadata,
        [""] * count if hashes is None else hashes,
    ]
    for what, column in zip(("modality", "sources", "metadata", "hashes"), columns, strict=True):
        if not hasattr(column, "__len__"):
            raise UsageError(f"{what} is {column!r}", hint=f"give a list with one for each of the {count} ids")
        if len(column) != count:
            raise UsageError(f"there are {count} ids and {len(column)} of {what}", hint="give one for each")
    entries = [Entry(*row) for row in zip(names, *columns, strict=True)]
    if encoders and (entry := next((entry for entry in entries if entry.modality not in encoders), None)) is not None:
        raise UsageError(
            f"encoder ids are given for {', '.join(sorted(encoders))}, and {entry.id!r} "
            + (f"is {entry.modality}" if entry.modality else "has no modality"),
            hint="say which modality the items are: modality='vision'",
        )
    return entries
