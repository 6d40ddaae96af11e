"""Ranges: what they hold, that order and cuts do not matter, and what each observer is worth on known distributions."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from slimbind.quantize.emulate import static
from slimbind.quantize.observers import OBSERVERS, Histogram, MinMax, Mse, Percentile
from slimbind.quantize.plan import StaticRange

seeds = st.integers(0, 2**31)


def drawn(seed, n=4000, spread=1.0, shift=0.0):
    random = torch.Generator().manual_seed(seed)
    return torch.randn(n, generator=random) * spread + shift


def range_of(name, *parts):
    observer = OBSERVERS[name]()
    for part in parts:
        observer.update(part)
    return observer.range()


def error(x, range_):
    return float((static(x, range_) - x).square().mean())


def test_minmax_by_hand():
    found = range_of("minmax", torch.tensor([[0.5, -1.0]]), torch.tensor([2.0]), torch.empty(0))
    assert (found.low, found.high) == (-1.0, 2.0)


@pytest.mark.parametrize("name", OBSERVERS)
def test_a_range_always_holds_zero(name):
    assert range_of(name, torch.tensor([3.0, 5.0])).low == 0.0
    assert range_of(name, torch.tensor([-3.0, -5.0])).high == 0.0


@pytest.mark.parametrize("name", OBSERVERS)
def test_an_input_that_is_always_zero_stays_zero(name):
    found = range_of(name, torch.zeros(10))
    assert static(torch.zeros(3), found).tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("name", OBSERVERS)
def test_nothing_seen_is_an_error(name):
    with pytest.raises(ValueError, match="no values were observed"):
        OBSERVERS[name]().range()


@settings(max_examples=15, deadline=None)
@given(seeds, st.sampled_from(sorted(OBSERVERS)), st.floats(0.001, 1000), st.integers(1, 7))
def test_order_and_cuts_do_not_matter(seed, name, spread, parts):
    x = drawn(seed, 2000, spread, shift=0.3 * spread)
    mixed = x[torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))]
    assert range_of(name, x) == range_of(name, *mixed.chunk(parts))


@settings(max_examples=15, deadline=None)
@given(seeds, st.sampled_from(sorted(OBSERVERS)), st.integers(-8, 8))
def test_a_power_of_two_scales_the_range(seed, name, power):
    x = drawn(seed, 2000)
    one, other = range_of(name, x), range_of(name, x * 2.0**power)
    assert other.low == pytest.approx(one.low * 2.0**power) and other.high == pytest.approx(one.high * 2.0**power)


@settings(max_examples=15, deadline=None)
@given(seeds, st.sampled_from(sorted(OBSERVERS)), st.floats(-2, 2))
def test_no_range_is_wider_than_what_was_seen(seed, name, shift):
    x = drawn(seed, 1000, shift=shift)
    found = range_of(name, x)
    assert min(0.0, float(x.min())) <= found.low and found.high <= max(0.0, float(x.max()))


def test_a_percentile_leaves_the_extremes_out():
    x = torch.cat([torch.linspace(-1, 1, 100_000), torch.tensor([50.0, -80.0])])
    found = range_of("percentile", x)
    assert found.high == pytest.approx(1.0, abs=0.02) and found.low == pytest.approx(-1.0, abs=0.02)
    observer = Percentile(keep=100.0)
    observer.update(x)
    assert observer.range() == range_of("minmax", x)


@pytest.mark.parametrize("keep", [50.0, 100.1, -1.0])
def test_a_percentile_outside_of_its_bounds_is_refused(keep):
    with pytest.raises(ValueError, match="above 50 and at most 100"):
        Percentile(keep)


@pytest.mark.parametrize(
    "x",
    [
        drawn(0, 50_000),
        torch.nn.functional.gelu(drawn(1, 50_000)),
        torch.nn.functional.relu(drawn(2, 50_000, 3.0)),
        torch.cat([drawn(3, 50_000), drawn(4, 50, 12.0)]),
        drawn(5, 50_000).pow(3),
    ],
    ids=["normal", "gelu", "relu", "outliers", "cubed"],
)
def test_the_least_error_is_found(x):
    found = {name: error(x, range_of(name, x)) for name in OBSERVERS}
    assert found["mse"] <= 1.02 * min(found.values())
    assert found["histogram"] <= 1.02 * found["minmax"]
    whole = range_of("minmax", x)
    for down in torch.linspace(0.1, 1, 10).tolist():
        for up in torch.linspace(0.1, 1, 10).tolist():
            assert found["mse"] <= 1.03 * error(x, StaticRange(whole.low * down - 1e-9, whole.high * up))


def test_a_search_clips_what_is_rare_and_far():
    x = torch.cat([drawn(0, 200_000), torch.tensor([40.0])])
    assert range_of("mse", x).high < 0.9 * range_of("minmax", x).high
    assert error(x, range_of("mse", x)) < 0.8 * error(x, range_of("minmax", x))


def test_bins_are_merged_when_values_grow():
    """Small values first, then ones a million times larger: the counts stay those of all values."""
    observer = Mse()
    for power in range(0, 21, 4):
        observer.update(torch.linspace(-1, 1, 101) * 2.0**power)
    assert observer.counts.sum() == 6 * 101
    assert observer.range().high <= 2.0**20


def test_a_loss_is_what_rounding_costs():
    x = drawn(7, 20_000, 2.0)
    for kind in (Histogram, Mse, Percentile):
        observer = kind()
        observer.update(x)
        for low, high in ((-8.0, 8.0), (-2.0, 5.0), (-0.5, 0.5)):
            assert observer.loss(low, high) / len(x) == pytest.approx(error(x, StaticRange(low, high)), rel=0.05)


@given(st.floats(-100, 0), st.floats(0, 100))
def test_zero_is_a_level_of_every_range(low, high):
    if high - low < 1e-6:
        return
    range_ = StaticRange(low, high)
    assert 0 <= range_.zero_point <= 255
    assert static(torch.zeros(1), range_).item() == 0.0
    bottom, top = range_.nudged
    assert top - bottom == pytest.approx(high - low) and bottom == pytest.approx(low, abs=range_.scale * 0.51)


@pytest.mark.parametrize("low, high", [(1.0, 2.0), (-2.0, -1.0), (0.0, 0.0), (float("nan"), 1.0)])
def test_a_range_without_zero_is_refused(low, high):
    with pytest.raises(ValueError, match="must span zero"):
        StaticRange(low, high)


def test_minmax_takes_maps_as_well_as_tokens():
    observer = MinMax()
    observer.update(torch.arange(24.0).reshape(1, 2, 3, 4) - 3)
    assert observer.range() == StaticRange(-3.0, 20.0)


@pytest.mark.parametrize("name", ["percentile", "histogram", "mse"])
def test_a_batch_of_zeros_first_does_not_coarsen_the_bins(name):
    x = torch.randn(3000, generator=torch.Generator().manual_seed(0)) * 1e-5
    found = []
    for parts in ((torch.zeros(100), x), (x, torch.zeros(100))):
        observer = OBSERVERS[name]()
        for part in parts:
            observer.update(part)
        found.append(observer.range())
    assert found[0] == found[1]
