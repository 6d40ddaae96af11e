"""What the tower tests share: the tiny ImageBind with its golden data, and CLIP as `open_clip` builds it."""

from __future__ import annotations

import json
import runpy
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from slimbind.towers import registry

GOLDEN = Path(__file__).parent.parent / "golden"


def load_towers(weights, config):
    """Every tower of a state dict, as split and load would make them."""
    checkpoint = registry.detect({key: tuple(value.shape) for key, value in weights.items()}, config)
    registry.check_recomputed(checkpoint, weights.__getitem__)
    towers = {}
    for modality in checkpoint.modalities:
        tower = registry.build(checkpoint.family, modality, checkpoint.configs[modality])
        towers[modality] = registry.load(tower, dict(registry.convert(checkpoint, modality, weights.__getitem__)))
    return towers


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
    return load_towers(tiny_weights, tiny_config)


@pytest.fixture(scope="session")
def open_clip():
    """The reference library for CLIP, which slimbind itself never imports."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        named = runpy.run_path(str(GOLDEN.parents[1] / "benchmarks" / "torchvision_cpu.py"))
        named["name_operators"]()
        yield pytest.importorskip("open_clip")
    del named  # the operators go with it
