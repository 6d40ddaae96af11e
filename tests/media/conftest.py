"""Golden data and small real files for the media tests."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

_GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.fixture(scope="session")
def golden() -> dict[str, np.ndarray]:
    with np.load(_GOLDEN / "preprocess.npz") as data:
        return {name: data[name] for name in data.files}


@pytest.fixture(scope="session")
def golden_meta() -> dict[str, Any]:
    return json.loads((_GOLDEN / "preprocess_meta.json").read_text(encoding="utf-8"))
