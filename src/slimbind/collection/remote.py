"""Collections that left the machine: pushed into LanceDB or PostgreSQL as a whole, and searched there.

    lancedb://photos.lance              a folder;  lancedb://s3://bucket/path  an object store
    postgresql://user@host/database     with the extension pgvector

A table holds id, modality, source, hash, metadata and the original vector of each item. Beside it stands what the
vectors are (model, encoder ids) and the gap-aware transform, for whoever compresses them there. Pushing again replaces
all of it in one step. File names that are no UTF-8 are written with escapes: neither place could keep them otherwise.
"""

from __future__ import annotations

import base64
import io
import json
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from slimbind.collection import filters, header
from slimbind.collection.collection import Collection
from slimbind.collection.entry import Entry, Hit
from slimbind.collection.filters import Node
from slimbind.collection.searching import checked, in_order
from slimbind.collection.vectors import unit_rows
from slimbind.errors import CollectionError, UsageError

if TYPE_CHECKING:
    from typing_extensions import Self

FORMAT_VERSION = 1
TABLE = "slimbind"
Batch = tuple[list[Entry], NDArray[np.float32]]


@dataclass(frozen=True, slots=True)
class About:
    """What the vectors of a table are.

    Args:
        dim: their length.
        model: what to load to embed queries.
        encoders: encoder id by modality.
        created_by: the program that pushed them.
        transform: the gap-aware transform as base64 of an ``.npz``; empty where there is none.
        format_version: of the table.
    """

    dim: int
    model: str
    encoders: Mapping[str, str]
    created_by: str
    transform: str = ""
    format_version: int = FORMAT_VERSION

    def to_json(self) -> str:
        """As it is kept."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str, name: str) -> About:
        """What ``to_json`` gave.

        Raises:
            CollectionError: it is damaged, or of a newer version.
        """
        try:
            told = json.loads(text)
            if told["format_version"] > FORMAT_VERSION:
                raise CollectionError(
                    f"{name} has format version {told['format_version']}; this slimbind reads up to {FORMAT_VERSION}",
                    hint="pip install --upgrade slimbind",
                )
            return cls(**told)
        except (ValueError, KeyError, TypeError) as error:
            raise CollectionError(f"{name} is damaged: {error}", hint="push the collection again") from None

    def transform_arrays(self) -> dict[str, NDArray[Any]]:
        """The state of the transform; empty where there is none."""
        if not self.transform:
            return {}
        with np.load(io.BytesIO(base64.b64decode(self.transform)), allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}


class Remote(ABC):
    """A table elsewhere; made by ``open_remote``. Searching works as in a collection."""

    def __init__(self, name: str, table: str) -> None:
        self.name = name
        self.table = table

    @abstractmethod
    def about(self) -> About:
        """What its vectors are; CollectionError where there is no such table."""

    @abstractmethod
    def write(self, about: About, batches: Iterator[Batch]) -> int:
        """Replace the table by these items, in one step; says how many."""

    @abstractmethod
    def nearest(self, query: NDArray[np.float32], k: int, wanted: Node | None) -> list[Hit]:
        """The ``k`` highest dot products with ``query`` ``[dim]``, best first."""

    @abstractmethod
    def entries(self) -> Iterator[Batch]:
        """All items with their vectors."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def close(self) -> None:
        """Let go of the connection."""

    @property
    def model(self) -> str:
        """What to load to embed queries."""
        return self.about().model

    def check(self, encoders: Mapping[str, str], *, model: str) -> None:
        """As ``Collection.check``."""
        known = self.about()
        header.check_model(self.name, known.model, known.encoders, encoders, model)

    def search(self, query: ArrayLike, k: int = 10, *, where: str = "", modality: str | None = None) -> list[Hit]:
        """As ``Collection.search``."""
        array = unit_rows(query)
        if len(array) != 1:
            raise UsageError(f"search takes one query, and there are {len(array)}")
        k = checked(k)
        wanted = filters.wanted(where, modality)
        dim = self.about().dim
        if array.shape[1] != dim:
            raise CollectionError(f"a query has {array.shape[1]} dimensions, {self.name} {dim}")
        return self.nearest(array[0], k, wanted)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def is_remote(text: str) -> bool:
    """Whether this names a table elsewhere, and not a folder."""
    return "://" in text


def open_remote(url: str, *, table: str = TABLE) -> Remote:
    """Connect to ``lancedb://...`` or ``postgresql://...``.

    Raises:
        UsageError: the address is of another kind, or the table's name is none.
        CollectionError: nobody answers there.
        MissingExtraError: the library for it is not installed.
    """
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,49}", table):
        raise UsageError(f"the table name {table!r} is not allowed", hint="letters, digits and _, 50 at most")
    kind, _, rest = url.partition("://")
    if kind == "lancedb" and rest:
        from slimbind.collection.remote_lancedb import Lance

        return Lance(rest, table)
    if kind in ("postgresql", "postgres"):
        from slimbind.collection.remote_postgres import Postgres

        return Postgres(url, table)
    raise UsageError(
        f"{kind}:// is no place that a collection can be pushed to",
        hint="lancedb://folder, lancedb://s3://bucket/path or postgresql://user@host/database",
    )


def push(collection: Collection, remote: Remote) -> int:
    """Write a whole collection, as it is now, in the place of what the table held; says how many items.

    Raises:
        CollectionError: the collection is empty, or the other side refused it; the table is as it was.
    """
    stats = collection.stats()
    if stats.dim is None:
        raise CollectionError(f"the collection {collection.folder} is empty", hint="there is nothing to push")
    collection.build()
    transform = collection.transform()
    told = ""
    if transform is not None:
        buffer = io.BytesIO()
        np.savez(buffer, **transform.state())  # type: ignore[arg-type]
        told = base64.b64encode(buffer.getvalue()).decode("ascii")
    about = About(stats.dim, stats.model, stats.encoders, stats.created_by, told)
    return remote.write(about, collection.batches())


def complete(k: int, limit: int, ask: Callable[[int], tuple[list[Hit], float | None]]) -> list[Hit]:
    """The ``k`` best, of equal scores by id: more is asked for as long as something left out may score the same.

    Args:
        k: how many.
        limit: how many to ask for first.
        ask: the nearest so many, of which a filter may take some away, and the lowest score looked at; None: of all.
    """
    while True:
        hits, lowest = ask(limit)
        hits = in_order(hits)
        if lowest is None or (len(hits) >= k and hits[k - 1].score > lowest):
            return hits[:k]
        limit *= 8


def plain(text: str) -> str:
    """Text that UTF-8 can say."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
