"""Items to rows: every modality in batches of its own, the results in the order of the items, memory bounded."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from slimbind.bulk.items import Item, Row
from slimbind.errors import EngineError, SlimbindError


class Embedded(Protocol):
    """What ``Model.stream`` says about one item."""

    @property
    def index(self) -> int:
        """Its position."""

    @property
    def vector(self) -> NDArray[np.float32] | None:
        """Unit vector ``[dim]``."""

    @property
    def error(self) -> SlimbindError | None:
        """Why there is none."""


class Streams(Protocol):
    """The part of a model that a bulk job needs."""

    def stream(self, items: Iterable[object], modality: str, *, batch_size: int = ...) -> Iterable[Embedded]:
        """Embed lazily, in order."""


def embed_items(model: Streams, items: Iterable[Item], *, batch_size: int = 32) -> Iterator[Row]:
    """Embed items of any modalities; yields one row per item, in order.

    Reads a window of 8 batches ahead and holds no more than that, so mixed folders are batched well and a million
    files need no more memory than a thousand.

    Args:
        model: a ``slimbind.Model``.
        items: what to embed; bad items pass through as failed rows.
        batch_size: items per forward pass.

    Raises:
        EngineError: a tower cannot be opened (a bad item is a row with an error instead).
    """
    source = iter(items)
    while window := list(islice(source, 8 * batch_size)):
        rows: dict[int, Row] = {
            position: Row(item, error=item.error) for position, item in enumerate(window) if item.error is not None
        }
        modalities = dict.fromkeys(item.modality for item in window if item.error is None)
        for modality in modalities:
            at = [n for n, item in enumerate(window) if item.error is None and item.modality == modality]
            told = model.stream([window[n].source for n in at], modality, batch_size=batch_size)
            for position, one in zip(at, told, strict=True):
                rows[position] = _row(window[position], one)
        yield from (rows[position] for position in range(len(window)))


def _row(item: Item, one: Embedded) -> Row:
    if one.vector is not None and not np.isfinite(one.vector).all():
        return Row(item, error=EngineError("its embedding is not finite", hint="try another engine or precision"))
    return Row(item, one.vector, one.error)
