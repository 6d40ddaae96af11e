"""Sizes and crops shared by everything that has pixels: shorter side to a length, then the centre."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from slimbind.errors import LimitError
from slimbind.media.limits import Limits

# An image longer than this many times its shorter side is cropped before it is resized: resized whole, a
# 1 x 50000 pixel strip would need gigabytes.
_EXTREME = 8


def check_pixels(name: str, width: int, height: int, limits: Limits) -> None:
    """Raise ``LimitError`` where width times height is above ``limits.max_pixels``."""
    if width * height > limits.max_pixels:
        raise LimitError(
            name,
            f"has {width} x {height} = {width * height} pixels; the limit is {limits.max_pixels}",
            hint="make it smaller, or raise Limits(max_pixels=...)",
        )


def scaled_size(width: int, height: int, shorter: int) -> tuple[int, int]:
    """Width and height after the shorter side became ``shorter``; the longer one is rounded down."""
    if width <= height:
        return shorter, int(shorter * height / width)
    return int(shorter * width / height), shorter


def resize_and_crop(image: Image.Image, shorter: int, size: int, resample: Image.Resampling) -> Image.Image:
    """Scale so that the shorter side is ``shorter``, then cut the centre ``size`` x ``size`` out.

    Equal, pixel for pixel, to torchvision's ``Resize(shorter)`` and ``CenterCrop(size)`` on a PIL image. Only
    images over 8 times longer than wide are cropped first, which rounds some pixels differently by a level or two.
    """
    width, height = image.size
    new_width, new_height = scaled_size(width, height, shorter)
    left, top = round((new_width - size) / 2.0), round((new_height - size) / 2.0)
    if max(width, height) > _EXTREME * min(width, height):
        across, down = width / new_width, height / new_height
        box = (left * across, top * down, (left + size) * across, (top + size) * down)
        return image.resize((size, size), resample, box=box)
    if (new_width, new_height) != (width, height):
        image = image.resize((new_width, new_height), resample)
    if (new_width, new_height) != (size, size):
        image = image.crop((left, top, left + size, top + size))
    return image


def fit_plane(plane: NDArray[np.float32], size: int, resample: Image.Resampling) -> NDArray[np.float32]:
    """Scale and centre-crop one float plane ``[height, width]`` to ``[size, size]``."""
    return np.asarray(resize_and_crop(Image.fromarray(plane), size, size, resample), dtype=np.float32)
