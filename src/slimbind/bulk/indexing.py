"""Keeping an index equal to some folders: new and changed files are embedded, removed ones leave, the rest stays."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from slimbind.bulk.embedding import embed_items
from slimbind.bulk.items import Item, Row
from slimbind.bulk.reader import Reader
from slimbind.collection import Entry, FlatIndex

if TYPE_CHECKING:
    from slimbind.runtime.model import Model

_MAX_UNSAVED = 20_000  # vectors held in memory before they are saved: 80 MB at 1024 dimensions


@dataclass(slots=True)
class Summary:
    """What an update did: counts of files, and seconds."""

    added: int = 0
    changed: int = 0
    unchanged: int = 0
    removed: int = 0
    failed: int = 0
    seconds: float = 0.0
    skipped: dict[str, int] = field(default_factory=dict)


class _Checkpoints:
    """Saves every ``seconds``, but never spends more than a twentieth of the time on saving."""

    def __init__(self, index: FlatIndex, seconds: float) -> None:
        self._index = index
        self._seconds = seconds
        self._due = time.monotonic() + seconds

    def maybe(self) -> None:
        if time.monotonic() < self._due and self._index.unsaved < _MAX_UNSAVED:
            return
        start = time.monotonic()
        self._index.save()
        took = time.monotonic() - start
        self._due = time.monotonic() + max(self._seconds, 20 * took)


def update_index(
    index: FlatIndex,
    model: Model,
    reader: Reader,
    folders: Sequence[str],
    *,
    batch_size: int | None = None,
    refresh: bool = False,
    checkpoint_seconds: float = 30.0,
    on_row: Callable[[Row], object] = lambda row: None,
    on_done: Callable[[], object] = lambda: None,
) -> Summary:
    """Make ``index`` hold what is in ``folders`` now; what it holds of other places stays.

    A file whose size and time of change are as they were is not embedded again. A file that cannot be embedded (any
    more) is not in the index, and is tried again next time. The index is saved every now and then and at the end;
    also when this is interrupted, so that the next run goes on from there.

    Args:
        index: open for writing.
        model: a ``slimbind.Model`` that ``index.check`` accepts.
        reader: what to look for.
        folders: absolute paths of folders; the same folder should always be spelled alike.
        batch_size: most files per forward pass (default: the encoder's).
        refresh: embed everything again.
        checkpoint_seconds: how often to save.
        on_row: called with the result of each file that was embedded, good or bad.
        on_done: called as each file is done, those included that were left as they were.

    Raises:
        CollectionError: a save failed; what was saved before is still there.
    """
    start = time.monotonic()
    summary = Summary()
    seen: set[tuple[str, str]] = set()
    checkpoints = _Checkpoints(index, checkpoint_seconds)

    def work() -> Iterator[Item]:
        for folder in folders:
            for item in reader.folder(folder):
                key = (item.id, item.modality)
                if key in seen:  # folders may overlap
                    continue
                seen.add(key)
                old = index.get(*key)
                same = old is not None and (old.size, old.mtime_ns) == (item.size, item.mtime_ns)
                if same and item.error is None and not refresh:
                    summary.unchanged += 1
                    on_done()
                else:
                    yield item

    try:
        for row in embed_items(model, work(), batch_size=batch_size, on_done=on_done):
            _apply(index, row, summary)
            on_row(row)
            checkpoints.maybe()
        for entry in _gone(index, reader, folders, seen):
            index.remove(entry.path, entry.modality)
            summary.removed += 1
    finally:
        index.save()
    summary.seconds = time.monotonic() - start
    summary.skipped = dict(reader.skipped)
    return summary


def _apply(index: FlatIndex, row: Row, summary: Summary) -> None:
    item = row.item
    if row.vector is None:
        summary.failed += 1
        index.remove(item.id, item.modality)
        return
    if index.get(item.id, item.modality) is None:
        summary.added += 1
    else:
        summary.changed += 1
    index.put(Entry(item.id, item.modality, item.size, item.mtime_ns), row.vector)


def _gone(index: FlatIndex, reader: Reader, folders: Sequence[str], seen: set[tuple[str, str]]) -> list[Entry]:
    """Entries below the folders that were looked for and not seen; places that could not be listed are left alone."""
    looked_for = {reader.modality} if reader.modality else set(reader.wanted)
    inside = tuple(_prefix(folder) for folder in folders)
    unknown = tuple(_prefix(folder) for folder in reader.unreadable)
    return [
        entry
        for entry in index.entries()
        if entry.modality in looked_for
        and entry.key not in seen
        and entry.path.startswith(inside)
        and not entry.path.startswith(unknown)
    ]


def _prefix(folder: str) -> str:
    return os.path.join(folder, "")
