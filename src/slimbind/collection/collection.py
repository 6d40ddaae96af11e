"""The collection: embedded items on disk, searched by vector, filtered by what is known about them."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from slimbind.collection import codes, database, header, items, location, statistics
from slimbind.collection.database import Database
from slimbind.collection.entry import Entry, described
from slimbind.collection.reading import TIMEOUT, Readable
from slimbind.collection.vectors import pack, unit_rows
from slimbind.errors import CollectionError, UsageError


class Collection(Readable):
    """A folder of embedded items; made by ``create`` or ``open``, and usable from several threads and processes.

    Any number of processes read while one writes. A change is whole or not there, and is on the disk when the call
    returns. Searches see what was there when they began. A process that is forked off opens it again for itself.

        with slimbind.Collection.create("photos.slim") as shelf:
            shelf.add(photos, ids=paths, modality="vision")
            hits = shelf.search(model.embed(["a dog"], modality="text"), k=10)
    """

    @classmethod
    def create(
        cls,
        folder: str | os.PathLike[str],
        *,
        codec: str = "auto",
        dim: int | None = None,
        model: str = "",
        encoders: Mapping[str, str] | None = None,
        dtype: str = "f32",
        timeout: float = TIMEOUT,
    ) -> Collection:
        """Make an empty collection. It is on disk when this returns.

        Args:
            folder: a new or empty folder.
            codec: what to search with: ``auto`` (by the number of items), ``f32`` (exact), or a codec such as ``sq8``.
            dim: length of its vectors (default: that of the first one).
            model: what to load for queries (``mini``, a folder, ``hf://...``).
            encoders: encoder id by modality, where they are known.
            dtype: how vectors are kept, ``f32`` or ``f16`` (half the disk, scores change in the fourth digit).
            timeout: seconds to wait for another writer, now and later.

        Raises:
            CollectionError: there is one already, the folder has other contents, or it cannot be written.
            UsageError: ``dtype``, ``dim`` or ``codec`` is none.
        """
        root = Path(folder).absolute()
        header.check_dtype(dtype)
        if dim is not None and dim < 1:
            raise UsageError(f"dim is {dim}; it is at least 1")
        codec = codes.check(codec, dim)
        location.check_destination(root)
        from slimbind import __version__

        try:
            root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise CollectionError(f"cannot make {root}: {error.strerror}") from error

        def fill(connection: sqlite3.Connection) -> None:
            told = dict(encoders or {})
            by = f"slimbind {__version__}"
            header.change(connection, created_by=by, dim=dim, dtype=dtype, model=model, encoders=told, codec=codec)

        return cls(root, Database(root / database.FILE, timeout=timeout, create=fill))

    def add(
        self,
        vectors: ArrayLike,
        *,
        ids: Sequence[str | os.PathLike[str]],
        modality: str | Sequence[str] = "",
        sources: Sequence[str | os.PathLike[str]] | None = None,
        metadata: Sequence[Mapping[str, Any]] | None = None,
        hashes: Sequence[str] | None = None,
        encoders: Mapping[str, str] | None = None,
    ) -> None:
        """Add new items, all or none; they are on the disk when this returns.

        Args:
            vectors: ``[n, dim]``; they are brought to length 1.
            ids: their names, ``n`` of them, none of which is there yet.
            modality: of all, or of each.
            sources: where each came from (default: its id).
            metadata: of each, anything that JSON can say, by name.
            hashes: a hash of each one's content, which ``duplicates`` compares.
            encoders: encoder id by modality, of the items and perhaps of more; needed where the collection knows one.
                All are kept.

        Raises:
            CollectionError: an id is there already; a vector is zero, not finite, of another length or encoder; the
                disk is full; or another process writes and was not done in time. Nothing was added then.
            UsageError: the arguments do not fit together, or encoder ids are given and none is of an item's modality.
        """
        entries = described(ids, modality, sources, metadata, hashes, encoders)
        self.put(entries, vectors, encoders=encoders, replace=False)

    def upsert(
        self,
        vectors: ArrayLike,
        *,
        ids: Sequence[str | os.PathLike[str]],
        modality: str | Sequence[str] = "",
        sources: Sequence[str | os.PathLike[str]] | None = None,
        metadata: Sequence[Mapping[str, Any]] | None = None,
        hashes: Sequence[str] | None = None,
        encoders: Mapping[str, str] | None = None,
    ) -> int:
        """As ``add``, but an item whose id is there takes the place of the old one; says how many did."""
        entries = described(ids, modality, sources, metadata, hashes, encoders)
        return self.put(entries, vectors, encoders=encoders)

    def put(
        self,
        entries: Sequence[Entry],
        vectors: ArrayLike,
        *,
        encoders: Mapping[str, str] | None = None,
        replace: bool = True,
        remove: Sequence[str | os.PathLike[str]] = (),
    ) -> int:
        """Write items given as entries, all or none; says how many took the place of an older one.

        Args:
            entries: ``n`` of them.
            vectors: ``[n, dim]``; they are brought to length 1.
            encoders: encoder id by modality; needed where the collection knows one.
            replace: whether an id may be there already.
            remove: ids to take out in the same step.

        Raises:
            CollectionError: as for ``add``.
            UsageError: there are not as many entries as vectors, or an id is there twice.
        """
        prepared = items.Prepared(entries)
        some = len(entries) > 0 or np.size(np.asarray(vectors)) > 0
        rows = unit_rows(vectors, [entry.id for entry in entries]) if some else np.empty((0, 0), np.float32)
        if len(rows) != len(entries):
            raise UsageError(f"there are {len(entries)} ids and {len(rows)} vectors", hint="give one vector for each")
        gone = items.encoded(remove)
        told = dict(encoders or {})
        if not entries and not gone:
            return 0
        with self._db.writing() as connection:
            known = header.read(connection, self.folder)
            items.remove(connection, gone)
            known = header.forget_removed(connection, self.folder, known)
            if not entries:
                return 0
            modalities = {entry.modality for entry in entries}
            if header.meet(known, self.folder, dim=rows.shape[1], encoders=told, modalities=modalities):
                codes.check(known.codec, rows.shape[1])
                header.change(connection, dim=rows.shape[1], encoders={**known.encoders, **told})
            return prepared.write(connection, self.folder, known, rows, replace=replace)

    def update(self, entries: Sequence[Entry]) -> None:
        """Change what is known about items that are there; their vectors stay.

        Raises:
            CollectionError: one is not there, or as for ``add``.
            UsageError: an id is there twice, or metadata cannot be kept.
        """
        prepared = items.Prepared(entries)
        if entries:
            with self._db.writing() as connection:
                items.update(connection, self.folder, prepared)

    def delete(self, ids: Sequence[str | os.PathLike[str]]) -> int:
        """Take items out, all in one step; ids that are not there are passed over. Says how many were.

        Raises:
            CollectionError: the disk is full, or another process writes and was not done in time.
        """
        gone = items.encoded(ids)
        if not gone:
            return 0
        with self._db.writing() as connection:
            count = items.remove(connection, gone)
            header.forget_removed(connection, self.folder, header.read(connection, self.folder))
            return count

    def build(self) -> None:
        """Bring the code file up to date now, so that no search has to; worth it after much was added.

        Raises:
            CollectionError: the disk is full, or another process writes and was not done in time.
        """
        self._searcher.prepare()

    def compact(self, *, codec: str | None = None) -> int:
        """Give back the space of what was removed, and bring the code file up to date; says how many bytes that freed.

        Every step is whole or not done: a crash or a full disk leaves the collection as it was before that step. While
        somebody reads an older state (an export, say), its space cannot be given back: this waits for as long as for a
        writer, and the number may be below 0. The next time gives it back.

        Args:
            codec: search with this one from now on (default: as before).

        Raises:
            CollectionError: there is no room for a second copy, or another process writes and was not done in time.
            UsageError: there is no such codec.
        """
        before = statistics.bytes_of(self.folder)
        if codec is not None:
            codec = codes.check(codec, self.dim)
            with self._db.writing() as connection:
                known = header.read(connection, self.folder)
                if codec != known.codec:
                    header.change(connection, codec=codec)
                    header.drop_codes(connection, known)
        self._searcher.prepare()
        with self._db.writing() as connection:
            known = header.read(connection, self.folder)
            (count,) = connection.execute("SELECT count(*) FROM items").fetchone()
            if known.codes is None or codes.choose(known.codec, count, known.dim) is None:
                header.drop_codes(connection, known)
        with self._db.alone() as connection:
            connection.execute(database.BY_MODALITY)  # which collections of before do not have
            connection.execute("VACUUM")
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        kept = self._header().codes
        codes.sweep(self.folder, None if kept is None else str(kept["file"]))
        return before - statistics.bytes_of(self.folder)

    @staticmethod
    def drop(folder: str | os.PathLike[str], *, timeout: float = TIMEOUT) -> None:
        """Delete a collection; files of others in its folder stay, and the folder with them.

        Raises:
            CollectionError: there is none, another process writes and was not done in time, or it cannot be deleted.
        """
        with Collection.open(folder, timeout=timeout) as shelf, shelf._db.writing():
            root = shelf.folder
        location.remove(root)

    def learn_queries(self, queries: ArrayLike, modality: str) -> None:
        """Keep samples of what will be asked, in place of those of the same modality; codes are fitted to them.

        Questions in another modality than the items (a text for pictures) lie elsewhere than the items do, and codes
        that know where lose much less. Codes that were made without them are made again.

        Args:
            queries: ``[m, dim]``, some hundreds are enough; they are brought to length 1.
            modality: theirs.

        Raises:
            CollectionError: one is zero, not finite or of another length.
            UsageError: the codec of the collection is none for this length.
        """
        rows = unit_rows(queries)
        with self._db.writing() as connection:
            known = header.read(connection, self.folder)
            if known.dim is None:
                codes.check(known.codec, rows.shape[1])
            elif known.dim != rows.shape[1]:
                raise CollectionError(
                    f"queries have {rows.shape[1]} dimensions, the collection {known.dim}",
                    hint="embed them with the model of the collection",
                )
            connection.execute("DELETE FROM queries WHERE modality = ?", (modality,))
            blobs = pack(rows, "f32")
            connection.executemany("INSERT INTO queries VALUES (?, ?)", [(modality, blob) for blob in blobs])
            header.change(connection, dim=rows.shape[1])
            header.drop_codes(connection, known)
