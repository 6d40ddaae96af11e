"""What a collection knows about one item, and what a search says about it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Entry:
    """One embedded file.

    Args:
        path: where it was, absolute; bytes that are no UTF-8 are kept as surrogate escapes, as Python's ``os`` does.
        modality: the tower that embedded it. The same file may be there once per modality.
        size: bytes, when it was embedded.
        mtime_ns: time of its last change in nanoseconds, when it was embedded.
    """

    path: str
    modality: str
    size: int = 0
    mtime_ns: int = 0

    @property
    def key(self) -> tuple[str, str]:
        """What makes an entry the same entry: path and modality."""
        return self.path, self.modality


@dataclass(frozen=True, slots=True)
class Hit:
    """One answer: the entry and its score, the dot product of unit vectors (-1..1, higher is nearer)."""

    entry: Entry
    score: float
