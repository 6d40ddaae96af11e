"""A search from the question to the hits: one state of the database, and what of it is in memory."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from threading import Lock

import numpy as np
from numpy.typing import ArrayLike

from slimbind.collection import filters, filters_sql, header, items
from slimbind.collection.database import Database
from slimbind.collection.entry import Entry, Hit
from slimbind.collection.header import Header
from slimbind.collection.vectors import unit_rows
from slimbind.collection.view import View, Views
from slimbind.errors import CollectionError, UsageError


class Searcher:
    """Searches one collection; safe to use from several threads."""

    def __init__(self, folder: Path, db: Database) -> None:
        self._folder = folder
        self._db = db
        self._views = Views()
        self._lock = Lock()

    def search(self, queries: ArrayLike, k: int, *, where: str, modality: str | None) -> list[list[Hit]]:
        """As ``Collection.search_batch``."""
        array = unit_rows(queries)
        if k < 1:
            raise UsageError(f"k is {k}; it is at least 1")
        wanted = _filter(where, modality)
        with self._db.reading() as connection:
            known, view = self.view(connection)
            if view is None or known.dim is None:
                return [[] for _ in array]
            if array.shape[1] != known.dim:
                raise CollectionError(f"a query has {array.shape[1]} dimensions, the collection {known.dim}")
            allowed = None if wanted is None else filters_sql.keys_of(connection, wanted)
            scores, keys = view.search(array, k, allowed)
            found = items.by_key(connection, self._folder, [int(key) for key in np.unique(keys[keys >= 0])])
        return [
            [_hit(found[int(key)], float(score)) for score, key in zip(*one, strict=True) if int(key) in found]
            for one in zip(scores, keys, strict=True)
        ]

    def view(self, connection: sqlite3.Connection) -> tuple[Header, View | None]:
        """What a transaction that has read nothing yet sees; no view where there are no vectors."""
        # The transaction begins with its first read. That this happens under the lock makes revisions only ever grow.
        with self._lock:
            known = header.read(connection, self._folder)
            return known, None if known.dim is None else self._views.at(connection, known)

    def forget(self) -> None:
        """Give the memory back."""
        with self._lock:
            self._views = Views()


def _filter(where: str, modality: str | None) -> filters.Node | None:
    nodes = [filters.parse(where)] if where.strip() else []
    if modality is not None:
        nodes.append(filters.Compare(filters.Field(column="modality"), "=", modality))
    return filters.Many("and", tuple(nodes)) if nodes else None


def _hit(entry: Entry, score: float) -> Hit:
    return Hit(entry.id, score, entry.modality, entry.source, entry.metadata)
