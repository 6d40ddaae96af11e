"""Which key each row has, in as little memory as the keys allow, and the way back from keys to rows."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from slimbind.codecs.growing import Growing

Keys = NDArray[np.int64]


class KeyMap:
    """Keys by row. Nothing is stored while keys count up without a gap, 4 bytes each up to 2^32, else 8."""

    def __init__(self) -> None:
        self._first, self._count = 0, 0
        self._top = -1  # no key is higher
        self._values: Growing[np.integer[Any]] | None = None  # of uint32 or int64; None: first, first + 1, ...
        self._alive: Growing[np.bool_] | None = None  # None: all
        self._dead = 0
        self._order: tuple[Keys, Keys] | None = None  # living keys ascending, and their rows

    def __len__(self) -> int:
        return self._count - self._dead

    @property
    def rows(self) -> int:
        """Rows, dead ones included."""
        return self._count

    @property
    def alive(self) -> NDArray[np.bool_] | None:
        """Mask ``[rows]`` of those not removed; None: all."""
        return None if self._alive is None else self._alive.rows

    @property
    def bytes(self) -> int:
        """Memory in use."""
        grown = [part.rows.nbytes for part in (self._values, self._alive) if part is not None]
        return sum(grown) + sum(part.nbytes for part in self._order or ())

    def add(self, keys: Keys) -> None:
        """Append rows for ``keys`` ``[n]``, none of which is living here."""
        if not len(keys):
            return
        if not self._count:
            self._first = int(keys[0])
        here = self._first + self._count
        if self._values is None and not np.array_equal(keys, np.arange(here, here + len(keys))):
            have = self.values()
            self._values = Growing(have.astype(np.uint32) if self._top < 1 << 32 else have)
        self._top = max(self._top, int(keys.max()))
        if self._values is not None:
            if self._top >= 1 << 32 and self._values.rows.dtype != np.int64:
                self._values = Growing(self.values())
            self._values.append(keys)
        self._count += len(keys)
        if self._alive is not None:
            self._alive.append(np.ones(len(keys), np.bool_))
        self._order = None

    def values(self) -> Keys:
        """Keys of all rows ``[rows]``, dead ones included."""
        if self._values is None:
            return np.arange(self._first, self._first + self._count, dtype=np.int64)
        return self._values.rows.astype(np.int64)

    def at(self, rows: NDArray[np.int64]) -> Keys:
        """Keys of ``rows``, any shape; -1 stays -1."""
        found = rows + self._first if self._values is None else self._values.rows[rows].astype(np.int64)
        return np.where(rows < 0, -1, found)

    def find(self, keys: Keys) -> Keys:
        """Rows of those of ``keys`` that are living here, in any order, each once."""
        keys = keys[keys <= self._top]  # new ones are mostly higher than all there are, and not worth a sorted copy
        if not len(keys):
            return keys
        if self._values is None:
            rows = np.unique(keys) - self._first
            rows = rows[(rows >= 0) & (rows < self._count)]
            return rows if self._alive is None else rows[self._alive.rows[rows]]
        if self._order is None:
            rows = np.arange(self._count) if self._alive is None else np.flatnonzero(self._alive.rows)
            values = self._values.rows[rows]
            order = np.argsort(values, kind="stable")
            self._order = values[order].astype(np.int64), rows[order].astype(np.int64)
        found, rows = self._order
        wanted = np.unique(keys)
        place = np.searchsorted(found, wanted)
        hit = place < len(found)
        hit[hit] = found[place[hit]] == wanted[hit]
        return rows[place[hit]]

    def remove(self, rows: NDArray[np.int64]) -> None:
        """Mark ``rows`` as dead; they are living."""
        if not len(rows):
            return
        if self._alive is None:
            self._alive = Growing(np.ones(self._count, np.bool_))
        self._alive.rows[rows] = False
        self._dead += len(rows)
        self._order = None

    def compact(self) -> NDArray[np.int64]:
        """Forget dead rows; returns the living ones ``[n]``, ascending, by their old numbers."""
        rows = np.arange(self._count) if self._alive is None else np.flatnonzero(self._alive.rows)
        keys = self.values()[rows]
        self.__init__()  # type: ignore[misc]
        self.add(keys)
        return rows

    def dump(self) -> dict[str, NDArray[np.generic]]:
        """Everything, as plain arrays."""
        found: dict[str, NDArray[np.generic]] = {"first": np.array([self._first], np.int64)}
        if self._values is not None:
            found["values"] = self._values.rows
        if self._alive is not None:
            found["alive"] = self._alive.rows
        return found

    def fill(self, arrays: dict[str, NDArray[np.generic]], count: int) -> None:
        """Take ``count`` rows from what ``dump`` gave; ValueError where it does not fit."""
        for name, array in arrays.items():
            if array.shape != ((1,) if name == "first" else (count,)):
                raise ValueError(f"{name} of shape {list(array.shape)}")
        self._first, self._count = int(np.asarray(arrays["first"], np.int64)[0]), count
        values, alive = arrays.get("values"), arrays.get("alive")
        self._top = self._first + count - 1
        if values is not None:
            every: NDArray[np.integer[Any]] = np.array(values, np.uint32 if values.dtype == np.uint32 else np.int64)
            self._values = Growing(every)
            self._top = int(every.max()) if count else -1
        if alive is not None:
            self._alive = Growing(np.array(alive, np.bool_))
            self._dead = count - int(self._alive.rows.sum())
