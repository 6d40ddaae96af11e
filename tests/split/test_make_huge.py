"""The benchmark's checkpoint maker: the released format to the key, and the same bytes for the same seed."""

from __future__ import annotations

import hashlib
import json
import runpy
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from slimbind.towers import registry
from slimbind.towers.checkpoint import open_weights

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def make():
    return runpy.run_path(str(ROOT / "benchmarks" / "make_huge.py"))


@pytest.fixture(scope="module")
def imu(make, tmp_path_factory):
    path = tmp_path_factory.mktemp("huge") / "imu.pth"
    make["make"](path, modalities=["imu"], outliers=False, seed=0)
    return path


def test_it_is_a_whole_archive_that_pytorch_reads(imu):
    with zipfile.ZipFile(imu) as archive:
        assert archive.testzip() is None
    listed = json.loads((ROOT / "tests" / "golden" / "imagebind_huge_state_dict.json").read_text())
    state = torch.load(imu, weights_only=True, mmap=True)
    assert list(state) == [key for key in listed if key.split(".")[1] == "imu"]
    for key, value in state.items():
        assert [list(value.shape), str(value.dtype)] == [listed[key][0], "torch.float32"]
        assert value.data_ptr() % 64 == 0, "aligned, as torch.save does"
        assert torch.isfinite(value).all()


def test_it_is_a_checkpoint_of_the_family(imu):
    with open_weights([imu]) as weights:
        assert registry.detect(weights.shapes).modalities == ("imu",)


def test_the_network_made_of_it_keeps_its_scale_and_attends(imu):
    """Random weights that collapse would make every fidelity number meaningless."""
    with open_weights([imu]) as weights, torch.inference_mode():
        checkpoint = registry.detect(weights.shapes)
        tower = registry.build("imagebind", "imu", checkpoint.configs["imu"])
        registry.load(tower, dict(registry.convert(checkpoint, "imu", weights.read)))
        torch.manual_seed(0)
        vectors = tower(torch.randn(8, 6, 2000)).numpy()
    assert np.isfinite(vectors).all()
    similar = (vectors @ vectors.T)[~np.eye(8, dtype=bool)]
    assert similar.mean() < 0.98, "different inputs must not all say the same"


def test_the_seed_decides_every_byte(make, imu, tmp_path):
    again, other = tmp_path / "again.pth", tmp_path / "other.pth"
    make["make"](again, modalities=["imu"], outliers=False, seed=0)
    make["make"](other, modalities=["imu"], outliers=False, seed=1)
    digests = [hashlib.sha256(path.read_bytes()).hexdigest() for path in (imu, again, other)]
    assert digests[0] == digests[1] != digests[2]


def test_outliers_are_large_and_few(make, tmp_path):
    path = tmp_path / "outliers.pth"
    make["make"](path, modalities=["imu"], outliers=True, seed=0)
    gain = torch.load(path, weights_only=True)["modality_trunks.imu.blocks.3.norm_1.weight"]
    assert (gain.abs() > 8).sum() == 4
    assert gain.abs().median() == pytest.approx(1, abs=0.1)


def test_a_failure_leaves_no_file(make, tmp_path, monkeypatch):
    def fail(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setitem(make["make"].__globals__, "values_of", fail)
    with pytest.raises(OSError, match="No space"):
        make["make"](tmp_path / "huge.pth", modalities=["imu"], outliers=False, seed=0)
    assert list(tmp_path.iterdir()) == []
