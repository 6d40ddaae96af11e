"""Thermal images to one channel in 0..1.

File types: 8- or 16-bit single-channel PNG, TIFF or JPEG (grey stored as RGB is accepted, false colours are not),
float TIFF, and ``.npy``. In memory: PIL images and arrays ``[h, w]``. Out: float32 ``[1, 1, size, size]``.

Scaling, by ``ThermalSpec.kelvin_range``:

- None: the image's own minimum becomes 0 and its maximum 1. Units do not matter; temperatures of two images cannot
  be compared afterwards. An image of one single value becomes 0.
- ``(low, high)``: ``(kelvin - low) / (high - low)``, clamped to 0..1. Floats are kelvin; 16-bit integers are
  hundredths of a kelvin, as radiometric cameras write them (29815 is 298.15 K); 8 bits hold no temperature and are
  refused.

NaN and infinity are refused. Scaled bicubically, shorter side to ``size``, then the centre is cut out.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from slimbind.errors import MediaError, UsageError
from slimbind.media.geometry import fit_plane
from slimbind.media.limits import Limits
from slimbind.media.planes import plane_of_file, plane_of_item
from slimbind.media.source import describe, open_source
from slimbind.media.spec import ThermalSpec

_KELVIN_PER_COUNT = 0.01


class ThermalPreprocessor:
    """Thermal images for one ``ThermalSpec``. Safe to call from several threads. Returns ``[1, 1, size, size]``.

    Raises (on call):
        MediaError: unreadable, coloured, not a number, or 8 bits where kelvin are asked for. LimitError: too large.
    """

    def __init__(self, spec: ThermalSpec, limits: Limits) -> None:
        if spec.kelvin_range is not None and not spec.kelvin_range[0] < spec.kelvin_range[1]:
            raise UsageError(f"kelvin_range {spec.kelvin_range} is empty", hint="give (lowest, highest) in kelvin")
        self.spec = spec
        self.limits = limits

    def __call__(self, item: object) -> NDArray[np.float32]:
        """One item to ``[1, 1, size, size]``; see the class."""
        plane = plane_of_item(item, self.limits)
        if plane is None:
            with open_source(item, self.limits) as source:
                plane = plane_of_file(source, self.limits)
        scaled = self._scale(plane, describe(item))
        fitted = fit_plane(scaled, self.spec.size, Image.Resampling.BICUBIC)
        return np.clip(fitted, 0.0, 1.0)[None, None]  # bicubic overshoots at edges

    def _scale(self, plane: NDArray[Any], name: str) -> NDArray[np.float32]:
        if not np.isfinite(plane).all():
            raise MediaError(name, "has pixels that are NaN or infinite", hint="fill dead pixels before saving")
        if self.spec.kelvin_range is None:
            low, high = float(plane.min()), float(plane.max())
            values = plane.astype(np.float64)
        else:
            low, high = self.spec.kelvin_range
            if plane.dtype.itemsize == 1:
                raise MediaError(
                    name,
                    "has 8 bits, which hold no temperatures",
                    hint="give 16-bit hundredths of a kelvin, or .npy in kelvin",
                )
            values = plane.astype(np.float64)
            if plane.dtype.kind in "iu":
                values *= _KELVIN_PER_COUNT
        if not high > low:
            return np.zeros(plane.shape, np.float32)
        # Half the difference first: the span of two extreme floats is beyond what a float holds.
        values = (values / 2 - low / 2) / (high / 2 - low / 2)
        return np.clip(values, 0.0, 1.0).astype(np.float32)
