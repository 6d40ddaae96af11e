"""Layers that learn while they are quantized: rounded on the way forward, passed through on the way back.

Rounding has no useful slope, so its slope is taken as 1 (the straight-through estimator, Bengio et al. 2013), and the
width of a step learns by what its codes did (learned step size, Esser et al. 2020). Everything learns in a unit of its
own: weights in steps of their codes, scales and ranges as ratios to where they began, biases in what a step of every
weight would change. One rate then fits all layers, also where a folded batch norm left channels a thousand times
smaller than others.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from slimbind.quantize.emulate import dynamic
from slimbind.quantize.plan import LARGEST, LEVELS, SMALLEST, LayerPlan, StaticRange, WeightCodes
from slimbind.quantize.sites import shallow

Learnable = nn.Linear | nn.Conv2d


def straight(x: Tensor) -> Tensor:
    """Round to the nearest whole number, with the slope of no rounding."""
    return x + (x.round() - x).detach()


class _Levels(torch.autograd.Function):
    """``x`` to whole numbers from ``-zero`` to ``255 - zero``, times ``step``; slopes for all three.

    The same written with single operations takes twice as long: a training step spends most of its time here.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, step: Tensor, zero: Tensor) -> Tensor:  # noqa: ANN401
        levels = (x / step).round_().clamp_(*_bounds(zero))
        ctx.save_for_backward(x, step, zero)
        return levels.mul_(step)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:  # noqa: ANN401
        x, step, zero = ctx.saved_tensors
        scaled = x / step
        levels = scaled.round().clamp_(*_bounds(zero))
        to_x = grad * (scaled.sub(levels).abs_() <= 0.5)
        # Inside, a wider step moves a value by how far it was rounded; outside, by the level it was clipped to.
        to_step = _dot(grad, levels) - _dot(to_x, scaled)
        to_zero = -step * (grad.sum() - to_x.sum())
        return to_x, to_step, to_zero


def _bounds(zero: Tensor) -> tuple[float, float]:
    lowest = -float(zero)  # numbers: bounds that are tensors take five times as long
    return lowest, lowest + LEVELS - 1


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """The sum of ``a * b``, without a copy of tensors that lie alike in memory, in whatever order."""
    if a.stride() == b.stride() and (a.is_contiguous() or a.is_contiguous(memory_format=torch.channels_last)):
        size = a.numel()
        return torch.dot(a.as_strided((size,), (1,)), b.as_strided((size,), (1,)))
    return (a * b).sum()


class LearnedWeight(nn.Module):
    """A weight as codes and scales, both learned.

    ``codes`` are kept as fractions of whole numbers, and rounded when they are used.
    """

    def __init__(self, weight: Tensor, start: WeightCodes) -> None:
        super().__init__()
        rows, groups = start.scale.shape
        self.bits = start.bits
        self.shape = weight.shape
        grouped = weight.detach().float().reshape(rows, groups, -1)
        self.first = nn.Parameter(start.scale[..., None].clone(), requires_grad=False)
        self.ends = SMALLEST[self.bits], LARGEST[self.bits]
        # A code may sit elsewhere than where rounding puts it (error compensation): begin from there, and with the
        # weight's own fraction only where both agree.
        near, chosen = grouped / self.first, start.codes.reshape(rows, groups, -1).float()
        self.codes = nn.Parameter(torch.where((near - chosen).abs() <= 0.5, near, chosen).clamp(*self.ends))
        self.ratio = nn.Parameter(torch.zeros_like(self.first))

    @property
    def scale(self) -> Tensor:
        """``[out, groups, 1]``."""
        scale = self.first * self.ratio.exp()
        # The scales of 4-bit codes are stored as f16.
        return scale + (scale.half().float() - scale).detach() if self.bits == 4 else scale

    def forward(self) -> Tensor:
        """The weight that the rounded codes stand for."""
        return (straight(self.codes.clamp(*self.ends)) * self.scale).reshape(self.shape)

    def finish(self) -> WeightCodes:
        """The codes as they are now."""
        with torch.no_grad():
            codes = self.codes.round().clamp(*self.ends).to(torch.int8).reshape(self.shape)
            return WeightCodes(codes, self.scale[..., 0].clone(), self.bits)


class LearnedRange(nn.Module):
    """A calibrated range whose two ends are learned; an end that is zero (behind a ReLU) stays zero."""

    def __init__(self, start: StaticRange) -> None:
        super().__init__()
        self.start = start
        self.ratio = nn.Parameter(torch.zeros(2))

    def forward(self, x: Tensor) -> Tensor:
        """Cut ``x`` into 256 levels."""
        step, zero = self._step_and_zero()
        out: Tensor = _Levels.apply(x, step, zero)  # type: ignore[no-untyped-call]
        return out

    def _step_and_zero(self) -> tuple[Tensor, Tensor]:
        low, high = self.start.low * self.ratio[0].exp(), self.start.high * self.ratio[1].exp()
        step = (high - low) / (LEVELS - 1)
        return step, straight(-low / step).clamp(0, LEVELS - 1)

    def finish(self) -> StaticRange:
        """The range as it is now."""
        ends = (self.start.low, self.start.high)
        with torch.no_grad():
            low, high = (self.ratio.double().exp() * self.ratio.new_tensor(ends, dtype=torch.float64)).tolist()
        return StaticRange(low, high)


class LearnedLayer(nn.Module):
    """A linear or convolution layer as a plan has it, whose codes, scales, range and bias learn."""

    def __init__(self, layer: Learnable, plan: LayerPlan, group: int | None) -> None:
        super().__init__()
        if plan.weight is None:
            raise ValueError("a layer that stays float has nothing to learn here")
        self.layer = (layer,)  # in a tuple: neither a child nor saved
        self.plan = plan
        self.group = group
        self.weight = LearnedWeight(layer.weight, plan.weight)
        self.range = LearnedRange(plan.activation) if isinstance(plan.activation, StaticRange) else None
        self.shift = None
        if layer.bias is not None:
            fan_in = layer.weight[0].numel()
            unit = plan.weight.scale.mean(1) * math.sqrt(fan_in)
            self.first = nn.Parameter(layer.bias.detach().clone(), requires_grad=False)
            self.unit = nn.Parameter(unit, requires_grad=False)
            self.shift = nn.Parameter(torch.zeros_like(unit))

    @property
    def bias(self) -> Tensor | None:
        """``[out]``."""
        return None if self.shift is None else self.first + self.unit * self.shift

    def forward(self, x: Tensor) -> Tensor:
        """As the layer it stands for."""
        if self.range is not None:
            x = self.range(x)
        elif self.plan.activation == "dynamic":
            x = dynamic(x, self.group)
        layer, weight = self.layer[0], self.weight()
        if isinstance(layer, nn.Linear):
            return F.linear(x, weight, self.bias)
        return F.conv2d(x, weight, self.bias, layer.stride, layer.padding, layer.dilation, layer.groups)

    def finish(self) -> tuple[nn.Module, LayerPlan]:
        """The float layer with what was learned, and its plan."""
        codes = self.weight.finish()
        plan = LayerPlan(codes, self.plan.activation if self.range is None else self.range.finish(), self.plan.stored)
        new = shallow(self.layer[0])
        new.weight = nn.Parameter(codes.dequantize(), requires_grad=False)
        if self.shift is not None:
            bias = self.bias
            assert bias is not None
            new.bias = nn.Parameter(bias.detach().clone(), requires_grad=False)
        return new, plan
