"""The six modalities: what files each one takes, and the array a tower receives."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePath

from slimbind.errors import UsageError


@dataclass(frozen=True)
class ModalityInfo:
    """What one modality accepts.

    Args:
        name: the modality's name.
        suffixes: file types that mean this modality when none is named.
        explicit_suffixes: file types it reads too, but only when the modality is named, because the same type also
            belongs to another one (a ``.png`` is a photograph unless it is said to be a depth map).
        views: shape of one view of one item, as the tower receives it (``T`` = 1 for a still image, 2 for video).
        units: what the numbers in a file mean.
        summary: one line for people.
    """

    name: str
    suffixes: frozenset[str]
    explicit_suffixes: frozenset[str]
    views: str
    units: str
    summary: str


_IMAGE = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif"})
_VIDEO = frozenset({".mp4", ".mov", ".mkv", ".webm", ".avi", ".m4v"})

VIDEO_SUFFIXES = _VIDEO

MODALITIES: dict[str, ModalityInfo] = {
    info.name: info
    for info in (
        ModalityInfo(
            "vision",
            suffixes=_IMAGE | _VIDEO,
            explicit_suffixes=frozenset(),
            views="[3, T, 224, 224]",
            units="sRGB, 8 bit",
            summary="photographs and video",
        ),
        ModalityInfo(
            "text",
            suffixes=frozenset({".txt", ".md"}),
            explicit_suffixes=frozenset(),
            views="[length] token ids",
            units="UTF-8",
            summary="sentences; a file is one text",
        ),
        ModalityInfo(
            "audio",
            suffixes=frozenset({".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aiff"}),
            explicit_suffixes=frozenset(),
            views="[1, 128, 204] log-mel clip of 2 s",
            units="any sampling rate and channel count; resampled to 16 kHz mono",
            summary="sound",
        ),
        ModalityInfo(
            "depth",
            suffixes=frozenset({".exr"}),
            explicit_suffixes=frozenset({".png", ".npy", ".tif", ".tiff"}),
            views="[1, 224, 224] disparity / 75",
            units="16-bit PNG or TIFF in millimetres; .npy and .exr in metres",
            summary="depth maps",
        ),
        ModalityInfo(
            "thermal",
            suffixes=frozenset(),
            explicit_suffixes=frozenset({".png", ".tif", ".tiff", ".npy", ".jpg", ".jpeg"}),
            views="[1, 224, 224] intensity",
            units="8- or 16-bit single channel; .npy in kelvin or raw counts",
            summary="thermal images",
        ),
        ModalityInfo(
            "imu",
            suffixes=frozenset({".csv"}),
            explicit_suffixes=frozenset({".npy"}),
            views="[6, 2000] = 10 s at 200 Hz",
            units="accelerometer x, y, z in m/s2, then gyroscope x, y, z in rad/s",
            summary="inertial motion recordings",
        ),
    )
}


def check_modality(name: str) -> str:
    """Return ``name`` if it is a modality.

    Raises:
        UsageError: it is not one; the message lists the six.
    """
    if name not in MODALITIES:
        raise UsageError.unknown("modality", name, MODALITIES)
    return name


def modality_of(path: str | PurePath) -> str | None:
    """The modality a file type stands for, or None where the type is unknown or ambiguous.

    ``photo.JPG`` is vision and ``bark.wav`` audio; ``map.npy`` may be depth, thermal or imu and has to be named.
    """
    suffix = PurePath(path).suffix.lower()
    for info in MODALITIES.values():
        if suffix in info.suffixes:
            return info.name
    return None
