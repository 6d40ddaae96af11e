"""What the tower tests share: the tiny ImageBind with its golden inputs and outputs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from slimbind.towers import registry

GOLDEN = Path(__file__).parent.parent / "golden"


@pytest.fixture(scope="session")
def tiny_weights():
    return torch.load(GOLDEN / "imagebind_tiny.pth", weights_only=True)


@pytest.fixture(scope="session")
def tiny_config():
    return json.loads((GOLDEN / "imagebind_tiny_config.json").read_text())


@pytest.fixture(scope="session")
def golden_io():
    with np.load(GOLDEN / "imagebind_tiny_io.npz") as data:
        return {name: data[name] for name in data.files}


@pytest.fixture(scope="session")
def tiny_towers(tiny_weights, tiny_config):
    checkpoint = registry.detect({k: tuple(v.shape) for k, v in tiny_weights.items()}, tiny_config)
    towers = {}
    for modality in checkpoint.modalities:
        tower = registry.build(checkpoint.family, modality, checkpoint.configs[modality])
        towers[modality] = registry.load(tower, dict(registry.convert(checkpoint, modality, tiny_weights.__getitem__)))
    return towers
