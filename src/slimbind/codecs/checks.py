"""What vectors must be before a codec takes them: of the right shape, finite, and not zero."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from slimbind.errors import UsageError

Vectors = NDArray[np.float32]
_ROWS = 65536  # looked at at once: the checks need no second copy of a large array


def vectors(given: ArrayLike, dim: int, *, what: str = "vectors") -> Vectors:
    """``given`` as contiguous float32 ``[n, dim]``.

    Raises:
        UsageError: another shape or type, a NaN or an infinity, or a vector of zeros.
    """
    try:
        array = np.ascontiguousarray(given, np.float32)
    except (TypeError, ValueError) as error:
        raise UsageError(f"{what} that are not numbers: {error}", hint=f"an array [n, {dim}] of floats") from error
    if array.ndim != 2 or array.shape[1] != dim:
        hint = f"one vector is passed as [1, {dim}]" if array.shape == (dim,) else f"an array [n, {dim}]"
        raise UsageError(f"{what} of shape {list(array.shape)}, not [n, {dim}]", hint=hint)
    for start in range(0, len(array), _ROWS):
        part = array[start : start + _ROWS]
        # The largest magnitude is NaN or inf if any number is, and 0 only where all are.
        largest = np.abs(part).max(axis=1)
        if not np.isfinite(largest).all():
            row = start + int(np.flatnonzero(~np.isfinite(largest))[0])
            raise UsageError(f"{what}: row {row} holds NaN or infinity", hint="embed that item again, or leave it out")
        if not largest.all():
            row = start + int(np.flatnonzero(largest == 0)[0])
            raise UsageError(f"{what}: row {row} is all zeros, which has no direction", hint="leave it out")
    return array


def unit(array: Vectors) -> Vectors:
    """Each row divided by its length, ``[n, dim]``; rows are not zero."""
    # In two steps: the square of a very small or a very large float32 does not fit.
    scaled = array / np.abs(array).max(axis=1, keepdims=True)
    return np.asarray(scaled / np.linalg.norm(scaled, axis=1, keepdims=True), np.float32)


def keys(given: ArrayLike, count: int | None = None) -> NDArray[np.int64]:
    """``given`` as int64 ``[n]``, each at least 0.

    Raises:
        UsageError: they are not whole numbers, negative, or not ``count`` of them.
    """
    array = np.asarray(given)
    if array.ndim != 1 or (array.size and array.dtype.kind not in "iu"):
        raise UsageError(f"keys of type {array.dtype} and shape {list(array.shape)}", hint="int64 [n]")
    if count is not None and len(array) != count:
        raise UsageError(f"{len(array)} keys for {count} vectors", hint="one for each")
    if array.size and int(array.min()) < 0:
        raise UsageError(f"a key of {int(array.min())}", hint="keys are 0 or more; -1 stands for no result")
    return np.ascontiguousarray(array, np.int64)
