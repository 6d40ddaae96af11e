"""ImageBind's towers say what the reference implementation said."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from slimbind.towers import registry
from slimbind.towers.layers import Attention, end_of_text

from .conftest import GOLDEN


def unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def run(tower, golden, name, *, raw):
    """One view per item, or the mean over an item's views of what each one gave."""
    x = torch.from_numpy(golden[f"in_{name}"])
    x = x if name == "text" else x.float()
    forward = tower.forward_raw if raw else tower.forward
    with torch.no_grad():
        if name == "vision":
            x = x[:, :, None]
        if name not in ("audio", "vision_video"):
            return forward(x).numpy()
        views = forward(x.flatten(0, 1))
        return views.unflatten(0, x.shape[:2]).mean(dim=1).numpy()


NAMES = ["vision", "vision_video", "text", "audio", "depth", "thermal", "imu"]


@pytest.mark.parametrize("name", NAMES)
def test_golden_parity(tiny_towers, golden_io, name):
    tower = tiny_towers[name.removesuffix("_video")]
    expected = golden_io[f"out_{name}"]
    raw = run(tower, golden_io, name, raw=True)
    # Ours are equal to the last bit where PyTorch is the same; a wrong epsilon in a LayerNorm shows from 5e-6 on.
    np.testing.assert_allclose(unit(run(tower, golden_io, name, raw=False)), unit(expected), rtol=0, atol=2e-6)
    # The logit scale multiplies rounding errors as well.
    np.testing.assert_allclose(raw, expected, rtol=0, atol=2e-6 * tower.logit_scale)


def test_every_key_of_the_released_checkpoint_has_its_place():
    entries = json.loads((GOLDEN / "imagebind_huge_state_dict.json").read_text())
    assert len(entries) == 1311
    checkpoint = registry.detect({key: tuple(shape) for key, (shape, _) in entries.items()})
    sources = [s for rules in checkpoint.rules.values() for rule in rules.values() for s in rule.sources]
    assert len(sources) == len(set(sources)) == 1310
    assert set(sources) | {"modality_preprocessors.text.mask"} == set(entries)
    assert checkpoint.recomputed == ("modality_preprocessors.text.mask",)
    for modality, rules in checkpoint.rules.items():
        tower = registry.build("imagebind", modality, checkpoint.configs[modality])
        assert {k: tuple(v.shape) for k, v in tower.state_dict().items()} == {
            k: tuple(entries[rule.sources[0]][0]) for k, rule in rules.items()
        }


def test_epsilons(tiny_towers):
    """The stems' norms have another epsilon than all else, which hardly shows in outputs of a small model."""
    for modality, tower in tiny_towers.items():
        epsilons = {name: layer.eps for name, layer in tower.named_modules() if isinstance(layer, torch.nn.LayerNorm)}
        assert epsilons.pop("stem.norm", 1e-5) == 1e-5, modality
        assert set(epsilons.values()) == {1e-6}, modality


@pytest.mark.parametrize("name", ["vision", "text", "audio", "depth", "thermal", "imu"])
def test_examples_fit(tiny_towers, name):
    """What export traces with: the axes that may change do change."""
    tower = tiny_towers[name]
    x = tower.example(3)
    assert x.shape[0] == 3
    assert set(tower.dynamic_axes) == {"vision": {0, 2}, "text": {0, 1}}.get(name, {0})
    # The same content in another size along the axis that may change.
    other = {"text": lambda: torch.nn.functional.pad(x, (0, 4)), "vision": lambda: x.repeat(1, 1, 2, 1, 1)}
    with torch.no_grad():
        vectors = tower(x)
        torch.testing.assert_close(vectors, tower(other.get(name, x.clone)()), rtol=0, atol=1e-6)
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(3), rtol=0, atol=1e-6)


def test_the_first_end_mark_counts():
    """A text may hold the end mark twice; every engine must then pool at the same place."""
    ids = torch.tensor([[5, 9, 3, 9, 0], [9, 1, 1, 1, 0], [1, 2, 3, 4, 9]])
    assert end_of_text(ids).tolist() == [1, 0, 4]


def test_causal_attention_has_no_bias_row():
    with pytest.raises(ValueError, match="not both"):
        Attention(8, 2, causal=True, bias_kv=True)


def test_the_logit_scale_is_capped(tiny_towers):
    tower = registry.build("imagebind", "imu", tiny_towers["imu"].config, device="cpu")
    assert tower.logit_scale == pytest.approx(1 / 0.07)
    tower.log_logit_scale.fill_(9.0)
    assert tower.logit_scale == 100.0
    assert tiny_towers["vision"].logit_scale == 1.0
