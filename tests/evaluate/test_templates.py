"""Templates: the published sets as they are published, and sentences of one's own."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from slimbind.errors import UsageError
from slimbind.evaluate.templates import SETS, choose, fill, usual
from slimbind.modalities import MODALITIES


def published():
    """open_clip's copy of the lists; the file alone, because the package imports much that it does not need."""
    package = importlib.util.find_spec("open_clip")
    place = Path(package.submodule_search_locations[0]) / "zero_shot_metadata.py"
    spec = importlib.util.spec_from_file_location("zero_shot_metadata", place)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("name", "theirs"), [("imagenet80", "OPENAI_IMAGENET_TEMPLATES"), ("imagenet7", "SIMPLE_IMAGENET_TEMPLATES")]
)
def test_the_published_sets_are_complete(name, theirs):
    assert list(SETS[name]) == [template("{}") for template in getattr(published(), theirs)]


def test_every_template_has_one_place_for_the_name():
    assert all(template.count("{}") == 1 for templates in SETS.values() for template in templates)


def test_every_modality_has_a_usual_set():
    assert {usual(name) for name in MODALITIES} <= set(SETS)
    assert choose([], "vision") == ("a photo of a {}.",)
    assert choose([], "imu") == ("{}",)


def test_sets_and_sentences_are_taken_together_and_each_once():
    chosen = choose(["none", "imagenet7", "my {}", "{}"], "vision")
    assert chosen == ("{}", *SETS["imagenet7"], "my {}")


def test_what_is_neither_is_refused():
    with pytest.raises(UsageError, match="imagenet80"):
        choose(["imagenet800"], "vision")


def test_braces_in_names_are_left_alone():
    assert fill("a {} of {x}", "{0} {}") == "a {0} {} of {x}"
