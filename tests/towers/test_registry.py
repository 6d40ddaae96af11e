"""Checkpoints that do not fit are refused before a weight is read, and the message says what is wrong."""

from __future__ import annotations

import json
import re

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from slimbind.errors import CheckpointError, UsageError
from slimbind.towers import registry
from slimbind.towers.imagebind import is_causal_mask
from slimbind.towers.keys import Rule

from .conftest import GOLDEN, load_towers

HUGE = {k: tuple(s) for k, (s, _) in json.loads((GOLDEN / "imagebind_huge_state_dict.json").read_text()).items()}
IMU_POSITIONS = "modality_preprocessors.imu.pos_embed"
TRUNK = "modality_trunks.depth.blocks.1.mlp.fc1.weight"


@pytest.fixture(scope="module")
def shapes(tiny_weights):
    return {key: tuple(value.shape) for key, value in tiny_weights.items()}


def refused(shapes, config, *words):
    with pytest.raises(CheckpointError) as caught:
        registry.detect(shapes, config)
    for word in words:
        assert word in str(caught.value)
    assert caught.value.hint


def test_unknown_family():
    refused({"backbone.0.weight": (3, 3)}, None, "no known model family", "'backbone.0.weight'", "clip, imagebind")
    refused({}, None, "first keys: none")


def test_missing_key(shapes, tiny_config):
    fewer = {key: shape for key, shape in shapes.items() if key != TRUNK}
    refused(fewer, tiny_config, "lacks 1 key: ", TRUNK)


def test_left_over_key(shapes, tiny_config):
    extra = "modality_heads.smell.weight"
    refused(shapes | {extra: (4,)}, tiny_config, "has left over 1 key: ", extra)


@settings(max_examples=10, deadline=None)
@given(key=st.sampled_from(sorted(HUGE)))
def test_no_key_can_be_missing_or_doubled(key):
    fewer = {k: s for k, s in HUGE.items() if k != key}
    with pytest.raises(CheckpointError, match=re.escape(repr(key))):
        registry.detect(fewer)
    with pytest.raises(CheckpointError, match=re.escape(repr(key + "_2"))):
        registry.detect(HUGE | {key + "_2": HUGE[key]})


@settings(max_examples=10, deadline=None)
@given(key=st.sampled_from(sorted(HUGE)), axis=st.integers(0, 4), change=st.sampled_from([-1, 1, 7]))
def test_no_shape_can_be_wrong(key, axis, change):
    """Whichever key has a wrong shape, the checkpoint is refused and the message names a key."""
    shape = list(HUGE[key]) or [1, 1]
    axis %= len(shape)
    # How many words there are and how long a recording is, a model may choose.
    assume((key, axis) not in (("modality_preprocessors.text.token_embedding.weight", 0), (IMU_POSITIONS, 1)))
    shape[axis] += change
    with pytest.raises(CheckpointError, match=r"'[a-z_0-9.]+'|heads|positions"):
        registry.detect(HUGE | {key: tuple(shape)})


def test_positions_that_do_not_fit_the_input(shapes, tiny_config):
    for modality, count in (("vision", 256), ("audio", 228), ("depth", 190)):
        key = f"modality_preprocessors.{modality}.pos_embedding_helper.pos_embed"
        wrong = shapes | {key: (1, count, shapes[key][2])}
        refused(wrong, tiny_config, f"config of imagebind {modality} is not usable: it has {count} positions for")
    refused(shapes | {"modality_preprocessors.text.mask": (77, 76)}, tiny_config, "mask", "[77, 76]", "77 positions")


def test_wrong_shape(shapes, tiny_config):
    refused(shapes | {TRUNK: (128, 31)}, tiny_config, TRUNK, "[128, 31]", "[128, 32]")
    key = "modality_preprocessors.depth.cls_token"
    refused(shapes | {key: (1, 1, 31)}, tiny_config, key, "[1, 1, 31]", "[1, 1, 32]")
    refused(shapes | {key: (1, 0, 32)}, tiny_config, key, "is empty")
    refused(shapes | {key.replace("cls_token", "pos_embedding_helper.pos_embed"): (32,)}, tiny_config, "3 axes")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"depth_num_heads": 5}, ["depth_num_heads is 5", "width 32"]),
        ({"depth_num_heads": 0}, ["depth_num_heads is 0"]),
        ({"depth_num_heads": "four"}, ["depth_num_heads is 'four'"]),
        ({"vision_num_blocks": 4}, ["vision_num_blocks is 4", "say 3"]),
        ({"audio_embed_dim": 64}, ["audio_embed_dim is 64", "say 48"]),
        ({"out_embed_dim": 1024}, ["out_embed_dim is 1024", "say 48"]),
    ],
)
def test_config_that_does_not_fit(shapes, tiny_config, change, words):
    refused(shapes, tiny_config | change, *words)


def test_unknown_heads(shapes):
    refused(shapes, None, "heads of vision (width 64) cannot be read", "vision_num_heads")


