"""The collection: embedded items on disk, searched by vector, filtered by what is known about them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from slimbind.collection import database, header, items, location, vectors
from slimbind.collection.database import Database
from slimbind.collection.entry import Entry, Hit, described
from slimbind.collection.header import Header
from slimbind.collection.searching import Searcher
from slimbind.errors import CollectionError, UsageError

_TIMEOUT = 10.0  # seconds to wait for another writer


class Collection:
    """A folder of embedded items; made by ``create`` or ``open``, and usable from several threads and processes.

    Any number of processes read while one writes. A change is whole or not there, and is on the disk when the call
    returns. Searches see what was there when they began.

        with slimbind.Collection.create("photos.slim") as shelf:
            shelf.add(photos, ids=paths, modality="vision")
            hits = shelf.search(model.embed(["a dog"], modality="text"), k=10)
    """

    def __init__(self, folder: Path, db: Database) -> None:
        self.folder = folder
        self._db = db
        self._searcher = Searcher(folder, db)
        self._header()  # what is no collection is refused here

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
        timeout: float = _TIMEOUT,
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
        root = Path(folder)
        header.check_dtype(dtype)
        if dim is not None and dim < 1:
            raise UsageError(f"dim is {dim}; it is at least 1")
        location.check_destination(root)
        from slimbind import __version__

        try:
            root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise CollectionError(f"cannot make {root}: {error.strerror}") from error
        db = Database(root / database.FILE, timeout=timeout, create=True)
        with db.writing() as connection:
            header.change(
                connection,
                created_by=f"slimbind {__version__}",
                dim=dim,
                dtype=dtype,
                model=model,
                encoders=dict(encoders or {}),
                codec=codec,
            )
        return cls(root, db)

    @staticmethod
    def exists(folder: str | os.PathLike[str]) -> bool:
        """Whether there is a collection, whole or damaged."""
        return (Path(folder) / database.FILE).exists()

    @classmethod
    def open(cls, folder: str | os.PathLike[str], *, timeout: float = _TIMEOUT) -> Collection:
        """Open a collection; its vectors are read at the first search.

        Args:
            folder: what ``create`` made.
            timeout: seconds that a change waits for another writer.

        Raises:
            CollectionError: there is none, it is damaged, or written by a newer or by the first version.
        """
        root = Path(folder)
        location.refuse_old(root)
        if not cls.exists(root):
            raise CollectionError(f"there is no collection at {root}", hint="make one with `slimbind index FOLDER`")
        return cls(root, Database(root / database.FILE, timeout=timeout))

    def __len__(self) -> int:
        with self._db.reading() as connection:
            return int(connection.execute("SELECT count(*) FROM items").fetchone()[0])

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self.get(name) is not None

    def _header(self) -> Header:
        with self._db.reading() as connection:
            return header.read(connection, self.folder)

    @property
    def dim(self) -> int | None:
        """Length of its vectors; None until the first one is added."""
        return self._header().dim

    @property
    def model(self) -> str:
        """What to load to embed queries; empty where nobody said."""
        return self._header().model

    @property
    def encoders(self) -> dict[str, str]:
        """Encoder id by modality."""
        return dict(self._header().encoders)

    def check(self, encoders: Mapping[str, str], *, model: str) -> None:
        """Refuse a model whose embeddings do not belong here; one that has more modalities is welcome.

        Args:
            encoders: its encoder ids by modality.
            model: its name, for the message.

        Raises:
            CollectionError: a modality has another encoder id than here, or none is shared.
        """
        known = self._header()
        for modality in known.encoders.keys() & encoders.keys():
            mine, other = known.encoders[modality], encoders[modality]
            if mine != other:
                raise CollectionError(
                    f"the collection {self.folder} was made by {known.model} ({modality} encoder {mine}); {model} has "
                    f"{modality} encoder {other}, and their vectors cannot be compared",
                    hint=f"use --model {known.model}, or another --index for {model}"
                    if model != known.model
                    else f"the model was changed since: delete {self.folder} and index again, or use another --index",
                )
        if known.encoders and not known.encoders.keys() & encoders.keys():
            raise CollectionError(
                f"the collection {self.folder} was made by {known.model}, which shares no modality with {model}",
                hint=f"use --model {known.model}, or another --index for {model}",
            )

    def add(
        self,
        vectors: ArrayLike,
        *,
        ids: Sequence[str | os.PathLike[str]],
        modality: str | Sequence[str] = "",
        sources: Sequence[str] | None = None,
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
            encoders: encoder id by modality; needed where the collection knows one.

        Raises:
            CollectionError: an id is there already; a vector is zero, not finite, of another length or encoder; the
                disk is full; or another process writes and was not done in time. Nothing was added then.
            UsageError: the arguments do not fit together.
        """
        self.put(described(ids, modality, sources, metadata, hashes), vectors, encoders=encoders, replace=False)

    def upsert(
        self,
        vectors: ArrayLike,
        *,
        ids: Sequence[str | os.PathLike[str]],
        modality: str | Sequence[str] = "",
        sources: Sequence[str] | None = None,
        metadata: Sequence[Mapping[str, Any]] | None = None,
        hashes: Sequence[str] | None = None,
        encoders: Mapping[str, str] | None = None,
    ) -> int:
        """As ``add``, but an item whose id is there takes the place of the old one; says how many did."""
        return self.put(described(ids, modality, sources, metadata, hashes), vectors, encoders=encoders)

    def put(
        self,
        entries: Sequence[Entry],
        vectors: ArrayLike,
        *,
        encoders: Mapping[str, str] | None = None,
        replace: bool = True,
        remove: Sequence[str] = (),
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
        rows = _unit_rows(vectors, [entry.id for entry in entries]) if entries else np.empty((0, 0), np.float32)
        if len(rows) != len(entries):
            raise UsageError(f"there are {len(entries)} ids and {len(rows)} vectors", hint="give one vector for each")
        gone = items.encoded(remove)
        told = dict(encoders or {})
        if not entries and not gone:
            return 0
        with self._db.writing() as connection:
            known = header.read(connection, self.folder)
            items.remove(connection, gone)
            if not entries:
                return 0
            modalities = {entry.modality for entry in entries}
            if header.meet(known, self.folder, dim=rows.shape[1], encoders=told, modalities=modalities):
                new = {name: told[name] for name in modalities & told.keys()}
                header.change(connection, dim=rows.shape[1], encoders={**known.encoders, **new})
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

    def delete(self, ids: Sequence[str]) -> int:
        """Take items out, all in one step; ids that are not there are passed over. Says how many were.

        Raises:
            CollectionError: the disk is full, or another process writes and was not done in time.
        """
        gone = items.encoded(ids)
        if not gone:
            return 0
        with self._db.writing() as connection:
            return items.remove(connection, gone)

    def get(self, name: str) -> Entry | None:
        """What is known about an item; None where it is not there."""
        with self._db.reading() as connection:
            found = items.by_id(connection, self.folder, [name])
        return found[name][1] if found else None

    def get_many(self, names: Sequence[str]) -> dict[str, Entry]:
        """What is known about items, by id; those that are not there are left out."""
        with self._db.reading() as connection:
            found = items.by_id(connection, self.folder, names)
        return {name: entry for name, (_, entry) in found.items()}

    def with_hash(self, content: str, modality: str) -> Entry | None:
        """An item of this content hash and modality; None where there is none."""
        with self._db.reading() as connection:
            return items.by_hash(connection, self.folder, content, modality)

    def vectors(self, ids: Sequence[str]) -> NDArray[np.float32]:
        """The vectors ``[n, dim]`` of items, in the order asked for.

        Raises:
            CollectionError: one is not there.
        """
        with self._db.reading() as connection:
            known = header.read(connection, self.folder)
            found = items.by_id(connection, self.folder, ids)
            for name in ids:
                if name not in found:
                    raise CollectionError(f"{name!r} is not in the collection {self.folder}")
            if known.dim is None:
                return np.empty((0, 0), np.float32)
            return items.originals(connection, known, [found[name][0] for name in ids])

    def entries(self) -> Iterator[Entry]:
        """All items, in the order they were written; what is written after this call is left out."""
        return self._entries(self._header().next_key - 1)

    def _entries(self, until: int) -> Iterator[Entry]:
        after = 0
        while after < until:
            with self._db.reading() as connection:
                some = items.read(connection, self.folder, after, until)
            if not some:
                return
            after = some[-1][0]
            yield from (entry for _, entry in some)

    def search(self, query: ArrayLike, k: int = 10, *, where: str = "", modality: str | None = None) -> list[Hit]:
        """The ``k`` items with the highest dot product, best first; all of them where there are fewer.

        Args:
            query: ``[dim]`` or ``[1, dim]``; brought to length 1.
            k: at least 1.
            where: look only among items that this filter lets through, such as ``year > 2020``; empty: all.
            modality: look only among items of this modality.

        Raises:
            CollectionError: the query is zero, not finite or of another length.
            UsageError: ``k`` is less than 1, the filter cannot be read, or there are several queries.
        """
        array = _unit_rows(query)
        if len(array) != 1:
            raise UsageError(f"search takes one query, and there are {len(array)}", hint="use search_batch")
        return self._searcher.search(array, k, where=where, modality=modality)[0]

    def search_batch(
        self, queries: ArrayLike, k: int = 10, *, where: str = "", modality: str | None = None
    ) -> list[list[Hit]]:
        """``search`` for many queries ``[q, dim]`` at once, which takes much less time than one after the other."""
        return self._searcher.search(queries, k, where=where, modality=modality)

    def close(self) -> None:
        """Let go of the files. Everything that was written is on the disk already."""
        self._db.close()
        self._searcher.forget()

    def __enter__(self) -> Collection:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


_unit_rows = vectors.unit_rows  # the module's name is that of an argument and of a method above
