"""Exact search: every vector is compared, chunk by chunk, and the best k are kept."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_ROWS = 16384  # vectors compared at once
_QUERIES = 256  # queries compared with them at once: 16 MB of scores


def best(
    queries: NDArray[np.float32],
    rows: NDArray[np.float32],
    keys: NDArray[np.int64],
    mask: NDArray[np.bool_] | None,
    k: int,
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Scores and keys ``[q, k]`` of the highest dot products, best first, ties by key; -inf and -1 where none is left.

    Args:
        queries: ``[q, dim]``.
        rows: ``[n, dim]``.
        keys: of the rows, ``[n]``.
        mask: ``[n]``, which rows count; None: all.
        k: how many for each query.
    """
    scores = np.full((len(queries), k), -np.inf, np.float32)
    found = np.full((len(queries), k), -1, np.int64)
    for first in range(0, len(queries), _QUERIES):
        asked = queries[first : first + _QUERIES]
        kept: list[tuple[NDArray[np.float32], NDArray[np.int64]]] = [
            (np.empty(0, np.float32), np.empty(0, np.int64)) for _ in asked
        ]
        for start in range(0, len(rows), _ROWS):
            chunk = slice(start, start + _ROWS)
            here, names = rows[chunk], keys[chunk]
            if mask is not None:
                count = mask[chunk]
                here, names = here[count], names[count]
            for number, told in enumerate(asked @ here.T):
                old = kept[number]
                kept[number] = top(np.concatenate([old[0], told]), np.concatenate([old[1], names]), k)
        for number, (values, names) in enumerate(kept, first):
            scores[number, : len(values)] = values
            found[number, : len(names)] = names
    return scores, found


def top(scores: NDArray[np.float32], keys: NDArray[np.int64], k: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The ``k`` highest of ``scores`` ``[n]`` with their ``keys`` ``[n]``, best first, ties by key."""
    if len(scores) > k:
        border = scores[np.argpartition(-scores, k - 1)[k - 1]]
        above = np.flatnonzero(scores > border)
        # argpartition picks any of the ties at the border; the lowest keys are taken, so that answers are repeatable.
        level = np.flatnonzero(scores == border)
        level = level[np.argsort(keys[level], kind="stable")][: k - len(above)]
        keep = np.concatenate([above, level])
        scores, keys = scores[keep], keys[keep]
    order = np.lexsort((keys, -scores))
    return scores[order], keys[order]
