"""An array of rows that is only ever appended to, at the end, without a copy of all of it each time."""

from __future__ import annotations

from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

_T = TypeVar("_T", bound=np.generic)


class Growing(Generic[_T]):
    """Rows ``[n, ...]``; appending them one by one costs about as much as appending them at once.

    Rows that were handed out stay as they are: later ones are written behind them, or into another array.
    """

    def __init__(self, rows: NDArray[_T]) -> None:
        self._held = rows
        self._count = len(rows)

    def __len__(self) -> int:
        return self._count

    @property
    def rows(self) -> NDArray[_T]:
        """All rows so far ``[n, ...]``."""
        return self._held[: self._count]

    def append(self, rows: NDArray[_T]) -> None:
        """Add ``rows`` ``[m, ...]`` at the end."""
        end = self._count + len(rows)
        if end > len(self._held):
            # Half as much again; what is never written to takes no memory.
            held = np.empty((max(end, len(self._held) * 3 // 2), *self._held.shape[1:]), self._held.dtype)
            held[: self._count] = self.rows
            self._held = held
        self._held[self._count : end] = rows
        self._count = end
