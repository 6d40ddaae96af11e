"""What a scheme tells while it works and when it is done: progress in stages, and the report kept in the manifest."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from pydantic import BaseModel, ConfigDict, Field


class Progress(Protocol):
    """Begins a stage of ``total`` steps; what it returns is told how many of them are done so far.

    done = progress("observing", 32)
    observe(tower, batches, progress=done)
    """

    def __call__(self, stage: str, total: int) -> Callable[[int], None]:
        """Begin a stage; the one before it is over."""
        ...


def silent(stage: str, total: int) -> Callable[[int], None]:
    """A ``Progress`` that tells nobody."""
    return lambda done: None


class Report(BaseModel):
    """What was done to a tower, layer by layer where it differs; stored with it in the manifest.

    Args:
        layers: how many layers were quantized.
        kept: layers that stay in float -> why, with the measured number.
        smoothing: layer -> the alpha its input was smoothed with.
        observers: layer -> the observer whose range its input got.
        recipe: for a mix of schemes, the ordered pairs (pattern, scheme) that give the same plan again.
        settings: what was tried and settled on for the whole tower.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    layers: int = Field(ge=0)
    kept: dict[str, str] = Field(default_factory=dict)
    smoothing: dict[str, float] = Field(default_factory=dict)
    observers: dict[str, str] = Field(default_factory=dict)
    recipe: tuple[tuple[str, str], ...] = ()
    settings: dict[str, Any] = Field(default_factory=dict)
