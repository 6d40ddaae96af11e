"""What every codec does: vectors to codes and back, and scores of queries against codes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike, NDArray

from slimbind.codecs import checks
from slimbind.codecs.checks import Vectors
from slimbind.codecs.spec import CodecSpec, parse
from slimbind.errors import UsageError

Codes = NDArray[np.uint8]
State = dict[str, NDArray[np.generic]]
_SCORED = 8192  # codes decoded at once by `score`


class Codec(ABC):
    """One way to write a vector in few bytes. ``open_codec`` makes one from its name.

    Everything it learns (ranges, codebooks, a rotation) is learned by ``train`` and kept by ``state``: one vector is
    encoded as the many were. Scores are dot products with the decoded vectors, never with the codes themselves.
    """

    def __init__(self, spec: CodecSpec) -> None:
        self.spec = spec
        self.dim = spec.dim
        self.bytes_per_vector = spec.coarse_bytes

    @property
    @abstractmethod
    def trained(self) -> bool:
        """Whether it can encode."""

    def train(self, vectors: ArrayLike, queries: ArrayLike | None = None) -> None:
        """Learn from ``vectors`` ``[n, dim]``; ``queries`` ``[m, dim]`` are used by codecs that can.

        Raises:
            UsageError: wrong shape, NaN, infinity, a zero vector, or too few vectors.
        """
        checked = checks.vectors(vectors, self.dim, what="training vectors")
        if not len(checked):
            raise UsageError(f"{self.spec}: no vectors to train with", hint="at least one; a thousand is better")
        asked = None if queries is None else checks.vectors(queries, self.dim, what="training queries")
        self._train(checked, asked)

    def encode(self, vectors: ArrayLike) -> Codes:
        """Codes ``[n, bytes_per_vector]`` of ``vectors`` ``[n, dim]``.

        Raises:
            UsageError: wrong shape, NaN, infinity, a zero vector, or ``train`` was not called.
        """
        self._need_training()
        checked = checks.vectors(vectors, self.dim)
        return self._encode(checked) if len(checked) else np.empty((0, self.bytes_per_vector), np.uint8)

    def decode(self, codes: Codes) -> Vectors:
        """Vectors ``[n, dim]`` that ``codes`` ``[n, bytes_per_vector]`` stand for.

        Raises:
            UsageError: codes of another width or type, or ``train`` was not called.
        """
        self._need_training()
        if codes.ndim != 2 or codes.shape[1] != self.bytes_per_vector or codes.dtype != np.uint8:
            raise UsageError(
                f"codes of type {codes.dtype} and shape {list(codes.shape)}; {self.spec} makes uint8 "
                f"[n, {self.bytes_per_vector}]",
                hint="use the codec that wrote them",
            )
        return self._decode(np.ascontiguousarray(codes)) if len(codes) else np.empty((0, self.dim), np.float32)

    def score(self, queries: ArrayLike, codes: Codes) -> Vectors:
        """Dot products ``[q, n]`` of ``queries`` ``[q, dim]`` with the decoded ``codes``.

        Raises:
            UsageError: as ``encode`` and ``decode``.
        """
        asked = self.asked(checks.vectors(queries, self.dim, what="queries"))
        scores = np.empty((len(asked), len(codes)), np.float32)
        for start in range(0, len(codes), _SCORED):
            part = slice(start, start + _SCORED)
            scores[:, part] = asked @ self.decode(codes[part]).T
        return scores

    def asked(self, queries: Vectors) -> Vectors:
        """Queries ``[q, dim]`` as they are compared with decoded vectors: rounded by codecs that round queries."""
        return queries

    @abstractmethod
    def state(self) -> State:
        """What was learned, as plain arrays."""

    @abstractmethod
    def restore(self, state: Mapping[str, NDArray[np.generic]]) -> None:
        """Take over what ``state`` gave; KeyError or ValueError where it does not fit."""

    @staticmethod
    def from_state(spec: CodecSpec | str, dim: int, state: Mapping[str, NDArray[np.generic]]) -> Codec:
        """The trained codec that ``state`` was taken from.

        Raises:
            UsageError: the state is not of this codec and dimension.
        """
        codec = open_codec(spec, dim)
        try:
            codec.restore(state)
        except (KeyError, ValueError, IndexError, RuntimeError) as error:
            raise UsageError(f"this is no state of {codec.spec} at {dim} dimensions: {error}") from error
        return codec

    @abstractmethod
    def _train(self, vectors: Vectors, queries: Vectors | None) -> None: ...

    @abstractmethod
    def _encode(self, vectors: Vectors) -> Codes: ...

    @abstractmethod
    def _decode(self, codes: Codes) -> Vectors: ...

    def _need_training(self) -> None:
        if not self.trained:
            raise UsageError(f"{self.spec} has not been trained", hint="call train(vectors) first")


def open_codec(spec: CodecSpec | str, dim: int) -> Codec:
    """An untrained codec; of a hybrid, its first part.

    Raises:
        UsageError: there is no such codec, or its dimension is another.
    """
    if isinstance(spec, str):
        spec = parse(spec, dim)
    if spec.dim != dim:
        raise UsageError(f"{spec} was made for {spec.dim} dimensions, not {dim}", hint=f"parse({str(spec)!r}, {dim})")
    # Here, because each of them is a Codec and imports this module.
    from slimbind.codecs.binary import BinaryCodec
    from slimbind.codecs.plain import PlainCodec
    from slimbind.codecs.product import ProductCodec
    from slimbind.codecs.rabitq import RaBitQCodec
    from slimbind.codecs.scalar import ScalarCodec

    families: dict[str, type[Codec]] = {
        "f32": PlainCodec,
        "f16": PlainCodec,
        "sq": ScalarCodec,
        "pq": ProductCodec,
        "rabitq": RaBitQCodec,
        "binary": BinaryCodec,
    }
    return families[spec.family](spec.coarse)
