"""Dot products of queries with their own candidates, the same for a query alone and in a batch."""

from __future__ import annotations

import numpy as np

from slimbind.codecs.checks import Vectors
from slimbind.codecs.flat import Rows


def scored(
    asked: Vectors, rows: Rows, vectors: Vectors, back: Rows | None = None, lengths: Vectors | None = None
) -> Vectors:
    """Dot products ``[q, n]`` of each query with its own candidates; -inf where a row is -1.

    ``vectors`` ``[m, dim]`` are those of all rows but -1, one query after the other, or are found there by ``back``;
    scores are divided by their ``lengths`` ``[m]``. Each query is computed alone: a product of matrices adds in an
    order that depends on how many queries there are.
    """
    scores = np.full(rows.shape, -np.inf, np.float32)
    start = 0
    for at, query in enumerate(asked):
        valid = rows[at] >= 0
        part = slice(start, start := start + int(valid.sum()))
        if back is None:
            scores[at, valid] = vectors[part] @ query
        else:
            mine = back[part]
            scores[at, valid] = vectors[mine] @ query
            if lengths is not None:
                scores[at, valid] /= lengths[mine]
    return scores
