"""The gap-aware transform: a linear map of documents and its inverse transpose of queries, so that codes lose less.

Queries of another modality do not lie where the documents lie: a code that spends its bits evenly over the documents'
directions spends them on what no query asks about. With

    Cx = covariance of documents (mean mx),  Cq = second moment of queries, NOT centred
    G  = Cx^-1 # Cq = Cx^-1/2 (Cx^1/2 Cq Cx^1/2)^1/2 Cx^-1/2     (# is the geometric mean of matrices)
    W  = G^1/2,  R a random rotation
    x' = R W (x - mx),  q' = R W^-1 q

every dot product stays what it was, ``q.x = q'.x' + q.mx``, and both ``x'`` and ``q'`` have the same second moment. Of
all linear maps this one makes the error of a code that rounds evenly smallest as queries see it: its square is in
proportion to ``tr(W Cx W) tr(W^-1 Cq W^-1)``, which is smallest where the two have equal second moments. The gain is
that product before over after, ``tr(Cx) tr(Cq) / tr((Cx^1/2 Cq Cx^1/2)^1/2)^2``; it is 1 where nothing can be gained.

Geometric mean of matrices: Bhatia, Positive Definite Matrices, Princeton 2007, chapter 4. The same map balances the two
sides of a linear system in control theory: Moore, IEEE TAC 1981.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from slimbind.codecs import checks
from slimbind.codecs.checks import Vectors
from slimbind.codecs.rabitq import rotation
from slimbind.codecs.scalar import some
from slimbind.errors import UsageError

GATE = 1.25  # predicted gain below which nothing is transformed: queries of the documents' own kind have about 1.05
_SAMPLE = 100_000
_SEED = 19_790_815
_PLENTY = 20  # vectors for each dimension from which chance does not matter
_FLOOR = 1e-7  # eigenvalues below this share of the largest count as that: they are directions nothing was seen in

Part = Literal["full", "rotation", "centring", "no-mean"]
Matrix = NDArray[np.float64]


@dataclass(frozen=True)
class Transform:
    """``x' = D (x - mean)`` for documents and ``q' = Q q`` for queries, with ``q.x = q'.x' + q.mean``.

    ``document_map`` and ``query_map`` are ``[dim, dim]``, ``mean`` is ``[dim]``. ``keeps_mean`` is off in one ablation
    only, whose scores lack the last term.
    """

    mean: Vectors
    document_map: Vectors
    query_map: Vectors
    predicted_gain: float
    keeps_mean: bool = True

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
        found = (q * self.mean).sum(axis=1)
        return np.asarray(found if self.keeps_mean else np.zeros_like(found), np.float32)

    def state(self) -> dict[str, NDArray[np.generic]]:
        """Everything, as plain arrays."""
        return {
            "mean": self.mean,
            "document_map": self.document_map,
            "query_map": self.query_map,
            "facts": np.array([self.predicted_gain, self.keeps_mean], np.float64),
        }

    @staticmethod
    def from_state(state: Mapping[str, NDArray[np.generic]]) -> Transform:
        """The transform that ``state`` was taken from; KeyError or ValueError where it is none."""
        mean, document_map, query_map = (
            np.ascontiguousarray(state[name], np.float32) for name in ("mean", "document_map", "query_map")
        )
        facts = np.asarray(state["facts"], np.float64)
        square = (mean.size, mean.size)
        if mean.ndim != 1 or document_map.shape != square or query_map.shape != square or facts.shape != (2,):
            raise ValueError(f"maps of shape {list(document_map.shape)} for a mean of shape {list(mean.shape)}")
        return Transform(mean, document_map, query_map, float(facts[0]), bool(facts[1]))


def fit(
    documents: ArrayLike, queries: Mapping[str, ArrayLike], *, gate: float = GATE, part: Part = "full"
) -> Transform | None:
    """The transform for these documents and queries, or None where the predicted gain is below ``gate``.

    Args:
        documents: ``[n, dim]``, a sample of what is stored; normalised here.
        queries: by modality, ``[m, dim]`` each: a sample of what will be asked. Each modality counts the same, however
            many there are of it and however spread out they are.
        gate: the least predicted gain to transform for; 0: always.
        part: for ablations: ``rotation`` and ``centring`` (with rotation) leave the map out; ``no-mean`` is centring
            that does not add the mean's term to the scores, which can then be compared within a query only.

    Raises:
        UsageError: wrong shapes, NaN, infinity or zero vectors, fewer than two documents, or no queries.
    """
    first = np.asarray(documents)
    if first.ndim != 2:
        raise UsageError(f"documents of shape {list(first.shape)}", hint="an array [n, dim]")
    dim = first.shape[1]
    x = checks.unit(some(checks.vectors(documents, dim, what="documents"), _SAMPLE))
    if len(x) < 2:
        raise UsageError(f"{len(x)} documents to fit a transform on", hint="two at least; a thousand is better")
    if not queries:
        raise UsageError("no queries to fit a transform on", hint="for example {'text': captions}, an array [m, dim]")
    asked: list[Vectors] = []
    for modality, given in queries.items():
        q = checks.vectors(given, dim, what=f"{modality} queries")
        if not len(q):
            raise UsageError(f"no {modality} queries to fit a transform on", hint="leave that modality out")
        asked.append(checks.unit(some(q, _SAMPLE)))
    mean = x.mean(axis=0, dtype=np.float64)
    gain = _held_out_gain(x, asked)
    if gain < gate:
        return None
    _, weight, inverse = _balance(*_moments(x, asked))
    turn = rotation(dim, _SEED)
    keep = np.eye(dim)
    if part in ("rotation", "centring", "no-mean"):
        weight = inverse = keep
    mean32 = np.zeros(dim, np.float32) if part == "rotation" else mean.astype(np.float32)
    return Transform(
        mean32,
        np.ascontiguousarray(turn @ weight, np.float32),
        np.ascontiguousarray(turn @ inverse, np.float32),
        gain,
        part != "no-mean",
    )


def predicted_gain(documents: ArrayLike, queries: Mapping[str, ArrayLike]) -> float:
    """How many times smaller the squared error of scores becomes, as ``queries`` see it; arguments of ``fit``.

    Below 20 vectors for each dimension it is measured on the half of them that the map was not fitted on.
    """
    found = fit(documents, queries, gate=0)
    assert found is not None
    return found.predicted_gain


def shrunk(moment: Matrix, count: int) -> Matrix:
    """``moment`` ``[dim, dim]`` of ``count`` vectors drawn towards a multiple of the identity, where there are few.

    At a vector for two dimensions the share is .2, which was measured to be about best; it falls with the number of
    vectors, to nothing from eight for a dimension on.
    """
    dim = len(moment)
    ratio = count / dim
    share = 0.0 if ratio >= 8 else min(0.9, 0.1 / ratio)
    return np.asarray((1 - share) * moment + share * np.trace(moment) / dim * np.eye(dim), np.float64)


def _moments(x: Vectors, asked: list[Vectors]) -> tuple[Matrix, Matrix]:
    """Covariance of documents, and the mean of the modalities' second moments, each of trace 1."""
    mean = x.mean(axis=0, dtype=np.float64).astype(np.float32)
    parts = [shrunk(_moment(q), len(q)) for q in asked]
    return shrunk(_moment(x - mean), len(x)), np.asarray(sum(part / np.trace(part) for part in parts), np.float64)


