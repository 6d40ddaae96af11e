"""f32 and f16: the numbers themselves, in 4 or 2 bytes each."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from slimbind.codecs.checks import Vectors
from slimbind.codecs.codec import Codec, Codes, State
from slimbind.errors import UsageError


class PlainCodec(Codec):
    """Little-endian floats. Nothing is learned."""

    @property
    def trained(self) -> bool:
        """Always."""
        return True

    @property
    def _dtype(self) -> np.dtype[np.floating]:
        return np.dtype("<f4" if self.spec.family == "f32" else "<f2")

    def state(self) -> State:
        """Empty."""
        return {}

    def restore(self, state: Mapping[str, NDArray[np.generic]]) -> None:
        """Nothing to take over."""

    def _train(self, vectors: Vectors, queries: Vectors | None) -> None: ...

    def _encode(self, vectors: Vectors) -> Codes:
        if self.spec.family == "f16" and np.abs(vectors).max() > np.finfo(np.float16).max:
            raise UsageError("f16: a number above 65504", hint="normalise the vectors, or use f32")
        return vectors.astype(self._dtype).view(np.uint8).reshape(len(vectors), -1)

    def _decode(self, codes: Codes) -> Vectors:
        return codes.view(self._dtype).astype(np.float32)