def test_missing_blocks(shapes, tiny_config):
    """Also where the numbers would have a tower of a billion blocks built."""
    block = "modality_trunks.depth.blocks"
    refused(shapes | {f"{block}.999999999.norm_1.weight": (32,)}, tiny_config, f"lacks the block {block}.2")
    none = {key: shape for key, shape in shapes.items() if f"{block}." not in key}
    refused(none | {f"{block}.x": (1,)}, tiny_config, f"lacks the block {block}.0")


def test_part_of_a_checkpoint(shapes, tiny_config):
    part = {key: shape for key, shape in shapes.items() if ".imu." in key or ".depth." in key}
    assert registry.detect(part, tiny_config).modalities == ("depth", "imu")
    refused({"modality_preprocessors.text.mask": (7, 7)}, None, "no modality_trunks.<modality> keys")


def test_another_mask_is_refused(tiny_weights, tiny_config):
    key = "modality_preprocessors.text.mask"
    assert is_causal_mask(tiny_weights[key])
    for other in (torch.zeros(77, 77), tiny_weights[key].t()):
        with pytest.raises(CheckpointError, match="mask' does not hold what the imagebind family computes"):
            load_towers(tiny_weights | {key: other}, tiny_config)


def test_load_names_what_is_wrong(tiny_towers):
    tower = tiny_towers["imu"]
    fresh = registry.build("imagebind", "imu", tower.config)
    weights = dict(tower.state_dict())
    for change, words in [
        ({"cls_token": None}, r"weights of imu lacks 1 key: 'cls_token'"),
        ({"tail": torch.zeros(1)}, r"has left over 1 key: 'tail'"),
        ({"cls_token": torch.zeros(1, 1, 31)}, r"shape \[1, 1, 31\] for 'cls_token'; expected \[1, 1, 32\]"),
    ]:
        changed = {key: value for key, value in (weights | change).items() if value is not None}
        with pytest.raises(CheckpointError, match=words):
            registry.load(fresh, changed)
    half = {key: value.half() for key, value in weights.items()}
    assert registry.load(fresh, half).cls_token.dtype == torch.float32


@pytest.mark.parametrize("family", ["imagebind", "clip"])
def test_build_needs_a_whole_config(family):
    with pytest.raises(CheckpointError, match=r"config of \w+ text is not usable: 'vocabulary' is missing"):
        registry.build(family, "text", {"width": 32})
    with pytest.raises(UsageError, match="unknown model family 'wordbind'; allowed: clip, imagebind"):
        registry.build("wordbind", "text", {})


def test_built_towers_have_no_weights_until_loaded(tiny_towers):
    config = json.loads(json.dumps(tiny_towers["audio"].config))
    assert all(value.is_meta for value in registry.build("imagebind", "audio", config).parameters())
    real = registry.build("imagebind", "audio", config, device="cpu")
    assert not any(value.is_meta or value.requires_grad for value in real.parameters())
    assert not real.training


def test_unknown_modality(shapes, tiny_config):
    checkpoint = registry.detect(shapes, tiny_config)
    with pytest.raises(UsageError, match="unknown modality of this checkpoint 'smell'; allowed: audio, depth"):
        registry.tower_keys(checkpoint, "smell")


def test_batch_norms_fold():
    """A folded convolution says what convolution and normalisation said one after the other."""
    torch.manual_seed(0)
    conv, norm = torch.nn.Conv2d(3, 4, 3, bias=False), torch.nn.BatchNorm2d(4).eval()
    norm.weight.data.normal_()
    norm.bias.data.normal_()
    norm.running_mean.normal_()
    norm.running_var.uniform_(0.1, 3)
    parts = {"c": conv.weight.detach()} | {f"n.{key}": value for key, value in norm.state_dict().items()}
    weight = Rule(("c", "n.weight", "n.running_var"), "bn_weight").apply(parts.__getitem__, (4, 3, 3, 3))
    bias = Rule(("n.weight", "n.bias", "n.running_mean", "n.running_var"), "bn_bias").apply(parts.__getitem__, (4,))
    x = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(torch.nn.functional.conv2d(x, weight, bias), norm(conv(x)), rtol=0, atol=1e-5)


@pytest.mark.parametrize("scale", [1.0, 1e-4, 1e4])
def test_batch_norms_of_half_precision_convolutions_fold_without_loss(scale):
    """OpenAI's files are such: the product has more digits than half precision, and may leave its range."""
    torch.manual_seed(0)
    conv, norm = torch.nn.Conv2d(3, 4, 3, bias=False).half(), torch.nn.BatchNorm2d(4).eval()
    norm.weight.data.normal_().mul_(scale * 10)
    parts = {"c": conv.weight.detach()} | {f"n.{key}": value for key, value in norm.state_dict().items()}
    weight = Rule(("c", "n.weight", "n.running_var"), "bn_weight").apply(parts.__getitem__, (4, 3, 3, 3))
    x = torch.randn(2, 3, 8, 8)
    expected = norm(conv.float()(x))
    torch.testing.assert_close(torch.nn.functional.conv2d(x, weight), expected, rtol=1e-5, atol=1e-5 * scale)
