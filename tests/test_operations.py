"""What the benchmarks count as operations is what PyTorch's own counter finds, and each is held to its own limit."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from slimbind.towers import registry
from slimbind.towers.simplify import simplify

BLOCKS = {"width": 32, "heads": 2, "depth": 2, "hidden": 64, "dim": 24, "eps": 1e-5}
CONFIGS = {
    "vision": BLOCKS
    | {"tokens": 10, "activation": "gelu", "norm_pre": True, "bias_kv": False, "kernel": 8, "size": 24},
    "text": BLOCKS | {"tokens": 20, "activation": "gelu", "norm_pre": False, "bias_kv": False, "vocabulary": 99},
    "depth": BLOCKS
    | {"tokens": 5, "activation": "gelu", "norm_pre": False, "bias_kv": True}
    | {"channels": 1, "kernel": 16, "stride": 16, "size": [32, 32]},
    "imu": BLOCKS | {"tokens": 6, "activation": "gelu", "norm_pre": False, "bias_kv": True, "kernel": 8, "length": 40},
}
SHAPES = {"vision": (3, 3, 1, 24, 24), "text": (2, 7), "depth": (1, 1, 32, 32), "imu": (2, 6, 40)}


@pytest.mark.parametrize("modality", CONFIGS)
def test_operations_are_those_of_pytorchs_counter(monkeypatch, modality):
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "benchmarks")
    import operations

    tower = simplify(registry.build("imagebind", modality, CONFIGS[modality], device="cpu"))
    x = torch.randint(1, 98, SHAPES[modality]) if modality == "text" else torch.randn(SHAPES[modality])
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        tower(x)
    found = operations.count(modality, CONFIGS[modality], SHAPES[modality])
    assert found.total == counter.get_total_flops()
    kernels = {name: value for name, value in tower.named_parameters() if value.ndim > 1 and "embedding" not in name}
    matrices = {name: value.numel() for name, value in kernels.items() if name.endswith(("weight", "kernels"))}
    matrices["stem.kernels"] = matrices.get("stem.kernels", 0) // 3  # for one frame; the others are for two
    assert found.weights == sum(matrices.values())
    assert min(found.linear, found.attention) > 0
    sys.modules.pop("operations")


def test_floors_hold_each_part_to_the_kind_it_is_computed_in(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "benchmarks")
    import limits
    from operations import Work

    work = Work(linear=100, attention=10, stem=10, weights=50)
    rates = {"f32": 10.0, "bf16": 20.0, "int8": 40.0, "read": 5.0}
    assert limits.floors(work, "f32", rates) == (12.0, 40.0)
    assert limits.floors(work, "bf16", rates) == (6.0, 20.0)
    assert limits.floors(work, "int8-static", rates) == (3.5, 10.0)
    assert limits.floors(work, "int4-weight", rates)[0] == 6.0
    for name in ("limits", "operations", "peers", "fullsize", "fullsize_schemes", "environment"):
        sys.modules.pop(name, None)
