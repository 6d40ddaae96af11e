"""Error compensation: it is GPTQ, it beats rounding where inputs are correlated, and it goes through whole towers."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from slimbind.artifact import Artifact
from slimbind.errors import UsageError
from slimbind.export.compare import samples
from slimbind.export.job import load_tower
from slimbind.quantize import gptq
from slimbind.quantize.activations import InputStats
from slimbind.quantize.emulate import emulate
from slimbind.quantize.gptq import DependentInputsError, compensate, compensated, moved
from slimbind.quantize.plan import LARGEST, SMALLEST, LayerPlan, Plan
from slimbind.quantize.rounding import grouped, per_channel
from slimbind.quantize.sites import sites
from slimbind.towers import mini
from slimbind.towers.simplify import simplify


def correlated(seed, inputs=48, rank=6, n=500):
    random = torch.Generator().manual_seed(seed)
    mixed = torch.randn(n, rank, generator=random) @ torch.randn(rank, inputs, generator=random)
    return mixed + 0.3 * torch.randn(n, inputs, generator=random)


def drawn(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def loss(weight, codes, x):
    """The mean squared error of the outputs."""
    return float(((codes.dequantize() - weight) @ x.t()).square().mean())


def by_the_book(weight, moment, group, damping):
    """GPTQ as it was published: the inverse's Cholesky factor, and each error spread over all later weights."""
    scale = grouped(weight, group, 4, importance=moment.diagonal()).scale.double()
    order = moment.diagonal().argsort(descending=True)
    damped = moment[order][:, order].double()
    damped += damping * damped.diagonal().median() * torch.eye(len(damped))
    upper = torch.linalg.cholesky(torch.linalg.inv(damped), upper=True)
    left, codes = weight[:, order].double(), torch.zeros(weight.shape, dtype=torch.float64)
    for place, column in enumerate(order.tolist()):
        step = scale[:, column // group]
        codes[:, column] = (left[:, place] / step).round().clamp(-8, 7)
        error = (left[:, place] - codes[:, column] * step) / upper[place, place]
        left[:, place:] -= error[:, None] * upper[place, place:]
    return codes


@pytest.mark.parametrize("group", [48, 16])
def test_it_is_the_published_method(group):
    x, weight = correlated(0), drawn(1, 12, 48)
    moment = x.t() @ x / len(x)
    assert torch.equal(compensate(weight, moment, group=group).codes.double(), by_the_book(weight, moment, group, 0.03))


def test_columns_beyond_a_block_are_made_up_for_too(monkeypatch):
    x, weight = correlated(2), drawn(3, 12, 48)
    moment = x.t() @ x / len(x)
    whole = compensate(weight, moment, group=16)
    monkeypatch.setattr("slimbind.quantize.gptq._BLOCK", 7)
    parts = compensate(weight, moment, group=16)
    assert (whole.codes == parts.codes).float().mean() > 0.98  # float sums in another order may flip a tie
    assert loss(weight, parts, x) == pytest.approx(loss(weight, whole, x), rel=0.05)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from([(4, 16), (4, 48), (8, 48)]))
def test_outputs_are_nearer_than_by_rounding_alone_also_on_other_inputs(seed, how):
    bits, group = how
    x, weight = correlated(seed, n=1000), drawn(seed + 1, 16, 48)
    seen, unseen = x[:700], x[700:]
    codes = compensate(weight, seen.t() @ seen / len(seen), bits=bits, group=group)
    nearest = grouped(weight, group, bits)
    assert loss(weight, codes, unseen) < 0.6 * loss(weight, nearest, unseen)
    assert codes.codes.min() >= SMALLEST[bits] and codes.codes.max() <= LARGEST[bits]
    assert codes.scale.shape == nearest.scale.shape


def test_independent_inputs_leave_nothing_to_make_up_for():
    weight = drawn(4, 8, 32)
    assert torch.equal(compensate(weight, torch.eye(32), group=16).codes, grouped(weight, 16, 4).codes)


