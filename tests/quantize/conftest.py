"""The tiny ImageBind, split: six real towers, only small; and towers and data for what works on either."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from slimbind.artifact import ModelInfo
from slimbind.quantize.calibration import Calibration
from slimbind.towers import registry, split
from slimbind.towers.checkpoint import open_weights
from slimbind.towers.simplify import simplify

GOLDEN = Path(__file__).parent.parent / "golden"


@pytest.fixture(scope="session", autouse=True)
def convert_once(converted_once):
    """See ``converted_once``."""


@pytest.fixture(scope="session")
def split_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny") / "split"
    config = json.loads((GOLDEN / "imagebind_tiny_config.json").read_text())
    with open_weights([GOLDEN / "imagebind_tiny.pth"]) as weights:
        info = ModelInfo(id="tiny", family="imagebind", license="CC0-1.0")
        split.run(split.plan(weights, config=config), folder, model=info)
    return folder


RESNET = {"architecture": "resnet", "width": 16, "layers": [2, 1, 1, 1], "heads": 8, "dim": 16, "size": 64}
MINI_TEXT = {"dim": 384, "vocabulary": 90, "tokens": 12, "depth": 2, "heads": 4, "width": 384, "hidden": 64}


@pytest.fixture(scope="session")
def make_tower():
    """``make_tower(name, outliers=False)``: a small simplified tower whose layers keep the scale of their inputs.

    Names: the modalities of the tiny ImageBind, ``resnet``, ``mini vision``, ``mini text``. With ``outliers`` a few
    channels behind each norm are loud.
    """
    config = json.loads((GOLDEN / "imagebind_tiny_config.json").read_text())
    weights = torch.load(GOLDEN / "imagebind_tiny.pth", weights_only=True)
    checkpoint = registry.detect({key: tuple(value.shape) for key, value in weights.items()}, config)
    others = {
        "resnet": ("clip", "vision", RESNET),
        "mini vision": ("mini", "vision", {"dim": 384, "size": 64, "hidden": 32, "temperature": 1.5}),
        "mini text": ("mini", "text", MINI_TEXT),
    }

    def make(name: str, *, outliers: bool = False, **changes):
        torch.manual_seed(0)
        family, modality, settings = others.get(name, ("imagebind", name, checkpoint.configs.get(name)))
        tower = registry.build(family, modality, settings | changes, device="cpu").eval().requires_grad_(False)
        for module in tower.modules():
            if isinstance(module, nn.LayerNorm):
                module.weight.normal_(1, 0.2)
                module.bias.normal_(0, 0.2)
                if outliers:
                    module.weight[:2] *= 20
            elif isinstance(module, nn.Linear | nn.Conv2d | nn.Conv3d):
                module.weight.normal_(0, (1.5 / module.weight[0].numel()) ** 0.5)
            elif isinstance(module, nn.Embedding):
                module.weight.normal_(0, 1)
        return simplify(tower)

    return make


@pytest.fixture(scope="session")
def make_data():
    """``make_data(tower, items)``: calibration data of random inputs, and half as many held out."""

    def make(tower, items: int = 16):
        torch.manual_seed(1)
        rows = [row[None].numpy() for row in tower.example(items + items // 2)]
        is_text = tower.modality == "text"
        return Calibration(rows[:items], rows[items:], "random", 0 if is_text else None, 77 if is_text else 0)

    return make
