"""More bits where a tower would be refused: for the layers that lose most, for as long as needed, and not beyond."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from slimbind.quantize import job, keep, schemes
from slimbind.quantize.calibration import Calibration
from slimbind.quantize.emulate import emulate
from slimbind.quantize.options import layer_plan
from slimbind.quantize.plan import LayerPlan, Plan, WeightCodes
from slimbind.quantize.report import Report, silent
from slimbind.quantize.rounding import grouped
from slimbind.quantize.schemes import scheme
from slimbind.quantize.sensitivity import agreement, embed
from slimbind.quantize.sites import sites


@pytest.fixture(scope="module")
def tower(make_tower):
    return make_tower("resnet")


@pytest.fixture(scope="module")
def data(make_data, tower):
    return make_data(tower)


def cosine(tower, plan, data):
    return agreement(embed(tower, data.held_out()), embed(emulate(tower, plan), data.held_out())).cosine_min


def coarse(layer):
    """A layer rounded to a quarter of its levels."""
    codes = (layer.weight.codes.float() / 32).round() * 32
    return LayerPlan(WeightCodes(codes.clamp(-127, 127).to(layer.weight.codes.dtype), layer.weight.scale))


def test_the_layers_that_lose_most_are_raised_and_named_and_no_others(tower, data):
    plan = Plan({name: layer_plan(site, "int8-weight") for name, site in sites(tower).items()})
    bad = tuple(plan.layers)[1:4:2]
    poor = replace(plan, layers={**plan.layers, **{name: coarse(plan.layers[name]) for name in bad}})
    least = 1 - 2 * (1 - cosine(tower, plan, data))
    assert cosine(tower, poor, data) < least
    report = Report(layers=len(plan.layers))
    _, made, told = keep.enough((tower, poor, report), tower, data, least, silent)
    assert cosine(tower, made, data) > cosine(tower, poor, data)
    assert set(bad) <= set(told.kept) and all(text.startswith("bf16") for text in told.kept.values())
    assert told.layers == len(plan.layers) - len(told.kept)
    added = sum(sites(tower)[name].weight.numel() for name in told.kept)
    assert added <= keep.MOST * sum(site.weight.numel() for site in sites(tower).values())
    for name, layer in made.layers.items():
        assert layer == LayerPlan(stored="bf16") if name in told.kept else layer is poor.layers[name]


def test_what_is_good_enough_is_left_alone(tower, data):
    plan = Plan({name: layer_plan(site, "int8-weight") for name, site in sites(tower).items()})
    made = (tower, plan, Report(layers=len(plan.layers)))
    assert keep.enough(made, tower, data, 0.9, silent) is made
    nothing = Calibration([], [np.zeros((1, 3, 64, 64), np.float32)], "nothing")
    assert keep.enough(made, tower, nothing, 1.0, silent) is made


def test_4_bits_become_8(make_tower, make_data):
    tower = make_tower("imu")
    plan = Plan(
        {name: LayerPlan(grouped(site.weight, 16)) for name, site in sites(tower).items() if site.kind == "linear"}
    )
    data = make_data(tower)
    _, made, told = keep.enough((tower, plan, Report(layers=len(plan.layers))), tower, data, 0.9999, silent)
    assert told.kept and all(text.startswith("8 bits") for text in told.kept.values())
    assert {made.layers[name].weight.bits for name in told.kept} == {8}
    assert told.layers == len(plan.layers)
    assert cosine(tower, made, data) > cosine(tower, plan, data)


def test_a_job_keeps_what_it_must_and_its_encoder_says_so(split_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(job, "_TIMING", 0.0)
    monkeypatch.setitem(schemes.LEAST, "int8-weight", (0.999999, "for the test"))
    found = {}
    for setting in ("yes", "no"):
        artifact = job.quantize(
            split_folder,
            tmp_path / setting,
            scheme=scheme("int8-weight", {"keep": setting}),
            modalities=["imu"],
            samples=16,
            threads=1,
            force=True,
        )
        found[setting] = artifact.tower("imu")
    records = {setting: entry.quantization for setting, entry in found.items()}
    assert records["yes"]["report"]["kept"] and len(records["yes"]["calibration"]) == 64
    assert "kept" not in records["no"]["report"] and "calibration" not in records["no"]
    assert found["yes"].fidelity.cosine_mean > found["no"].fidelity.cosine_mean
    assert found["yes"].encoder_id != found["no"].encoder_id
