"""Items in, unit vectors out: preprocessing and forward passes on a model's cores, results in order."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, wait
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from io import BufferedIOBase, RawIOBase
from itertools import chain, islice
from os import PathLike
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from slimbind.artifact import TowerEntry
from slimbind.errors import EngineError, ItemsError, MediaError, SlimbindError, UsageError
from slimbind.media.spec import TextSpec
from slimbind.runtime.batches import Array, Batch, batches, join_views, views_of
from slimbind.runtime.crew import Crew
from slimbind.runtime.engine import INPUT, Session
from slimbind.runtime.forks import renew_after_fork
from slimbind.runtime.layout import LARGE, Layout, rows_of_pass

if TYPE_CHECKING:
    from slimbind.media import Preprocessor

TEXT_BATCH = 32
BATCH = 8
# A large tower is busy with fewer; each further size of a batch, and its activations, would take memory for nothing.
BATCH_OF_LARGE = 4
# So many items are begun before it is known how large they are once prepared.
_FEW = 4
# Texts are gathered over several batches, so that each can hold like lengths.
_TEXT_WINDOW = 4
# Prepared items that wait for the tower hold at most about this much. A video of 15 views is 9 MB.
_WAITING_BYTES = 128 << 20
# Things that can be iterated over but are one item, or none.
_SINGLE = (str, bytes, bytearray, memoryview, PathLike, np.ndarray, dict, RawIOBase, BufferedIOBase)


@dataclass(frozen=True)
class Embedded:
    """The outcome for one item: its position, and either its unit vector ``[dim]`` float32 or the reason why not."""

    index: int
    vector: NDArray[np.float32] | None
    error: SlimbindError | None = None


@dataclass(eq=False)
class Timings:
    """Seconds spent since the encoder was made: ``pre`` (summed over threads), ``forward`` (over callers), ``post``."""

    pre: float = 0.0
    forward: float = 0.0
    post: float = 0.0
    items: int = 0
    views: int = 0
    _lock: Lock = field(default_factory=Lock, repr=False)

    def __post_init__(self) -> None:
        renew_after_fork(self)

    def add(self, **amounts: float) -> None:
        """Add to the fields named."""
        with self._lock:
            for name, amount in amounts.items():
                setattr(self, name, getattr(self, name) + amount)

    def after_fork(self) -> None:
        """See ``forks``."""
        self._lock = Lock()


@dataclass(frozen=True)
class _Prepared:
    """An item after preprocessing, or the reason why there is nothing."""

    index: int
    array: Array | None
    error: SlimbindError | None = None


def batch_size_of(entry: TowerEntry) -> int:
    """How many views go through a tower at once where nobody says: 32 texts, 8 of all else, 4 by large weights."""
    if isinstance(entry.preprocess, TextSpec):
        return TEXT_BATCH
    return BATCH_OF_LARGE if max(file.bytes for file in entry.files) >= LARGE else BATCH


class Encoder:
    """A tower with its preprocessing. Made by ``Model.encoder``; the tower is opened when the first item is there.

    Safe to share between threads. Whoever calls beside one, one's vectors are the same bit for bit.

    Attributes: ``modality``; ``id``, which changes when and only when the vectors may; ``dim``; ``layout``, how it uses
    the cores; ``timings``.
    """

    def __init__(
        self,
        modality: str,
        entry: TowerEntry,
        dim: int,
        *,
        lease: Callable[[], AbstractContextManager[Session]],
        preprocessor: Callable[[], Preprocessor],
        crew: Crew,
        layout: Layout,
    ) -> None:
        self.modality = modality
        self.id = entry.encoder_id
        self.dim = dim
        self.layout = layout
        self.timings = Timings()
        self._spec = entry.preprocess
        self._lease = lease
        self._preprocessor = preprocessor
        self._crew = crew
        self._batch = batch_size_of(entry)

    @property
    def batch_size(self) -> int:
        """How many views go through the tower at once where nobody says."""
        return self._batch

    def embed(self, items: Iterable[Any], *, batch_size: int | None = None) -> NDArray[np.float32]:
        """Embed all items; ``[n, dim]`` float32 unit vectors in their order.

        Raises:
            ItemsError: some items are bad; it carries the vectors of the others.
            ArtifactCorruptError, EngineError: the tower cannot be opened.
        """
        vectors: list[NDArray[np.float32]] = []
        indices: list[int] = []
        errors: dict[int, SlimbindError] = {}
        for done in self.stream(items, batch_size=batch_size):
            if done.vector is None:
                errors[done.index] = done.error or EngineError("no vector was made")
            else:
                vectors.append(done.vector)
                indices.append(done.index)
        joined = np.stack(vectors) if vectors else np.zeros((0, self.dim), dtype=np.float32)
        if errors:
            raise ItemsError(errors, vectors=joined, indices=indices)
        return joined

    def stream(self, items: Iterable[Any], *, batch_size: int | None = None) -> Iterator[Embedded]:
        """Embed items as they come, lazily and in order, with a bounded look-ahead. A bad item yields its error.

        Args:
            items: what this modality takes (see ``slimbind.modalities``); an endless iterator is fine.
            batch_size: most views that go through the tower at once; by default 32 for texts, 8 for
                all else, and 4 where the weights are large (64 MiB and more).
        """
        if isinstance(items, _SINGLE) or not isinstance(items, Iterable):
            raise UsageError(
                f"items is one {type(items).__name__}", hint="give a list of items, if only of one: [item]"
            )
        if batch_size is not None and (
            isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1
        ):
            raise UsageError(f"batch_size is {batch_size!r}", hint="give 1 or more, or leave it out")
        return self._stream(items, batch_size or self._batch)

    def _stream(self, items: Iterable[Any], size: int) -> Iterator[Embedded]:
        is_text = isinstance(self._spec, TextSpec)
        self._preprocessor()  # a damaged artifact is the model's error, not every item's
        # A batch for every stream, at least.
        together = size * (max(_TEXT_WINDOW, self.layout.streams) if is_text else self.layout.streams)
        prepared = self._prepare_all(items, ahead=2 * together)
        try:
            while window := list(_window(prepared, together)):
                # The tower is let go before anything is yielded: whoever consumes this may need room for another tower.
                yield from self._embed_window(window, size)
        finally:
            prepared.close()

    def _prepare_all(self, items: Iterable[Any], *, ahead: int) -> Generator[_Prepared, None, None]:
        source: Iterator[tuple[int, Any]] = enumerate(items)
        few = min(_FEW, self._crew.size)
        first = list(islice(source, few))
        if len(first) <= 1 or few == 1:  # another thread would have nothing to do meanwhile
            for index, item in chain(first, source):
                yield self._prepare(index, item)
            return
        source = chain(first, source)
        pending: deque[Future[_Prepared]] = deque()
        largest = 0
        try:
            while True:
                # Until the size of an item is known, only a few are begun.
                limit = few if not largest else max(few, min(ahead, _WAITING_BYTES // largest))
                for index, item in islice(source, max(0, limit - len(pending))):
                    pending.append(self._crew.decode(self._prepare, index, item))
                if not pending:
                    return
                done = pending.popleft().result()
                largest = max(largest, 1 if done.array is None else done.array.nbytes)
                yield done
        finally:
            for future in pending:
                future.cancel()

    def _prepare(self, index: int, item: Any) -> _Prepared:  # noqa: ANN401  (each modality takes its own kinds)
        with self._crew.cores.taken():
            return self._prepared(index, item)

    def _prepared(self, index: int, item: Any) -> _Prepared:  # noqa: ANN401
        started = time.perf_counter()
        try:
            return _Prepared(index, self._preprocessor()(item))
        except SlimbindError as error:
            return _Prepared(index, None, error)
        except Exception as error:  # a decoder's surprise must not stop the items after it
            name = item if isinstance(item, str | PathLike) and self.modality != "text" else f"item {index}"
            return _Prepared(index, None, MediaError(str(name), f"{type(error).__name__}: {error}"))
        finally:
            self.timings.add(pre=time.perf_counter() - started)

    def _embed_window(self, window: list[_Prepared], size: int) -> list[Embedded]:
        errors = {item.index: item.error for item in window if item.error is not None}
        found: dict[int, list[NDArray[np.float32]]] = {}
        good = [(item.index, item.array) for item in window if item.array is not None]
        if good:
            with self._lease() as session:
                started = time.perf_counter()
                rows = 0
                for done in self._forward(session, self._batches(good, session.rank, size, errors), errors):
                    rows += len(done)
                    for position, vector in done:
                        found.setdefault(position, []).append(vector)
                self.timings.add(forward=time.perf_counter() - started, views=rows)
        started = time.perf_counter()
        results = [self._finish(item.index, found, errors) for item in window]
        self.timings.add(post=time.perf_counter() - started, items=len(window))
        return results

    def _batches(
        self, good: list[tuple[int, Array]], rank: int, size: int, errors: dict[int, SlimbindError]
    ) -> Iterator[Batch]:
        text = self._spec if isinstance(self._spec, TextSpec) else None
        fitting = []
        for index, array in good:
            try:
                fitting.append((index, views_of(array, rank=rank, is_text=text is not None)))
            except EngineError as error:
                errors[index] = error
        size = rows_of_pass(sum(len(views) for _, views in fitting), size, self.layout.streams)
        yield from batches(
            fitting, size=size, pad_id=text.pad_id if text else None, context=text.context if text else 0
        )

    def _forward(
        self, session: Session, todo: Iterator[Batch], errors: dict[int, SlimbindError]
    ) -> Iterator[list[tuple[int, NDArray[np.float32]]]]:
        """Run batches, as many at a time as there are streams; their rows, batch by batch in order."""
        first = list(islice(todo, 2 if self.layout.streams > 1 else 0))
        if len(first) < 2:  # this thread can do it
            for batch in chain(first, todo):
                yield self._run(session, batch, errors)
            return
        running: deque[Future[list[tuple[int, NDArray[np.float32]]]]] = deque()
        try:
            for batch in chain(first, todo):
                running.append(self._crew.forward(self._run, session, batch, errors))
                if len(running) > self.layout.streams:  # one more, so that none waits for this thread
                    done = running[0].result()  # it counts as running until it is known to be done
                    running.popleft()
                    yield done
            while running:
                done = running[0].result()
                running.popleft()
                yield done
        finally:  # the tower is not let go before all are done with it
            for future in running:
                future.cancel()
            wait(running)

    def _run(
        self, session: Session, batch: Batch, errors: dict[int, SlimbindError]
    ) -> list[tuple[int, NDArray[np.float32]]]:
        try:
            with self._crew.cores.taken(self.layout.threads, for_pass=True):
                return list(zip(batch.owners, session.run({INPUT: batch.array}), strict=True))
        except EngineError as error:
            if len(batch.owners) == 1:
                errors[batch.owners[0]] = error
                return []
        # One row may have brought down the others: each gets its own chance.
        alone = [Batch(batch.array[row : row + 1], (owner,)) for row, owner in enumerate(batch.owners)]
        return [row for one in alone for row in self._run(session, one, errors)]

    def _finish(
        self, index: int, found: dict[int, list[NDArray[np.float32]]], errors: dict[int, SlimbindError]
    ) -> Embedded:
        if index in errors:
            return Embedded(index, None, errors[index])
        try:
            return Embedded(index, join_views(found[index]))
        except EngineError as error:
            return Embedded(index, None, error)


def _window(prepared: Iterator[_Prepared], most: int) -> Iterator[_Prepared]:
    """The next items that are embedded together: at most ``most``, and not more than fit the waiting room."""
    held = 0
    for item in islice(prepared, most):
        yield item
        held += 0 if item.array is None else item.array.nbytes
        if held >= _WAITING_BYTES:
            return
