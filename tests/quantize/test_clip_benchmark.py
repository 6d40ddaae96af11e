"""CLIP's benchmark model is one model: `slimbind split` makes the same towers of both of its layouts."""

from __future__ import annotations

import sys
from functools import cache
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def clip():
    """The folder on the path, as for a script that lies in it."""
    sys.path.insert(0, str(ROOT / "benchmarks"))
    import clip

    yield clip
    sys.path.remove(str(ROOT / "benchmarks"))
    for name in ("clip", "fullsize", "make_huge", "torchvision_cpu"):
        sys.modules.pop(name, None)


def test_both_layouts_split_into_the_same_towers(clip, tmp_path, monkeypatch):
    monkeypatch.setattr(clip, "towers", cache(clip.towers))  # most of the time goes into the table of tokens
    published = {
        "open_clip": clip.write_open_clip(tmp_path / "open_clip", "balanced", depth=1),
        "huggingface": clip.write_huggingface(tmp_path / "huggingface", "balanced", depth=1),
    }
    made = {name: clip.split_of(folder, tmp_path / f"{name}-split") for name, folder in published.items()}
    values = clip.towers("balanced", depth=1)
    for modality in clip.MODALITIES:
        entries = {name: artifact.tower(modality) for name, artifact in made.items()}
        assert entries["open_clip"].preprocess == entries["huggingface"].preprocess
        for name, entry in entries.items():
            assert entry.config == clip.CONFIGS[modality] | {"depth": 1}
            found = load_file(made[name].folder / modality / "tower.safetensors")
            assert found.keys() == values[modality].keys()
            assert all(torch.equal(found[key], value) for key, value in values[modality].items())
        assert len({entry.weights for entry in entries.values()}) == 1


def test_inputs_are_those_of_the_towers(clip):
    assert clip.inputs("vision", 2).shape == (2, 3, 224, 224)
    assert clip.inputs("text", 2).shape == (2, clip.CONTEXT)
