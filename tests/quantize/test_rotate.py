"""A turned tower gives the same embeddings, keeps its LayerNorms, and has no loud channels left."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from slimbind.quantize import rotate, sites
from slimbind.quantize.activations import observe
from slimbind.quantize.smooth import smooth
from slimbind.towers import registry
from slimbind.towers.simplify import simplify

from .loud import IMAGEBIND, tiny_imagebind

CLIP = {"width": 32, "depth": 2, "hidden": 64, "dim": 16, "eps": 1e-5, "bias_kv": False, "activation": "quick_gelu"}
CLIP_VISION = {"heads": 2, "tokens": 10, "kernel": 16, "size": 48}


@pytest.fixture(scope="module")
def towers():
    made = tiny_imagebind()
    made["clip"] = registry.build("clip", "vision", CLIP | CLIP_VISION | {"norm_pre": True}, device="cpu")
    made["clip without a first norm"] = registry.build(
        "clip", "vision", CLIP | CLIP_VISION | {"norm_pre": False}, device="cpu"
    )
    for tower in made.values():
        with torch.no_grad():
            tower.pos_embed[..., :2] += 8
            for module in tower.modules():
                if isinstance(module, nn.LayerNorm):
                    module.weight.normal_(1, 0.2)
                    module.weight[3] *= 20
                    module.bias.normal_(0, 0.2)
        tower.eval().requires_grad_(False)
    return made


NAMES = [*IMAGEBIND, "clip", "clip without a first norm"]


def agree(before, after, x, tolerance=1e-5):
    with torch.no_grad():
        torch.testing.assert_close(after(x), before(x), rtol=0, atol=tolerance)


@pytest.mark.parametrize("turn", ["hadamard", "random"])
@pytest.mark.parametrize("prepare", [lambda tower: tower, simplify], ids=["as it is", "simplified"])
@pytest.mark.parametrize("name", NAMES)
def test_same_embeddings(towers, name, prepare, turn):
    tower = prepare(towers[name])
    before = {key: value.clone() for key, value in tower.state_dict().items()}
    after = rotate.rotate(tower, turn=turn)
    x = tower.example(3)
    agree(tower, after, x)
    assert all(torch.equal(value, before[key]) for key, value in tower.state_dict().items())
    assert not any(isinstance(m, nn.LayerNorm) and m.elementwise_affine for m in after.modules() if m is not after)
    changed = sites.sites(after)["blocks.0.mlp.fc1"].weight
    assert not torch.allclose(changed, sites.sites(tower)["blocks.0.mlp.fc1"].weight, atol=0.1)


@pytest.mark.parametrize("name", ["vision", "depth"])
def test_then_smoothed(towers, name):
    """Norms that have lost their gain get one again, which is where smoothing puts its scale."""
    tower = simplify(towers[name])
    turned = rotate.rotate(tower)
    x = tower.example(2)
    stats = observe(turned, [x])
    agree(tower, smooth(turned, stats), x)


@pytest.mark.parametrize("name", NAMES)
def test_no_channel_is_loud(towers, name):
    tower = simplify(towers[name])
    x = tower.example(4)
    watched = ["blocks.0.mlp.fc1", "blocks.1.mlp.fc1"]
    before, after = (observe(t, [x], names=watched) for t in (tower, rotate.rotate(tower)))
    for layer in watched:
        crest = [float(stats[layer].absmax.amax() / stats[layer].absmax.median()) for stats in (before, after)]
        assert crest[1] < 4.5 and crest[1] < 0.7 * crest[0], (layer, crest)


def test_seeds(towers):
    tower = towers["depth"]
    first, again, other = (rotate.rotate(tower, seed=seed).state_dict() for seed in (1, 1, 2))
    key = "blocks.0.mlp.fc1.weight"
    assert torch.equal(first[key], again[key]) and not torch.equal(first[key], other[key])


@pytest.mark.parametrize("size", [1, 2, 8, 12, 20, 24, 32, 48, 64, 80, 384, 512, 768, 1024, 1280])
def test_hadamard(size):
    found = rotate.hadamard(size)
    assert set(found.unique().tolist()) <= {-1.0, 1.0}
    assert torch.equal(found @ found.t(), size * torch.eye(size, dtype=torch.float64))


@pytest.mark.parametrize("size", [3, 7, 28, 36, 44])
def test_no_hadamard_matrix_is_known(size):
    assert rotate.hadamard(size) is None


@settings(max_examples=40, deadline=None)
@given(size=st.integers(1, 70), turn=st.sampled_from(["hadamard", "random"]), seed=st.integers(0, 99))
def test_rotations(size, turn, seed):
    """Orthogonal, and with the ones kept: then they commute with LayerNorm."""
    found = rotate.keep_ones(rotate.rotation(size, turn, torch.Generator().manual_seed(seed)))
    eye, ones = torch.eye(size, dtype=torch.float64), torch.ones(size, dtype=torch.float64)
    torch.testing.assert_close(found @ found.t(), eye)
    torch.testing.assert_close(found @ ones, ones)
    norm = nn.LayerNorm(size, elementwise_affine=False, dtype=torch.float64)
    x = torch.randn(5, size, dtype=torch.float64)
    torch.testing.assert_close(norm(x @ found.t()), norm(x) @ found.t())


def test_towers_of_another_make():
    config = {"architecture": "resnet", "width": 16, "layers": [1, 1, 1, 1], "heads": 8, "dim": 16, "size": 64}
    tower = registry.build("clip", "vision", config, device="cpu")
    assert rotate.rotate(tower) is tower
