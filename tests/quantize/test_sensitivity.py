"""Sensitivity: what is measured for all layers at once is what each of them does alone."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from slimbind.errors import UsageError
from slimbind.quantize.emulate import emulate
from slimbind.quantize.plan import LayerPlan, Plan
from slimbind.quantize.rounding import per_channel
from slimbind.quantize.sensitivity import agreement, embed, measure, restore, twins
from slimbind.quantize.sites import sites


@pytest.fixture(scope="module")
def tower(make_tower):
    return make_tower("imu")


@pytest.fixture(scope="module")
def batches(tower):
    torch.manual_seed(1)
    return list(tower.example(24).split(12))


def rough(tower):
    """Every layer in 4 bits per row: errors large enough to be seen above float noise."""
    return Plan({name: LayerPlan(per_channel(site.weight, 4)) for name, site in sites(tower).items()})


def test_each_layer_costs_what_it_costs_alone(tower, batches):
    plan = rough(tower)
    found = measure(tower, batches, {"4": twins(emulate(tower, plan), plan.layers)}, probes=32)["4"]
    reference = embed(tower, batches)
    for name, layer in plan.layers.items():
        alone = 1 - agreement(reference, embed(emulate(tower, Plan({name: layer})), batches)).cosine_mean
        assert found[name] == pytest.approx(alone, rel=0.5), name


def test_the_sum_foretells_the_whole(tower, batches):
    plan = Plan({name: LayerPlan(per_channel(site.weight), "float") for name, site in sites(tower).items()})
    whole = emulate(tower, plan)
    found = measure(tower, batches, {"8": twins(whole, plan.layers)})["8"]
    off = 1 - agreement(embed(tower, batches), embed(whole, batches)).cosine_mean
    assert sum(found.values()) == pytest.approx(off, rel=0.7)


def test_ways_are_told_apart_and_a_way_that_changes_nothing_costs_nothing(tower, batches):
    plan = rough(tower)
    same = {name: tower.get_submodule(name) for name in plan.layers}
    found = measure(tower, batches[:1], {"4": twins(emulate(tower, plan), plan.layers), "same": same}, probes=2)
    assert set(found["same"].values()) == {0.0}
    assert min(found["4"].values()) > 0


def test_measuring_leaves_the_tower_as_it_was(tower, batches):
    before = embed(tower, batches[:1])
    asking = next(tower.parameters())
    asking.requires_grad_(True)
    try:
        plan = rough(tower)
        seen = []
        measure(tower, batches, {"4": twins(emulate(tower, plan), plan.layers)}, probes=1, progress=seen.append)
        assert asking.requires_grad and asking.grad is None
    finally:
        asking.requires_grad_(False)
    assert seen == [12, 24]
    assert torch.equal(embed(tower, batches[:1]), before)
    assert not any(module._forward_hooks for module in tower.modules())


def test_nothing_to_measure_on(tower):
    with pytest.raises(UsageError, match="nothing to measure"):
        measure(tower, [], {"same": {"head.proj": tower.head.proj}})


def test_texts_have_sensitivities_too(make_tower):
    tower = make_tower("text")
    plan = rough(tower)
    found = measure(tower, [tower.example(4)], {"4": twins(emulate(tower, plan), plan.layers)}, probes=2)["4"]
    assert set(found) == set(plan.layers) and min(found.values()) > 0


def test_what_is_not_a_number_agrees_with_nothing():
    good = torch.eye(2)
    bad = torch.tensor([[1.0, 0.0], [float("nan"), 0.0]])
    assert agreement(good, bad).cosine_min == -1.0


@given(
    st.dictionaries(st.text(min_size=1, max_size=3), st.tuples(st.floats(0, 1), st.floats(0.1, 10)), min_size=1),
    st.floats(0, 2),
)
def test_what_is_restored_is_enough_and_none_of_it_in_vain(layers, allowed):
    loss = {name: value for name, (value, _) in layers.items()}
    cost = {name: value for name, (_, value) in layers.items()}
    chosen = restore(loss, cost, allowed=allowed)
    left = [value for name, value in loss.items() if name not in chosen]
    assert sum(left) <= allowed + 1e-9 or len(chosen) == len(loss)
    if chosen:
        assert sum(left) + loss[chosen[-1]] > allowed - 1e-9, "the last one was needed"
        rates = [loss[name] / cost[name] for name in chosen]
        assert rates == sorted(rates, reverse=True)


def test_layers_restored_before_lead_the_list():
    chosen = restore({"a": 1.0, "b": 2.0, "c": 3.0}, {"a": 1, "b": 1, "c": 1}, allowed=2.5, first=["a"])
    assert chosen == ["a", "c"]


def test_what_is_too_dear_to_restore_is_passed_over():
    loss, cost = {"a": 0.01, "b": 0.001, "c": 0.0009}, {"a": 0.5, "b": 0.1, "c": 0.1}
    assert restore(loss, cost, allowed=0.002) == ["a"]
    assert restore(loss, cost, allowed=0.002, most=0.15) == ["b"]
    assert restore(loss, cost, allowed=0.002, most=0.25) == ["b", "c"]
