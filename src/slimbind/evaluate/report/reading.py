"""Reads a record's details, which are any JSON: gives None where they do not hold what a drawing needs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray


def names(value: object) -> list[str] | None:
    """A list of text."""
    return list(value) if isinstance(value, list) and all(isinstance(one, str) for one in value) else None


def number(value: object) -> float | None:
    """A finite number."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        found = float(value)
    except OverflowError:  # a whole number of hundreds of digits
        return None
    return found if math.isfinite(found) else None


def numbers(value: object) -> list[float] | None:
    """A list of finite numbers, at least one."""
    if not isinstance(value, list) or not value:
        return None
    found = [number(one) for one in value]
    return None if None in found else [one for one in found if one is not None]


def matrix(value: object, rows: int, columns: int) -> NDArray[np.float64] | None:
    """A table of finite numbers ``[rows, columns]``, neither of them 0."""
    if not isinstance(value, list) or not rows or not columns or len(value) != rows:
        return None
    found = [numbers(row) for row in value]
    if any(row is None or len(row) != columns for row in found):
        return None
    return np.array(found, np.float64)


def mappings(value: object) -> list[Mapping[str, Any]]:
    """Those entries of a list that are mappings; none where it is no list."""
    return [one for one in value if isinstance(one, Mapping)] if isinstance(value, list) else []
