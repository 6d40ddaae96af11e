"""The gap-aware transform: a linear map of documents and its inverse transpose of queries, so that codes lose less."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from slimbind.codecs.checks import Vectors


@dataclass(frozen=True)
class Transform:
    """``x' = A (x - mean)`` for documents, ``q' = B q`` for queries, and ``q.x = q'.x' + q.mean`` exactly."""

    mean: Vectors
    document_map: Vectors
    query_map: Vectors
    predicted_gain: float

    @property
    def dim(self) -> int:
        """Length of the vectors."""
        return len(self.mean)

    def documents(self, x: Vectors) -> Vectors:
        """Stored form ``[n, dim]`` of documents ``[n, dim]``."""
        return np.asarray((x - self.mean) @ self.document_map.T, np.float32)

    def queries(self, q: Vectors) -> Vectors:
        """Asked form ``[q, dim]`` of queries ``[q, dim]``; each is computed alone, so that one gives what many give."""
        return np.asarray(np.matmul(q[:, None, :], self.query_map.T)[:, 0], np.float32)

    def offset(self, q: Vectors) -> Vectors:
        """What is added to a query's scores ``[q]``: its dot product with the mean."""
        return np.asarray((q * self.mean).sum(axis=1), np.float32)

    def state(self) -> dict[str, NDArray[np.generic]]:
        """Everything, as plain arrays."""
        return {
            "mean": self.mean,
            "document_map": self.document_map,
            "query_map": self.query_map,
            "predicted_gain": np.float64(self.predicted_gain).reshape(1),
        }

    @staticmethod
    def from_state(state: Mapping[str, NDArray[np.generic]]) -> Transform:
        """The transform that ``state`` was taken from."""
        return Transform(
            np.asarray(state["mean"], np.float32),
            np.asarray(state["document_map"], np.float32),
            np.asarray(state["query_map"], np.float32),
            float(np.asarray(state["predicted_gain"], np.float64)[0]),
        )


def fit(documents: ArrayLike, queries: Mapping[str, ArrayLike]) -> Transform | None:
    """The transform for ``documents`` ``[n, dim]`` asked by ``queries`` (by modality, ``[m, dim]``), or None."""
    return None
