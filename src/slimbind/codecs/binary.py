"""binary: the sign of every dimension about its mean; the query stays float, or is rounded to 4 bits or to signs."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from slimbind.codecs.checks import Vectors
from slimbind.codecs.codec import Codec, Codes, State
from slimbind.codecs.spec import CodecSpec

_INT4 = 7  # the largest magnitude of a signed 4-bit number that has its opposite


class BinaryCodec(Codec):
    """One bit for each dimension: above or below its mean, decoded as the mean plus or minus its mean deviation.

    ``binary(hamming)`` counts equal signs: its vectors decode to plus or minus ``1 / sqrt(dim)``, and so do queries.
    """

    def __init__(self, spec: CodecSpec) -> None:
        super().__init__(spec)
        self.levels: NDArray[np.float32] | None = None  # [2, dim]: mean and mean deviation

    @property
    def trained(self) -> bool:
        """Whether the means are known."""
        return self.levels is not None

    def state(self) -> State:
        """Mean and mean deviation of each dimension ``[2, dim]``."""
        return {} if self.levels is None else {"levels": self.levels}

    def restore(self, state: Mapping[str, NDArray[np.generic]]) -> None:
        """Take over means and deviations."""
        found = np.ascontiguousarray(state["levels"], np.float32)
        if found.shape != (2, self.dim):
            raise ValueError(f"levels of shape {list(found.shape)}")
        self.levels = found

    def asked(self, queries: Vectors) -> Vectors:
        """Queries ``[q, dim]`` as they are scored: whole multiples of a seventh of the largest (int4), or signs."""
        if self.spec.query == "int4":
            step = np.abs(queries).max(axis=1, keepdims=True) / _INT4
            return np.asarray(np.rint(queries / step) * step, np.float32)
        if self.spec.query == "hamming":
            assert self.levels is not None
            return self._signs(queries > self.levels[0])
        return queries

    def _train(self, vectors: Vectors, queries: Vectors | None) -> None:
        mean = vectors.mean(axis=0)
        self.restore({"levels": np.stack([mean, np.abs(vectors - mean).mean(axis=0)])})

    def _encode(self, vectors: Vectors) -> Codes:
        assert self.levels is not None
        return np.packbits(vectors > self.levels[0], axis=1, bitorder="little")

    def _decode(self, codes: Codes) -> Vectors:
        assert self.levels is not None
        above = np.unpackbits(codes, axis=1, bitorder="little", count=self.dim).astype(np.bool_)
        if self.spec.query == "hamming":
            return self._signs(above)
        mean, deviation = self.levels
        return np.asarray(np.where(above, mean + deviation, mean - deviation), np.float32)

    def _signs(self, above: NDArray[np.bool_]) -> Vectors:
        return np.asarray(np.where(above, 1.0, -1.0) / np.sqrt(self.dim), np.float32)
