"""Watching inputs: the sums are those of all rows at once, whatever the batches were, and nothing is left behind."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from slimbind.errors import EngineError, UsageError
from slimbind.quantize import activations
from slimbind.quantize.activations import observe
from slimbind.quantize.emulate import emulate
from slimbind.quantize.plan import LayerPlan, Plan, StaticRange
from slimbind.quantize.rounding import per_channel
from slimbind.quantize.sites import sites
from slimbind.towers import registry
from slimbind.towers.layers import Tower


class Toy(Tower):
    """A convolution, then a linear layer over pixels and one over the mean of them."""

    def __init__(self):
        super().__init__("toy", "vision", {"dim": 4}, logit_scale=False)
        self.conv = nn.Conv2d(3, 6, 3)
        self.each = nn.Linear(6, 6)
        self.last = nn.Linear(6, 4)

    def features(self, x):
        return self.last(self.each(self.conv(x).flatten(2).transpose(1, 2)).mean(1))

    def example(self, batch=2):
        return torch.randn(batch, 3, 5, 5)


@pytest.fixture(scope="module")
def toy():
    torch.manual_seed(0)
    return Toy().eval()


@pytest.fixture(scope="module")
def pictures(toy):
    torch.manual_seed(1)
    return toy.example(8)


def test_channels_of_maps_and_of_tokens(toy, pictures):
    stats = observe(toy, [pictures])
    assert list(stats) == ["conv", "each", "last"]
    assert torch.equal(stats["conv"].low, pictures.amin((0, 2, 3)))
    assert torch.equal(stats["conv"].high, pictures.amax((0, 2, 3)))
    assert torch.equal(stats["conv"].absmax, pictures.abs().amax((0, 2, 3)))
    assert stats["conv"].count == 8 * 25 and stats["each"].count == 8 * 9 and stats["last"].count == 8


def test_moments_are_means_over_rows(toy, pictures):
    stats = observe(toy, [pictures], names=["each"], moments=True)["each"]
    x = toy.conv(pictures).flatten(2).transpose(1, 2).reshape(-1, 6).detach()
    assert torch.allclose(stats.moment, x.t() @ x / len(x), atol=1e-6)
    assert torch.allclose(stats.moment.diagonal(), stats.square, atol=1e-6)
    assert torch.allclose(stats.mean, x.mean(0), atol=1e-6)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 8))
def test_batches_do_not_matter(toy, pictures, size):
    whole = observe(toy, [pictures], moments=True, rows=20, observers=["minmax"])
    parts = observe(toy, pictures.split(size), moments=True, rows=20, observers=["minmax"])
    for name, one in whole.items():
        other = parts[name]
        assert one.count == other.count
        for field in ("low", "high", "mean", "square", "moment", "rows"):
            assert torch.allclose(getattr(one, field), getattr(other, field), atol=1e-5), field
        assert one.ranges["minmax"].low == pytest.approx(other.ranges["minmax"].low, abs=1e-6)


def test_the_sample_of_rows_is_bounded_and_of_rows_seen(toy, pictures):
    stats = observe(toy, pictures.split(3), rows=10)
    assert stats["each"].rows.shape == (10, 6)
    assert stats["last"].rows.shape == (8, 6)  # there are no more
    x = toy.conv(pictures).flatten(2).transpose(1, 2).reshape(-1, 6).detach()
    nearest = (stats["each"].rows[:, None] - x).abs().amax(2).amin(1)
    assert nearest.max() < 1e-4


def test_every_row_is_as_likely():
    """From 1000 rows in ten batches, 100 are kept: about ten of each batch."""
    state = activations._Running("x", moments=False, rows=100, observers={})
    for batch in range(10):
        state.update(torch.full((100, 1), float(batch)))
    counts = torch.bincount(state.finish().rows[:, 0].long(), minlength=10)
    assert counts.sum() == 100 and counts.min() >= 3 and counts.max() <= 20


def test_what_was_not_asked_for_is_not_kept(toy, pictures):
    stats = observe(toy, [pictures])["each"]
    assert stats.moment is None and stats.rows is None and stats.ranges == {}


def test_hooks_are_gone_afterwards_also_after_an_error(toy, pictures):
    observe(toy, [pictures])
    with pytest.raises(RuntimeError):
        observe(toy, [pictures[:, :2]])
    assert all(not module._forward_pre_hooks for module in toy.modules())


def test_statistics_can_be_trained_with(toy, pictures):
    """They are ordinary tensors, not those of an inference mode."""
    stats = observe(toy, [pictures], moments=True)["each"]
    (torch.ones(6, requires_grad=True) * stats.mean).sum().backward()


def test_progress_counts_items(toy, pictures):
    told = []
    observe(toy, pictures.split(3), progress=told.append)
    assert told == [3, 6, 8]


def test_an_emulated_tower_is_watched_like_the_real_one(toy, pictures):
    layers = {name: LayerPlan(per_channel(site.weight)) for name, site in sites(toy).items()}
    layers["conv"] = LayerPlan(layers["conv"].weight, StaticRange(-4.0, 4.0))
    names = list(layers)
    stats, real = observe(emulate(toy, Plan(layers)), [pictures], names=names), observe(toy, [pictures], names=names)
    assert torch.equal(stats["conv"].low, real["conv"].low)  # what it is given, not what it makes of it
    assert torch.allclose(stats["each"].mean, real["each"].mean, atol=0.05)


def test_embeddings_are_not_watched():
    config = {"width": 8, "heads": 2, "depth": 1, "hidden": 16, "dim": 4, "tokens": 9, "vocabulary": 20}
    config |= {"activation": "gelu", "eps": 1e-6, "norm_pre": False, "bias_kv": False}
    tower = registry.build("imagebind", "text", config, device="cpu")
    assert "stem.embedding" in sites(tower) and "stem.embedding" not in observe(tower, [tower.example(2)])


def test_mistakes_are_told(toy, pictures):
    with pytest.raises(UsageError, match="no batches"):
        observe(toy, [])
    with pytest.raises(UsageError, match="minmaxx"):
        observe(toy, [pictures], observers=["minmaxx"])
    with pytest.raises(AttributeError, match="nothing"):
        observe(toy, [pictures], names=["nothing"])
    spoiled = pictures.clone()
    spoiled[3, 0, 0, 0] = float("nan")
    with pytest.raises(EngineError, match="input of conv is infinite or not a number"):
        observe(toy, [spoiled])
    with pytest.raises(ValueError, match=r"spare.* was never used"):
        spare = Toy()
        spare.spare = nn.Linear(2, 2)
        observe(spare, [pictures])
