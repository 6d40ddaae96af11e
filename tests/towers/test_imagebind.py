"""ImageBind's towers say what the reference implementation said."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from slimbind.towers import registry

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
    print(name, np.abs(raw - expected).max(), np.abs(unit(raw) - unit(expected)).max())
    np.testing.assert_allclose(unit(run(tower, golden_io, name, raw=False)), unit(expected), rtol=0, atol=1e-5)
    # The logit scale multiplies rounding errors as well.
    np.testing.assert_allclose(raw, expected, rtol=0, atol=1e-5 * max(1.0, tower.logit_scale))


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