def test_an_input_that_is_always_zero_changes_nothing():
    x, weight = correlated(5), drawn(6, 8, 48)
    x[:, 3] = 0
    codes = compensate(weight, x.t() @ x / len(x), group=16)
    assert loss(weight, codes, x) < loss(weight, grouped(weight, 16, 4), x)
    nothing = compensate(weight, torch.zeros(48, 48), group=16)
    assert torch.equal(nothing.codes, grouped(weight, 16, 4).codes)


def test_fewer_rows_than_inputs_are_enough_with_damping():
    x, weight = correlated(7, n=20), drawn(8, 8, 48)
    moment = x.t() @ x / len(x)
    assert loss(weight, compensate(weight, moment, group=16), x) < loss(weight, grouped(weight, 16, 4), x)
    with pytest.raises(ValueError, match="depend on each other; damping 0.0 is not enough"):
        compensate(weight, moment - 0.01 * torch.eye(48), group=16, damping=0.0)


def test_the_moment_is_left_as_it_was():
    x = correlated(9)
    moment = x.t() @ x
    before = moment.clone()
    compensate(drawn(10, 4, 48), moment, group=16)
    assert torch.equal(moment, before)


def test_mistakes_are_told():
    with pytest.raises(ValueError, match=r"the moment is \[4, 4\], the weight has 8 inputs"):
        compensate(torch.ones(2, 8), torch.eye(4))
    with pytest.raises(ValueError, match="second moment is infinite or not a number"):
        compensate(torch.ones(2, 4), torch.full((4, 4), float("nan")))


def plan_for(tower, bits=4, group=8, activation="float"):
    layers = {}
    for name, site in sites(tower).items():
        small = site.kind == "linear" and site.weight.shape[1] % group == 0
        codes = grouped(site.weight, group, bits) if small else grouped(site.weight, site.group_of, 8)
        layers[name] = LayerPlan(codes, activation if small else "float")
    return Plan(layers, group_size=group if activation == "dynamic" else None)


def worst(tower, plan, inputs):
    with torch.no_grad():
        other = emulate(tower, plan)
        return min(float((tower(x) * other(x)).sum(1).min()) for x in inputs)


def mean(tower, plan, inputs):
    with torch.no_grad():
        other = emulate(tower, plan)
        return float(torch.cat([(tower(x) * other(x)).sum(1) for x in inputs]).mean())


@pytest.mark.parametrize("modality", ["vision", "text", "imu"])
def test_a_whole_transformer_says_more_of_what_it_said(split_folder, modality):
    tower = simplify(load_tower(Artifact.open(split_folder), modality))
    torch.manual_seed(0)
    plan = plan_for(tower)
    inputs = list(samples(tower))
    told = []

    def progress(stage, total):
        return lambda done: told.append((done, total))

    better = compensated(tower, inputs, plan, progress=progress)
    assert worst(tower, better, inputs) > worst(tower, plan, inputs)
    changed = [name for name, layer in better.layers.items() if layer is not plan.layers[name]]
    assert changed == [name for name, site in sites(tower).items() if site.kind == "linear"]
    assert told == [(number, len(changed)) for number in range(1, len(changed) + 1)]
    for name in changed:
        assert better.layers[name].weight.scale.shape == plan.layers[name].weight.scale.shape


def test_a_weight_moves_to_what_would_have_been_right():
    x, weight, right = correlated(11), drawn(12, 8, 48), drawn(13, 8, 48)
    moment, gap = x.t() @ x / len(x), (right - weight) @ x.t() @ x / len(x)
    assert torch.allclose(moved(weight, moment, gap, ridge=1e-6), right, atol=1e-3)
    near, nearer = (moved(weight, moment, gap, ridge=ridge) for ridge in (1.0, 0.01))
    assert 0 < (near - weight).norm() < (nearer - weight).norm() < (right - weight).norm()
    assert torch.equal(moved(weight, moment, torch.zeros_like(gap), ridge=0.1), weight)
    with pytest.raises(DependentInputsError):
        moved(weight, moment - torch.eye(48), gap, ridge=0.0)


