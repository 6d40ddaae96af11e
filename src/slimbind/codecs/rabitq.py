"""rabitq1 to rabitq4: the sign of every dimension of the turned vector, B - 1 more bits, and a scale for each vector.

RaBitQ: Gao and Long, SIGMOD 2024; with more bits: Gao, Gou, Xu, Yang, Long, Wong, SIGMOD 2025. The scale makes the
estimated dot product right on average over all rotations, so decoded vectors are a little longer than the original.

faiss decodes every number of bits as if it were one, without the scale that its search uses. Decoding is therefore done
here, from the layout of its codes. It subtracts the mean here too: in faiss a centre adds a number to each score that
no decoded vector could account for.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slimbind.codecs.checks import Vectors
from slimbind.codecs.codec import Codec, Codes, State
from slimbind.codecs.spec import CodecSpec

QUERY_BITS = 8  # for each number of a query while codes are scanned: the error is far below that of the codes

_SEED = 20_240_527


class RaBitQCodec(Codec):
    """Signs and further bits of ``rotation (x - mean)``."""

    def __init__(self, spec: CodecSpec) -> None:
        super().__init__(spec)
        import faiss

        # The metric is the inner product: the stored scale depends on it.
        make: Any = faiss.RaBitQuantizer
        self.quantizer = make(self.dim, faiss.METRIC_INNER_PRODUCT, spec.bits)
        self._zero = np.zeros(self.dim, np.float32)
        self.mean: NDArray[np.float32] | None = None
        self.rotation: NDArray[np.float32] | None = None

    @property
    def trained(self) -> bool:
        """Whether the mean is known."""
        return self.mean is not None

    def state(self) -> State:
        """The mean ``[dim]`` and the rotation ``[dim, dim]``."""
        if self.mean is None or self.rotation is None:
            return {}
        return {"mean": self.mean, "rotation": self.rotation}

    def restore(self, state: Mapping[str, NDArray[np.generic]]) -> None:
        """Take over mean and rotation."""
        mean = np.ascontiguousarray(state["mean"], np.float32)
        rotation = np.ascontiguousarray(state["rotation"], np.float32)
        if mean.shape != (self.dim,) or rotation.shape != (self.dim, self.dim):
            raise ValueError(f"a mean of shape {list(mean.shape)} and a rotation of shape {list(rotation.shape)}")
        self.mean, self.rotation = mean, rotation

    def _train(self, vectors: Vectors, queries: Vectors | None) -> None:
        self.restore({"mean": vectors.mean(axis=0), "rotation": rotation(self.dim, _SEED)})

    def turned(self, vectors: Vectors) -> Vectors:
        """Vectors ``[n, dim]`` in the turned space (the mean is not subtracted)."""
        assert self.rotation is not None
        return np.asarray(vectors @ self.rotation.T, np.float32)

    def encoded_from(self, vectors: Vectors) -> Vectors:
        """What the signs are taken of: vectors ``[n, dim]`` without the mean, turned."""
        assert self.mean is not None
        return np.ascontiguousarray(self.turned(vectors - self.mean))

    def _encode(self, vectors: Vectors) -> Codes:
        import faiss

        centred = self.encoded_from(vectors)
        codes = np.zeros((len(vectors), self.bytes_per_vector), np.uint8)
        self.quantizer.compute_codes_core(
            faiss.swig_ptr(centred), faiss.swig_ptr(codes), len(vectors), faiss.swig_ptr(self._zero)
        )
        return codes

    def _decode(self, codes: Codes) -> Vectors:
        assert self.mean is not None and self.rotation is not None
        return np.asarray(self.centred(codes) @ self.rotation + self.mean, np.float32)

    def centred(self, codes: Codes) -> Vectors:
        """What codes stand for in the turned space, without the mean: a whole number and a half, times the scale."""
        dim, bits = self.dim, self.spec.bits
        end = -(-dim // 8)
        sign = np.unpackbits(codes[:, :end], axis=1, bitorder="little", count=dim)
        if bits == 1:
            scale = codes[:, end + 4 : end + 8].copy().view("<f4")
            return np.asarray((2.0 * sign - 1.0) * (scale / np.sqrt(dim)), np.float32)
        more = np.unpackbits(codes[:, end + 12 : -8], axis=1, bitorder="little", count=dim * (bits - 1))
        value = more.reshape(len(codes), dim, bits - 1) @ (1 << np.arange(bits - 1))
        value = value + (sign.astype(np.int64) << (bits - 1))
        scale = codes[:, -4:].copy().view("<f4")
        return np.asarray((value - (2 ** (bits - 1) - 0.5)) * scale, np.float32)


def rotation(dim: int, seed: int) -> NDArray[np.float32]:
    """A random rotation ``[dim, dim]``, the same for the same seed."""
    drawn = np.random.default_rng(seed).standard_normal((dim, dim))
    turn, triangle = np.linalg.qr(drawn)
    return np.asarray(turn * np.sign(np.diag(triangle)), np.float32)
