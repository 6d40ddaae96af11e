"""A search from the question to the hits: one state of the database, and what of it is in memory."""

from __future__ import annotations

import sqlite3
from dataclasses import replace
from pathlib import Path
from threading import Lock

import numpy as np
from numpy.typing import ArrayLike

from slimbind.collection import codes, filters, filters_sql, header, items
from slimbind.collection.database import Database
from slimbind.collection.entry import Entry, Hit
from slimbind.collection.header import Header
from slimbind.collection.vectors import unit_rows
from slimbind.collection.view import Fetch, View, Views
from slimbind.errors import CollectionError, SlimbindError, UsageError


class Searcher:
    """Searches one collection; safe to use from several threads."""

    def __init__(self, folder: Path, db: Database) -> None:
        self._folder = folder
        self._db = db
        self._views = Views(folder)
        self._lock = Lock()

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
            allowed = None if wanted is None else filters_sql.keys_of(connection, wanted)
            k = min(k, view.count if allowed is None else len(allowed))  # what is asked for takes memory
            if k == 0:
                return [[] for _ in array]
            scores, keys = view.search(array, k, allowed, self.fetch(connection, known))
            found = items.by_key(connection, self._folder, [int(key) for key in np.unique(keys[keys >= 0])])
        self._save()
        return [
            [_hit(found[int(key)], float(score)) for score, key in zip(*one, strict=True) if int(key) in found]
            for one in zip(scores, keys, strict=True)
        ]

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
