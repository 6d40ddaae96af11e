"""Items on their way into the tables and out of them."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from slimbind.collection import database, header, vectors
from slimbind.collection.entry import Entry, ids_of
from slimbind.collection.header import Header
from slimbind.errors import CollectionError, UsageError

_COLUMNS = "id, modality, source, metadata, hash, size, mtime_ns"
_MANY = 500  # values asked for in one statement; SQLite before 3.32 took 999 at most
_PAGE = 4096  # items read in one go


class Prepared:
    """Entries checked and written as the tables keep them, before the database is locked.

    Raises:
        UsageError: an id is empty or there twice, or something cannot be kept.
    """

    def __init__(self, entries: Sequence[Entry]) -> None:
        self.entries = entries
        self.ids: list[bytes] = []
        self.rows: list[tuple[bytes, bytes, bytes, bytes, int, int, str]] = []
        seen: set[str] = set()
        for entry in entries:
            if not entry.id:
                raise UsageError("an id is empty", hint="give each item a name of its own")
            if entry.id in seen:
                raise UsageError(f"the id {entry.id!r} is there twice", hint="give each item a name of its own")
            seen.add(entry.id)
            name = vectors.utf8("id", entry.id)
            self.ids.append(name)
            told = vectors.metadata_text(entry.id, entry.metadata)
            rest = [vectors.utf8(*pair) for pair in (("modality", entry.modality), ("source", entry.source))]
            content = vectors.utf8("hash", entry.hash)
            self.rows.append((name, rest[0], rest[1], content, entry.size, entry.mtime_ns, told))

    def write(
        self, connection: sqlite3.Connection, folder: Path, known: Header, rows: NDArray[np.float32], *, replace: bool
    ) -> int:
        """Insert all with their vectors ``[n, dim]``; says how many took the place of an older one.

        Raises:
            CollectionError: an id is there already, and is not to be replaced.
        """
        replaced = remove(connection, self.ids) if replace else 0
        keys = range(known.next_key, known.next_key + len(rows))
        told = (
            (key, *row, vectors.checksum(entry, row[-1], blob))
            for key, row, entry, blob in zip(
                keys, self.rows, self.entries, vectors.pack(rows, known.dtype), strict=True
            )
        )
        as_text = "CAST(? AS TEXT)"
        try:
            connection.executemany(
                f"INSERT INTO items VALUES (?, {as_text}, {as_text}, {as_text}, {as_text}, ?, ?, ?, ?)", told
            )
        except sqlite3.IntegrityError:
            clash = next(iter(_keys(connection, self.ids, "items.key < ?", known.next_key)))
            raise CollectionError(
                f"{clash[1]!r} is in the collection {folder} already; nothing was added",
                hint="use upsert to replace it",
            ) from None
        blobs = vectors.pack(rows, known.dtype)
        connection.executemany("INSERT INTO vectors VALUES (?, ?)", zip(keys, blobs, strict=True))
        header.change(connection, next_key=keys.stop)
        return replaced


def _keys(
    connection: sqlite3.Connection, ids: Sequence[bytes], also: str = "1", *values: object
) -> Iterator[tuple[int, str]]:
    for start in range(0, len(ids), _MANY):
        some = ids[start : start + _MANY]
        marks = ",".join(["CAST(? AS TEXT)"] * len(some))
        yield from connection.execute(f"SELECT key, id FROM items WHERE id IN ({marks}) AND {also}", (*some, *values))


def remove(connection: sqlite3.Connection, ids: Sequence[bytes]) -> int:
    """Take items out; ids that are not there are passed over. Says how many were."""
    keys = [(key,) for key, _ in _keys(connection, ids)]
    connection.executemany("INSERT INTO removed (key) VALUES (?)", keys)
    connection.executemany("DELETE FROM vectors WHERE key = ?", keys)
    connection.executemany("DELETE FROM items WHERE key = ?", keys)
    return len(keys)


def update(connection: sqlite3.Connection, folder: Path, prepared: Prepared) -> None:
    """Change all that is known about items but their vectors.

    Raises:
        CollectionError: one is not there.
    """
    keys = {name: key for key, name in _keys(connection, prepared.ids)}
    for entry, row in zip(prepared.entries, prepared.rows, strict=True):
        key = keys.get(entry.id)
        if key is None:
            raise CollectionError(f"{entry.id!r} is not in the collection {folder}", hint="nothing was changed")
        (blob,) = connection.execute("SELECT vector FROM vectors WHERE key = ?", (key,)).fetchone()
        connection.execute(
            "UPDATE items SET modality = CAST(? AS TEXT), source = CAST(? AS TEXT), hash = CAST(? AS TEXT), "
            "size = ?, mtime_ns = ?, metadata = ?, checksum = ? WHERE key = ?",
            (*row[1:], vectors.checksum(entry, row[-1], blob), key),
        )


def read(connection: sqlite3.Connection, folder: Path, after: int, until: int) -> list[tuple[int, Entry]]:
    """The next items with ``after < key <= until``, with their keys, at most a few thousand."""
    rows = connection.execute(
        f"SELECT key, {_COLUMNS} FROM items WHERE key > ? AND key <= ? ORDER BY key LIMIT {_PAGE}", (after, until)
    )
    return [(row[0], entry(row[1:], folder)) for row in rows]


def by_key(connection: sqlite3.Connection, folder: Path, keys: Sequence[int]) -> dict[int, Entry]:
    """The items of these keys, as far as they are there."""
    found: dict[int, Entry] = {}
    for start in range(0, len(keys), _MANY):
        some = keys[start : start + _MANY]
        marks = ",".join("?" * len(some))
        for row in connection.execute(f"SELECT key, {_COLUMNS} FROM items WHERE key IN ({marks})", some):
            found[row[0]] = entry(row[1:], folder)
    return found


def by_id(connection: sqlite3.Connection, folder: Path, ids: Sequence[str]) -> dict[str, tuple[int, Entry]]:
    """Keys and items of these ids, as far as they are there."""
    keys = {key: name for key, name in _keys(connection, [vectors.utf8("id", name) for name in ids])}
    return {keys[key]: (key, found) for key, found in by_key(connection, folder, list(keys)).items()}


def by_hash(connection: sqlite3.Connection, folder: Path, content: str, modality: str) -> Entry | None:
    """The first item of this content hash and modality."""
    row = connection.execute(
        f"SELECT {_COLUMNS} FROM items WHERE hash = ? AND modality = ? AND hash <> '' ORDER BY key LIMIT 1",
        (content, modality),
    ).fetchone()
    return None if row is None else entry(row, folder)


def duplicates(connection: sqlite3.Connection) -> list[list[str]]:
    """Ids of items with the same hash and modality, in the order they were written."""
    groups: dict[tuple[str, str], list[str]] = {}
    rows = connection.execute(
        "SELECT hash, modality, id FROM items WHERE hash <> '' AND (hash, modality) IN "
        "(SELECT hash, modality FROM items WHERE hash <> '' GROUP BY hash, modality HAVING count(*) > 1) ORDER BY key"
    )
    for content, modality, name in rows:
        groups.setdefault((content, modality), []).append(name)
    return list(groups.values())


def originals(connection: sqlite3.Connection, known: Header, keys: Sequence[int]) -> NDArray[np.float32]:
    """The stored vectors ``[n, dim]`` of these keys; for one that is not there any more, just some unit vector."""
    assert known.dim is not None
    out = np.zeros((len(keys), known.dim), np.float32)
    out[:, 0] = 1
    for start in range(0, len(keys), _MANY):
        some = keys[start : start + _MANY]
        marks = ",".join("?" * len(some))
        found = dict(connection.execute(f"SELECT key, vector FROM vectors WHERE key IN ({marks})", some))
        there = [place for place, key in enumerate(some) if key in found]
        if there:
            blobs = [found[some[place]] for place in there]
            out[np.array(there) + start] = vectors.unpack(blobs, known.dtype, known.dim)
    return out


def read_vectors(
    connection: sqlite3.Connection, known: Header, *, after: int = 0
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
    """Keys ``[n]`` and vectors ``[n, dim]`` of all items with ``key > after``, in batches, ascending."""
    assert known.dim is not None
    cursor = connection.execute("SELECT key, vector FROM vectors WHERE key > ? ORDER BY key", (after,))
    while rows := cursor.fetchmany(_PAGE):
        keys = np.array([row[0] for row in rows], np.int64)
        yield keys, vectors.unpack([row[1] for row in rows], known.dtype, known.dim)


def entry(row: Sequence[object], folder: Path) -> Entry:
    """An item out of its columns.

    Raises:
        CollectionError: its metadata are no JSON.
    """
    name, modality, source, metadata, content, size, mtime_ns = row
    try:
        told = json.loads(str(metadata))
        return Entry(str(name), str(modality), str(source), told, str(content), int(str(size)), int(str(mtime_ns)))
    except (ValueError, RecursionError) as error:
        raise database.damaged(folder, f"the metadata of {name!r}: {error}") from None


def encoded(names: Sequence[str | os.PathLike[str]]) -> list[bytes]:
    """Ids as the tables keep them, each once."""
    return [vectors.utf8("id", name) for name in dict.fromkeys(ids_of(names))]
