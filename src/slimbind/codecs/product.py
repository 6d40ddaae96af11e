"""pq and opq: the vector cut into parts, each replaced by the nearest of a few learned ones.

Product quantization: Jégou, Douze, Schmid, TPAMI 2011. Turning the vector first so that its parts lose about equally
(OPQ): Ge, He, Ke, Sun, CVPR 2013. Parts of 4 bits laid out for registers (FastScan): André, Kermarrec, Le Scouarnec,
TPAMI 2021.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slimbind.codecs.checks import Vectors
from slimbind.codecs.codec import Codec, Codes, State
from slimbind.codecs.scalar import leaning
from slimbind.codecs.spec import CodecSpec
from slimbind.errors import UsageError

_SAMPLE = 65_536
_TURN_SAMPLE = 10_000  # learning a rotation decomposes a matrix many times over all of its sample


class ProductCodec(Codec):
    """``parts`` codebooks of ``2^bits`` entries."""

    def __init__(self, spec: CodecSpec) -> None:
        super().__init__(spec)
        import faiss

        self.quantizer: Any = faiss.ProductQuantizer(self.dim, spec.parts, spec.bits)
        self.quantizer.cp.min_points_per_centroid = 1  # faiss prints a warning below 39, to standard error
        self._centroids: NDArray[np.float32] | None = None
        self.rotation: NDArray[np.float32] | None = None  # [dim, dim], of opq

    @property
    def trained(self) -> bool:
        """Whether the codebooks are there."""
        return self._centroids is not None

    @property
    def centroids(self) -> NDArray[np.float32]:
        """The codebooks, ``[parts, 2^bits, dim / parts]``."""
        assert self._centroids is not None
        return self._centroids

    def state(self) -> State:
        """The codebooks ``[parts, 2^bits, dim / parts]``, and the rotation ``[dim, dim]`` of opq."""
        found: State = {} if self._centroids is None else {"centroids": self._centroids}
        return found if self.rotation is None else {**found, "rotation": self.rotation}

    def restore(self, state: Mapping[str, NDArray[np.generic]]) -> None:
        """Take over codebooks and rotation."""
        import faiss

        found = np.ascontiguousarray(state["centroids"], np.float32)
        if found.shape != (self.spec.parts, 1 << self.spec.bits, self.dim // self.spec.parts):
            raise ValueError(f"codebooks of shape {list(found.shape)}")
        if self.spec.turned:
            turn = np.ascontiguousarray(state["rotation"], np.float32)
            if turn.shape != (self.dim, self.dim):
                raise ValueError(f"a rotation of shape {list(turn.shape)}")
            self.rotation = turn
        faiss.copy_array_to_vector(found.ravel(), self.quantizer.centroids)
        self._centroids = found

    def _train(self, vectors: Vectors, queries: Vectors | None) -> None:
        import faiss

        needed = 1 << self.spec.bits
        if len(vectors) < needed:
            raise UsageError(
                f"{self.spec} learns {needed} entries for each part; {len(vectors)} vectors are too few",
                hint=f"train with {needed} at least ({needed * 40} are better), or use sq8",
            )
        state: State = {}
        if self.spec.turned:
            turn = faiss.OPQMatrix(self.dim, self.spec.parts)
            turn.pq = faiss.ProductQuantizer(self.dim, self.spec.parts, self.spec.bits)
            turn.pq.cp.min_points_per_centroid = 1
            turn.pq.cp.niter = 4
            turn.niter, turn.niter_pq, turn.niter_pq_0 = 12, 4, 8
            turn.train(leaning(vectors, _TURN_SAMPLE))
            rotation = faiss.vector_to_array(turn.A).reshape(self.dim, self.dim)
            state["rotation"] = rotation
            vectors = np.ascontiguousarray(vectors @ rotation.T)
        self.quantizer.train(leaning(vectors, _SAMPLE))
        state["centroids"] = faiss.vector_to_array(self.quantizer.centroids).reshape(
            self.spec.parts, needed, self.dim // self.spec.parts
        )
        self.restore(state)

    def turned(self, vectors: Vectors) -> Vectors:
        """``vectors`` ``[n, dim]`` as they are cut into parts: turned by opq, else as they are."""
        return vectors if self.rotation is None else np.asarray(vectors @ self.rotation.T, np.float32)

    def _encode(self, vectors: Vectors) -> Codes:
        codes: Codes = self.quantizer.compute_codes(np.ascontiguousarray(self.turned(vectors)))
        return codes

    def _decode(self, codes: Codes) -> Vectors:
        vectors: Vectors = self.quantizer.decode(codes)
        return vectors if self.rotation is None else np.asarray(vectors @ self.rotation, np.float32)
