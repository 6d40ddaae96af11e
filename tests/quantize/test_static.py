"""int8-static: what helps does help, what stays in float is what costs most, and the plain variant has no help."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from slimbind.quantize import ranges
from slimbind.quantize.activations import observe
from slimbind.quantize.calibration import Calibration
from slimbind.quantize.emulate import emulate
from slimbind.quantize.links import links
from slimbind.quantize.plan import LayerPlan, Plan, StaticRange
from slimbind.quantize.report import silent
from slimbind.quantize.schemes import Int8Static
from slimbind.quantize.sensitivity import agreement, embed
from slimbind.quantize.sites import sites
from slimbind.quantize.smooth import smooth
from slimbind.quantize.static import Data, codes, make, multiplications
from slimbind.towers.simplify import simplify

NAMES = ["vision", "text", "audio", "depth", "thermal", "imu", "resnet", "mini vision", "mini text"]
QUICK = Int8Static(smoothing="even", observer="minmax")


def loss(tower, made, data):
    found = embed(emulate(made[0], made[1]), data.held_out())
    return 1 - agreement(embed(tower, data.held_out()), found).cosine_mean


@pytest.mark.parametrize("name", NAMES)
def test_every_architecture(make_tower, make_data, name):
    tower = make_tower(name)
    data = make_data(tower)
    made = make(tower, data, QUICK, silent)
    assert loss(tower, made, data) < 0.01
    static = {name for name, layer in made[1].layers.items() if isinstance(layer.activation, StaticRange)}
    expected = {name for name, site in sites(made[0]).items() if site.kind in ("linear", "conv")}
    assert static | made[2].kept.keys() == expected
    assert set(made[2].observers) == static


def test_outliers_are_what_help_is_for(make_tower, make_data):
    tower = make_tower("audio", outliers=True)
    data = make_data(tower)
    plain = make(tower, data, Int8Static(plain=True), silent)
    ours = make(tower, data, Int8Static(), silent)
    assert loss(tower, ours, data) < 0.4 * loss(tower, plain, data)
    assert ours[2].smoothing and set(ours[2].smoothing) <= set(links(tower))
    assert plain[0] is tower and not plain[2].kept and not plain[2].smoothing
    assert set(plain[2].observers.values()) == {"minmax"}


@pytest.mark.parametrize("fallback", ["dynamic", "bf16"])
def test_layers_leave_their_range_until_the_worst_cosine_is_enough(make_tower, make_data, fallback):
    tower = make_tower("imu", outliers=True)
    data = make_data(tower)
    config = {"smoothing": "off", "observer": "minmax", "most_kept": 1.0, "fallback": fallback}
    all_of_it = make(tower, data, Int8Static(**config, least=0.0), silent)
    off = 1 - all_of_it[2].settings["judged"]["cosine_min"]
    some = make(tower, data, Int8Static(**config, least=1 - off / 3), silent)
    assert not all_of_it[2].kept and some[2].kept
    assert some[2].settings["judged"]["cosine_min"] >= 1 - off / 3
    assert loss(tower, some, data) < loss(tower, all_of_it, data)
    for name, reason in some[2].kept.items():
        layer = some[1].layers[name]
        if fallback == "dynamic":
            assert layer.weight is not None and layer.activation == "dynamic" and "per token" in reason
        else:
            assert layer.weight is None and layer.stored == "bf16" and "bf16" in reason
        assert "off the cosine" in reason and "of the multiplications" in reason


def test_no_more_stays_in_float_than_is_allowed(make_tower, make_data):
    tower = make_tower("imu", outliers=True)
    hard = Int8Static(smoothing="off", least=0.9999999, most_kept=0.2, fallback="bf16")
    made = make(tower, make_data(tower), hard, silent)
    assert 0 < made[2].settings["bf16_multiplications"] <= 0.2
    assert made[2].settings["per_token_multiplications"] == 0


def test_weights_make_up_for_each_others_errors(make_tower, make_data):
    tower = make_tower("imu")
    data = make_data(tower)
    losses = [loss(tower, make(tower, data, replace(QUICK, compensate=on), silent), data) for on in (False, True)]
    assert losses[1] < 0.9 * losses[0]


def test_biases_help_convolutions(make_tower, make_data):
    tower = make_tower("mini vision")
    for module in tower.modules():
        if isinstance(module, torch.nn.Conv2d):
            module.bias.normal_(0, 0.3)
    data = make_data(tower)
    made = make(tower, data, QUICK, silent)
    assert made[2].settings["biases_corrected"]
    plain = (tower, make(tower, data, Int8Static(plain=True), silent)[1])
    assert loss(tower, made, data) < loss(tower, plain, data)


def test_the_search_smooths_less_or_more_where_that_costs_less(make_tower, make_data):
    tower = make_tower("vision", outliers=True)
    data = Data(make_data(tower))
    stats = observe(tower, data.learn())
    alphas = ranges.search(tower, stats, lambda: data.few(4))
    assert len(set(alphas.values())) > 1

    def total(chosen):
        new = smooth(tower, stats, alpha=chosen) if chosen else tower
        seen = observe(new, data.learn(), observers=("minmax",))
        found = sites(new)
        layers = {name: LayerPlan(codes(found[name], QUICK), seen[name].ranges["minmax"]) for name in seen}
        return 1 - agreement(embed(tower, data.judge()), embed(emulate(new, Plan(layers)), data.judge())).cosine_mean

    assert total(alphas) < 0.8 * total({})
    assert total(alphas) < 1.4 * min(total(dict.fromkeys(links(tower), alpha)) for alpha in (0.35, 0.5, 0.65))


def test_a_scale_for_all_rows_is_coarser_than_one_for_each(make_tower):
    site = sites(make_tower("vision"))["blocks.0.mlp.fc1"]
    site.weight[0] *= 10
    one, each = codes(site, Int8Static(per_channel=False)), codes(site, Int8Static())
    assert len(set(one.scale.flatten().tolist())) == 1
    off = [(found.dequantize() - site.weight).square().mean() for found in (one, each)]
    assert off[1] < off[0] / 10


def test_data_is_judged_by_what_was_not_learned_from(make_tower, make_data):
    tower = make_tower("imu")
    data = Data(make_data(tower, 32))
    learned, judged = torch.cat(list(data.learn())), torch.cat(list(data.judge()))
    assert len(learned) == data.learned == 24 and len(judged) == 8
    assert not any((row == other).all() for row in judged for other in learned)
    assert [len(batch) for batch in data.few(3)] == [3, 1, 3, 1]
    assert [len(batch) for batch in data.few(1)] == [1, 1, 1, 1]


@pytest.mark.parametrize(("count", "judging"), [(4, 1), (7, 1), (8, 2), (13, 3), (16, 4)])
def test_few_items_are_parted_too(make_tower, make_data, count, judging):
    data = Data(make_data(make_tower("imu"), count))
    learned, judged = torch.cat(list(data.learn())), torch.cat(list(data.judge()))
    assert len(judged) == judging and len(learned) == data.learned == count - judging
    assert not any((row == other).all() for row in judged for other in learned)


def test_three_items_are_learned_from_and_judged_by(make_tower, make_data):
    little = Data(make_data(make_tower("imu"), 3))
    assert torch.equal(torch.cat(list(little.learn())), torch.cat(list(little.judge())))


def test_multiplications_count_strides(make_tower):
    tower = make_tower("resnet")
    found = {name: site for name, site in sites(tower).items() if name in ("stem.0", "stem.2")}
    work = multiplications(found, observe(tower, [tower.example(1)]))
    assert work["stem.0"] == 64 * 64 / 4 * found["stem.0"].weight.numel()
    assert work["stem.2"] == 32 * 32 * found["stem.2"].weight.numel()


@pytest.mark.parametrize(("modality", "outliers"), [("depth", False), ("depth", True), ("text", True)])
def test_full_width(monkeypatch, modality, outliers):
    """Two blocks of ImageBind-Huge, of the widths and values that the benchmarks use."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    import fullsize

    tower = simplify(fullsize.full_size(modality, outliers=outliers, depth=2))
    x = fullsize.inputs(modality, 12).numpy()
    is_text = modality == "text"
    rows = [row[None, : 24 if is_text else None] for row in x]
    data = Calibration(rows[:8], rows[8:], "samples", 0 if is_text else None, 77 if is_text else 0)
    made = make(tower, data, Int8Static(smoothing="even", observer="minmax", most_kept=0.5), silent)
    found = agreement(embed(tower, data.held_out()), embed(emulate(made[0], made[1]), data.held_out()))
    assert found.cosine_mean >= 0.99 and found.cosine_min >= 0.98
