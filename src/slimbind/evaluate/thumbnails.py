"""Small pictures of items as a tower sees them, to stand beside their numbers in a report."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slimbind.artifact import Artifact
from slimbind.errors import SlimbindError
from slimbind.media import preprocessor
from slimbind.media.spec import AudioSpec, ImageSpec, TextSpec

SIDE = 40  # pixels


def thumbnails(artifact: Artifact, modality: str, items: Iterable[Any], *, side: int = SIDE) -> list[str | None]:
    """A data URI for each item: the first view (and frame) after preprocessing, a sound as its spectrogram.

    Args:
        artifact: whose preprocessing it is.
        modality: of the items; of text, and of signals that are no picture, there are none.
        items: what the preprocessor takes; one that it refuses has no picture.
        side: pixels of the longer side.
    """
    spec = artifact.tower(modality).preprocess
    if isinstance(spec, TextSpec):
        return [None for _ in items]
    prepare = preprocessor(spec, folder=artifact.folder / modality)
    found: list[str | None] = []
    for item in items:
        try:
            found.append(_picture(prepare(item), spec, side))
        except (SlimbindError, OSError, ValueError):
            found.append(None)
    return found


def _picture(array: NDArray[Any], spec: object, side: int) -> str | None:
    from PIL import Image

    view = np.asarray(array[0], np.float64)
    if view.ndim == 4:  # a film: [3, frames, height, width]
        view = view[:, 0]
    if view.ndim != 3 or view.shape[0] not in (1, 3):
        return None
    if isinstance(spec, ImageSpec):
        view = view * np.array(spec.std)[:, None, None] + np.array(spec.mean)[:, None, None]
    else:
        low, high = float(view.min()), float(view.max())
        view = (view - low) / (high - low) if high > low else np.zeros_like(view)
    if isinstance(spec, AudioSpec):
        view = view[:, ::-1]  # low notes at the bottom
    pixels = np.clip(np.round(view * 255), 0, 255).astype(np.uint8).transpose(1, 2, 0)
    image = Image.fromarray(pixels if pixels.shape[2] == 3 else pixels[:, :, 0])
    image.thumbnail((side, side))
    buffer = io.BytesIO()
    image.save(buffer, "jpeg", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
