"""What quantization decides about a tower, layer by layer: the one thing schemes make and engines are written from.

A plan names modules of a tower (as ``named_modules`` does) and says for each how its weight is stored and what becomes
of its input. Nothing here computes; ``emulate`` does in PyTorch what a plan says, and ``export`` writes it for an
engine. Both must agree, and a test compares them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

LEVELS = 256  # of an activation of 8 bits
LARGEST = {8: 127, 4: 7}  # greatest code of a weight
# The least. The 16th level of 4 bits takes a fifth off the squared error; the 256th of 8 takes nothing worth having.
SMALLEST = {8: -127, 4: -8}

Float = Literal["f32", "f16", "bf16"]


@dataclass(frozen=True)
class WeightCodes:
    """A weight as whole numbers: ``weight = codes * scale``.

    Args:
        codes: int8, of the weight's own shape ``[out, in, ...]`` (4-bit codes too lie in int8, within -8..7).
        scale: float32 ``[out, groups]``; negative where the loudest weight of a 4-bit group is positive. One group
            spans ``in / groups`` inputs; convolutions and embeddings have one.
        bits: 8 or 4.
    """

    codes: Tensor
    scale: Tensor
    bits: Literal[8, 4] = 8

    def __post_init__(self) -> None:
        rows, groups = self.scale.shape
        if self.codes.dtype != torch.int8 or rows != self.codes.shape[0] or self.codes[0].numel() % groups:
            raise ValueError(f"codes {list(self.codes.shape)} {self.codes.dtype}, scale {list(self.scale.shape)}")
        if self.bits == 4 and groups > 1 and self.codes.ndim != 2:
            raise ValueError("only matrices are quantized in groups")

    def dequantize(self) -> Tensor:
        """The float32 weight that the codes stand for."""
        rows, groups = self.scale.shape
        grouped = self.codes.reshape(rows, groups, -1).to(torch.float32)
        return (grouped * self.scale[..., None]).reshape(self.codes.shape)


@dataclass(frozen=True)
class StaticRange:
    """The calibrated range of a layer's input, cut into 256 levels (uint8) of which one is exactly zero."""

    low: float
    high: float

    def __post_init__(self) -> None:
        if not self.low <= 0.0 <= self.high or self.low == self.high:
            raise ValueError(f"a range must span zero: {self.low}..{self.high}")

    @property
    def scale(self) -> float:
        """The width of a level."""
        return (self.high - self.low) / (LEVELS - 1)

    @property
    def zero_point(self) -> int:
        """The level that stands for zero."""
        return min(LEVELS - 1, max(0, round(-self.low / self.scale)))

    @property
    def nudged(self) -> tuple[float, float]:
        """The range moved so that zero lies on a level: what engines are told."""
        return -self.zero_point * self.scale, (LEVELS - 1 - self.zero_point) * self.scale


# What becomes of a layer's input: left alone, quantized per token (in groups) at run time, or in a calibrated range.
Activation = Literal["float", "dynamic"] | StaticRange


@dataclass(frozen=True)
class LayerPlan:
    """One layer. Without ``weight`` it keeps float weights, stored as ``stored``."""

    weight: WeightCodes | None = None
    activation: Activation = "float"
    stored: Float = "f32"

    def __post_init__(self) -> None:
        if self.weight is None and self.activation != "float":
            raise ValueError("an input is quantized only together with its weight")


@dataclass(frozen=True)
class Plan:
    """How a whole tower is written.

    Args:
        layers: by module name. Linear, convolution and embedding layers that are not named keep ``rest``.
        rest: how all other matrices are stored.
        precision: what is not int8 is computed in (``bf16`` falls back to f32 on a CPU without it).
        group_size: a dynamic input is quantized per token in groups of so many values; it divides every row.
    """

    layers: Mapping[str, LayerPlan] = field(default_factory=dict)
    rest: Float = "f32"
    precision: Literal["f32", "bf16"] = "f32"
    group_size: int | None = None
