"""How near a tower's embeddings stay to those of its fp32 reference: cosines, plain and mean-subtracted.

The plain cosine flatters. The embeddings of most models lie in a narrow cone: items that have nothing to do with each
other are already alike, and a tower that answers every question with the middle of the cone scores well. Hence the
second number: the reference's mean embedding is subtracted from both sides, so that what is compared is what tells
items apart. Both sides lose the *same* mean, the reference's: a tower that shifts everything by a constant has changed
what it says to whoever searches it with the reference's vectors, and forgiving that (each side its own mean) would
hide it.

The mean has to be estimated from the same few samples, and that is not free. With n samples the reference's part of a
vector shrinks, in the square, by (n - 1) / n, because every sample pulls the mean towards itself, and the error keeps
its size; so for small errors ``1 - cosine`` comes out too large by about n / (n - 1): twice as large for 2 samples, 7 %
for 16, 1.6 % for 64. It errs on the strict side, and is left as it is, because a corrected number would no longer be
the cosine of anything. With one sample nothing is left after the subtraction, and there is no number. The least of n
cosines falls as n grows, of course: numbers are comparable where their samples are.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from slimbind.artifact import Fidelity
from slimbind.errors import DriftError, EngineError, UsageError
from slimbind.evaluate import metrics
from slimbind.evaluate.record import Estimate

# A vector whose distance from the mean is so small, beside its own length 1, is rounding and has no direction.
_TINY = 1e-6

Vectors = NDArray[np.float32]


def cosines(reference: Vectors, candidate: Vectors) -> NDArray[np.float64]:
    """The cosine of each row with its counterpart: ``[n]``, computed in float64.

    Args:
        reference: ``[n, dim]``.
        candidate: ``[n, dim]``.

    Raises:
        UsageError: the shapes differ, or there are no rows. EngineError: a row is not finite, or a zero vector.
    """
    return _rowwise(*_pair(reference, candidate))


def centred_cosines(reference: Vectors, candidate: Vectors) -> NDArray[np.float64]:
    """The same after the reference's mean was subtracted from both; see the top of this module.

    Returns:
        ``[m]``, ``m <= n``: rows that lie at the mean, where no direction is left, are not among them. With a single
        row, or none that differs from another, it is empty.

    Raises:
        UsageError: the shapes differ, or there are no rows. EngineError: a row is not finite, or a zero vector.
    """
    left, right = _pair(reference, candidate)
    middle = left.mean(axis=0)
    left, right = left - middle, right - middle
    told = np.linalg.norm(left, axis=1) > _TINY
    return _rowwise(left[told], right[told])


def measure(
    reference: Vectors,
    candidate: Vectors,
    *,
    data: str,
    reference_bytes: int | None = None,
    time_ratio: float | None = None,
) -> Fidelity:
    """The fidelity of a candidate's embeddings ``[n, dim]`` to the reference's of the same items.

    Args:
        reference: ``[n, dim]``.
        candidate: ``[n, dim]``.
        data: what the items were, for people.
        reference_bytes: see ``Fidelity``.
        time_ratio: see ``Fidelity``.

    Raises:
        UsageError: the shapes differ, or there are no rows. EngineError: a row is not finite, or a zero vector.
    """
    plain, centred = cosines(reference, candidate), centred_cosines(reference, candidate)
    return Fidelity(
        samples=len(plain),
        cosine_mean=float(plain.mean()),
        cosine_min=float(plain.min()),
        centred_mean=float(centred.mean()) if len(centred) else None,
        centred_min=float(centred.min()) if len(centred) else None,
        data=data,
        reference_bytes=reference_bytes,
        time_ratio=time_ratio,
    )


def intervals(reference: Vectors, candidate: Vectors, *, seed: int = 0) -> dict[str, Estimate]:
    """``cosine_mean`` and ``centred_cosine_mean`` of the same vectors with their 95 % intervals over the items.

    The mean embedding that is subtracted stays that of all items. The least cosine has no interval: what the worst of
    other items would be is not seen from these.

    Raises:
        UsageError, EngineError: see ``measure``.
    """
    found: dict[str, Estimate] = {}
    for name, values in (
        ("cosine_mean", cosines(reference, candidate)),
        ("centred_cosine_mean", centred_cosines(reference, candidate)),
    ):
        if len(values):
            found |= metrics.bootstrap({name: metrics.mean_of(values)}, len(values), seed=seed)
    return found


def check(fidelity: Fidelity, *, modality: str, scheme: str, least: float) -> None:
    """Refuse a tower that says something else than its reference.

    Args:
        fidelity: what was measured.
        modality: for the message.
        scheme: for the message.
        least: the smallest cosine that the worst sample may have.

    Raises:
        DriftError: the worst sample's cosine lies below ``least``.
    """
    if not fidelity.cosine_min >= least:  # a NaN is below everything
        raise DriftError(
            f"the {modality} tower in {scheme} says something else than its reference: the worst of "
            f"{fidelity.samples} samples has a cosine of {fidelity.cosine_min:.5f}, at least {least:g} is asked for "
            f"(mean {fidelity.cosine_mean:.5f}, data: {fidelity.data})",
            hint="give more or better calibration data, choose another scheme, or take it as it is with --force",
        )


def _pair(reference: Vectors, candidate: Vectors) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    left, right = np.asarray(reference, np.float64), np.asarray(candidate, np.float64)
    if left.ndim != 2 or left.shape != right.shape or not left.size:
        raise UsageError(
            f"cannot compare embeddings of shapes {list(left.shape)} and {list(right.shape)}",
            hint="give the same items to both, at least one: [n, dim]",
        )
    for name, vectors in (("reference", left), ("candidate", right)):
        lengths = np.linalg.norm(vectors, axis=1)
        bad = np.flatnonzero(~np.isfinite(lengths) | (lengths < _TINY))
        if len(bad):
            raise EngineError(
                f"the {name}'s embedding of sample {bad[0]} is not finite, or a zero vector",
                hint="check the tower and this sample for extreme values",
            )
    return left, right


def _rowwise(left: NDArray[np.float64], right: NDArray[np.float64]) -> NDArray[np.float64]:
    lengths = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
    # A candidate that sits exactly on the mean says nothing about the item: as far off as something unrelated.
    found = np.divide((left * right).sum(axis=1), lengths, out=np.zeros_like(lengths), where=lengths > 0)
    clipped: NDArray[np.float64] = np.clip(found, -1.0, 1.0)
    return clipped
