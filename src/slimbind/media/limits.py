"""Limits of one call: how large an item may be, checked before it is decoded."""

from __future__ import annotations

from dataclasses import dataclass, fields

from slimbind.errors import UsageError


@dataclass(frozen=True)
class Limits:
    """The largest item that is accepted. Limits belong to a call or a model, never to the process.

    They are compared with what a file's header says before anything is decoded, and with what is really decoded
    where a header can lie. An item beyond a limit raises ``LimitError``.

    Args:
        max_bytes: size of a file, a bytes object or what a file object still holds.
        max_pixels: width times height of an image, a depth or thermal map, or one video frame.
        max_seconds: length of a sound, a video or an inertial recording.
        max_frames: frames in a video.
        max_characters: length of a text.

    Raises:
        UsageError: a limit is not positive.
    """

    max_bytes: int = 2 * 1024**3
    max_pixels: int = 80_000_000
    max_seconds: float = 24 * 3600.0
    max_frames: int = 6_000_000
    max_characters: int = 100_000

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
                raise UsageError(
                    f"limit {field.name} is {value!r}; it must be a number above 0",
                    hint="leave it out for the default, or use a very large one",
                )
