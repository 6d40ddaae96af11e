"""What flows through a bulk job: items on the way in, rows on the way out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from slimbind.errors import SlimbindError


@dataclass(frozen=True, slots=True)
class Item:
    """One thing to embed, or one that is known to be bad already (``error``).

    Args:
        id: how the result names it: the path as it was found, the text itself, or ``file:line``.
        modality: which tower embeds it; empty for a bad item of unknown modality.
        source: a path, or a text.
        size: bytes of the file, when it was found.
        mtime_ns: time of its last change, when it was found.
        error: why it cannot be embedded.
    """

    id: str
    modality: str
    source: Path | str = ""
    size: int = 0
    mtime_ns: int = 0
    error: SlimbindError | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """The result for one item: ``vector`` is a unit vector ``[dim]``, or None and ``error`` says why."""

    item: Item
    vector: NDArray[np.float32] | None = None
    error: SlimbindError | None = None

    @property
    def reason(self) -> str:
        """Why it failed, in one line without the item's name; empty where it did not."""
        if self.error is None:
            return ""
        text = getattr(self.error, "reason", self.error.message)
        return f"{text} ({self.error.hint})" if self.error.hint else str(text)


@dataclass(frozen=True, slots=True)
class About:
    """What the vectors are: the model, its dimensions, and the encoder id of each modality."""

    model: str
    dim: int
    encoders: Mapping[str, str]
