"""A search from the question to the hits: one state of the database, and what of it is in memory."""

from __future__ import annotations

import sqlite3
from dataclasses import replace
from pathlib import Path
from threading import Lock

import numpy as np
from numpy.typing import ArrayLike, NDArray

from slimbind.collection import codes, filters, filters_sql, header, items
from slimbind.collection.database import Database
from slimbind.collection.entry import Entry, Hit
from slimbind.collection.header import Header
from slimbind.collection.vectors import unit_rows
from slimbind.collection.view import Fetch, View, Views
from slimbind.errors import CollectionError, SlimbindError, UsageError

_FILTERS = 4  # whose answers are kept: 8 bytes for each item that they let through
_TIES = 1000  # items of one score whose ids are compared; more are copies of one thing without end


class Searcher:
    """Searches one collection; safe to use from several threads."""

    def __init__(self, folder: Path, db: Database) -> None:
        self._folder = folder
        self._db = db
        self._views = Views(folder)
        self._lock = Lock()
        self._allowed: dict[tuple[int, str], NDArray[np.int64]] = {}  # by revision and filter

    def search(self, queries: ArrayLike, k: int, *, where: str, modality: str | None) -> list[list[Hit]]:
        """As ``Collection.search_batch``."""
        array = unit_rows(queries)
        k = checked(k)
        wanted = filters.wanted(where, modality)
        with self._db.reading() as connection:
            known, view = self.view(connection)
            if view is None or known.dim is None:
                return [[] for _ in array]
            if array.shape[1] != known.dim:
                raise CollectionError(f"a query has {array.shape[1]} dimensions, the collection {known.dim}")
            allowed = None if wanted is None else self._allowed_by(connection, known, wanted)
            most = view.count if allowed is None else len(allowed)  # what is asked for takes memory
            if most == 0:
                return [[] for _ in array]
            told = _with_ties(view, array, min(k, most), most, allowed, self.fetch(connection, known))
            keys = sorted({key for _, keys in told for key in keys if key >= 0})
            found = items.by_key(connection, self._folder, keys)
        self._save()
        hits = ([_hit(found[key], score) for score, key in zip(*one, strict=True) if key in found] for one in told)
        return [in_order(some)[:k] for some in hits]

    def _allowed_by(self, connection: sqlite3.Connection, known: Header, wanted: filters.Node) -> NDArray[np.int64]:
        """Keys that a filter lets through. To look takes longer than to search, and the next question often asks among
        the same: the last few answers are kept.
        """
        asked = known.revision, repr(wanted)  # not the filter itself: to Python, true is equal to 1
        with self._lock:
            keys = self._allowed.pop(asked, None)
        if keys is None:
            keys = filters_sql.keys_of(connection, wanted)
        with self._lock:
            kept = [(one, told) for one, told in self._allowed.items() if one[0] == known.revision]
            self._allowed = dict([*kept[1 - _FILTERS :], (asked, keys)])
        return keys

    def view(self, connection: sqlite3.Connection, *, all_coded: bool = False) -> tuple[Header, View | None]:
        """What a transaction that has read nothing yet sees; no view where there are no vectors."""
        # The transaction begins with its first read. That this happens under the lock makes revisions only ever grow.
        with self._lock:
            known = header.read(connection, self._folder)
            return known, None if known.dim is None else self._views.at(connection, known, all_coded=all_coded)

    def prepare(self) -> None:
        """Encode all that is not encoded yet, where there are enough items for codes.

        Raises:
            CollectionError: the codes cannot be written.
        """
        with self._db.reading() as connection:
            self.view(connection, all_coded=True)
        self._save(wait=True)

    def fetch(self, connection: sqlite3.Connection, known: Header) -> Fetch:
        """What reads stored vectors in a transaction."""
        return lambda keys: items.originals(connection, known, keys.tolist())

    def _save(self, *, wait: bool = False) -> None:
        """Write new codes, so that nobody else has to make them.

        A search tries it once, and only where nothing is in the way; what it could not write is left for ``prepare``.
        """
        with self._lock:
            unsaved = self._views.unsaved
            if unsaved is None or (unsaved.tried and not wait):
                return
            self._views.unsaved = replace(unsaved, tried=True)
        made, epoch = unsaved.made, unsaved.epoch + 1
        try:
            with self._db.writing(wait=wait) as connection:
                if header.read(connection, self._folder).epoch == unsaved.epoch:  # else another process was first
                    made.index.save(self._folder / made.record.file)
                    header.change(connection, codes=codes.as_dict(made.record), epoch=epoch)
                    connection.execute("DELETE FROM removed WHERE seq <= ?", (unsaved.last_removal,))
                else:
                    epoch = unsaved.epoch
        except (SlimbindError, OSError):
            if wait:
                raise
            return  # a folder that we may only read, a full disk, a writer at work
        with self._lock:
            self._views.saved(made, epoch)
        if epoch != unsaved.epoch:
            codes.sweep(self._folder, made.record.file)

    def forget(self) -> None:
        """Give the memory back."""
        with self._lock:
            self._views = Views(self._folder)
            self._allowed = {}


def _with_ties(
    view: View, queries: NDArray[np.float32], k: int, most: int, allowed: NDArray[np.int64] | None, fetch: Fetch
) -> list[tuple[list[float], list[int]]]:
    """Scores and keys of the ``k`` best for each query, and of others that score as the last of them does.

    Which of those come first is decided by their ids, which are looked up later. Of more than ``_TIES`` those that
    were written first are told.
    """
    told: dict[int, tuple[list[float], list[int]]] = {}
    todo, ask, limit = np.arange(len(queries)), min(k + 1, most), min(k + _TIES, most)
    while len(todo):
        scores, keys = view.search(queries[todo], ask, allowed, fetch)
        told |= zip(todo.tolist(), zip(scores.tolist(), keys.tolist(), strict=True), strict=True)
        more = (scores[:, -1] == scores[:, k - 1]) & np.isfinite(scores[:, -1])
        todo = todo[more] if ask < limit else todo[:0]
        ask = min(8 * ask, limit)
    return [told[number] for number in range(len(queries))]


def in_order(hits: list[Hit]) -> list[Hit]:
    """The best first; of equal scores by id, so that every place of a collection gives the same answers."""
    return sorted(hits, key=lambda hit: (-hit.score, hit.id))


def checked(k: int) -> int:
    """How many hits are asked for.

    Raises:
        UsageError: it is no whole number of at least 1.
    """
    if isinstance(k, bool) or not isinstance(k, int | np.integer) or k < 1:
        raise UsageError(f"k is {k}; it is a whole number of at least 1")
    return int(k)


def _hit(entry: Entry, score: float) -> Hit:
    return Hit(entry.id, score, entry.modality, entry.source, entry.metadata)
