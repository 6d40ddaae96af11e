"""The reading half of a collection: look up, search, count, compare, hand out."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from slimbind.collection import checking, codes, database, filters, filters_sql, header, items, location, statistics
from slimbind.collection.checking import Report
from slimbind.collection.database import Database
from slimbind.collection.entry import Entry, Hit, ids_of
from slimbind.collection.header import Header
from slimbind.collection.searching import Searcher
from slimbind.collection.statistics import Stats
from slimbind.collection.vectors import unit_rows
from slimbind.errors import CollectionError, UsageError

if TYPE_CHECKING:
    from typing_extensions import Self

    from slimbind.codecs import Transform

TIMEOUT = 10.0  # seconds to wait for another writer


class Readable:
    """What a collection can do without changing; ``Collection`` adds the rest."""

    def __init__(self, folder: Path, db: Database) -> None:
        self.folder = folder
        self._db = db
        self._searcher = Searcher(folder, db)
        self._header()  # what is no collection is refused here

    @staticmethod
    def exists(folder: str | os.PathLike[str]) -> bool:
        """Whether there is a collection, whole or damaged."""
        return database.is_there(Path(folder) / database.FILE)

    @classmethod
    def open(cls, folder: str | os.PathLike[str], *, timeout: float = TIMEOUT) -> Self:
        """Open a collection; its vectors are read at the first search.

        Args:
            folder: what ``create`` made.
            timeout: seconds that a change waits for another writer.

        Raises:
            CollectionError: there is none, it is damaged, or written by a newer or by the first version.
        """
        root = Path(folder).absolute()
        location.refuse_old(root)
        if not cls.exists(root):
            raise CollectionError(f"there is no collection at {root}", hint="make one with `slimbind index FOLDER`")
        return cls(root, Database(root / database.FILE, timeout=timeout))

    def __len__(self) -> int:
        with self._db.reading() as connection:
            return int(connection.execute("SELECT count(*) FROM items").fetchone()[0])

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str | os.PathLike) and self.get(name) is not None

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
    def codec(self) -> str:
        """What it is searched with: ``auto`` (by its size), ``f32`` (exact), or a codec."""
        return self._header().codec

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
        header.check_model(f"the collection {self.folder}", known.model, known.encoders, encoders, model)

    def get(self, name: str | os.PathLike[str]) -> Entry | None:
        """What is known about an item; None where it is not there."""
        return next(iter(self.get_many([name]).values()), None)

    def get_many(self, names: Sequence[str | os.PathLike[str]]) -> dict[str, Entry]:
        """What is known about items, by id; those that are not there are left out."""
        wanted = ids_of(names)
        with self._db.reading() as connection:
            found = items.by_id(connection, self.folder, wanted)
        return {name: entry for name, (_, entry) in found.items()}

    def with_hash(self, content: str, modality: str) -> Entry | None:
        """An item of this content hash and modality; None where there is none."""
        with self._db.reading() as connection:
            return items.by_hash(connection, self.folder, content, modality)

    def vectors(self, ids: Sequence[str | os.PathLike[str]]) -> NDArray[np.float32]:
        """The vectors ``[n, dim]`` of items, in the order asked for.

        Raises:
            CollectionError: one is not there.
        """
        wanted = ids_of(ids)
        with self._db.reading() as connection:
            known = header.read(connection, self.folder)
            found = items.by_id(connection, self.folder, wanted)
            for name in wanted:
                if name not in found:
                    raise CollectionError(f"{name!r} is not in the collection {self.folder}")
            if known.dim is None:
                return np.empty((0, 0), np.float32)
            return items.originals(connection, known, [found[name][0] for name in wanted])

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
        """The ``k`` items with the highest dot product, best first, of equal ones by id; all where there are fewer.

        Args:
            query: ``[dim]`` or ``[1, dim]``; brought to length 1.
            k: at least 1.
            where: look only among items that this filter lets through, such as ``year > 2020``; empty: all.
            modality: look only among items of this modality.

        Raises:
            CollectionError: the query is zero, not finite or of another length.
            UsageError: ``k`` is less than 1, the filter cannot be read, or there are several queries.
        """
        array = unit_rows(query)
        if len(array) != 1:
            raise UsageError(f"search takes one query, and there are {len(array)}", hint="use search_batch")
        return self._searcher.search(array, k, where=where, modality=modality)[0]

    def search_batch(
        self, queries: ArrayLike, k: int = 10, *, where: str = "", modality: str | None = None
    ) -> list[list[Hit]]:
        """``search`` for many queries ``[q, dim]`` at once, which takes much less time than one after the other."""
        return self._searcher.search(queries, k, where=where, modality=modality)

    def batches(self, where: str = "") -> Iterator[tuple[list[Entry], NDArray[np.float32]]]:
        """All items with their vectors ``[n, dim]``, some thousands at a time, as they were at one moment.

        Args:
            where: only items that this filter lets through; empty: all.

        Raises:
            UsageError: the filter cannot be read.
        """
        wanted = filters.wanted(where)
        return self._batches(wanted)

    def _batches(self, wanted: filters.Node | None) -> Iterator[tuple[list[Entry], NDArray[np.float32]]]:
        with self._db.reading() as connection:
            known = header.read(connection, self.folder)
            allowed = None if wanted is None else set(filters_sql.keys_of(connection, wanted).tolist())
            after, until = 0, known.next_key - 1
            while some := items.read(connection, self.folder, after, until):
                after = some[-1][0]
                some = [(key, entry) for key, entry in some if allowed is None or key in allowed]
                if some:
                    rows = items.originals(connection, known, [key for key, _ in some])
                    yield [entry for _, entry in some], rows

    def transform(self) -> Transform | None:
        """The gap-aware transform of the code file; None where there is no code file, or it needs none."""
        known = self._header()
        record = codes.record_of(known)
        if record is None or known.dim is None:
            return None
        return codes.load(self.folder, record, known.dim).transform

    def duplicates(self) -> list[list[str]]:
        """Ids of items that have the same content and modality, in groups of two and more."""
        with self._db.reading() as connection:
            return items.duplicates(connection)

    def stats(self) -> Stats:
        """What is in it, how it is searched, and what it takes on disk."""
        with self._db.reading() as connection:
            return statistics.gather(connection, header.read(connection, self.folder), self.folder)

    def verify(self, *, samples: int = 100) -> Report:
        """Look at everything: the database, each item's checksum and vector, the code file, and what searches miss.

        Args:
            samples: items to search for, and compare with what exact search finds; queries that were given to
                ``learn_queries`` are asked as well.
        """
        return checking.verify(self._db, self._searcher, self.folder, samples)

    def close(self) -> None:
        """Let go of the files. Everything that was written is on the disk already; in a forked process, do nothing."""
        if not self._db.inherited:
            self._db.close()
            self._searcher.forget()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
