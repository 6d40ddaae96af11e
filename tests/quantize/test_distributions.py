"""What a look into the layers finds: the channels that are loud, what rounding costs, and the same from any batches."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from slimbind.errors import ArtifactError, UsageError
from slimbind.quantize import distributions
from slimbind.quantize.activations import watching
from slimbind.quantize.sites import Site, sites


def seen(module, x, name="it"):
    with watching({name: module}, rows=64, histograms=True) as stats:
        module(x)
    return stats[name]


@pytest.fixture
def loud():
    """A linear layer whose input has a channel a hundred times as loud as the others, and one of ten times."""
    torch.manual_seed(0)
    x = torch.randn(256, 16).clamp(-3, 3)
    x[:, 5] *= 100
    x[:, 11] *= 10
    return Site("up", nn.Linear(16, 8), "linear"), x


def test_outlier_channels_are_named_loudest_first(loud):
    site, x = loud
    found = distributions.layer(site, seen(site.module, x))
    assert [one.channel for one in found.outliers] == [5, 11] and found.loud == 2
    largest = x.abs().amax(0)
    assert found.outliers[0].largest == pytest.approx(float(largest[5]))
    assert found.ratio == found.outliers[0].ratio == pytest.approx(float(largest[5] / largest.median()), rel=1e-5)
    assert found.channels == tuple(sorted(found.channels)) and found.channels[-1] == float(largest.max())
    assert [one.channel for one in distributions.layer(site, seen(site.module, x), loud=50).outliers] == [5]


def test_decibels_are_those_of_rounding_to_8_bits(loud):
    site, x = loud
    found = distributions.layer(site, seen(site.module, x))
    low, high = min(float(x.min()), 0.0), max(float(x.max()), 0.0)
    step = (high - low) / 255
    zero = round(-low / step)
    rounded = ((x / step).round() + zero).clamp(0, 255).sub(zero) * step
    expected = 10 * math.log10(float(x.double().square().sum() / (rounded - x).double().square().sum()))
    assert found.input_db == pytest.approx(expected, abs=0.3)
    weight = site.weight
    scale = weight.abs().amax(1, keepdim=True) / 127
    error = (weight / scale).round() * scale - weight
    assert found.weight_db == pytest.approx(
        10 * math.log10(float(weight.square().sum() / error.square().sum())), abs=0.01
    )


def test_loud_channels_cost_all_the_others_and_a_scale_for_each_row_costs_less(loud):
    site, x = loud
    calm = distributions.layer(site, seen(site.module, torch.randn(256, 16).clamp(-3, 3)))
    found = distributions.layer(site, seen(site.module, x))
    others = torch.cat([x[:, :5], x[:, 6:]], 1)
    step = float(x.max() - x.min()) / 255
    noise = (others / step).round() * step - others
    assert 10 * math.log10(float(others.square().mean() / noise.square().mean())) < calm.input_db - 20
    spread = x * torch.logspace(-2, 0, 256)[:, None]  # rows of different loudness: static scales lose the quiet ones
    uneven = distributions.layer(site, seen(site.module, spread))
    assert uneven.row_db > uneven.input_db and calm.outliers == () and found.outliers


def test_histograms_count_every_value_and_end_at_the_extremes(loud):
    site, x = loud
    found = distributions.layer(site, seen(site.module, x))
    assert sum(found.input.counts) == x.numel() and sum(found.weight.counts) == site.weight.numel()
    assert found.input.edges[0] == pytest.approx(float(x.min())) and found.input.edges[-1] == pytest.approx(
        float(x.max())
    )
    assert max(found.input.counts) == found.input.counts[next(n for n, e in enumerate(found.input.edges) if e > 0) - 1]


def test_constants_and_zeros_have_no_outliers_and_lose_nothing():
    site = Site("flat", nn.Linear(4, 4), "linear")
    nn.init.zeros_(site.module.weight)
    found = distributions.layer(site, seen(site.module, torch.zeros(8, 4)))
    assert found.outliers == () and found.ratio == 0.0
    assert found.input_db == found.row_db == found.weight_db == 200.0
    assert sum(found.weight.counts) == 16 and sum(found.input.counts) == 32


def test_every_layer_of_a_tower_is_told_the_hardest_first(make_tower, make_data, monkeypatch):
    quiet, noisy = (make_tower("vision", outliers=loud) for loud in (False, True))
    data = make_data(noisy)
    found = {}
    for name, tower in (("quiet", quiet), ("noisy", noisy)):
        monkeypatch.setattr(distributions, "load_tower", lambda artifact, modality, tower=tower: tower)
        monkeypatch.setattr(distributions, "simplify", lambda tower: tower)
        found[name] = distributions.layers_of(None, "vision", data)
        assert {one.name for one in found[name]} == set(sites(tower))
        decibels = [one.input_db for one in found[name] if one.input_db is not None]
        assert decibels == sorted(decibels) and found[name][-1].input is None
    worst = {name: layers[0].input_db for name, layers in found.items()}
    assert worst["noisy"] < worst["quiet"] - 6
    assert max(one.ratio or 0 for one in found["noisy"]) > 2 * max(one.ratio or 0 for one in found["quiet"])


def test_a_split_folder_gives_a_record_for_each_tower(split_folder):
    stages = []

    def progress(stage, total):
        stages.append((stage, total))
        return lambda done: None

    notes = []
    found = distributions.activations(
        split_folder, modalities=["text", "vision"], samples=4, name="tiny", note=notes.append, progress=progress
    )
    assert [record.title.partition(":")[0] for record in found] == ["vision", "text"]
    assert [name for name, _ in stages] == ["looking into vision", "looking into text"] and len(notes) == 2
    for record in found:
        layers = record.details["layers"]
        assert record.measures["layers"].value == len(layers) and record.model == "tiny"
        assert record.from_json(record.to_json()) == record
        loud = sum(layer["loud channels"] > 0 for layer in layers)
        assert record.measures["layers with outlier channels"].value == loud


def test_what_is_of_no_use_is_refused(split_folder, toy_artifact):
    with pytest.raises(UsageError, match="outliers"):
        distributions.activations(split_folder, loud=1.0)
    with pytest.raises(ArtifactError):
        distributions.activations(toy_artifact / "nothing")
    with pytest.raises(ArtifactError, match="already made for openvino"):
        distributions.activations(toy_artifact, modalities=["text"])
    with pytest.raises(UsageError, match="thermal"):
        distributions.activations(toy_artifact, modalities=["thermal"])
