"""Items to rows: every modality in batches of its own, the results in the order of the items, memory bounded."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING

from slimbind.bulk.items import Item, Row

if TYPE_CHECKING:
    from slimbind.runtime.model import Model


_WINDOW = 256  # items read ahead; many, so that each modality of a mixed folder still fills its batches


def embed_items(
    model: Model,
    items: Iterable[Item],
    *,
    batch_size: int | None = None,
    on_done: Callable[[], object] = lambda: None,
) -> Iterator[Row]:
    """Embed items of any modalities; yields one row per item, in order.

    Holds 256 items (and what the encoder looks ahead) at a time, so a million files need no more memory than a
    thousand. Among them, one modality is finished before the next begins: towers that do not fit into memory together
    are not opened in turns for every batch.

    Args:
        model: what embeds; only the towers of modalities that occur are opened.
        items: what to embed; bad items pass through as failed rows.
        batch_size: most items per forward pass (default: the encoder's).
        on_done: called as each item is done, which in a mixed folder is not the order of the rows.

    Raises:
        EngineError: a tower cannot be opened (a bad item is a row with an error instead).
    """
    source = iter(items)
    while window := list(islice(source, _WINDOW)):
        ready: dict[int, Row] = {}
        places: dict[str, list[int]] = {}
        for position, item in enumerate(window):
            if item.error is None:
                places.setdefault(item.modality, []).append(position)
            else:
                ready[position] = Row(item, error=item.error)
                on_done()
        streams = [_embed(model, window, at, modality, batch_size) for modality, at in places.items()]
        for stream in streams[:-1]:
            for position, row in stream:
                ready[position] = row
                on_done()
        last = streams[-1] if streams else iter(())
        for position in range(len(window)):
            while position not in ready:
                done, row = next(last)
                ready[done] = row
                on_done()
            yield ready.pop(position)


def _embed(
    model: Model, window: Sequence[Item], at: Sequence[int], modality: str, batch_size: int | None
) -> Iterator[tuple[int, Row]]:
    told = model.stream([window[position].source for position in at], modality, batch_size=batch_size)
    for position, one in zip(at, told, strict=True):
        yield position, Row(window[position], one.vector, one.error)
