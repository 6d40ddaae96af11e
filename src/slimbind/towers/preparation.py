"""Which preprocessing the towers of a checkpoint were trained with, as the records an artifact stores."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from slimbind.errors import CheckpointError
from slimbind.media.spec import (
    AudioSpec,
    DepthSpec,
    ImageSpec,
    ImuSpec,
    PreprocessSpec,
    TextSpec,
    ThermalSpec,
)

_INTERPOLATION = {2: "bilinear", 3: "bicubic"}  # Pillow's numbers, which Hugging Face's files use


def specs_of(
    configs: Mapping[str, Mapping[str, Any]], given: Mapping[str, Any] | None = None
) -> dict[str, PreprocessSpec]:
    """The preprocessing of each tower, from its config and from what was published beside the weights.

    Args:
        configs: modality -> tower config.
        given: the content of an ``open_clip_config.json`` (its ``preprocess_cfg``), of a ``preprocessor_config.json``,
            or None for the family's own preprocessing, which is ImageBind's and CLIP's alike.

    Raises:
        CheckpointError: what was published cannot be followed.
    """
    return {modality: _spec(modality, config, given or {}) for modality, config in configs.items()}


def _spec(modality: str, config: Mapping[str, Any], given: Mapping[str, Any]) -> PreprocessSpec:
    if modality == "vision":
        return _image(int(config["size"]), given)
    if modality == "text":
        return TextSpec(context=int(config["tokens"]))
    if modality == "audio":
        mel_bins, frames = config["size"]
        return AudioSpec(mel_bins=mel_bins, frames=frames)
    if modality == "imu":
        return ImuSpec(samples=int(config["length"]))
    size = int(config["size"][0])
    return DepthSpec(size=size) if modality == "depth" else ThermalSpec(size=size)


def _image(size: int, given: Mapping[str, Any]) -> ImageSpec:
    published = given.get("preprocess_cfg") or given
    fields: dict[str, Any] = {"size": size, "resize": size}
    for ours, theirs in (("mean", ("mean", "image_mean")), ("std", ("std", "image_std"))):
        given_values = [published[name] for name in theirs if name in published]
        if given_values:
            fields[ours] = given_values[0]
    if isinstance(published.get("interpolation"), str):
        fields["interpolation"] = published["interpolation"]
    if "resample" in published:
        fields["interpolation"] = _INTERPOLATION.get(published["resample"], f"Pillow's filter {published['resample']}")
    _check_steps(published)
    if "crop_size" in published and isinstance(published.get("size"), int | Mapping):
        crop, edge = published["crop_size"], published["size"]
        if crop not in (size, {"height": size, "width": size}, {"shortest_edge": size}):
            raise CheckpointError(
                f"the published preprocessing has crop_size {crop!r}, but the tower sees {size} x {size} pixels"
            )
        # Height and width together would squash the picture, which no ImageSpec does.
        fields["resize"] = edge.get("shortest_edge") if isinstance(edge, Mapping) else edge
    if published.get("resize_mode", "shortest") != "shortest":
        raise CheckpointError(
            f"the published preprocessing has resize_mode {published['resize_mode']!r}; supported: shortest"
        )
    try:
        return ImageSpec(**fields)
    except ValidationError as error:
        first = error.errors()[0]
        raise CheckpointError(
            f"the published preprocessing cannot be followed: {'.'.join(map(str, first['loc']))}: {first['msg']}"
        ) from error


def _check_steps(published: Mapping[str, Any]) -> None:
    """Refuse a Hugging Face preprocessing that leaves out a step which ours always takes."""
    for step in ("do_resize", "do_center_crop", "do_rescale", "do_normalize"):
        if not published.get(step, True):
            raise CheckpointError(f"the published preprocessing has {step} {published[step]!r}; supported: true")
    factor = published.get("rescale_factor", 1 / 255)
    if not isinstance(factor, float) or not math.isclose(factor, 1 / 255):
        raise CheckpointError(f"the published preprocessing has rescale_factor {factor!r}; supported: 1/255")
