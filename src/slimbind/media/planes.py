"""Single-channel pictures (depth maps, thermal images) to one plane of raw numbers, 8 or 16 bit or float."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from slimbind.errors import MediaError
from slimbind.media import arrays
from slimbind.media.geometry import check_pixels
from slimbind.media.image import open_image, upright
from slimbind.media.limits import Limits
from slimbind.media.source import Source, decoding, describe

# Grey that went through JPEG as colour comes back with channels a few levels apart.
_GREY_TOLERANCE = 8


def plane_of_file(source: Source, limits: Limits) -> NDArray[Any]:
    """The plane ``[h, w]`` in a PNG, TIFF, JPEG ... or ``.npy`` file, in the numbers the file stores.

    Raises:
        MediaError: unreadable, or more than one channel. LimitError: too many pixels.
    """
    if source.head(6) == arrays.MAGIC:
        mend = "make it smaller, or raise Limits(max_pixels=...)"
        return plane_of_array(arrays.read_npy(source, max_elements=limits.max_pixels, mend=mend), source.name, limits)
    with open_image(source, limits) as image:
        return plane_of_image(image, source.name, limits)


def plane_of_image(image: Image.Image, name: str, limits: Limits) -> NDArray[Any]:
    """The plane ``[h, w]`` of a PIL image: uint8, uint16 or float32; grey stored as RGB counts as one channel."""
    check_pixels(name, *image.size, limits)
    with decoding(name, "decode the image", hint="the file is damaged or incomplete; save it again"):
        image = upright(image)
        if image.mode in ("L", "F") or image.mode.startswith("I;16"):
            return np.asarray(image)
        if image.mode == "I":
            wide = np.asarray(image)
            if wide.min() >= 0 and wide.max() <= 0xFFFF:
                return wide.astype(np.uint16)
            raise MediaError(name, "has 32-bit values beyond 0..65535", hint="save it with 16 bits, or as .npy")
        if image.mode in ("RGB", "YCbCr"):
            colours = np.asarray(image.convert("RGB"))
            spread = colours.max(axis=2).astype(np.int16) - colours.min(axis=2)
            if spread.max() <= _GREY_TOLERANCE:
                return np.asarray(image.convert("L"))
            raise MediaError(
                name,
                "has colours, but one channel of measurements is needed",
                hint="export the raw measurements, not a false-colour picture",
            )
    raise MediaError(
        name,
        f"has pixels of mode {image.mode}, but one channel is needed",
        hint="save it as 8- or 16-bit grey",
    )


def plane_of_array(array: NDArray[Any], name: str, limits: Limits) -> NDArray[Any]:
    """The plane ``[h, w]`` of an array ``[h, w]``, ``[h, w, 1]`` or ``[1, h, w]`` of real numbers."""
    plane = array
    if plane.ndim == 3 and 1 in (plane.shape[0], plane.shape[2]):
        plane = plane[:, :, 0] if plane.shape[2] == 1 else plane[0]
    if plane.ndim != 2 or 0 in plane.shape or plane.dtype.kind not in "fiu":
        raise MediaError(
            name,
            f"an array of shape {array.shape} and type {array.dtype} is no single channel",
            hint="give real numbers of shape [h, w]",
        )
    check_pixels(name, plane.shape[1], plane.shape[0], limits)
    return plane


def plane_of_item(item: object, limits: Limits) -> NDArray[Any] | None:
    """The plane of an in-memory item (PIL image or array), or None where ``item`` is a file of some kind."""
    if isinstance(item, Image.Image):
        return plane_of_image(item, describe(item), limits)
    if isinstance(item, np.ndarray):
        return plane_of_array(item, describe(item), limits)
    return None
