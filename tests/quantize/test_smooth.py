"""Smoothing changes no embedding, whatever the alpha, and makes inputs and weights share the outliers."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from slimbind.quantize import links, sites, smooth
from slimbind.towers import registry
from slimbind.towers.simplify import fold_norms, simplify

from .loud import MADE, NAMES, Stats, agree, make_towers, observe


@pytest.fixture(scope="module")
def towers():
    """See ``make_towers``."""
    return make_towers()


def double(tower):
    return copy.deepcopy(tower).double()


@pytest.mark.parametrize("prepare", [lambda tower: tower, simplify, lambda tower: simplify(fold_norms(tower))])
@pytest.mark.parametrize("name", NAMES)
def test_same_embeddings(towers, name, prepare):
    tower = prepare(towers[name])
    x = tower.example(3)
    before = {key: value.clone() for key, value in tower.state_dict().items()}
    after = smooth.smooth(tower, observe(tower, x))
    agree(tower, after, x)
    agree(tower, after, tower.example(2))
    assert list(sites.sites(after)) == list(sites.sites(tower))
    assert tower.state_dict().keys() == before.keys()
    assert all(torch.equal(value, before[key]) for key, value in tower.state_dict().items())
    # Every link did something, and smoothing what was smoothed is exact as well.
    weights = sites.sites(tower)
    for link in links.links(tower).values():
        for reader in link.readers:
            assert not torch.equal(sites.sites(after)[reader].weight, weights[reader].weight), reader
    agree(tower, smooth.smooth(after, observe(after, x), alpha=0.9), x)
    moved = smooth.smooth(after, observe(after, x), shift=True)
    agree(tower, moved, x)
    agree(tower, smooth.smooth(moved, observe(moved, x), shift=True), x)


@settings(max_examples=15, deadline=None)
@given(
    name=st.sampled_from(["vision", "depth", "clip text", "resnet", "mini text"]),
    alpha=st.floats(0, 1),
    shift=st.booleans(),
    apart=st.booleans(),
    seed=st.integers(0, 99),
)
def test_same_embeddings_with_any_settings(towers, name, alpha, shift, apart, seed):
    tower = simplify(towers[name])
    random = torch.Generator().manual_seed(seed)
    stats = {}
    for key, found in observe(tower, tower.example(1)).items():
        wild = torch.randn(found.low.shape, generator=random).exp() ** 2
        stats[key] = Stats(found.low * wild, found.high * wild, found.mean * wild)
    x = tower.example(2)
    loud = smooth.loud_channels(tower, stats, shift=shift) if apart else None
    agree(tower, smooth.smooth(tower, stats, alpha=alpha, shift=shift, loud=loud), x, tolerance=3e-5)
    exact, x = double(tower), x.double() if x.is_floating_point() else x
    agree(exact, smooth.smooth(exact, stats, alpha=alpha, shift=shift, loud=loud), x, tolerance=1e-9)


def test_links_by_name(towers):
    """A mapping scales what it names and leaves the rest alone, down to the storage."""
    tower = simplify(towers["audio"])
    x = tower.example(2)
    after = smooth.smooth(tower, observe(tower, x), alpha={"blocks.0.mlp.fc1": 0.7, "blocks.1.attn.out": 0.3})
    agree(tower, after, x)
    old = tower.state_dict()
    changed = {key for key, value in after.state_dict().items() if value.data_ptr() != old[key].data_ptr()}
    assert changed == {
        "blocks.0.norm_2.weight", "blocks.0.norm_2.bias", "blocks.0.mlp.fc1.weight",
        "blocks.1.attn.kv.weight", "blocks.1.attn.kv.bias", "blocks.1.attn.bias_v", "blocks.1.attn.out.weight",
    }  # fmt: skip
    # Keys are no values: their half stays as it was.
    half = len(old["blocks.1.attn.kv.bias"]) // 2
    new = after.state_dict()["blocks.1.attn.kv.bias"]
    assert torch.equal(new[:half], old["blocks.1.attn.kv.bias"][:half])
    assert not torch.equal(new[half:], old["blocks.1.attn.kv.bias"][half:])


@pytest.mark.parametrize("name", ["vision", "imu", "clip vision", "mini text", "resnet"])
def test_the_loud_become_quiet(towers, name):
    """What smoothing is for: the loudest channel of an input stands out less."""
    tower = simplify(towers[name])
    x = tower.example(4)
    before = observe(tower, x)
    after = observe(smooth.smooth(tower, before), x)

    def crest(stats):
        return float(stats.absmax.amax() / stats.absmax.mean())

    readers = {link.readers[-1] for link in links.links(tower).values()}
    ratios = {reader: crest(after[reader]) / crest(before[reader]) for reader in readers}
    assert np.mean(list(ratios.values())) < 0.75, ratios


def test_a_bias_row_counts_among_the_values(towers):
    tower = simplify(towers["depth"])
    assert links.links(tower)["blocks.0.attn.out"].vectors == ("blocks.0.attn.bias_v",)
    assert links.links(simplify(towers["vision"]))["blocks.0.attn.out"].vectors == ()


@pytest.mark.parametrize("dead", ["input", "weights", "both", "all"])
def test_channels_of_zeros(dead):
    absmax, weight = torch.rand(16) + 0.5, torch.randn(8, 16)
    if dead == "all":
        absmax, weight = torch.zeros(16), torch.zeros(8, 16)
    if dead in ("input", "both"):
        absmax[:3] = 0
    if dead in ("weights", "both"):
        weight[:, :3] = 0
    for alpha in (0.0, 0.5, 1.0):
        by = smooth.scale(absmax, [weight], alpha)
        assert torch.isfinite(by).all() and (by > 0).all()
        assert by.max() / by.min() < 2 / smooth.QUIET


wide = st.floats(0, 2.0**60, width=32)


@settings(max_examples=60, deadline=None)
@given(
    absmax=arrays.arrays(np.float32, 12, elements=wide),
    weight=arrays.arrays(np.float32, (5, 12), elements=wide),
    alpha=st.floats(0, 1),
)
def test_scales_are_bounded(absmax, weight, alpha):
    by = smooth.scale(torch.from_numpy(absmax), [torch.from_numpy(weight)], alpha)
    assert torch.isfinite(by).all()
    assert by.max() <= smooth.SPREAD * 1.01 and by.min() >= 0.99 / smooth.SPREAD


def test_a_loud_row_does_not_decide():
    """Rows are quantized with scales of their own, so their loudness is no reason to spare an input."""
    absmax, weight = torch.rand(16) + 0.5, torch.randn(8, 16)
    loud = weight * torch.tensor([1, 1, 1, 50.0, 1, 1, 1, 1])[:, None]
    torch.testing.assert_close(smooth.scale(absmax, [loud], 0.5), smooth.scale(absmax, [weight], 0.5))


def test_a_shared_norm_is_left_alone(towers):
    """Scaling what two layers share would scale both."""
    tower = links.structure_copy(towers["depth"])
    tower.blocks[1]._modules["norm_2"] = tower.blocks[0].norm_2
    x = tower.example(2)
    assert not {"blocks.0.mlp.fc1", "blocks.1.mlp.fc1"} & links.links(tower).keys()
    after = smooth.smooth(tower, observe(tower, x))
    agree(tower, after, x)
    assert after.blocks[0].norm_2 is after.blocks[1].norm_2


def test_a_copy_keeps_its_hooks_to_itself(towers):
    tower = towers["depth"]
    copy = links.structure_copy(tower)
    called = []
    copy.blocks[0].register_forward_pre_hook(lambda module, given: called.append(1))
    with torch.no_grad():
        tower(tower.example(1))
    assert not called


def test_a_tower_without_links(towers):
    config = {"dim": 384, "size": 64, "hidden": 8, "temperature": 1.5}
    tower = registry.build("mini", "vision", config, device="cpu").eval()
    assert smooth.smooth(tower, {}) is tower


def test_mistakes(towers):
    tower = simplify(towers["depth"])
    stats = observe(tower, tower.example(1))
    with pytest.raises(ValueError, match="no link 'blocks.0.fc1'; it has blocks.0.attn.qkv"):
        smooth.smooth(tower, stats, alpha={"blocks.0.fc1": 0.5})
    with pytest.raises(ValueError, match="between 0 and 1, not blocks.0.attn.qkv: 1.5"):
        smooth.smooth(tower, stats, alpha=1.5)
    with pytest.raises(ValueError, match="no statistics of the input of 'blocks.0.attn.qkv'"):
        smooth.smooth(tower, {})


@pytest.mark.parametrize("name", ["vision", "depth", "clip text", "mini text"])
def test_moved_inputs_lie_around_zero(towers, name):
    tower = simplify(towers[name])
    x = tower.example(4)
    before = observe(tower, x)
    after = observe(smooth.smooth(tower, before, shift=True), x)
    for link in links.links(tower).values():
        reader = link.readers[-1]
        far = [
            stats[reader].mean.abs().sum() / (stats[reader].high - stats[reader].low).sum() for stats in (before, after)
        ]
        assert far[1] < 1e-4 < far[0], reader


def test_a_relu_is_not_moved_through(towers):
    tower = towers["resnet"]
    found = links.links(tower)
    assert [name for name, link in found.items() if link.shifts] == ["head.out"]


@pytest.mark.parametrize("name", ["vision", "depth", "mini text"])
def test_loud_channels_stay_in_float(towers, name):
    tower = simplify(towers[name])
    if name == "mini text":
        tower = links.structure_copy(tower)
        tower.norm = copy.deepcopy(tower.norm)
        with torch.no_grad():
            tower.norm.weight[:2] *= 10
    x = tower.example(4)
    stats = observe(tower, x)
    # The norms of these towers have two loud gains; narrow towers may leave out one channel in 64.
    found = smooth.loud_channels(tower, stats)
    link = {"mini text": "layers.0.qkv"}.get(name, "blocks.0.mlp.fc1")
    width = tower.config["width"]
    assert 0 < len(found.get(link, [])) <= max(1, width // smooth.FEW) or width < smooth.FEW
    loud = {link: [0, 1]}
    after = smooth.smooth(tower, stats, loud=loud)
    agree(tower, after, x)
    layer = after.get_submodule(link)
    assert isinstance(layer, links.Apart)
    assert f"{link}.quiet" in sites.sites(after) and link not in sites.sites(after)
    assert not layer.quiet.weight[:, [0, 1]].any() and layer.quiet.weight[:, 2:].any()
    quiet = observe(after, x)[f"{link}.quiet"].absmax
    assert quiet[:2].max() <= 1.5 * quiet[2:].median()
    # What was taken apart is no link any more, and is left alone.
    assert link not in links.links(after)
    agree(tower, smooth.smooth(after, observe(after, x)), x)


def test_nothing_is_loud_among_equals():
    tower = registry.build("clip", *MADE["clip text"][1:], device="cpu").eval()
    assert smooth.loud_channels(tower, observe(tower, tower.example(2))) == {}


def test_a_convolution_leaves_nothing_out(towers):
    tower = towers["resnet"]
    stats = observe(tower, tower.example(1))
    with pytest.raises(ValueError, match="stem.2 is no linear layer"):
        smooth.smooth(tower, stats, loud={"stem.2": [0]})
