"""Keeping a collection equal to some folders: new and changed files are embedded, removed ones leave."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from slimbind.bulk.embedding import embed_items
from slimbind.bulk.items import Item, Row
from slimbind.bulk.reader import Reader
from slimbind.bulk.removal import Held, gone
from slimbind.collection import Collection, Entry
from slimbind.errors import CollectionError
from slimbind.modalities import modality_of

if TYPE_CHECKING:
    from slimbind.runtime.model import Model

_WINDOW = 256  # files looked up at once
_MAX_PENDING = 512  # changes held in memory before they are written
_TICK_NS = 2_000_000_000  # the coarsest clock of a file system (FAT): what changes twice within it has one time
_UNSETTLED = -1  # kept in place of a time that another content may come to have


@dataclass(slots=True)
class Summary:
    """What an update did: counts of files, and seconds.

    ``copied`` are those added whose content was known already; ``held`` tells of items that stay although their files
    are gone, because it looks as if a drive were missing.
    """

    added: int = 0
    changed: int = 0
    unchanged: int = 0
    removed: int = 0
    failed: int = 0
    copied: int = 0
    seconds: float = 0.0
    skipped: dict[str, int] = field(default_factory=dict)
    held: list[Held] = field(default_factory=list)


class _Pending:
    """Changes on their way into the collection: written every few seconds, and when there are many."""

    def __init__(self, collection: Collection, encoders: Mapping[str, str], seconds: float) -> None:
        self._collection = collection
        self._encoders = encoders
        self._seconds = seconds
        self._due = time.monotonic() + seconds
        self._puts: dict[str, tuple[Entry, NDArray[np.float32]]] = {}
        self._removals: set[str] = set()
        self._stamps: dict[str, Entry] = {}

    def put(self, entry: Entry, vector: NDArray[np.float32]) -> None:
        self._puts[entry.id] = entry, vector
        self._removals.discard(entry.id)

    def remove(self, name: str) -> None:
        self._puts.pop(name, None)
        self._removals.add(name)

    def restamp(self, entry: Entry) -> None:
        self._stamps[entry.id] = entry

    def maybe_write(self) -> None:
        count = len(self._puts) + len(self._removals) + len(self._stamps)
        if count >= _MAX_PENDING or time.monotonic() >= self._due:
            self.write()

    def write(self) -> None:
        self._due = time.monotonic() + self._seconds
        if self._puts or self._removals:
            entries = [entry for entry, _ in self._puts.values()]
            vectors = [vector for _, vector in self._puts.values()]
            self._collection.put(entries, vectors, encoders=self._encoders, remove=list(self._removals))
        # Another process may have taken one of them out since it was looked up.
        there = self._collection.get_many(list(self._stamps))
        self._collection.update([entry for entry in self._stamps.values() if entry.id in there])
        self._puts, self._removals, self._stamps = {}, set(), {}


def update_index(
    collection: Collection,
    model: Model,
    reader: Reader,
    folders: Sequence[str],
    *,
    batch_size: int | None = None,
    refresh: bool = False,
    remove_missing: bool = False,
    checkpoint_seconds: float = 5.0,
    on_row: Callable[[Row], object] = lambda row: None,
    on_done: Callable[[], object] = lambda: None,
) -> Summary:
    """Make ``collection`` hold what is in ``folders`` now; what it holds of other places stays.

    A file whose size and time of change are as they were is not looked at, unless it was only just written when it
    was looked at last: it may have changed again without another time. One where they differ is hashed, and
    embedded only where its content is new: a file that was moved or copied takes the vector of its like. A file that
    whose content cannot be embedded (any more) is not in the collection, and is tried again next time; one that only
    cannot be read now keeps what there is of it. Changes are written every few seconds and at the end; also when this
    is interrupted, so that the next run goes on from there. Where it looks as if a drive were missing, items stay
    though their files are gone (``removal.gone``).

    Args:
        collection: what to bring up to date.
        model: a ``slimbind.Model`` that ``collection.check`` accepts.
        reader: what to look for.
        folders: absolute paths of folders; the same folder should always be spelled alike.
        batch_size: most files per forward pass (default: the encoder's).
        refresh: embed everything again.
        remove_missing: let items leave even where a folder is empty now or has lost most of its files.
        checkpoint_seconds: how often to write.
        on_row: called with the result of each file that was embedded, good or bad.
        on_done: called as each file is done, those included that were left as they were.

    Raises:
        CollectionError: the disk is full, or another process writes; what was written before is still there.
    """
    start = time.monotonic()
    summary = Summary()
    before = collection.entries()  # of this moment: what another run adds meanwhile is not missed here
    seen: set[str] = set()
    pending = _Pending(
        collection, {name: model.encoder(name).id for name in reader.available}, seconds=checkpoint_seconds
    )
    plan = _Plan(collection, pending, summary, refresh)

    def work() -> Iterator[Item]:
        found = (item for folder in folders for item in reader.folder(folder))
        while window := list(islice(found, _WINDOW)):
            fresh = {name: item for item in window if (name := name_of(item)) not in seen}  # folders may overlap
            seen.update(fresh)
            known = collection.get_many(list(fresh))
            for name, item in fresh.items():
                if plan.needs_embedding(item, known.get(name)):
                    yield item
                else:
                    on_done()
                    pending.maybe_write()

    try:
        for row in embed_items(model, work(), batch_size=batch_size, on_done=on_done):
            _apply(plan, row)
            on_row(row)
            pending.maybe_write()
        leaving, summary.held = gone(before, reader, folders, seen, all_of_them=remove_missing)
        for name in leaving:
            pending.remove(name)
            summary.removed += 1
    finally:
        pending.write()
    summary.seconds = time.monotonic() - start
    summary.skipped = dict(reader.skipped)
    return summary


def name_of(item: Item) -> str:
    """The id of a file's item: its path, and behind a ``#`` its modality where the file type tells another."""
    return item.id if item.modality == (modality_of(item.id) or "") else f"{item.id}#{item.modality}"


class _Plan:
    """Decides what becomes of each file, and remembers what it learned until the file's vector is there."""

    def __init__(self, collection: Collection, pending: _Pending, summary: Summary, refresh: bool) -> None:
        self.collection = collection
        self.pending = pending
        self.summary = summary
        self._refresh = refresh
        self._learned: dict[str, tuple[Entry | None, str, int]] = {}

    def needs_embedding(self, item: Item, old: Entry | None) -> bool:
        """Whether the file must be embedded; where not, what is to be done about it is done."""
        if item.error is not None:
            return True  # passes through, to be reported
        if old is not None and not self._refresh and (old.size, old.mtime_ns) == (item.size, item.mtime_ns):
            self.summary.unchanged += 1
            return False
        stamp = _stamp(item)  # before it is read: only a later change matters
        content = _hash(item)
        self._learned[name_of(item)] = old, content, stamp
        if self._refresh or not content:
            return True
        if old is not None and old.hash == content:
            self.pending.restamp(_entry(item, content, stamp))
            self._learned.pop(name_of(item))
            self.summary.unchanged += 1
            return False
        like = self.collection.with_hash(content, item.modality)
        if like is None:
            return True
        try:
            vector = self.collection.vectors([like.id])[0]
        except CollectionError:  # another process took it out meanwhile
            return True
        self.done(item, vector)
        self.summary.copied += 1
        return False

    def done(self, item: Item, vector: NDArray[np.float32]) -> None:
        """Keep the vector of a file."""
        old, content, stamp = self._learned.pop(name_of(item))
        if old is None:
            self.summary.added += 1
        else:
            self.summary.changed += 1
        self.pending.put(_entry(item, content, stamp), vector)

    def failed(self, item: Item) -> None:
        """A file whose content has no vector (any more) is not in the collection.

        One that cannot be read (its folder's permissions, a drive that fails) may be as good as ever, and stays.
        """
        _, content, _ = self._learned.pop(name_of(item), (None, "", 0))
        self.summary.failed += 1
        if content or _is_gone(item.id):
            self.pending.remove(name_of(item))


def _apply(plan: _Plan, row: Row) -> None:
    if row.vector is None:
        plan.failed(row.item)
    else:
        plan.done(row.item, row.vector)


def _stamp(item: Item) -> int:
    """The time of change that tells the next change from this one, or that there is none."""
    return _UNSETTLED if abs(time.time_ns() - item.mtime_ns) < _TICK_NS else item.mtime_ns


def _entry(item: Item, content: str, stamp: int) -> Entry:
    """What is kept of a file; its metadata are there to filter by."""
    suffix = os.path.splitext(item.id)[1].lower().encode("utf-8", "backslashreplace").decode("utf-8")
    changed = datetime.fromtimestamp(item.mtime_ns // 1_000_000_000, timezone.utc)
    told = {"suffix": suffix, "bytes": item.size, "modified": changed.strftime("%Y-%m-%dT%H:%M:%SZ")}
    return Entry(name_of(item), item.modality, item.id, told, content, item.size, stamp)


def _hash(item: Item) -> str:
    """SHA-256 of a file; empty where it cannot be read, which embedding it will report."""
    digest = hashlib.sha256()
    try:
        with open(item.source, "rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    except OSError:
        return ""
    return digest.hexdigest()


def _is_gone(path: str) -> bool:
    try:
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        return False
    return False
