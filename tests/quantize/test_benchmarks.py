"""The benchmarks' towers are those of the checkpoint maker, their inputs are fixed, and their tables add up."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from slimbind.towers import registry

ROOT = Path(__file__).parents[2]
SHAPES = {
    "vision": (3, 1, 224, 224),
    "text": (77,),
    "audio": (1, 128, 204),
    "depth": (1, 224, 224),
    "thermal": (1, 224, 224),
    "imu": (6, 2000),
}


@pytest.fixture(scope="module")
def benchmarks():
    """The folder on the path, as for a script that lies in it."""
    sys.path.insert(0, str(ROOT / "benchmarks"))
    yield
    sys.path.remove(str(ROOT / "benchmarks"))
    for name in ("fullsize", "make_huge", "paper_tables", "quantize", "quantize_stages", "environment"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize("outliers", [False, True])
def test_a_tower_is_that_of_the_checkpoint(benchmarks, tmp_path, outliers):
    import fullsize
    import make_huge

    make_huge.make(tmp_path / "imu.pth", modalities=["imu"], outliers=outliers, seed=0)
    state = torch.load(tmp_path / "imu.pth", weights_only=True, mmap=True)
    found = registry.detect({key: tuple(value.shape) for key, value in state.items()})
    tower = fullsize.full_size("imu", outliers=outliers).state_dict()
    short = fullsize.full_size("imu", outliers=outliers, depth=1).state_dict()
    split = dict(registry.convert(found, "imu", state.__getitem__))
    assert split.keys() == tower.keys()
    assert all(torch.equal(tower[key], value) for key, value in split.items())
    assert {key for key in split if "blocks." not in key or "blocks.0." in key} == short.keys()
    assert all(torch.equal(short[key], split[key]) for key in short)


def test_balance_changes_nothing_but_what_reads_a_loud_channel(benchmarks):
    import fullsize

    loud = fullsize.full_size("imu", outliers=True, depth=1).state_dict()
    balanced = fullsize.full_size("imu", outliers=True, balance=0.5, depth=1).state_dict()
    changed = {key for key in loud if not torch.equal(loud[key], balanced[key])}
    assert changed == {"blocks.0.attn.qkv.weight", "blocks.0.mlp.fc1.weight"}
    gain = loud["blocks.0.norm_1.weight"]
    ratio = (balanced["blocks.0.attn.qkv.weight"] / loud["blocks.0.attn.qkv.weight"]).mean(0)
    torch.testing.assert_close(ratio, torch.where(gain.abs() > 8, gain.abs() ** -0.5, 1.0))


@pytest.mark.parametrize("modality", SHAPES)
def test_inputs_are_fixed_distinct_and_of_the_towers_shape(benchmarks, modality):
    import fullsize

    x = fullsize.inputs(modality, 4)
    assert torch.equal(fullsize.inputs(modality, 3, start=1), x[1:])
    assert len({row.numpy().tobytes() for row in x}) == 4
    assert x.shape == (4, *SHAPES[modality])
    assert x.dtype == (torch.int32 if modality == "text" else torch.float32)
    if modality != "text":
        assert torch.isfinite(x).all()
        assert x.std() > 0.01


def test_there_are_only_so_many_real_ones(benchmarks):
    import fullsize

    with pytest.raises(ValueError, match="clips"):
        fullsize.inputs("audio", 1, start=10_000)
    with pytest.raises(ValueError, match="texts"):
        fullsize.texts(10_000)


def test_a_sum_over_the_towers_is_none_where_one_is_missing(benchmarks):
    import paper_tables

    def row(size):
        schemes = {name: {"file_mib": size / 2, "ratio": 2.0} for name in ("eager-dynamic", "int8-dynamic")}
        return {"split": {"file_mib": size}, "schemes": schemes, "reference": {"cpu_seconds": 2.0}}

    rows = {f"{modality}/plain": row(10.0) for modality in paper_tables.MODALITIES}
    found = paper_tables.tables(rows)
    assert list(found) == ["I", "II", "III", "IV", "V", "VI", "VII"]
    assert found["II"]["rows"]["all"] == {"fp32": 60.0, "paper": 30.0, "ours": 30.0}
    assert found["III"]["rows"]["all"] == {"fp32": 12.0, "paper": 6.0, "ours": 6.0}
    assert found["V"]["rows"]["all"] == {"fp32": 60.0, "paper": None, "ours": None}
    assert found["I"]["rows"]["vision"] == {"here": 10.0, "published": 2414.05}
    assert found["VII"]["rows"]["text"]["published"] == 0.407
