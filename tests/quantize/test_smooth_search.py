"""The search for how much to smooth: each scheme gets what it needs, and the error falls."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from slimbind.quantize import links, smooth
from slimbind.towers.simplify import simplify

from .loud import agree, make_towers, observe


@pytest.fixture(scope="module")
def towers():
    """See ``make_towers``."""
    return make_towers()


def layer_by(rounds_input, rounds_weight):
    """A layer with one coarse step for all of its input, or one for each row of its weight."""

    def layer(rows, weight):
        if rounds_input:
            step = rows.abs().amax() / 15
            rows = (rows / step).round() * step
        if rounds_weight:
            step = weight.abs().amax(1, keepdim=True) / 15
            weight = (weight / step).round() * step
        return rows @ weight.t()

    return layer


def test_search_finds_what_the_scheme_needs(towers):
    """Rounded inputs ask for much smoothing, rounded weights for little, none of both for none."""
    tower = simplify(towers["vision"])
    stats = observe(tower, tower.example(2))
    seen = []
    inputs = smooth.search(tower, stats, layer_by(True, False), progress=seen.append)
    both = smooth.search(tower, stats, layer_by(True, True))
    assert seen == list(range(1, len(links.links(tower)) + 1))
    # Only what would cost a multiplication is ever left out.
    free = {name for name, link in links.links(tower).items() if link.gate is None}
    assert free <= smooth.search(tower, stats, layer_by(False, True)).keys()
    fc1 = "blocks.0.mlp.fc1"
    assert inputs[fc1] == max(smooth.ALPHAS) and smooth.ALPHAS[0] <= both[fc1] < inputs[fc1]
    agree(tower, smooth.smooth(tower, stats, alpha=both), tower.example(2))


def test_search_lowers_the_error(towers):
    tower = simplify(towers["imu"])
    x = tower.example(2)
    stats = observe(tower, x)
    layer = layer_by(True, True)
    found = smooth.search(tower, stats, layer)
    after = smooth.smooth(tower, stats, alpha=found)
    again = observe(after, x)
    assert len(found) > len(links.links(tower)) // 2
    for name in found:

        def error(t, s, name=name):
            weight, rows = t.get_submodule(name).weight, s[name].rows
            true = rows @ weight.t()
            spread = true.var(0)
            return float(((layer(rows, weight) - true).square().mean(0) / (spread + 0.01 * spread.mean())).mean())

        assert error(after, again) < 1.1 * error(tower, stats), name


def test_search_wants_rows(towers):
    tower = simplify(towers["depth"])
    stats = observe(tower, tower.example(1))
    for one in stats.values():
        one.rows = None
    with pytest.raises(ValueError, match="sample of rows"):
        smooth.search(tower, stats, layer_by(True, True))


def test_the_search_keeps_to_the_even_alpha_where_a_single_row_tells_nothing():
    weight = torch.randn(8, 16, generator=torch.Generator().manual_seed(0))
    row = torch.randn(1, 16, generator=torch.Generator().manual_seed(1))
    cost = smooth._cost(row, weight, None, torch.ones(16), lambda rows, weight: rows.round() @ weight.t())
    assert np.isfinite(cost) and cost > 0
