"""What a forked process begins anew: it has none of the threads of its parent, and the locks they held stay held."""

from __future__ import annotations

import os
from typing import Protocol
from weakref import WeakSet


class Renewable(Protocol):
    """Something with threads or locks of its own."""

    def after_fork(self) -> None:
        """Called in a forked process, before anything else there runs."""


def renew_after_fork(thing: Renewable) -> None:
    """Call ``thing.after_fork()`` in every forked process, as long as the thing lives."""
    _known.add(thing)


def leave_to_parent(thing: object) -> None:
    """Never let go of a thing in this process: to end it would wait for threads that only the parent has."""
    _of_parent.append(thing)


_known: WeakSet[Renewable] = WeakSet()
_of_parent: list[object] = []


def _after_fork() -> None:
    for thing in list(_known):
        thing.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
