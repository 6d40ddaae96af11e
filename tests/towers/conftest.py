"""What the tower tests share: the tiny ImageBind with its golden data, and CLIP as `open_clip` builds it."""

from __future__ import annotations

import importlib.util
import json
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
        library = _name_torchvision_operators()
        yield pytest.importorskip("open_clip")
    del library


def _name_torchvision_operators():
    """Let torchvision be imported beside a CPU-only torch.

    Its compiled part is built for CUDA and does not load there; the import then fails at two operators that it only
    wants to describe. Naming them is enough, they are never called.
    """
    spec = importlib.util.find_spec("torchvision")
    if spec is None or not spec.submodule_search_locations:
        return None
    for compiled in Path(spec.submodule_search_locations[0]).glob("_C*"):
        try:
            torch.ops.load_library(compiled)
        except OSError:
            continue
        return None
    library = torch.library.Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return library
