"""The preprocessing that goes with a checkpoint: the family's own, or what was published beside the weights."""

from __future__ import annotations

import pytest

from slimbind.errors import CheckpointError
from slimbind.media.spec import AudioSpec, DepthSpec, ImageSpec, ImuSpec, TextSpec, ThermalSpec
from slimbind.towers.preparation import specs_of

IMAGE = {"vision": {"size": 224}}


def test_imagebinds_own_records_are_the_defaults():
    configs = {
        "vision": {"size": 224},
        "text": {"tokens": 77},
        "audio": {"size": [128, 204]},
        "depth": {"size": [224, 224]},
        "thermal": {"size": [224, 224]},
        "imu": {"length": 2000},
    }
    assert specs_of(configs) == {
        "vision": ImageSpec(),
        "text": TextSpec(),
        "audio": AudioSpec(),
        "depth": DepthSpec(),
        "thermal": ThermalSpec(),
        "imu": ImuSpec(),
    }


@pytest.mark.parametrize(
    ("published", "expected"),
    [
        (None, ImageSpec()),
        ({}, ImageSpec()),
        ({"preprocess_cfg": {"mean": [0.5] * 3, "std": [0.1] * 3}}, ImageSpec(mean=(0.5,) * 3, std=(0.1,) * 3)),
        ({"preprocess_cfg": {"size": 224, "interpolation": "bilinear"}}, ImageSpec(interpolation="bilinear")),
        ({"crop_size": 224, "size": 256, "resample": 3}, ImageSpec(resize=256)),
        (
            {"crop_size": {"height": 224, "width": 224}, "size": {"shortest_edge": 236}, "resample": 2},
            ImageSpec(resize=236, interpolation="bilinear"),
        ),
        (
            {
                "do_resize": True,
                "do_normalize": True,
                "rescale_factor": 0.00392156862745098,
                "crop_size": 224,
                "size": 224,
            },
            ImageSpec(),
        ),
        ({"image_mean": [0.1, 0.2, 0.3], "image_std": [1, 1, 1]}, ImageSpec(mean=(0.1, 0.2, 0.3), std=(1, 1, 1))),
    ],
)
def test_what_was_published_is_followed(published, expected):
    assert specs_of(IMAGE, published) == {"vision": expected}


@pytest.mark.parametrize(
    "published",
    [
        {"preprocess_cfg": {"interpolation": "nearest"}},
        {"preprocess_cfg": {"mean": [0.5]}},
        {"preprocess_cfg": {"resize_mode": "squash"}},
        {"resample": 0},
        {"crop_size": 224, "size": {"longest_edge": 224}},
        {"crop_size": 224, "size": {"height": 224, "width": 224}},
        {"crop_size": 336, "size": 336},
        {"crop_size": {"height": 224, "width": 112}, "size": 224},
        {"do_center_crop": False, "size": 224},
        {"do_normalize": False},
        {"rescale_factor": 1 / 127.5},
        {"image_mean": "grey"},
    ],
)
def test_what_cannot_be_followed_is_an_error(published):
    with pytest.raises(CheckpointError, match="published preprocessing"):
        specs_of(IMAGE, published)
