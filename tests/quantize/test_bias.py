"""Bias correction takes a quantized tower's mean shift away, layer by layer."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from slimbind.quantize import bias, rounding
from slimbind.quantize.activations import observe
from slimbind.quantize.emulate import emulate
from slimbind.quantize.plan import LayerPlan, Plan, StaticRange
from slimbind.quantize.sites import sites
from slimbind.towers import registry
from slimbind.towers.simplify import simplify

GOLDEN = Path(__file__).parent.parent / "golden"
RESNET = {"architecture": "resnet", "width": 16, "layers": [1, 1, 1, 1], "heads": 8, "dim": 16, "size": 64}


@pytest.fixture(scope="module")
def towers():
    weights = torch.load(GOLDEN / "imagebind_tiny.pth", weights_only=True)
    config = json.loads((GOLDEN / "imagebind_tiny_config.json").read_text())
    checkpoint = registry.detect({key: tuple(value.shape) for key, value in weights.items()}, config)
    torch.manual_seed(0)
    made = {}
    for modality in ("depth", "text", "imu"):
        tower = registry.build("imagebind", modality, checkpoint.configs[modality])
        made[modality] = registry.load(tower, dict(registry.convert(checkpoint, modality, weights.__getitem__)))
    made["resnet"] = registry.build("clip", "vision", RESNET, device="cpu")
    for tower in made.values():
        with torch.no_grad():  # inputs whose mean is far from zero, where rounding shifts what comes out
            for module in tower.modules():
                if isinstance(module, nn.LayerNorm):
                    module.bias.normal_(0, 1)
        tower.eval().requires_grad_(False)
    return {name: simplify(tower) for name, tower in made.items()}


def coarse(tower, x):
    """4-bit weights, and ranges that clip: errors large enough to see."""
    stats = observe(tower, [x], observers=("minmax",))
    layers = {}
    for name, found in stats.items():
        whole = found.ranges["minmax"]
        clipped = StaticRange(0.7 * whole.low, 0.5 * whole.high)
        layers[name] = LayerPlan(rounding.per_channel(sites(tower)[name].weight, 4), clipped)
    return Plan(layers)


def outputs(tower, x, names):
    """The mean of each channel of each layer's output."""
    found = {}

    def hook(name):
        def remember(module, given, out):
            found[name] = (out.movedim(1, -1) if out.ndim == 4 else out).flatten(0, -2).mean(0)

        return remember

    handles = [tower.get_submodule(name).register_forward_hook(hook(name)) for name in names]
    with torch.no_grad():
        embedding = tower.features(x)
    for handle in handles:
        handle.remove()
    return found, embedding


@pytest.mark.parametrize("name", ["depth", "text", "imu", "resnet"])
def test_means_are_those_of_the_float_tower(towers, name):
    tower = towers[name]
    x = tower.example(6)
    plan = coarse(tower, x)
    before = {key: value.clone() for key, value in tower.state_dict().items()}
    after = bias.correct(tower, plan, [x])
    assert all(torch.equal(value, before[key]) for key, value in tower.state_dict().items())

    wanted, truth = outputs(tower, x, plan.layers)
    shifted, plain = outputs(emulate(tower, plan), x, plan.layers)
    mended, corrected = outputs(emulate(after, plan), x, plan.layers)
    for layer in plan.layers:
        assert (mended[layer] - wanted[layer]).norm() < 0.01 * (shifted[layer] - wanted[layer]).norm() + 1e-4, layer
    assert (corrected - truth).mean(0).norm() < 0.02 * (plain - truth).mean(0).norm()
    assert (corrected - truth).norm() < (plain - truth).norm()


def test_batches_count_alike(towers):
    """Two batches, one after the other, give nearly what they give as one."""
    tower = towers["depth"]
    x = tower.example(8)
    plan = coarse(tower, x)
    whole = bias.correct(tower, plan, [x]).state_dict()
    seen = []
    parts = bias.correct(tower, plan, x.split(4), progress=seen.append).state_dict()
    assert seen == [4, 8]
    for key, value in whole.items():
        if key.endswith("bias"):
            gap = tower.state_dict().get(key, torch.zeros(()))
            assert (parts[key] - value).norm() <= 0.35 * (value - gap).norm() + 1e-4, key


def test_only_what_is_quantized(towers):
    tower = towers["imu"]
    x = tower.example(2)
    plan = coarse(tower, x)
    one = Plan({"blocks.0.mlp.fc2": plan.layers["blocks.0.mlp.fc2"], "blocks.0.mlp.fc1": LayerPlan(stored="bf16")})
    after = bias.correct(tower, one, [x]).state_dict()
    changed = {key for key, value in after.items() if not torch.equal(value, tower.state_dict()[key])}
    assert changed == {"blocks.0.mlp.fc2.bias"}


def test_a_layer_without_bias_gets_one(towers):
    tower = towers["depth"]
    x = tower.example(2)
    plan = coarse(tower, x)
    assert tower.head.proj.bias is None
    after = bias.correct(tower, plan, [x])
    assert after.head.proj.bias is not None and tower.head.proj.bias is None


def test_no_data(towers):
    tower = towers["depth"]
    with pytest.raises(ValueError, match="no batches"):
        bias.correct(tower, Plan(), [])


def test_items_count_alike_in_batches_of_any_size(towers):
    tower = towers["imu"]
    x = tower.example(9)
    plan = Plan({"stem.proj": coarse(tower, x).layers["stem.proj"]})
    whole = bias.correct(tower, plan, [x]).get_submodule("stem.proj").bias
    parts = bias.correct(tower, plan, x.split(8)).get_submodule("stem.proj").bias
    assert torch.allclose(whole, parts, atol=1e-5)
