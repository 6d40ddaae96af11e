"""Choosing files: what a folder or repository offers, and the few that are taken."""

from __future__ import annotations

import pytest

from slimbind.errors import CheckpointError
from slimbind.hub.layout import choose, license_of, shards

OPENCLIP = [
    "README.md",
    "config.json",
    "open_clip_config.json",
    "open_clip_pytorch_model.bin",
    "pytorch_model.bin",
    "vocab.json",
]
OPENAI = [
    "README.md",
    "config.json",
    "flax_model.msgpack",
    "preprocessor_config.json",
    "pytorch_model.bin",
    "tf_model.h5",
    "tokenizer.json",
]


@pytest.mark.parametrize(
    ("names", "weights", "configs"),
    [
        (OPENCLIP, "open_clip_pytorch_model.bin", ("open_clip_config.json", "config.json")),
        (
            [*OPENCLIP, "open_clip_model.safetensors"],
            "open_clip_model.safetensors",
            ("open_clip_config.json", "config.json"),
        ),
        (OPENAI, "pytorch_model.bin", ("config.json", "preprocessor_config.json")),
        ([*OPENAI, "model.safetensors"], "model.safetensors", ("config.json", "preprocessor_config.json")),
        (["model.safetensors.index.json", "model-00001-of-00002.safetensors"], "model.safetensors.index.json", ()),
        (["imagebind_huge.pth", "notes.txt"], "imagebind_huge.pth", ()),
        (["my.safetensors", "my.pth"], "my.safetensors", ()),
        (["optimizer.pt", "training_args.bin", "weights.pt"], "weights.pt", ()),
        (["onnx/model.safetensors", "pytorch_model.bin"], "pytorch_model.bin", ()),
    ],
)
def test_one_format_of_the_weights_is_chosen(names, weights, configs):
    found = choose(names, where="here")
    assert not found.artifact
    assert (found.weights, found.configs) == (weights, configs)
    assert found.sharded == weights.endswith(".index.json")


def test_a_manifest_makes_it_an_artifact():
    assert choose(["manifest.json", "model.safetensors"], where="here").artifact


@pytest.mark.parametrize("names", [[], ["README.md"], ["sub/model.safetensors"]])
def test_nothing_to_choose_is_an_error(names):
    with pytest.raises(CheckpointError, match="here holds no checkpoint"):
        choose(names, where="here")


def test_several_that_could_be_meant_are_named():
    with pytest.raises(CheckpointError, match=r"a\.pth, b\.pth"):
        choose(["a.pth", "b.pth"], where="here")


def test_an_index_names_files_beside_it():
    assert shards({"weight_map": {"a": "2.bin", "b": "1.bin", "c": "2.bin"}}, where="i") == ("1.bin", "2.bin")


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "a/b", "..", ".", "", "C:x", "a\\b"])
def test_an_index_may_not_lead_elsewhere(name):
    with pytest.raises(CheckpointError, match="not a file beside it"):
        shards({"weight_map": {"a": name}}, where="i")


@pytest.mark.parametrize("content", [[], {}, {"weight_map": {}}, {"weight_map": [1]}, "x"])
def test_what_is_no_index_is_an_error(content):
    with pytest.raises(CheckpointError, match="weight_map"):
        shards(content, where="i")


@pytest.mark.parametrize(
    ("card", "license"),
    [
        ("---\nlicense: mit\ntags: [clip]\n---\n# Model", "MIT"),
        ("---\r\nlicense: apache-2.0\r\n---\r\n", "Apache-2.0"),
        ('---\nlicense: "cc-by-nc-4.0"\n---', "CC-BY-NC-4.0"),
        ("---\nlicense: other\nlicense_name: my-own\n---\n", "my-own"),
        ("---\nlicense: gpl-3.0\n---\n", "gpl-3.0"),
        ("---\ntags: [clip]\n---\nlicense: mit\n", ""),
        ("# A card without front matter\nlicense: mit", ""),
        ("", ""),
    ],
)
def test_the_licence_a_card_states(card, license):  # noqa: A002
    assert license_of(card) == license
