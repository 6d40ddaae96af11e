"""A lock that many readers share and a writer has alone; a waiting writer goes first."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class SharedLock:
    """``with lock.reading():`` for searches, ``with lock.writing():`` for changes. Not re-entrant."""

    def __init__(self) -> None:
        self._change = threading.Condition()
        self._readers = 0
        self._writers = 0  # waiting or at work
        self._at_work = False

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Wait until nobody writes or wants to, and keep writers out."""
        with self._change:
            self._change.wait_for(lambda: not self._writers)
            self._readers += 1
        try:
            yield
        finally:
            with self._change:
                self._readers -= 1
                self._change.notify_all()

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Wait until everybody else is out, and keep them out."""
        with self._change:
            self._writers += 1
            self._change.wait_for(lambda: not self._readers and not self._at_work)
            self._at_work = True
        try:
            yield
        finally:
            with self._change:
                self._writers -= 1
                self._at_work = False
                self._change.notify_all()
