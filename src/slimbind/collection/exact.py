"""Exact search: every vector is compared, chunk by chunk, and the best k are kept."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray


def best(
    chunks: Iterable[tuple[NDArray[np.float32], NDArray[np.bool_] | None]], query: NDArray[np.float32], k: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Rows and scores of the ``k`` highest dot products, best first, ties by row.

    Args:
        chunks: pairs of vectors ``[any, dim]`` and a mask ``[any]`` of the rows that count (None: all), in order.
        query: ``[dim]``.
        k: how many; fewer come back where there are fewer rows.
    """
    rows = np.empty(0, np.int64)
    scores = np.empty(0, np.float32)
    start = 0
    for vectors, mask in chunks:
        here = np.asarray(vectors @ query, np.float32)
        index = np.arange(len(here)) if mask is None else np.flatnonzero(mask)
        rows = np.concatenate([rows, index + start])
        scores = np.concatenate([scores, here[index]])
        start += len(here)
        if len(scores) > k:
            rows, scores = _cut(rows, scores, k)
    order = np.lexsort((rows, -scores))
    return rows[order], scores[order]


def _cut(rows: NDArray[np.int64], scores: NDArray[np.float32], k: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    border = scores[np.argpartition(-scores, k - 1)[k - 1]]
    above = np.flatnonzero(scores > border)
    # argpartition picks any of the ties at the border; the lowest rows are taken, so that answers are repeatable.
    level = np.flatnonzero(scores == border)
    level = level[np.argsort(rows[level], kind="stable")][: k - len(above)]
    keep = np.concatenate([above, level])
    return rows[keep], scores[keep]
