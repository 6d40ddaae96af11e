"""Items as towers take them, for comparing towers: preprocessed once, embedded by any of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slimbind.artifact import Artifact
from slimbind.errors import MediaError, SlimbindError, UsageError
from slimbind.media import preprocessor, samples
from slimbind.media.ready import names_in, read_npz
from slimbind.media.source import describe
from slimbind.media.spec import TextSpec
from slimbind.modalities import MODALITIES
from slimbind.runtime.batches import Array, Batch, batches, join_views, views_of
from slimbind.runtime.engine import INPUT, Session


@dataclass(frozen=True)
class Inputs:
    """Items of one modality.

    Args:
        arrays: per item, what its preprocessor gives: ``[views, ...]``, for text ids ``[length]``.
        source: what they are, for people.
        failed: items that could not be read, and why.
    """

    arrays: Sequence[Array]
    source: str
    failed: tuple[tuple[str, SlimbindError], ...] = ()

    @property
    def views(self) -> int:
        """How many views they are: the rows that a tower embeds (of a film from frame to frame, at least)."""
        return sum(1 if array.ndim == 1 else len(array) for array in self.arrays)


def gather(
    artifact: Artifact,
    modality: str,
    data: Path | None,
    *,
    most: int,
    alone: bool = False,
    on_done: Callable[[], object] = lambda: None,
) -> Inputs:
    """Find items and preprocess them as ``artifact`` wants them for ``modality``.

    Args:
        artifact: whose preprocessing counts.
        modality: which tower's.
        data: a folder, a ``.txt`` of sentences, a ``.npz`` of preprocessed arrays, or None for what comes with
            slimbind.
        most: so many items are chosen, evenly spread, if there are more.
        alone: no other modality is looked for, so that file types which several share count.
        on_done: called after each item.

    Raises:
        UsageError: there is nothing of the modality, or no item can be read.
    """
    spec = artifact.tower(modality).preprocess
    if data is not None and data.suffix.lower() == ".npz":
        ready = read_npz(data, modality, spec)
        arrays = evenly(ready, most)
        return Inputs(arrays, _source(len(arrays), len(ready), f"arrays of {data.name}"))
    found = samples.shipped(modality) if data is None else samples.from_path(data, modality, alone=alone)
    if not found.items:
        assert data is not None
        info = MODALITIES[modality]
        types = ", ".join(sorted(info.suffixes | info.explicit_suffixes))
        raise UsageError(
            f"{data} holds no {modality}; it holds {samples.contents(data)}",
            hint=f"{modality} reads {types}; types that several modalities share count in a subfolder {modality}/",
        )
    prepare = preprocessor(spec, folder=artifact.folder / modality)
    good: list[Array] = []
    failed: list[tuple[str, SlimbindError]] = []
    chosen = evenly(found.items, most)
    for item in chosen:
        try:
            good.append(prepare(item))
        except SlimbindError as error:
            failed.append((describe(item), error))
        except Exception as error:  # a decoder's surprise is one bad item
            failed.append((describe(item), MediaError(describe(item), f"{type(error).__name__}: {error}")))
        on_done()
    if not good:
        raise UsageError(f"none of {len(failed)} {modality} items can be read; first: {failed[0][1]}")
    return Inputs(good, _source(len(good), len(found.items), found.source), tuple(failed))


def present(data: Path, modalities: Iterable[str]) -> tuple[str, ...]:
    """Those of ``modalities`` that ``data`` (see ``gather``) holds anything of.

    Raises:
        UsageError: none of them.
    """
    wanted = tuple(modalities)
    if data.suffix.lower() == ".npz":
        there = names_in(data)
        found = tuple(name for name in wanted if name in there)
        holds = ", ".join(there) or "nothing"
    else:
        alone = len(wanted) == 1
        found = tuple(name for name in wanted if samples.from_path(data, name, alone=alone).items)
        holds = "" if found else samples.contents(data)
    if not found:
        raise UsageError(
            f"{data} holds nothing of {', '.join(wanted)}; it holds {holds}",
            hint="name files of those modalities, or put them into subfolders called like the modality",
        )
    return found


def batches_of(inputs: Inputs, session: Session, spec: Any, *, size: int) -> Iterator[Batch]:  # noqa: ANN401
    """The items in batches as a session of this rank takes them; ``spec`` is the tower's preprocessing record."""
    text = spec if isinstance(spec, TextSpec) else None
    views = [
        (position, views_of(array, rank=session.rank, is_text=text is not None))
        for position, array in enumerate(inputs.arrays)
    ]
    return batches(views, size=size, pad_id=text.pad_id if text else None, context=text.context if text else 0)


def embed(
    inputs: Inputs,
    session: Session,
    spec: Any,  # noqa: ANN401
    *,
    size: int,
    on_done: Callable[[int], object] = lambda views: None,
) -> NDArray[np.float32]:
    """The unit vectors ``[n, dim]`` of the items, in their order, as ``Encoder.embed`` would give them.

    Args:
        inputs: the items.
        session: an open tower.
        spec: its preprocessing record.
        size: most rows of a batch.
        on_done: told after each batch how many views it had.

    Raises:
        EngineError: the tower fails on an item, or gives a vector that is not finite or zero.
    """
    found: dict[int, list[NDArray[np.float32]]] = {}
    for batch in batches_of(inputs, session, spec, size=size):
        for owner, vector in zip(batch.owners, session.run({INPUT: batch.array}), strict=True):
            found.setdefault(owner, []).append(vector)
        on_done(len(batch.owners))
    session.settle()
    return np.stack([join_views(found[position]) for position in range(len(inputs.arrays))])


def evenly(items: Sequence[Any], most: int) -> list[Any]:
    """At most ``most`` of the items, evenly spread, the same ones every time."""
    if len(items) <= most:
        return list(items)
    return [items[index * len(items) // most] for index in range(most)]


def _source(used: int, there: int, source: str) -> str:
    return source if used == there else f"{source} ({used} of {there})"
