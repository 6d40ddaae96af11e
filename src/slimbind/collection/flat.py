"""The flat index: vectors and the files they came from, in one folder, searched exactly."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import ArrayLike, NDArray

from slimbind.collection import exact, store
from slimbind.collection.entry import Entry, Hit
from slimbind.collection.lock import WriterLock
from slimbind.errors import CollectionError, UsageError

_ROWS = 16384  # rows scored or copied at once: 64 MB at 1024 dimensions


class FlatIndex:
    """Embedded files on disk; ``put`` and ``remove`` change it in memory, ``save`` publishes the change as a whole.

    Made by ``create`` or ``open``. Every vector in it comes from one of ``encoders`` (modality to encoder id), which
    ``check`` compares with those of a model. Readers never wait; there is one writer at a time.

        with FlatIndex.create("photos.index", dim=384, model="mini", encoders=ids) as index:
            index.put(Entry("/photos/dog.jpg", "vision", size, mtime_ns), vector)
            index.save()
            hits = index.search(query, k=10)
    """

    def __init__(self, folder: Path, header: store.Header, lock: WriterLock | None) -> None:
        self.folder = folder
        self._lock = lock
        self._dirty = False
        self._adopt(header, *store.read_data(folder, header))

    @classmethod
    def create(cls, folder: str | os.PathLike[str], *, dim: int, model: str, encoders: Mapping[str, str]) -> FlatIndex:
        """Make an empty index, open for writing. It is on disk when this returns.

        Args:
            folder: a new or empty folder.
            dim: length of its vectors.
            model: what to load for queries (``mini``, a folder, ``hf://...``).
            encoders: encoder id of every modality the model has.

        Raises:
            CollectionError: the folder has other contents, or cannot be written.
        """
        root = Path(folder)
        check_destination(root)
        if (root / store.HEADER).exists():
            raise CollectionError(f"{root} is an index already", hint="open it instead")
        from slimbind import __version__

        try:
            root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise CollectionError(f"cannot make {root}: {error.strerror}") from error
        lock = WriterLock(root / "lock")
        try:
            header = store.Header(
                created_by=f"slimbind {__version__}", model=model, dim=dim, encoders=dict(encoders), rows=0
            )
            return cls(root, store.write(root, header, [], []), lock)
        except BaseException:
            lock.release()
            raise

    @staticmethod
    def exists(folder: str | os.PathLike[str]) -> bool:
        """Whether there is an index, whole or damaged."""
        return (Path(folder) / store.HEADER).exists()

    @classmethod
    def open(cls, folder: str | os.PathLike[str], *, writable: bool = False) -> FlatIndex:
        """Open an index; its files are checked by sha256 and the vectors stay on disk, memory-mapped.

        Raises:
            CollectionError: there is none, it is damaged, written by a newer version, or (``writable``) in use.
        """
        root = Path(folder)
        header = store.read_header(root)
        lock = WriterLock(root / "lock") if writable else None
        try:
            return cls(root, store.read_header(root), lock)
        except CollectionError:
            # A writer may have published the next state between reading the header and the files it names.
            if lock is None and (again := store.read_header(root)) != header:
                return cls(root, again, None)
            if lock is not None:
                lock.release()
            raise

    def _adopt(self, header: store.Header, saved: NDArray[np.float32], entries: list[Entry]) -> None:
        self._header = header
        self._saved, self._entries = saved, entries
        self._added: list[NDArray[np.float32]] = []
        self._dead: set[int] = set()
        self._row = {entry.key: row for row, entry in enumerate(self._entries)}

    def __len__(self) -> int:
        return len(self._row)

    @property
    def dim(self) -> int:
        """Length of its vectors."""
        return self._header.dim

    @property
    def model(self) -> str:
        """What to load to embed queries."""
        return self._header.model

    @property
    def encoders(self) -> dict[str, str]:
        """Encoder id by modality."""
        return dict(self._header.encoders)

    @property
    def unsaved(self) -> int:
        """How many added vectors and removals ``save`` would write."""
        return len(self._added) + len(self._dead)

    def entries(self) -> Iterator[Entry]:
        """All entries."""
        return (self._entries[row] for row in self._row.values())

    def get(self, path: str, modality: str) -> Entry | None:
        """The entry of a file, or None."""
        row = self._row.get((path, modality))
        return None if row is None else self._entries[row]

    def check(self, encoders: Mapping[str, str], *, model: str) -> None:
        """Refuse a model whose embeddings do not belong to this index; one that has more modalities is welcome.

        Args:
            encoders: its encoder ids by modality.
            model: its name, for the message.

        Raises:
            CollectionError: a modality has another encoder id than the index.
        """
        for modality in self._header.encoders.keys() & encoders.keys():
            mine, other = self._header.encoders[modality], encoders[modality]
            if mine != other:
                raise CollectionError(
                    f"the index {self.folder} was made by {self.model} ({modality} encoder {mine}); {model} has "
                    f"{modality} encoder {other}, and their vectors cannot be compared",
                    hint=f"use --model {self.model}, or another --index for {model}"
                    if model != self.model
                    else f"the model was changed since: delete {self.folder} and index again, or use another --index",
                )
        new = {name: told for name, told in encoders.items() if name not in self._header.encoders}
        if not self._header.encoders.keys() & encoders.keys():
            raise CollectionError(
                f"the index {self.folder} was made by {self.model}, which shares no modality with {model}",
                hint=f"use --model {self.model}, or another --index for {model}",
            )
        if new:
            self._header = self._header.model_copy(update={"encoders": {**self._header.encoders, **new}})
            self._dirty = True

    def put(self, entry: Entry, vector: ArrayLike) -> None:
        """Add a file's unit vector ``[dim]``, in place of the one it had.

        Raises:
            CollectionError: the vector has another length, is not finite, or is not of length 1.
        """
        array = np.asarray(vector, np.float32)
        if array.shape != (self.dim,):
            raise CollectionError(f"{entry.path}: a vector of shape {list(array.shape)}, not {[self.dim]}")
        norm = float(np.linalg.norm(array))
        if not abs(norm - 1) < 1e-2:  # written so that NaN is refused as well
            raise CollectionError(f"{entry.path}: its vector has length {norm:.4g}, not 1")
        if entry.modality not in self._header.encoders:
            raise UsageError.unknown("modality of this index", entry.modality, self._header.encoders)
        self.remove(entry.path, entry.modality)
        self._row[entry.key] = len(self._entries)
        self._entries.append(entry)
        self._added.append(array.copy())
        self._dirty = True

    def remove(self, path: str, modality: str) -> bool:
        """Take a file out; says whether it was there."""
        row = self._row.pop((path, modality), None)
        if row is None:
            return False
        self._dead.add(row)
        self._dirty = True
        return True

    def search(self, query: ArrayLike, k: int = 10, *, modality: str | None = None) -> list[Hit]:
        """The ``k`` entries with the highest dot product, best first; all of them where there are fewer.

        Args:
            query: unit vector ``[dim]``.
            k: at least 1.
            modality: look only among entries of this modality.

        Raises:
            CollectionError: the query has another length or is not finite.
            UsageError: ``k`` is less than 1.
        """
        array = np.asarray(query, np.float32)
        if array.shape != (self.dim,) or not np.isfinite(array).all():
            raise CollectionError(f"a query is a finite vector of shape {[self.dim]}, not {list(array.shape)}")
        if k < 1:
            raise UsageError(f"k is {k}; it is at least 1")
        rows, scores = exact.best(self._masked(modality), array, k)
        return [Hit(self._entries[row], float(score)) for row, score in zip(rows, scores, strict=True)]

    def _masked(self, modality: str | None) -> Iterator[tuple[NDArray[np.float32], NDArray[np.bool_] | None]]:
        start = 0
        for chunk in self._chunks():
            rows = range(start, start + len(chunk))
            start += len(chunk)
            if modality is None and not self._dead:
                yield chunk, None
            else:
                counts = (row not in self._dead and modality in (None, self._entries[row].modality) for row in rows)
                yield chunk, np.fromiter(counts, np.bool_, len(chunk))

    def _chunks(self) -> Iterator[NDArray[np.float32]]:
        for start in range(0, len(self._saved), _ROWS):
            yield self._saved[start : start + _ROWS]
        for start in range(0, len(self._added), _ROWS):
            yield np.stack(self._added[start : start + _ROWS])

    def save(self) -> bool:
        """Publish all changes at once; says whether there were any.

        Raises:
            CollectionError: the disk is full or the index was not opened for writing; the saved state is as before.
        """
        if not self._dirty:
            return False
        if self._lock is None:
            raise CollectionError(f"the index {self.folder} was opened for reading", hint="open it with writable=True")
        alive = [entry for row, entry in enumerate(self._entries) if row not in self._dead]
        chunks = (chunk if mask is None else chunk[mask] for chunk, mask in self._masked(None))
        header = self._header.model_copy(update={"rows": len(alive)})
        header = store.write(self.folder, header, chunks, alive)
        self._adopt(header, store.map_vectors(self.folder, header), alive)
        self._dirty = False
        return True

    def close(self) -> None:
        """Let go of the files; unsaved changes are dropped."""
        self._saved = np.empty((0, self.dim), np.float32)
        self._entries, self._row, self._added, self._dead = [], {}, [], set()
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def __enter__(self) -> FlatIndex:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def check_destination(folder: Path) -> None:
    """Refuse, before any work, a place where an index cannot be made.

    Raises:
        CollectionError: it is a file, or a folder with other contents.
    """
    if folder.exists() and not folder.is_dir():
        raise CollectionError(f"{folder} is a file, not an index folder", hint="choose another --index")
    if folder.is_dir() and not (folder / store.HEADER).exists():
        # What a first save leaves behind when the power goes is no reason to refuse the next one.
        ours = ("lock", f".{store.HEADER}.partial", "vectors-1.npy", "items-1.jsonl")
        others = [path.name for path in folder.iterdir() if path.name not in ours]
        if others:
            raise CollectionError(
                f"{folder} is not empty and not an index (it has {sorted(others)[0]!r})",
                hint="choose a new folder for --index",
            )
