"""What a search reads: codes and vectors in memory that follow the database, one unchanging state per search."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from slimbind.collection import codes, exact, items
from slimbind.collection.codes import Made
from slimbind.collection.header import Header
from slimbind.errors import SlimbindError

if TYPE_CHECKING:
    from slimbind.codecs.growing import Growing

Fetch = Callable[[NDArray[np.int64]], NDArray[np.float32]]

_NARROW = 2_000  # so few items left by a filter are compared exactly, whatever there are codes of


@dataclass(frozen=True, slots=True)
class View:
    """One state of a collection.

    Args:
        revision: of the database it shows.
        epoch: of the database it shows.
        last_key: the highest key it knows.
        last_removal: the last row of the table ``removed`` it knows.
        coded: the codes and what they were made of; None where every vector is compared.
        keys: of the vectors that are not in the codes ``[n]``, ascending.
        rows: those vectors ``[n, dim]``.
        dead: keys that were removed, ascending.
        alive: which of the rows count ``[n]``; None: all.
    """

    revision: int
    epoch: int
    last_key: int
    last_removal: int
    coded: Made | None
    keys: NDArray[np.int64]
    rows: NDArray[np.float32]
    dead: NDArray[np.int64]
    alive: NDArray[np.bool_] | None

    @property
    def count(self) -> int:
        """At least as many items as it shows."""
        return len(self.keys) + (0 if self.coded is None else self.coded.record.count)

    def search(
        self, queries: NDArray[np.float32], k: int, allowed: NDArray[np.int64] | None, fetch: Fetch
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Scores and keys ``[q, k]``; -inf and -1 where there are fewer.

        Args:
            queries: unit vectors ``[q, dim]``.
            k: how many for each.
            allowed: ascending keys to look among, all of them there; None: all.
            fetch: the stored vectors ``[n, dim]`` of keys ``[n]``, some unit vector for one that is not there any more.
        """
        if self.coded is not None and allowed is not None and len(allowed) <= _NARROW:
            return exact.best(queries, fetch(allowed), allowed, None, k)
        mask = self.alive
        if allowed is not None:
            chosen = contains(allowed, self.keys)
            mask = chosen if mask is None else mask & chosen
        scores, keys = exact.best(queries, self.rows, self.keys, mask, k)
        if self.coded is None:
            return scores, keys
        more_scores, more_keys = self._among_codes(queries, k, allowed, fetch, self.coded)
        scores, keys = np.hstack([scores, more_scores]), np.hstack([keys, more_keys])
        keys[keys < 0] = _NOWHERE  # behind all others of the same score
        for row, (values, names) in enumerate(zip(scores, keys, strict=True)):
            scores[row, :k], keys[row, :k] = exact.top(values, names, k)
        scores, keys = scores[:, :k], keys[:, :k]
        return scores, np.where(keys == _NOWHERE, -1, keys)

    def _among_codes(
        self, queries: NDArray[np.float32], k: int, allowed: NDArray[np.int64] | None, fetch: Fetch, coded: Made
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """The best that are in the codes and were not removed: more are asked for until enough of them are left."""
        gone = int((self.dead <= coded.record.until).sum())
        ask = k + min(gone, k)
        while True:
            scores, keys = coded.index.search(queries, ask, allowed=allowed, fetch=fetch)
            scores = np.where(contains(self.dead, keys.ravel()).reshape(keys.shape), -np.inf, scores)
            keys = np.where(np.isneginf(scores), -1, keys)
            # Enough for every query, or all there is: fewer than asked for were found, or none can be missing.
            if ask >= k + gone or ((keys >= 0).sum(axis=1) >= k).all():
                order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
                return np.take_along_axis(scores, order, 1), np.take_along_axis(keys, order, 1)
            ask = min(4 * ask, k + gone)


_NOWHERE = np.iinfo(np.int64).max


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

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._keys: Growing[np.int64] | None = None
        self._rows: Growing[np.float32] | None = None
        self._view: View | None = None
        self.unsaved: Unsaved | None = None

    def at(self, connection: sqlite3.Connection, known: Header, *, all_coded: bool = False) -> View:
        """The view of what this transaction sees; makes codes where they are missing, damaged or too old.

        Args:
            connection: in a transaction; later calls never bring an older one.
            known: the header as this transaction sees it; its dimension is known.
            all_coded: leave nothing to be compared exactly, where there are enough items for codes.
        """
        view, self._view = self._view, None  # what is interrupted half-way begins anew
        if view is None or view.revision != known.revision or all_coded:
            view = self._renewed(connection, known, view, all_coded)
        self._view = view
        return view

    def _renewed(self, connection: sqlite3.Connection, known: Header, view: View | None, all_coded: bool) -> View:
        if view is None or view.epoch != known.epoch:
            view = self._begin(known, self._read(known))
        elif _mostly_dead(view):
            view = self._begin(known, view.coded)
        if made := self._better(connection, known, view, all_coded):
            (last,) = connection.execute("SELECT coalesce(max(seq), 0) FROM removed").fetchone()
            self.unsaved = Unsaved(made, last, known.epoch)
            view = self._begin(known, made, last)
        return self._follow(connection, known, view)

    def saved(self, made: Made, epoch: int) -> None:
        """These codes are the header's in this epoch, or were made in vain: nobody has to write them any more."""
        if self.unsaved is not None and self.unsaved.made is made:
            self.unsaved = None
        if self._view is not None and self._view.coded is made:
            self._view = replace(self._view, epoch=epoch)

    def _begin(self, known: Header, coded: Made | None, last_removal: int = 0) -> View:
        from slimbind.codecs.growing import Growing  # the package of codecs would double the time of an import of ours

        assert known.dim is not None
        nothing, no_rows = np.empty(0, np.int64), np.empty((0, known.dim), np.float32)
        self._keys, self._rows = Growing(nothing), Growing(no_rows)
        until = coded.record.until if coded else 0
        return View(known.revision, known.epoch, until, last_removal, coded, nothing, no_rows, nothing, None)

    def _follow(self, connection: sqlite3.Connection, known: Header, view: View) -> View:
        assert self._keys is not None and self._rows is not None
        for keys, rows in items.read_vectors(connection, known, after=view.last_key):
            self._keys.append(keys)
            self._rows.append(rows)
        sql = "SELECT seq, key FROM removed WHERE seq > ? ORDER BY seq"
        gone = connection.execute(sql, (view.last_removal,)).fetchall()
        dead = np.union1d(view.dead, np.array([key for _, key in gone], np.int64)) if gone else view.dead
        here = contains(dead, self._keys.rows)
        return replace(
            view,
            revision=known.revision,
            last_key=known.next_key - 1,
            last_removal=gone[-1][0] if gone else view.last_removal,
            keys=self._keys.rows,
            rows=self._rows.rows,
            dead=dead,
            alive=~here if here.any() else None,
        )

    def _read(self, known: Header) -> Made | None:
        """The codes of the file; None where there are none, or where they cannot be read and must be made again."""
        assert known.dim is not None
        record = codes.record_of(known)
        if record is None:
            return None
        try:
            return Made(codes.load(self._folder, record, known.dim), record)
        except SlimbindError:
            return None

    def _better(self, connection: sqlite3.Connection, known: Header, view: View, all_coded: bool) -> Made | None:
        """New codes, where those of the view are missing or too old."""
        if view.coded is None:
            most = known.next_key - 1
            return codes.build(connection, known) if codes.choose(known.codec, most, known.dim) else None
        record = view.coded.record
        waiting = known.next_key - 1 - record.until  # at most; some of them may be gone again
        dead = view.dead[view.dead <= record.until]
        if all_coded:
            (removed,) = connection.execute("SELECT count(*) FROM removed").fetchone()
            if not waiting and not removed and record.asked == known.codec:
                return None
        elif not codes.worth_extending(record, waiting=waiting, dead=len(dead)):
            return None
        made = codes.extend(connection, known, self._folder, record)
        return codes.build(connection, known) if made is None else made


@dataclass(frozen=True, slots=True)
class Unsaved:
    """New codes, the last removal they know of, the epoch they were made in, and whether writing them was tried."""

    made: Made
    last_removal: int
    epoch: int
    tried: bool = False


def _mostly_dead(view: View) -> bool:
    """Whether to begin again, because most of the memory holds what was removed."""
    return view.alive is not None and 2 * int(view.alive.sum()) < len(view.alive)
