"""Exact search: every vector is compared, chunk by chunk, and the best k are kept."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_ROWS = 16384  # vectors compared at once
_ROUGH = 1e-5  # far more than float32 loses in the dot product of two unit vectors
_QUERIES = 256  # queries compared with them at once: 16 MB of scores


def best(
    queries: NDArray[np.float32],
    rows: NDArray[np.float32],
    keys: NDArray[np.int64],
    mask: NDArray[np.bool_] | None,
    k: int,
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Scores and keys ``[q, k]`` of the highest dot products, best first, ties by key; -inf and -1 where none is left.

    A score depends on the two vectors alone, not on what else is compared: a product of matrices, which adds in another
    order for every shape, only finds those that come into question.

    Args:
        queries: ``[q, dim]``.
        rows: ``[n, dim]``, of length 1.
        keys: of the rows, ``[n]``.
        mask: ``[n]``, which rows count; None: all.
        k: how many for each query.
    """
    scores = np.full((len(queries), k), -np.inf, np.float32)
    found = np.full((len(queries), k), -1, np.int64)
    for first in range(0, len(queries), _QUERIES):
        asked = queries[first : first + _QUERIES]
        kept = [(np.empty(0, np.float32), np.empty(0, np.int64)) for _ in asked]  # rough scores, and places of rows
        for start in range(0, len(rows), _ROWS):
            here = rows[start : start + _ROWS]
            places = np.arange(start, start + len(here))
            if mask is not None:
                count = mask[start : start + _ROWS]
                here, places = here[count], places[count]
            for number, told in enumerate(asked @ here.T):
                old = kept[number]
                kept[number] = _candidates(np.concatenate([old[0], told]), np.concatenate([old[1], places]), k)
        for number, (query, (_, places)) in enumerate(zip(asked, kept, strict=True), first):
            values, names = top(_dots(query, rows, places), keys[places], k)
            scores[number, : len(values)] = values
            found[number, : len(names)] = names
    return scores, found


def _candidates(
    scores: NDArray[np.float32], places: NDArray[np.int64], k: int
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """What may be among the ``k`` best, if scores are off by less than half of ``_ROUGH``."""
    if len(scores) <= k:
        return scores, places
    near = scores >= scores[np.argpartition(-scores, k - 1)[k - 1]] - _ROUGH
    return scores[near], places[near]


def _dots(query: NDArray[np.float32], rows: NDArray[np.float32], places: NDArray[np.int64]) -> NDArray[np.float32]:
    """Dot products ``[n]`` of the rows in these places, each added up in the same order whatever the others are."""
    parts = [places[start : start + _ROWS] for start in range(0, len(places), _ROWS)]
    told = [np.einsum("nd,d->n", rows[part], query) for part in parts]
    return np.concatenate(told) if told else np.empty(0, np.float32)


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