@pytest.mark.parametrize("modality", ["vision", "text", "imu"])
def test_four_bits_take_back_what_layers_before_did_wrong(monkeypatch, split_folder, modality):
    tower = simplify(load_tower(Artifact.open(split_folder), modality))
    torch.manual_seed(0)
    inputs = [tower.example(4) for _ in range(24)]
    seen, unseen = inputs[:20], inputs[20:]
    followed = compensated(tower, seen, plan_for(tower))
    monkeypatch.setattr(gptq, "moved", lambda weight, moment, gap, ridge: weight)
    alone = compensated(tower, seen, plan_for(tower))
    assert 1 - mean(tower, followed, unseen) < 0.97 * (1 - mean(tower, alone, unseen))


def test_eight_bits_are_rounded_without_following(monkeypatch, split_folder):
    tower = simplify(load_tower(Artifact.open(split_folder), "imu"))
    plan = plan_for(tower, bits=8)
    monkeypatch.delattr(gptq, "moved")  # it would be missed
    assert compensated(tower, [tower.example(4)], plan).layers.keys() == plan.layers.keys()


def test_an_unsimplified_tower_and_rounded_inputs(split_folder):
    tower = load_tower(Artifact.open(split_folder), "audio")
    inputs = list(samples(tower))
    plan = plan_for(tower, activation="dynamic")
    better = compensated(tower, inputs, plan)
    assert worst(tower, better, inputs) > worst(tower, plan, inputs)
    assert all(better.layers[name].activation == layer.activation for name, layer in plan.layers.items())
    assert better.group_size == plan.group_size


def test_other_towers_are_observed_at_once():
    torch.manual_seed(0)
    tower = mini.build("text", {**mini.TEXT_CONFIG, "depth": 1, "vocabulary": 50}).eval()
    inputs = [tower.example(4) for _ in range(8)]
    plan = plan_for(tower, group=64)
    better = compensated(tower, inputs, plan)
    assert worst(tower, better, inputs) > worst(tower, plan, inputs)


def test_layers_without_codes_are_left_alone(split_folder):
    tower = simplify(load_tower(Artifact.open(split_folder), "imu"))
    plan = Plan({"blocks.0.mlp.fc1": LayerPlan(per_channel(tower.blocks[0].mlp.fc1.weight)), "stem.proj": LayerPlan()})
    better = compensated(tower, [tower.example(2)], plan)
    assert better.layers["stem.proj"] == LayerPlan() and set(better.layers) == set(plan.layers)


def test_no_batches_is_an_error(split_folder):
    tower = load_tower(Artifact.open(split_folder), "imu")
    with pytest.raises(UsageError, match="nothing to calibrate with"):
        compensated(tower, [], plan_for(tower))


def test_loud_inputs_that_repeat_each_other_get_more_damping(make_tower):
    tower = make_tower("imu")
    site = sites(tower)["stem.proj"]
    rows = torch.randn(300, 48, generator=torch.Generator().manual_seed(0))
    rows[:, 0] *= 1e3
    rows[:, 1] = rows[:, 0] * (1 + 1e-4)
    rows[:, 2] = rows[:, 0]
    moment = rows.t() @ rows / len(rows)
    with pytest.raises(ValueError, match="depend on each other"):
        compensate(site.weight, moment, group=16)
    plan = Plan({"stem.proj": LayerPlan(grouped(site.weight, 16))})
    work = gptq._Work(tower, plan, sites(tower), ["stem.proj"], 0.03, lambda done: None)
    stats = InputStats(300, rows.amin(0), rows.amax(0), rows.mean(0), rows.square().mean(0), moment)
    work.recode("stem.proj", stats)
    codes = work.done["stem.proj"].weight
    assert torch.isfinite(codes.scale).all() and codes.codes.unique().numel() > 8
