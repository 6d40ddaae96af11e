"""Towers of every family can be exported for every engine, from weights of any precision."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import slimbind
from slimbind.artifact import ArtifactWriter, ModelInfo
from slimbind.export import job
from slimbind.media.spec import ImageSpec, TextSpec
from slimbind.runtime.engine import INPUT
from slimbind.towers import registry

from ..small_towers import CONFIGS


def write_split(folder, family, modality, config, dtype):
    torch.manual_seed(0)
    tower = registry.build(family, modality, config, device="cpu")
    weights = {}
    for key, value in tower.state_dict().items():
        if not value.is_floating_point():
            weights[key] = value
        elif value.ndim > 1:  # far enough from their gentle start for inputs to tell apart
            weights[key] = (torch.randn_like(value) * value[0].numel() ** -0.5).to(dtype)
        else:
            weights[key] = (value.float() + 0.05 * torch.randn(value.shape)).to(dtype)
    info = ModelInfo(id="random", family=family, license="CC0-1.0")
    with ArtifactWriter(folder, model=info, embedding_dim=tower.dim) as writer:
        save_file(weights, writer.folder(modality) / "tower.safetensors")
        writer.add(
            modality,
            engine="torch",
            scheme="f32" if dtype == torch.float32 else "f16",
            parameters=0,
            config=config,
            preprocess=ImageSpec() if modality == "vision" else TextSpec(),
        )
    return folder


@pytest.mark.parametrize("engine", ["openvino", "onnx"])
@pytest.mark.parametrize("name", CONFIGS)
def test_every_family(tmp_path, name, engine):
    family, modality, config = CONFIGS[name]
    folder = write_split(tmp_path / "split", family, modality, config, torch.float32)
    artifact = job.export(folder, tmp_path / "out", engine=engine, threads=1)
    fidelity = artifact.tower(modality).fidelity
    assert fidelity is not None
    assert 1 - fidelity.cosine_min < 1e-6


@pytest.mark.parametrize("name", ["clip-vit", "clip-resnet", "mini-vision"])
def test_16_bits_give_the_same_vector_in_every_batch(tmp_path, name):
    family, modality, config = CONFIGS[name]
    folder = write_split(tmp_path / "split", family, modality, config, torch.float32)
    artifact = job.export(folder, tmp_path / "out", dtype="bf16", threads=1)
    pictures = registry.build(family, modality, config, device="cpu").example(5).numpy()
    with slimbind.load(artifact.folder, threads=1) as model:
        session = model._parts.open(modality)
        together = session.run({INPUT: pictures})
        for count in (1, 2):
            few = [session.run({INPUT: pictures[k : k + count]}) for k in range(0, 5, count)]
            assert np.abs(np.concatenate(few) - together).max() < 1e-6, count
        session.close()


def test_half_precision_checkpoints_become_full_precision_towers(tmp_path):
    folder = write_split(tmp_path / "split", *CONFIGS["clip-vit"], torch.float16)
    artifact = job.export(folder, tmp_path / "out", threads=1)
    entry = artifact.tower("vision")
    assert entry.scheme == "f32"
    assert entry.fidelity is not None and 1 - entry.fidelity.cosine_min < 1e-6
