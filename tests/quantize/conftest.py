"""The tiny ImageBind, split: six real towers, only small."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from slimbind.artifact import ModelInfo
from slimbind.towers import split
from slimbind.towers.checkpoint import open_weights

GOLDEN = Path(__file__).parent.parent / "golden"


@pytest.fixture(scope="session")
def split_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny") / "split"
    config = json.loads((GOLDEN / "imagebind_tiny_config.json").read_text())
    with open_weights([GOLDEN / "imagebind_tiny.pth"]) as weights:
        info = ModelInfo(id="tiny", family="imagebind", license="CC0-1.0")
        split.run(split.plan(weights, config=config), folder, model=info)
    return folder
