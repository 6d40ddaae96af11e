"""Items to rows: every modality in batches of its own, the results in the order of the items, memory bounded."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TYPE_CHECKING

from slimbind.bulk.items import Item, Row

if TYPE_CHECKING:
    from slimbind.runtime.model import Model


_WINDOW = 256  # items read ahead; many, so that each modality of a mixed folder still fills its batches


def embed_items(model: Model, items: Iterable[Item], *, batch_size: int | None = None) -> Iterator[Row]:
    """Embed items of any modalities; yields one row per item, in order.

    Holds 256 items (and what the encoder looks ahead) at a time, so a million files need no more memory than a
    thousand.

    Args:
        model: what embeds; only the towers of modalities that occur are opened.
        items: what to embed; bad items pass through as failed rows.
        batch_size: most items per forward pass (default: the encoder's).

    Raises:
        EngineError: a tower cannot be opened (a bad item is a row with an error instead).
    """
    source = iter(items)
    while window := list(islice(source, _WINDOW)):
        rows: dict[int, Row] = {
            position: Row(item, error=item.error) for position, item in enumerate(window) if item.error is not None
        }
        modalities = dict.fromkeys(item.modality for item in window if item.error is None)
        for modality in modalities:
            at = [n for n, item in enumerate(window) if item.error is None and item.modality == modality]
            told = model.stream([window[n].source for n in at], modality, batch_size=batch_size)
            for position, one in zip(at, told, strict=True):
                rows[position] = Row(window[position], one.vector, one.error)
        yield from (rows[position] for position in range(len(window)))
