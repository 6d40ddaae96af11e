"""sq8 and sq4: each dimension rounded to one of 256 or 16 levels over a range that was learned once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slimbind.codecs.checks import Vectors
from slimbind.codecs.codec import Codec, Codes, State
from slimbind.codecs.spec import CodecSpec

_SAMPLE = 20_000  # vectors the ranges are chosen on
_LEANING, _HEAVIEST = 8, 1000.0
_TRIED = 4  # lengths of a vector, of which the best is rounded
# Half-widths tried, in standard deviations. A Gaussian loses least with about 2.7 at 16 levels.
_WIDTHS = (1.8, 2.1, 2.4, 2.7, 3.0, 3.4, 3.8, 4.5)


class ScalarCodec(Codec):
    """Uniform levels per dimension. The range of 8 bits is what was seen; 4 bits cut it where that loses least."""

    def __init__(self, spec: CodecSpec) -> None:
        super().__init__(spec)
        import faiss

        kinds = {8: faiss.ScalarQuantizer.QT_8bit, 4: faiss.ScalarQuantizer.QT_4bit}
        self.quantizer: Any = faiss.ScalarQuantizer(self.dim, kinds[spec.bits])
        self._range: NDArray[np.float32] | None = None  # [2, dim]: the lowest value and the width

    @property
    def trained(self) -> bool:
        """Whether the ranges are there."""
        return self._range is not None

    def state(self) -> State:
        """The ranges ``[2, dim]``: lowest value and width."""
        return {} if self._range is None else {"range": self._range}

    def restore(self, state: Mapping[str, NDArray[np.generic]]) -> None:
        """Take over the ranges."""
        import faiss

        found = np.ascontiguousarray(state["range"], np.float32)
        if found.shape != (2, self.dim):
            raise ValueError(f"ranges of shape {list(found.shape)}")
        faiss.copy_array_to_vector(found.ravel(), self.quantizer.trained)
        self._range = found

    @property
    def levels(self) -> NDArray[np.float32]:
        """The values that each dimension can have, ``[dim, levels]``."""
        assert self._range is not None
        count = 1 << self.spec.bits
        steps = (np.arange(count, dtype=np.float32) + np.float32(0.5)) / np.float32(count - 1)
        return np.asarray(self._range[0][:, None] + self._range[1][:, None] * steps, np.float32)

    def _train(self, vectors: Vectors, queries: Vectors | None) -> None:
        low, high = vectors.min(axis=0), vectors.max(axis=0)
        if self.spec.bits == 4 and len(vectors) >= 32:
            low, high = self._narrowed(leaning(vectors, _SAMPLE), low, high)
        else:
            # A little room for vectors that were not in the sample.
            room = (high - low) * np.float32(0.02)
            low, high = low - room, high + room
        # A dimension that never changes still needs a width to divide by.
        width = np.maximum(high - low, np.maximum(np.abs(high), np.abs(low)) * np.float32(1e-5) + np.float32(1e-12))
        self.restore({"range": np.stack([low, width])})

    def _narrowed(self, sample: Vectors, low: Vectors, high: Vectors) -> tuple[Vectors, Vectors]:
        """The range of each dimension that gives the smallest squared error on the sample."""
        mean, spread = sample.mean(axis=0), sample.std(axis=0)
        best = np.full(self.dim, np.inf, np.float32)
        lows, highs = low.copy(), high.copy()
        steps = (1 << self.spec.bits) - 1
        for width in _WIDTHS:
            a, b = np.maximum(mean - width * spread, low), np.minimum(mean + width * spread, high)
            step = np.maximum(b - a, np.float32(1e-12)) / steps
            rounded = a + step * (np.clip(np.floor((sample - a) / step), 0, steps) + np.float32(0.5))
            error = ((rounded - sample) ** 2).mean(axis=0)
            better = error < best
            lows[better], highs[better], best[better] = a[better], b[better], error[better]
        return lows, highs

    def rounded_from(self, vectors: Vectors) -> Vectors:
        """What is rounded in the place of ``vectors`` ``[n, dim]``: the same a little longer or shorter (``sq4``).

        16 levels cut what lies far out, so that a decoded vector is mostly shorter along the original than that is, and
        each by another part. Its length is therefore chosen so that the decoded vector has the right dot product with
        the original. It costs no byte, and codes that were made without it decode as they did.
        """
        if self.spec.bits != 4:
            return vectors
        wanted = np.einsum("nd,nd->n", vectors, vectors)
        times, best = np.ones(len(vectors), np.float32), np.ones(len(vectors), np.float32)
        least = np.full(len(vectors), np.inf, np.float32)
        for _ in range(_TRIED):
            decoded = self._decode(self.quantizer.compute_codes(vectors * times[:, None]))
            found = np.einsum("nd,nd->n", decoded, vectors)
            # A vector that says next to nothing (the mean itself) stays as it is.
            share = np.divide(found, wanted, out=np.ones_like(wanted), where=(found > 0) & (wanted > 0))
            better = np.abs(share - 1) < least
            best[better], least[better] = times[better], np.abs(share - 1)[better]
            times = np.clip(times / np.clip(share, 0.8, 1.25), 0.5, 2.0)
        return np.asarray(vectors * best[:, None], np.float32)

    def _encode(self, vectors: Vectors) -> Codes:
        codes: Codes = self.quantizer.compute_codes(self.rounded_from(vectors))
        return codes

    def _decode(self, codes: Codes) -> Vectors:
        vectors: Vectors = self.quantizer.decode(codes)
        return vectors


def leaning(vectors: Vectors, count: int) -> Vectors:
    """``count`` rows drawn at random, those far from the mean more often: by the eighth power of their distance.

    What scores highest is what lies far out, and more so after the gap-aware transform. Levels and codebooks that are
    best on average cut exactly those vectors short, and lose them: learned from all alike, 4 bits find 88 % of the ten
    best, learned like this 94 % (``benchmarks/search.py``'s vectors, 10,000 of them).
    """
    length = np.linalg.norm(vectors - vectors.mean(axis=0), axis=1).astype(np.float64)
    if len(vectors) < 32 or not (middle := np.median(length)) > 0:
        return some(vectors, count)
    weight = (length / middle) ** _LEANING
    # A few vectors that lie extremely far out must not be all there is.
    weight = np.minimum(weight, _HEAVIEST)
    drawn = np.random.default_rng(0).choice(len(vectors), min(count, len(vectors)), p=weight / weight.sum())
    return vectors[np.sort(drawn)]


def some(vectors: Vectors, count: int) -> Vectors:
    """At most ``count`` rows, evenly spread."""
    return vectors if len(vectors) <= count else vectors[np.linspace(0, len(vectors) - 1, count).astype(np.int64)]
