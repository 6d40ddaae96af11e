"""Small data sets of every layout, written as their publishers write them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def picture():
    """``picture(path, grey)`` writes one; the suffix tells the format."""

    def write(path: Path, grey: int = 0) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((6, 8, 3), grey, np.uint8)).save(path)
        return path

    return write
