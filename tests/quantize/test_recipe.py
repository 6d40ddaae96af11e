"""Recipes: precedence, typos, and that what was written is read again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slimbind.errors import ArtifactVersionError, UsageError
from slimbind.quantize.recipe import SCHEMES, Recipe, Rule, near_misses, written

LAYERS = [f"blocks.{n}.{part}" for n in range(3) for part in ("attn.qkv", "attn.out", "mlp.fc1", "mlp.fc2")]
LAYERS += ["stem.proj", "head.proj"]


def recipe(*rules: tuple[str, str]) -> Recipe:
    return Recipe(rules=tuple(Rule(layers=layers, scheme=scheme) for layers, scheme in rules))


def test_the_first_rule_that_matches_decides() -> None:
    found = recipe(("blocks.0.*", "bf16"), ("*.mlp.fc?", "int4-weight"), ("blocks.*", "int8-dynamic")).assign(
        "vision", LAYERS
    )
    assert found["blocks.0.mlp.fc1"].scheme == "bf16"
    assert found["blocks.1.mlp.fc1"].scheme == "int4-weight"
    assert found["blocks.1.attn.qkv"].scheme == "int8-dynamic"
    assert "head.proj" not in found and "stem.proj" not in found


def test_a_pattern_matches_whole_names() -> None:
    assert not recipe(("mlp.fc1", "bf16")).assign("vision", LAYERS)
    assert set(recipe(("*.mlp.fc1", "bf16")).assign("vision", LAYERS)) == {f"blocks.{n}.mlp.fc1" for n in range(3)}


def test_a_modality_in_front_limits_a_rule_to_its_tower() -> None:
    chosen = recipe(("text/*", "bf16"), ("*", "int8-dynamic"))
    assert chosen.assign("text", LAYERS)["head.proj"].scheme == "bf16"
    assert chosen.assign("vision", LAYERS)["head.proj"].scheme == "int8-dynamic"
    chosen.check({"text": LAYERS, "vision": LAYERS})
    with pytest.raises(UsageError, match=r"'text'; the towers here are vision"):
        chosen.check({"vision": LAYERS})


def test_a_pattern_without_a_layer_is_an_error_that_names_it_and_what_it_may_have_meant() -> None:
    with pytest.raises(UsageError, match=r"rule 1 .*'blocks\.\*\.mlp\.fc3', matches no layer.*blocks\.0\.mlp\.fc[12]"):
        recipe(("blocks.*.mlp.fc3", "bf16"), ("*", "int8-dynamic")).check({"vision": LAYERS})


def test_a_rule_behind_one_that_takes_all_is_an_error_that_names_both() -> None:
    with pytest.raises(UsageError, match=r"rule 2 .*'head\.proj', never decides: rule 1, '\*', already takes"):
        recipe(("*", "int8-dynamic"), ("head.proj", "bf16")).check({"vision": LAYERS})


def test_a_pattern_need_match_in_one_of_the_towers_only() -> None:
    recipe(("stem.embedding", "int8-weight"), ("*", "int8-dynamic")).check(
        {"vision": LAYERS, "text": ["stem.embedding", "head.proj"]}
    )


@pytest.mark.parametrize("pattern", ["block.0.mlp.fc1", "blocks.7.mlp.fc1", "blocks.0.mlp.fcl"])
def test_near_misses_name_the_layer_that_was_meant(pattern: str) -> None:
    assert any(name.endswith("mlp.fc1") for name in near_misses(pattern, LAYERS)[:2])


def test_what_was_written_is_read_again(tmp_path: Path) -> None:
    rules = (Rule(layers="a.*", scheme="int4-weight", group=64), Rule(layers="*", scheme="int8-static"))
    before = Recipe(rest="f32", rules=rules)
    path = tmp_path / "recipe.json"
    path.write_text(before.to_json(), encoding="utf-8")
    assert Recipe.read(path) == before
    assert sum('"layers"' in line for line in path.read_text().splitlines()) == 2, "one rule a line"
    assert json.loads(path.read_text())["version"] == 1


@given(st.dictionaries(st.sampled_from([*LAYERS, "odd[name]*"]), st.sampled_from(SCHEMES), min_size=1))
def test_a_choice_survives_being_written_as_rules(choice: dict[str, str]) -> None:
    full = {name: (scheme, 64 if scheme == "int4-weight" else None) for name, scheme in choice.items()}
    found = Recipe.from_json(written(full, "bf16").to_json())
    found.check({"vision": list(choice)})
    assert {name: (rule.scheme, rule.group) for name, rule in found.assign("vision", choice).items()} == full


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("[]", "no recipe"),
        ('{"rules": []}', "no recipe"),
        ('{"type": "slimbind-recipe", "rules": []}', "rules"),
        ('{"type": "slimbind-recipe", "version": 0, "rules": [{"layers": "*", "scheme": "bf16"}]}', "version 0"),
        ('{"type": "slimbind-recipe", "rules": [{"layers": "*", "scheme": "int9"}]}', "int9.*schemes: int8-dynamic"),
        ('{"type": "slimbind-recipe", "rules": [{"layers": "*", "scheme": "bf16", "grp": 1}]}', "rules.0.grp"),
        ('{"type": "slimbind-recipe", "rules": [{"layers": "*", "scheme": "bf16", "group": 64}]}', "has a group"),
        ('{"type": "slimbind-recipe", "rules": [{"layers": "smell/*", "scheme": "bf16"}]}', "smell"),
        ('{"type": "slimbind-recipe", "rules": [{"layers": "text/", "scheme": "bf16"}]}', "is empty"),
    ],
)
def test_a_bad_recipe_says_what_is_wrong(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Recipe.from_json(text)


def test_a_newer_recipe_is_not_guessed_at() -> None:
    with pytest.raises(ArtifactVersionError, match="version 2"):
        Recipe.from_json('{"type": "slimbind-recipe", "version": 2, "rules": [], "new": 1}')


def test_a_file_that_is_no_text_or_not_there_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(b"\xff\xfe")
    (tmp_path / "b.json").write_bytes(b" " * (5 << 20))
    for name, message in (("a.json", "cannot be read"), ("b.json", "too large"), ("c.json", "cannot be read")):
        with pytest.raises(UsageError, match=message):
            Recipe.read(tmp_path / name)


def test_only_what_decides_is_left_for_one_tower() -> None:
    rules = (Rule(layers="depth/*", scheme="f16"), Rule(layers="a.*", scheme="bf16"), Rule(layers="b", scheme="f32"))
    assert Recipe(rules=rules).deciding("imu", ["a.1", "c"]).rules == rules[1:2]
    with pytest.raises(UsageError, match="no rule for the imu tower"):
        Recipe(rules=rules[:1]).deciding("imu", ["a.1"])