def _held_out_gain(x: Vectors, asked: list[Vectors]) -> float:
    """The gain on one half of what was fitted on the other: on the same vectors chance alone looks like a gain."""
    dim = x.shape[1]
    if min(len(x), *map(len, asked)) >= _PLENTY * dim:
        return _balance(*_moments(x, asked))[0]
    if min(len(x), *map(len, asked)) < 4:
        return 1.0
    _, weight, inverse = _balance(*_moments(x[::2], [q[::2] for q in asked]))
    other = x[1::2] - x[::2].mean(axis=0)
    before = float((other**2).sum())
    after = float(((other @ weight) ** 2).sum())
    # Queries have length 1; each modality counts the same.
    grown = sum(float(((q[1::2] @ inverse) ** 2).sum()) / len(q[1::2]) for q in asked) / len(asked)
    return before / (after * grown)


def _moment(vectors: Vectors) -> Matrix:
    total: Matrix = np.zeros((vectors.shape[1],) * 2)
    for start in range(0, len(vectors), 8192):
        part = vectors[start : start + 8192]
        total += part.T @ part
    return np.asarray(total / len(vectors), np.float64)


def _powers(matrix: Matrix, *powers: float) -> list[Matrix]:
    """Powers of a symmetric positive matrix."""
    values, vectors = np.linalg.eigh((matrix + matrix.T) / 2)
    values = np.maximum(values, max(values[-1], np.finfo(np.float64).tiny) * _FLOOR)
    return [np.asarray((vectors * values**power) @ vectors.T, np.float64) for power in powers]


def _balance(cx: Matrix, cq: Matrix) -> tuple[float, Matrix, Matrix]:
    """The predicted gain, W and its inverse."""
    half, back = _powers(cx, 0.5, -0.5)
    (middle,) = _powers(half @ cq @ half, 0.5)
    gain = float(np.trace(cx) * np.trace(cq) / np.trace(middle) ** 2)
    weight, inverse = _powers(back @ middle @ back, 0.5, -0.5)
    return gain, weight, inverse
