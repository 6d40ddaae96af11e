"""Mixes: budgets are kept or refused, sensitive layers get more bits, and a recipe gives the same mix again."""

from __future__ import annotations

import pytest
import torch

from slimbind.errors import UsageError
from slimbind.export import openvino
from slimbind.quantize import mixed
from slimbind.quantize.emulate import emulate
from slimbind.quantize.options import can, layer_plan, stored_bytes
from slimbind.quantize.plan import Plan, StaticRange
from slimbind.quantize.report import silent
from slimbind.quantize.schemes import Mixed
from slimbind.quantize.sensitivity import agreement, embed
from slimbind.quantize.sites import sites


@pytest.fixture(scope="module")
def tower(make_tower):
    return make_tower("vision")


@pytest.fixture(scope="module")
def data(make_data, tower):
    return make_data(tower)


def cosine(tower, made, data):
    return agreement(embed(tower, data.held_out()), embed(emulate(made[0], made[1]), data.held_out())).cosine_min


@pytest.fixture(scope="module")
def sizes(tower, data):
    """The expected bytes with 16 bits, 8 and as few as possible."""
    found = {}
    for scheme in ("bf16", "int8-weight", "int4-weight"):
        rules = f'{{"layers": "blocks.*", "scheme": "{scheme}"}}'
        recipe = f'{{"type": "slimbind-recipe", "rules": [{rules}]}}'
        made = mixed.make(tower, data, Mixed(recipe=recipe), silent)
        found[scheme] = made[2].settings["expected_bytes"]
    return found


def test_a_size_is_kept_and_more_bytes_say_more(tower, data, sizes):
    losses = []
    for size in (sizes["int4-weight"] + 9000, sizes["int8-weight"]):
        made = mixed.make(tower, data, Mixed(max_size=size), silent)
        assert made[2].settings["expected_bytes"] <= size
        losses.append(1 - cosine(tower, made, data))
    assert losses[1] < losses[0] / 2
    kinds = {layer.weight.bits for layer in made[1].layers.values() if layer.weight is not None}
    assert 8 in kinds


def test_the_expected_size_is_the_files(tower, data, sizes, tmp_path):
    made = mixed.make(tower, data, Mixed(max_size=sizes["int8-weight"]), silent)
    openvino.write(made[0], tmp_path, made[1])
    found = sum(file.stat().st_size for file in tmp_path.iterdir())
    weights = sum(file.stat().st_size for file in tmp_path.glob("*.bin"))
    assert found <= made[2].settings["expected_bytes"] <= found + 400_000, weights


def test_a_fidelity_is_kept_with_few_bytes(tower, data, sizes):
    made = mixed.make(tower, data, Mixed(min_fidelity=0.99), silent)
    assert cosine(tower, made, data) >= 0.99
    assert made[2].settings["expected_bytes"] < sizes["bf16"]
    loose = mixed.make(tower, data, Mixed(min_fidelity=0.9), silent)
    assert loose[2].settings["expected_bytes"] < made[2].settings["expected_bytes"]


def test_what_costs_more_than_it_saves_keeps_its_bits(tower, data, sizes):
    """Of two layers of one size the one that the embedding answers to more gets as many bits or more."""
    size = (sizes["int8-weight"] + sizes["int4-weight"]) // 2
    made = mixed.make(tower, data, Mixed(max_size=size), silent)
    bits = {name: 16 if layer.weight is None else layer.weight.bits for name, layer in made[1].layers.items()}
    assert len(set(bits.values())) > 1
    other = {name: {4: 8, 8: 4, 16: 16}[bit] for name, bit in bits.items() if name.startswith("blocks")}
    mine = 1 - cosine(tower, made, data)
    found = sites(made[0])
    swapped = {
        name: layer_plan(found[name], {4: "int4-weight", 8: "int8-dynamic", 16: "bf16"}[bit])
        for name, bit in other.items()
        if not can(found[name], {4: "int4-weight", 8: "int8-dynamic", 16: "bf16"}[bit], None, None)
    }
    swapped_plan = Plan(made[1].layers | swapped, made[1].rest, made[1].precision, made[1].group_size)
    assert mine < 1 - cosine(tower, (made[0], swapped_plan), data)


def test_the_recipe_of_a_mix_gives_it_again(tower, data, sizes):
    made = mixed.make(tower, data, Mixed(max_size=sizes["int8-weight"]), silent)
    again = mixed.make(tower, data, Mixed(recipe=mixed.recipe_of(made[2]).to_json()), silent)
    assert made[1].layers.keys() == again[1].layers.keys()
    for name, layer in made[1].layers.items():
        other = again[1].layers[name]
        assert (layer.weight is None, layer.activation, layer.stored) == (
            other.weight is None, other.activation, other.stored
        )  # fmt: skip
        assert layer.weight is None or torch.equal(layer.weight.codes, other.weight.codes)


