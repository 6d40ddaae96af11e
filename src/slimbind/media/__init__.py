"""Bytes to arrays, without PyTorch: decoding and preprocessing for the six modalities, within limits.

``preprocessor(spec)`` gives a callable that turns one item into the array a tower receives. What each modality
takes, in which units and shapes, stands on top of its module: ``image`` and ``video``, ``text``, ``audio``,
``depth``, ``thermal``, ``imu``. Importing this package imports no decoder.
"""

from __future__ import annotations

from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from slimbind.media.limits import Limits

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from slimbind.media.spec import PreprocessSpec

__all__ = ["Limits", "Preprocessor", "preprocessor"]


class Preprocessor(Protocol):
    """One item in, one array out; may be called from several threads at once.

    Raises:
        MediaError: the item cannot be used; it names the item, the cause and the mend.
        LimitError: the item is larger than ``limits`` allow.
        MissingExtraError: an optional decoder is not installed.
    """

    limits: Limits

    def __call__(self, item: object) -> NDArray[Any]:
        """Turn one item into the array its tower receives."""
        ...


def preprocessor(
    spec: PreprocessSpec, *, folder: str | PathLike[str] | None = None, limits: Limits | None = None
) -> Preprocessor:
    """Build the preprocessor of one tower.

    Args:
        spec: the tower's preprocessing record from the manifest.
        folder: the tower's folder in the artifact, where a text tower keeps its tokenizer.
        limits: the largest item accepted; None for the defaults of ``Limits``.

    Returns:
        A callable from an item (path, bytes, file object, or the modality's in-memory kinds) to float32
        ``[views, ...]``, for text int32 ``[length]``.

    Raises:
        ArtifactError: the tokenizer is missing or damaged.
        UsageError: the record contradicts itself.
    """
    limits = limits or Limits()
    if spec.kind == "image":
        from slimbind.media.image import ImagePreprocessor

        return ImagePreprocessor(spec, limits)
    if spec.kind == "mel":
        from slimbind.media.audio import AudioPreprocessor

        return AudioPreprocessor(spec, limits)
    if spec.kind == "disparity":
        from slimbind.media.depth import DepthPreprocessor

        return DepthPreprocessor(spec, limits)
    if spec.kind == "thermal":
        from slimbind.media.thermal import ThermalPreprocessor

        return ThermalPreprocessor(spec, limits)
    if spec.kind == "imu":
        from slimbind.media.imu import ImuPreprocessor

        return ImuPreprocessor(spec, limits)
    from slimbind.media.text import TextPreprocessor

    return TextPreprocessor(spec, Path(folder) if folder is not None else None, limits)
