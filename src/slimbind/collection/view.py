"""What a search reads: vectors in memory that follow the database, one unchanging state per search."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from slimbind.collection import exact, vectors
from slimbind.collection.header import Header

_BATCH = 4096  # rows read from the database at once


class Growing:
    """Keys ``[n]`` and vectors ``[n, dim]`` that are only ever appended to: what was handed out stays as it is."""

    def __init__(self, dim: int) -> None:
        self.count = 0
        self._keys = np.empty(0, np.int64)
        self._rows = np.empty((0, dim), np.float32)

    def append(self, keys: NDArray[np.int64], rows: NDArray[np.float32]) -> None:
        """Add rows at the end."""
        end = self.count + len(keys)
        if end > len(self._keys):
            # Half as much again, so that appending one by one costs as much as appending at once; the old arrays stay
            # with the views that read them.
            room = max(end, len(self._keys) * 3 // 2)
            keys_before, rows_before = self._keys[: self.count], self._rows[: self.count]
            self._keys = np.empty(room, np.int64)
            self._rows = np.empty((room, self._rows.shape[1]), np.float32)
            self._keys[: self.count], self._rows[: self.count] = keys_before, rows_before
        self._keys[self.count : end], self._rows[self.count : end] = keys, rows
        self.count = end

    @property
    def keys(self) -> NDArray[np.int64]:
        """All keys so far, ascending."""
        return self._keys[: self.count]

    @property
    def rows(self) -> NDArray[np.float32]:
        """All vectors so far."""
        return self._rows[: self.count]


@dataclass(frozen=True, slots=True)
class View:
    """One state of a collection.

    Args:
        revision: of the database it shows.
        epoch: of the database it shows.
        last_key: the highest key it knows.
        last_removal: the last row of the table ``removed`` it knows.
        keys: of the vectors compared exactly ``[n]``, ascending.
        rows: those vectors ``[n, dim]``.
        dead: keys that were removed, ascending.
        alive: which of the rows count ``[n]``; None: all.
    """

    revision: int
    epoch: int
    last_key: int
    last_removal: int
    keys: NDArray[np.int64]
    rows: NDArray[np.float32]
    dead: NDArray[np.int64]
    alive: NDArray[np.bool_] | None

    def search(
        self, queries: NDArray[np.float32], k: int, allowed: NDArray[np.int64] | None
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Scores and keys ``[q, k]``; -inf and -1 where there are fewer.

        Args:
            queries: unit vectors ``[q, dim]``.
            k: how many for each.
            allowed: ascending keys to look among; None: all.
        """
        mask = self.alive
        if allowed is not None:
            chosen = contains(allowed, self.keys)
            mask = chosen if mask is None else mask & chosen
        return exact.best(queries, self.rows, self.keys, mask, k)


def _mostly_dead(view: View) -> bool:
    """Whether to begin again, because most of the memory holds what was removed."""
    return view.alive is not None and 2 * int(view.alive.sum()) < len(view.alive)


def contains(ascending: NDArray[np.int64], keys: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which of ``keys`` are among ``ascending``."""
    if not len(ascending):
        return np.zeros(len(keys), np.bool_)
    places = np.searchsorted(ascending, keys)
    places[places == len(ascending)] = 0
    found: NDArray[np.bool_] = ascending[places] == keys
    return found


class Views:
    """Brings the newest view up to the state of a transaction. Not safe for threads: its caller holds a lock."""

    def __init__(self) -> None:
        self._grown: Growing | None = None
        self._view: View | None = None

    def at(self, connection: sqlite3.Connection, header: Header) -> View:
        """The view of what this transaction sees.

        Args:
            connection: in a transaction; later calls never bring an older one.
            header: as this transaction sees it; its dimension is known.
        """
        assert header.dim is not None
        view = self._view
        if view is not None and view.revision == header.revision:
            return view
        if view is None or self._grown is None or view.epoch != header.epoch or _mostly_dead(view):
            self._grown = Growing(header.dim)
            last_key = last_removal = 0
            dead = np.empty(0, np.int64)
        else:
            last_key, last_removal, dead = view.last_key, view.last_removal, view.dead
        for keys, rows in read_vectors(connection, header, after=last_key):
            self._grown.append(keys, rows)
        gone = connection.execute("SELECT seq, key FROM removed WHERE seq > ? ORDER BY seq", (last_removal,)).fetchall()
        if gone:
            last_removal = gone[-1][0]
            dead = np.union1d(dead, np.array([key for _, key in gone], np.int64))
        keys = self._grown.keys
        here = contains(dead, keys)
        self._view = View(
            header.revision,
            header.epoch,
            header.next_key - 1,
            last_removal,
            keys,
            self._grown.rows,
            dead,
            ~here if here.any() else None,
        )
        return self._view


def read_vectors(
    connection: sqlite3.Connection, header: Header, *, after: int = 0, until: int | None = None
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
    """Keys and vectors with ``after < key <= until``, in batches ``([n], [n, dim])``."""
    assert header.dim is not None
    last = header.next_key if until is None else until
    cursor = connection.execute(
        "SELECT key, vector FROM vectors WHERE key > ? AND key <= ? ORDER BY key", (after, last)
    )
    while rows := cursor.fetchmany(_BATCH):
        keys = np.array([row[0] for row in rows], np.int64)
        yield keys, vectors.unpack([row[1] for row in rows], header.dtype, header.dim)