@pytest.mark.parametrize(("scheme", "rounded"), [("bf16", False), ("int8-dynamic", True)])
def test_4_bits_do_not_round_inputs_unless_others_do(tower, data, scheme, rounded):
    recipe = f"""{{"type": "slimbind-recipe", "rules": [
        {{"layers": "*.mlp.*", "scheme": "int4-weight", "group": 16}},
        {{"layers": "*.attn.*", "scheme": "{scheme}"}}]}}"""
    plan = mixed.make(tower, data, Mixed(recipe=recipe), silent)[1]
    assert {layer.activation for name, layer in plan.layers.items() if ".mlp." in name} == {
        "dynamic" if rounded else "float"
    }
    assert (plan.group_size is not None) == rounded


def test_a_layer_whose_inputs_cannot_be_rounded_is_not_mixed_with_others(make_tower, make_data, monkeypatch, tmp_path):
    tower = make_tower("imu")
    widths = {name: site.weight.shape[1] for name, site in sites(tower).items() if site.kind == "linear"}
    most = widths["blocks.0.mlp.fc1"]
    assert widths["stem.proj"] % most, widths
    monkeypatch.setattr(mixed, "group_of", lambda found: (most, {}))
    made = mixed.make(tower, make_data(tower), Mixed(min_fidelity=0.9), silent)
    assert "dynamic" in {layer.activation for layer in made[1].layers.values()}
    openvino.write(made[0], tmp_path, made[1])  # which would refuse float inputs beside them


def test_a_recipe_may_ask_for_calibrated_ranges(make_tower, make_data):
    tower = make_tower("imu")
    data = make_data(tower)
    recipe = """{"type": "slimbind-recipe", "rest": "f32", "rules": [
        {"layers": "*.mlp.*", "scheme": "int8-static"}, {"layers": "text/*", "scheme": "bf16"}]}"""
    made = mixed.make(tower, data, Mixed(recipe=recipe), silent)
    assert {name for name in made[1].layers} == {name for name in sites(tower) if ".mlp." in name}
    assert all(isinstance(layer.activation, StaticRange) for layer in made[1].layers.values())
    assert cosine(tower, made, data) > 0.99


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (Mixed(), "needs to know what for"),
        (Mixed(max_size=10), r"does not fit into 10 bytes.*ask for --max-size"),
        (Mixed(max_size=0), "the size is 0"),
        (Mixed(min_fidelity=1.5), "the fidelity is 1.5"),
        (Mixed(min_fidelity=0.9999999), "with every layer in bf16"),
        (Mixed(max_size=10, recipe="{}"), "no budget goes with it"),
        (Mixed(recipe="{}"), "no recipe"),
        (
            Mixed(recipe='{"type": "slimbind-recipe", "rules": [{"layers": "block.*", "scheme": "bf16"}]}'),
            r"'block\.\*', matches no layer \(nearest: blocks",
        ),
        (
            Mixed(recipe='{"type": "slimbind-recipe", "rules": [{"layers": "text/*", "scheme": "bf16"}]}'),
            "no rule for the vision tower",
        ),
        (
            Mixed(recipe='{"type": "slimbind-recipe", "rules": [{"layers": "stem", "scheme": "int4-weight"}]}'),
            "of the kind frames, which takes int8-weight",
        ),
    ],
)
def test_what_cannot_be_is_refused(tower, data, config, message):
    with pytest.raises(UsageError, match=message):
        mixed.make(tower, data, config, silent)


def test_two_budgets_that_do_not_go_together(tower, data, sizes):
    with pytest.raises(
        UsageError, match=r"reaches a cosine of 0\.\d+ within .* [KM]B, not 0\.99998 \(it would take about"
    ):
        mixed.make(tower, data, Mixed(max_size=sizes["int4-weight"] + 5000, min_fidelity=0.99998), silent)


def test_bytes_of_a_layer(tower):
    site = sites(tower)["blocks.0.mlp.fc1"]
    rows, inputs = site.weight.shape
    assert stored_bytes(site, "bf16") == 2 * rows * inputs
    assert stored_bytes(site, "int8-dynamic") == rows * inputs + 4 * rows
    assert stored_bytes(site, "int4-weight", 32) == rows * inputs // 2 + 2 * rows * inputs // 32


def test_groups_of_inputs_divide_those_of_weights(make_tower, make_data, tmp_path):
    """64 inputs share a scale in 4 bits, where all layers' inputs could be rounded 384 at a time."""
    tower = make_tower("mini text", hidden=768, depth=1)
    rules = '{"layers": "*qkv", "scheme": "int4-weight"}, {"layers": "layers.*", "scheme": "int8-dynamic"}'
    recipe = f'{{"type": "slimbind-recipe", "rules": [{rules}]}}'
    made = mixed.make(tower, make_data(tower, 4), Mixed(recipe=recipe), silent)
    assert made[1].group_size == 64
    openvino.write(made[0], tmp_path, made[1])
