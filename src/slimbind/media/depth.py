"""Depth maps to disparity, the form in which ImageBind and Omnivore take depth, because it makes scales alike.

File types and units: 16-bit PNG or TIFF in millimetres; ``.npy`` and float TIFF in metres (integers in ``.npy`` are
millimetres); OpenEXR in metres, in the channel ``Z`` (or ``depth``, ``Y``, ``V``, ``R``, or the only one). In memory:
PIL images and arrays ``[h, w]``, float in metres, integers in millimetres. Any of them may be given as
``(item, Intrinsics(...))``. Out: float32 ``[1, 1, size, size]`` in 0..1.

    disparity = baseline [m] * focal length [px] / depth [m]        in pixels
    value     = clamp(disparity, 0.01, 75) / 75

Without intrinsics a Kinect v1 is assumed, the sensor of NYU Depth v2 and of much of SUN RGB-D, on which depth was
trained: baseline 0.075 m, focal length 518.86 px. Another camera's true numbers give better embeddings.

A pixel without a measurement (0, negative, NaN) and one at infinity get the smallest disparity, that is "far away".
A map without any measurement is an error. Disparity is scaled bilinearly (no overshoot at edges), shorter side
to ``size``, then the centre is cut out.

Sources: Girdhar et al., "ImageBind: One Embedding Space To Bind Them All" (CVPR 2023), section 4 and appendix;
Girdhar et al., "Omnivore" (CVPR 2022), appendix.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from slimbind.errors import MediaError, UsageError
from slimbind.media import exr
from slimbind.media.geometry import fit_plane
from slimbind.media.limits import Limits
from slimbind.media.planes import plane_of_file, plane_of_item
from slimbind.media.source import describe, open_source
from slimbind.media.spec import DepthSpec


@dataclass(frozen=True)
class Intrinsics:
    """The camera behind a depth map: ``focal`` length in pixels of the map, ``baseline`` of its stereo pair in metres.

    A sensor without a stereo pair has no baseline; the default makes it comparable with what the model has seen.
    """

    focal: float
    baseline: float = 0.075

    def __post_init__(self) -> None:
        if not (0 < self.focal < float("inf") and 0 < self.baseline < float("inf")):
            raise UsageError(
                f"intrinsics focal={self.focal!r} baseline={self.baseline!r} must be above 0",
                hint="focal length in pixels, baseline in metres",
            )


class DepthPreprocessor:
    """Depth maps for one ``DepthSpec``. Safe to call from several threads. Returns ``[1, 1, size, size]`` float32.

    Raises (on call):
        MediaError: unreadable, several channels, 8 bits only, or no valid measurement. LimitError: too large.
    """

    def __init__(self, spec: DepthSpec, limits: Limits) -> None:
        self.spec = spec
        self.limits = limits

    def __call__(self, item: object) -> NDArray[np.float32]:
        """One item to disparity ``[1, 1, size, size]``; see the class."""
        camera = Intrinsics(self.spec.focal, self.spec.baseline)
        if isinstance(item, tuple):
            if len(item) != 2 or not isinstance(item[1], Intrinsics):
                raise MediaError(
                    describe(item),
                    "is no (depth map, Intrinsics) pair",
                    hint="give (path, Intrinsics(focal=...))",
                )
            item, camera = item
        plane = plane_of_item(item, self.limits)
        name = describe(item)
        if plane is None:
            with open_source(item, self.limits) as source:
                is_exr = source.head(4) == exr.MAGIC
                plane = exr.read_exr(source, self.limits) if is_exr else plane_of_file(source, self.limits)
        disparity = to_disparity(_metres(plane, name), camera, self.spec, name)
        return fit_plane(disparity, self.spec.size, Image.Resampling.BILINEAR)[None, None]


def to_disparity(metres: NDArray[np.float32], camera: Intrinsics, spec: DepthSpec, name: str) -> NDArray[np.float32]:
    """Depth in metres ``[h, w]`` to clamped disparity divided by ``spec.maximum``, ``[h, w]``.

    Raises:
        MediaError: no pixel holds a measurement.
    """
    valid = metres > 0  # NaN compares false
    if not valid.any():
        raise MediaError(
            name, "holds no valid depth: every pixel is 0, negative or NaN", hint="check the sensor's export"
        )
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        disparity = np.float32(camera.baseline * camera.focal) / metres
    disparity = np.where(valid, disparity, np.float32(spec.minimum)).astype(np.float32, copy=False)
    np.clip(disparity, spec.minimum, spec.maximum, out=disparity)
    disparity /= np.float32(spec.maximum)
    return disparity


def _metres(plane: NDArray[Any], name: str) -> NDArray[np.float32]:
    if plane.dtype == np.uint8:
        raise MediaError(
            name,
            "has 8 bits, too few for millimetres",
            hint="depth is taken as 16-bit PNG in millimetres, or .npy or .exr in metres",
        )
    with np.errstate(over="ignore"):
        metres = plane.astype(np.float32)
    if plane.dtype.kind in "iu":
        metres *= np.float32(0.001)
    return metres
