"""Small collections of random unit vectors."""

from __future__ import annotations

import numpy as np
import pytest

from slimbind.collection import Collection

DIM = 8
IDS = {"vision": "v" * 16, "text": "t" * 16}


def units(seed, count=1, dim=DIM):
    rows = np.random.default_rng(seed).standard_normal((count, dim)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def fill(shelf, count, *, start=0, modality="vision"):
    """Items ``i<n>`` whose vector is ``units(n)``."""
    numbers = range(start, start + count)
    shelf.add(
        np.concatenate([units(n) for n in numbers]),
        ids=[f"i{n}" for n in numbers],
        modality=modality,
        metadata=[{"number": n} for n in numbers],
        encoders=IDS,
    )


@pytest.fixture
def shelf(tmp_path):
    with Collection.create(tmp_path / "shelf", dim=DIM, model="mini", encoders=IDS) as made:
        yield made
