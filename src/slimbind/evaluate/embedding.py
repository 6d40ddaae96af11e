"""Samples of a data set to embeddings: streamed, with progress, bad items set aside and named."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from slimbind.datasets import Dataset, Sample
from slimbind.errors import SlimbindError, UsageError
from slimbind.runtime.model import Model

Vectors = NDArray[np.float32]
Failed = tuple[tuple[str, str], ...]


class Progress(Protocol):
    """Shows how far a piece of work is: ``with progress("embedding", total=100) as advance: advance(1)``."""

    def __call__(self, label: str, *, total: float | None) -> AbstractContextManager[Callable[[float], object]]:
        """Begin a piece of ``total`` items; None where nobody knows."""


def silent(label: str, *, total: float | None) -> AbstractContextManager[Callable[[float], object]]:
    """No progress is shown."""
    return nullcontext(lambda amount: None)


class Steps:
    """Progress of one piece of work after the other, for functions that tell when each begins and how far it is.

    Args:
        progress: shows each of them.
    """

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._stack = ExitStack()
        self._advance: Callable[[float], object] = lambda amount: None

    def begin(self, label: str, total: float | None) -> None:
        """Begin a piece; the one before it, if any, has ended."""
        self.end()
        self._advance = self._stack.enter_context(self._progress(label, total=total))

    def advance(self, amount: float = 1) -> None:
        """So much more of the piece is done."""
        self._advance(amount)

    def end(self) -> None:
        """No piece is under way, so that messages may be shown."""
        self._stack.close()

    def __enter__(self) -> Steps:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()


@dataclass(frozen=True)
class Embeddings:
    """What could be embedded.

    Args:
        vectors: unit vectors ``[n, dim]``, in the order of the items.
        places: of each vector, the position of its item among those given ``[n]``.
        failed: the other items, and why.
    """

    vectors: Vectors
    places: NDArray[np.int64]
    failed: Failed


def embed(
    model: Model,
    items: Iterable[tuple[str, Any]],
    modality: str,
    *,
    total: int | None,
    label: str = "",
    batch_size: int | None = None,
    progress: Progress = silent,
) -> Embeddings:
    """Embed items, each with the name that messages have for it.

    Args:
        model: what embeds.
        items: names and items; read as the encoder gets to them.
        modality: theirs.
        total: how many, for the progress.
        label: what the progress is called.
        batch_size: most views in a forward pass.
        progress: shows it.

    Raises:
        UsageError: no item can be embedded, or the model lacks the modality.
        ArtifactCorruptError, EngineError: the tower cannot be opened.
    """
    names: dict[int, str] = {}  # of the items that are on their way

    def sources() -> Iterator[Any]:
        for place, (name, item) in enumerate(items):
            names[place] = name
            yield item

    vectors: list[Vectors] = []
    places: list[int] = []
    failed: list[tuple[str, str]] = []
    with progress(label or f"embedding {modality}", total=total) as advance:
        for done in model.stream(sources(), modality, batch_size=batch_size):
            name = names.pop(done.index)
            if done.vector is None:
                failed.append((name, reason(done.error)))
            else:
                vectors.append(done.vector)
                places.append(done.index)
            advance(1)
    if not vectors:
        first = f"; first: {failed[0][0]}: {failed[0][1]}" if failed else ""
        raise UsageError(f"none of {len(failed)} {modality} items could be embedded{first}", hint="check the data")
    return Embeddings(np.stack(vectors), np.array(places, np.int64), tuple(failed))


def reason(error: SlimbindError | None) -> str:
    """Why an item failed, in one line without its name."""
    if error is None:
        return "no vector was made"
    return str(getattr(error, "reason", error.message))


def spread(data: Dataset, most: int | None) -> tuple[Iterable[Sample], int | None]:
    """At most so many samples, evenly spread over the data, the same ones every time; and how many they are.

    Raises:
        UsageError: ``most`` is below 1.
    """
    if most is None:
        return data, data.count
    if isinstance(most, bool) or not isinstance(most, int) or most < 1:
        raise UsageError(f"samples is {most!r}", hint="give a whole number of 1 or more")
    count = data.count if data.count is not None else sum(1 for _ in data)
    if count <= most:
        return data, count
    chosen = {number * count // most for number in range(most)}
    return (sample for place, sample in enumerate(data) if place in chosen), most


@dataclass(frozen=True)
class Labelled:
    """Embeddings with their classes.

    Args:
        vectors: unit vectors ``[n, dim]``.
        labels: class numbers ``[n]``.
        places: of each, the position of its item among those of the data that have a class ``[n]``.
        failed: items that could not be read, and why.
    """

    vectors: Vectors
    labels: NDArray[np.int64]
    places: NDArray[np.int64]
    failed: Failed = ()

    def only(self, mask: NDArray[np.bool_]) -> Labelled:
        """A part of them ``[n]``; what failed stays with neither part."""
        return Labelled(self.vectors[mask], self.labels[mask], self.places[mask])


def embed_labelled(
    model: Model,
    data: Dataset,
    *,
    samples: int | None = None,
    label: str = "",
    batch_size: int | None = None,
    progress: Progress = silent,
) -> Labelled:
    """Embed a data set that has classes.

    Args:
        model: what embeds.
        data: with ``classes``.
        samples: most of them, evenly spread.
        label: what the progress is called.
        batch_size: most views in a forward pass.
        progress: shows it.

    Raises:
        UsageError: it has no classes, or no item can be embedded.
        ArtifactCorruptError, EngineError: the tower cannot be opened.
    """
    check_classes(data, least=1)
    labels: list[int] = []
    unlabelled: list[tuple[str, str]] = []
    chosen, total = spread(data, samples)

    def items() -> Iterator[tuple[str, Any]]:
        for sample in chosen:
            if sample.label is None:
                unlabelled.append((sample.id, "has no class"))
            else:
                labels.append(sample.label)
                yield sample.id, sample.data

    found = embed(
        model, items(), data.modalities[0], total=total, label=label, batch_size=batch_size, progress=progress
    )
    failed = (*data.skipped, *unlabelled, *found.failed)
    return Labelled(found.vectors, np.array(labels, np.int64)[found.places], found.places, tuple(failed))


def check_classes(data: Dataset, *, least: int = 2) -> list[str]:
    """The classes of the data.

    Raises:
        UsageError: it has none, or fewer than ``least``.
    """
    if not data.classes:
        raise UsageError(
            f"{data.path} has no classes", hint="put the files into a folder for each class, called like the class"
        )
    if len(data.classes) < least:
        raise UsageError(f"{data.path} has a single class, {data.classes[0]!r}", hint="two at least can be told apart")
    return data.classes
