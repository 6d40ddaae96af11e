"""From single items to batches and back: views of equal shape together, texts of like length together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from slimbind.errors import EngineError

Array = NDArray[np.generic]

# Texts are padded to the next of these steps. Every length is a shape that the engine has to prepare for once; every
# padded token is computed for nothing. With four, a sentence of ten tokens wastes less than a quarter.
TEXT_STEP = 4
_TINY = 1e-12


@dataclass(frozen=True)
class Batch:
    """``array`` ``[n, ...]``, and for each of its rows the position of the item it belongs to."""

    array: Array
    owners: tuple[int, ...]


def views_of(array: Array, *, rank: int, is_text: bool) -> Array:
    """An item as its preprocessor gives it -> its views ``[views, ...]`` as a tower of input rank ``rank`` takes them.

    Towers of rank 5 know time: a still image ``[1, 3, H, W]`` becomes a film of one frame. Towers of rank 4 do not:
    every frame of a video ``[views, 3, T, H, W]`` becomes a view of its own.

    Raises:
        EngineError: the array does not fit the tower.
    """
    if is_text:
        array = array[None] if array.ndim == 1 else array
    elif array.ndim == 4 and rank == 5:
        array = array[:, :, None]
    elif array.ndim == 5 and rank == 4:
        array = np.moveaxis(array, 2, 1).reshape(-1, array.shape[1], *array.shape[3:])
    if array.ndim != rank or array.size == 0:
        raise EngineError(
            f"preprocessing gave an array of shape {list(array.shape)}; the tower takes {rank} axes",
            hint="the artifact's preprocessing does not belong to its tower",
        )
    return array


def batches(items: Sequence[tuple[int, Array]], *, size: int, pad_id: int | None, context: int = 0) -> Iterator[Batch]:
    """Group the views of many items into batches of at most ``size`` rows of equal shape.

    Args:
        items: (position, views ``[views, ...]``).
        size: most rows of a batch.
        pad_id: for token ids ``[1, length]``: what shorter ones are filled up with; None for all else.
        context: most tokens of a text.
    """
    groups: dict[tuple[int, ...], list[tuple[int, Array]]] = {}
    for position, views in items:
        for view in views:
            shape = view.shape
            if pad_id is not None:
                shape = (max(len(view), min(-(-len(view) // TEXT_STEP) * TEXT_STEP, context)),)
            groups.setdefault(shape, []).append((position, view))
    for shape, rows in sorted(groups.items()):
        for start in range(0, len(rows), size):
            chosen = rows[start : start + size]
            if pad_id is None:
                array = np.stack([view for _, view in chosen])
            else:
                array = np.full((len(chosen), *shape), pad_id, dtype=np.int32)
                for row, (_, ids) in enumerate(chosen):
                    array[row, : len(ids)] = ids
            yield Batch(array, tuple(position for position, _ in chosen))


def join_views(vectors: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    """The unit embeddings of an item's views -> one unit vector ``[dim]``: their mean, normalised again.

    Raises:
        EngineError: the result is not finite, or has no direction.
    """
    total = np.mean(np.asarray(vectors, dtype=np.float64), axis=0)
    length = float(np.linalg.norm(total))
    if not np.isfinite(length):
        raise EngineError("the embedding is not finite (NaN or infinity)", hint="check this item for extreme values")
    if length < _TINY:
        raise EngineError(
            "the embedding is a zero vector, which has no direction", hint="check that this item is not empty"
        )
    unit: NDArray[np.float32] = (total / length).astype(np.float32)
    return unit
