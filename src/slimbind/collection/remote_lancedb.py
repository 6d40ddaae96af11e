"""LanceDB as the place of a collection: a table in a folder or an object store."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slimbind.collection import filters_plain
from slimbind.collection.entry import Entry, Hit
from slimbind.collection.filters import Node
from slimbind.collection.remote import About, Batch, Remote, complete, plain
from slimbind.errors import CollectionError, MissingExtraError

_HEADER = b"slimbind"  # in the metadata of the schema, so that it is replaced together with the rows


class Lance(Remote):
    """A table of LanceDB.

    Raises:
        CollectionError: the place cannot be opened.
        MissingExtraError: lancedb is not installed.
    """

    def __init__(self, place: str, table: str) -> None:
        super().__init__(f"lancedb://{place}", table)
        if find_spec("lancedb") is None:
            raise MissingExtraError("lancedb", extra="lancedb")
        os.environ.setdefault("LANCEDB_LOG", "error")  # it warns of every table that it makes
        self._place = place
        self._database: Any = None
        if "://" in place or Path(place).expanduser().exists():  # to connect would make the folder, to read as well
            self._connect()

    def _connect(self) -> None:
        import lancedb

        with self._explained():
            self._database = lancedb.connect(self._place)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except (ValueError, OSError, RuntimeError) as error:  # what lancedb and its Rust side raise
            raise CollectionError(f"{self.name}: {str(error).splitlines()[0]}", hint="check the address") from error

    def _found(self) -> Any:  # noqa: ANN401
        """The table, or None."""
        if self._database is None:
            return None
        with self._explained():
            try:
                return self._database.open_table(self.table)
            except (ValueError, FileNotFoundError) as error:
                if "not found" in str(error):
                    return None
                raise

    def _opened(self) -> Any:  # noqa: ANN401
        table = self._found()
        if table is None:
            raise CollectionError(
                f"{self.name} has no collection {self.table!r}", hint="`slimbind push` makes one; see --table"
            )
        return table

    def about(self) -> About:
        """As ``Remote.about``."""
        return self._about(self._opened())

    def _about(self, table: Any) -> About:  # noqa: ANN401
        told = (table.schema.metadata or {}).get(_HEADER)
        if told is None:
            raise CollectionError(
                f"{self.name} has a table {self.table!r} that slimbind did not make", hint="choose another --table"
            )
        return About.from_json(told.decode("utf-8"), self.name)

    def write(self, about: About, batches: Iterator[Batch]) -> int:
        """As ``Remote.write``."""
        import pyarrow as pa

        if (old := self._found()) is not None:
            self._about(old)  # what is not ours is not replaced
        columns = [(name, pa.string()) for name in ("id", "modality", "source", "hash", "metadata")]
        columns += [("size", pa.int64()), ("mtime_ns", pa.int64()), ("vector", pa.list_(pa.float32(), about.dim))]
        schema = pa.schema(columns, metadata={_HEADER: about.to_json()})
        count = 0

        def told() -> Iterator[Any]:
            nonlocal count
            for entries, rows in batches:
                count += len(entries)
                texts = ("id", "modality", "source", "hash")
                arrays = [pa.array([plain(getattr(one, name)) for one in entries], pa.string()) for name in texts]
                arrays.append(pa.array([json.dumps(dict(one.metadata)) for one in entries], pa.string()))
                for name in ("size", "mtime_ns"):
                    arrays.append(pa.array([getattr(one, name) for one in entries], pa.int64()))
                flat = pa.array(np.ascontiguousarray(rows).reshape(-1), pa.float32())
                arrays.append(pa.FixedSizeListArray.from_arrays(flat, about.dim))
                yield pa.RecordBatch.from_arrays(arrays, schema=schema)

        if self._database is None:
            self._connect()
        with self._explained():
            reader = pa.RecordBatchReader.from_batches(schema, told())
            self._database.create_table(self.table, reader, mode="overwrite")
        return count

    def nearest(self, query: NDArray[np.float32], k: int, wanted: Node | None) -> list[Hit]:
        """As ``Remote.nearest``; a filter is applied here, to more and more of the nearest until enough are left."""
        table = self._opened()
        with self._explained():
            count = max(1, table.count_rows())

            def ask(limit: int) -> tuple[list[Hit], float | None]:
                rows = table.search(query).distance_type("dot").limit(min(limit, count)).to_list()
                hits = [hit for row in rows if (hit := _hit(row, wanted)) is not None]
                return hits, _score(rows[-1]) if limit < count else None

            return complete(k, k + 1 if wanted is None else 10 * k, ask)

    def entries(self) -> Iterator[Batch]:
        """As ``Remote.entries``."""
        table = self._opened()
        with self._explained():
            for batch in table.search().limit(max(1, table.count_rows())).to_batches():
                rows = batch.to_pylist()
                if rows:
                    yield [_entry(row) for row in rows], np.array([row["vector"] for row in rows], np.float32)

    def __len__(self) -> int:
        return int(self._opened().count_rows())

    def close(self) -> None:
        """As ``Remote.close``."""
        self._database = None


def _entry(row: dict[str, Any]) -> Entry:
    told = {name: row[name] for name in ("id", "modality", "source", "hash", "size", "mtime_ns")}
    return Entry(**told, metadata=json.loads(row["metadata"]))


def _hit(row: dict[str, Any], wanted: Node | None) -> Hit | None:
    entry = _entry(row)
    if wanted is not None and not filters_plain.holds(wanted, entry):
        return None
    return Hit(entry.id, _score(row), entry.modality, entry.source, entry.metadata)


def _score(row: dict[str, Any]) -> float:
    return 1 - float(row["_distance"])  # Lance's is 1 - dot
