"""CodeIndex: keys and compressed vectors in memory, searched by dot product; derived, and rebuilt at any time."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from slimbind.codecs import checks
from slimbind.codecs.checks import Vectors
from slimbind.codecs.spec import CodecSpec, parse
from slimbind.codecs.transform import Transform

Keys = NDArray[np.int64]
Fetch = Callable[[Keys], Vectors]
Kind = Literal["auto", "flat", "ivf"]


class CodeIndex:
    """A search structure over (key, vector) pairs. Made by ``build`` or ``load``."""

    def __init__(self, spec: CodecSpec, transform: Transform | None, kind: Kind) -> None:
        self.spec, self.dim, self.transform, self.kind = spec, spec.dim, transform, kind
        self._keys = np.empty(0, np.int64)
        self._vectors = np.empty((0, spec.dim), np.float32)

    @classmethod
    def build(
        cls, spec: CodecSpec | str, dim: int, *, transform: Transform | None = None, kind: Kind = "auto"
    ) -> CodeIndex:
        """An empty index."""
        return cls(parse(spec, dim) if isinstance(spec, str) else spec, transform, kind)

    def train(self, vectors: ArrayLike, queries: ArrayLike | None = None) -> None:
        """Learn from originals ``[n, dim]``."""

    def add(self, keys: ArrayLike, vectors: ArrayLike) -> None:
        """Add originals ``[n, dim]`` under ``keys`` ``[n]``; a key that is there is replaced."""
        added = checks.unit(checks.vectors(vectors, self.dim))
        names = checks.keys(keys, len(added))
        self.remove(names)
        self._keys = np.concatenate([self._keys, names])
        self._vectors = np.concatenate([self._vectors, added])

    def remove(self, keys: ArrayLike) -> int:
        """Remove ``keys``; returns how many were there."""
        stay = ~np.isin(self._keys, checks.keys(keys))
        self._keys, self._vectors = self._keys[stay], self._vectors[stay]
        return int((~stay).sum())

    def __len__(self) -> int:
        return len(self._keys)

    def search(
        self,
        queries: ArrayLike,
        k: int,
        *,
        oversample: float | None = None,
        allowed: ArrayLike | None = None,
        fetch: Fetch | None = None,
    ) -> tuple[Vectors, Keys]:
        """Scores ``[q, k]`` and keys ``[q, k]``, best first; -1 (and -inf) where there are fewer."""
        asked = checks.unit(checks.vectors(queries, self.dim, what="queries"))
        rows = np.arange(len(self._keys))
        if allowed is not None:
            rows = np.flatnonzero(np.isin(self._keys, checks.keys(allowed)))
        keys = np.full((len(asked), k), -1, np.int64)
        scores = np.full((len(asked), k), -np.inf, np.float32)
        for at, query in enumerate(asked):
            here = self._vectors[rows] @ query
            best = np.lexsort((self._keys[rows], -here))[:k]
            keys[at, : len(best)], scores[at, : len(best)] = self._keys[rows[best]], here[best]
        return scores, keys

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the index as one file, atomically."""
        raise NotImplementedError

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> CodeIndex:
        """Read what ``save`` wrote."""
        raise NotImplementedError
