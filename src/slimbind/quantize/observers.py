"""Ranges of activations from a stream of values: all of them, nearly all, or those that cost the least.

Each observer that looks at more than extremes keeps a histogram whose bins have a power of two as their width. When a
value lies beyond it, neighbouring bins are merged; what comes out depends on the values alone, not on their order nor
on how they were cut into batches.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from slimbind.quantize.plan import LEVELS, StaticRange

_HALF = 8192  # bins on each side of zero
_TAILS = [digit * 10.0**power for power in range(-7, -1) for digit in (1, 2, 5)]  # shares of the values
_NARROWEST = 2.0**-60  # a range of an input that is always zero: any would do


class Observer(Protocol):
    """Watches values and settles on a range."""

    def update(self, x: Tensor) -> None:
        """Take in finite values of any shape."""

    def range(self) -> StaticRange:
        """The range so far.

        Raises:
            ValueError: nothing was seen.
        """


class MinMax:
    """From the smallest to the largest value."""

    def __init__(self) -> None:
        self.low, self.high = math.inf, -math.inf

    def update(self, x: Tensor) -> None:
        """See ``Observer``."""
        if x.numel():
            low, high = x.aminmax()
            self.low, self.high = min(self.low, float(low)), max(self.high, float(high))

    def range(self) -> StaticRange:
        """See ``Observer``."""
        if self.low > self.high:
            raise ValueError("no values were observed")
        return _spanning(self.low, self.high)


class _Binned(MinMax):
    """Extremes, and how many values fell into each bin: ``_HALF`` bins of ``width`` on either side of zero."""

    def __init__(self) -> None:
        super().__init__()
        self.width = 0.0
        self.counts = torch.zeros(2 * _HALF, dtype=torch.float64)

    def update(self, x: Tensor) -> None:
        """See ``Observer``."""
        if not x.numel():
            return
        super().update(x)
        self._widen(max(-self.low, self.high))
        place = (x.detach().flatten().float() / self.width).floor_().to(torch.int64).add_(_HALF)
        self.counts += torch.bincount(place.clamp_(0, 2 * _HALF - 1), minlength=2 * _HALF)

    def _widen(self, largest: float) -> None:
        # the largest value must lie inside of its bin: frexp gives a power of two strictly above it
        needed = math.ldexp(1.0, max(math.frexp(largest)[1], -100) if largest else -100) / _HALF
        if self.width == 0.0:
            self.width = needed
        while self.width < needed:
            pairs = self.counts.reshape(-1, 2).sum(1)
            self.counts = torch.zeros_like(self.counts)
            self.counts[_HALF // 2 : _HALF // 2 + _HALF] = pairs
            self.width *= 2

    @property
    def edges(self) -> Tensor:
        """Where each bin begins, and where the last one ends, ``[2 * _HALF + 1]``."""
        return torch.arange(-_HALF, _HALF + 1, dtype=torch.float64) * self.width

    def loss(self, low: float, high: float) -> float:
        """The squared error that a range would make, summed over all values seen.

        Inside of the range a value is off by what rounding its bin's middle costs (with the spread of a bin narrower
        than a step added), outside by the way to the nearest end.
        """
        used = self.counts.nonzero()[:, 0]
        middle, counts = (used - _HALF + 0.5) * self.width, self.counts[used]
        range_ = _spanning(low, high)
        step = range_.scale
        if step < 2 * self.width:  # bins are too coarse to tell where in a step a value lies: anywhere
            bottom, top = range_.nudged
            inside = torch.full_like(middle, step * step / 12)
            outside = (middle - middle.clamp(bottom, top)).square()
            return float((counts * (inside + outside)).sum())
        code = (middle / step).round().add_(range_.zero_point).clamp_(0, LEVELS - 1)
        return float((counts * ((code - range_.zero_point) * step - middle).square()).sum())


class Percentile(_Binned):
    """Leaves out the most extreme values, the same share at both ends (``keep`` in percent stays at each end)."""

    def __init__(self, keep: float = 99.99) -> None:
        if not 50.0 < keep <= 100.0:
            raise ValueError(f"the percentile is {keep}; it must be above 50 and at most 100")
        super().__init__()
        self.keep = keep

    def range(self) -> StaticRange:
        """See ``Observer``."""
        whole = super().range()
        share = self.counts.cumsum(0) / self.counts.sum()
        beyond = 1 - self.keep / 100
        edges = self.edges
        low = float(edges[int((share > beyond).nonzero()[0])])
        high = float(edges[int((share >= 1 - beyond).nonzero()[0]) + 1])
        return _spanning(max(low, whole.low), min(high, whole.high))


class Histogram(_Binned):
    """Leaves out more and more of the values at either end for as long as that lowers the squared error.

    The idea of PyTorch's observer of that name, with which the ImageBind paper calibrated. It goes from quantile to
    quantile and stops where a step at neither end helps, so it may miss the best range of a distribution with several
    bumps; ``Mse`` does not.
    """

    def range(self) -> StaticRange:
        """See ``Observer``."""
        whole = super().range()
        share, edges = self.counts.cumsum(0) / self.counts.sum(), self.edges
        lows = [max(whole.low, float(edges[int((share > left_out).nonzero()[0])])) for left_out in _TAILS]
        highs = [min(whole.high, float(edges[int((share >= 1 - left_out).nonzero()[0]) + 1])) for left_out in _TAILS]
        # both from the outermost inward; an end at zero has nowhere to go
        ends = [
            sorted({min(whole.low, 0.0), *(low for low in lows if low < 0)}),
            sorted({-max(whole.high, 0.0), *(-high for high in highs if high > 0)}),
        ]
        best = _spanning(ends[0][0], -ends[1][0])
        least = self.loss(best.low, best.high)
        moved = True
        while moved:
            moved = False
            for end in ends:
                if len(end) == 1:
                    continue
                kept = end.pop(0)
                trial = _spanning(ends[0][0], -ends[1][0])
                error = self.loss(trial.low, trial.high)
                if error < least:
                    best, least, moved = trial, error, True
                else:
                    end.insert(0, kept)
        return best


class Mse(_Binned):
    """The range with the least squared error, both ends searched, on a grid and then finer."""

    def range(self) -> StaticRange:
        """See ``Observer``."""
        whole = super().range()
        best, least = (1.0, 1.0), self.loss(whole.low, whole.high)
        for span in (0.98, 0.05, 0.01):
            centre = best
            shares = [_grid(end, span) for end in centre]
            for down in shares[0] if whole.low < 0 else [1.0]:
                for up in shares[1] if whole.high > 0 else [1.0]:
                    error = self.loss(whole.low * down, whole.high * up)
                    if error < least:
                        best, least = (down, up), error
        return _spanning(whole.low * best[0], whole.high * best[1])


def _grid(centre: float, span: float) -> list[float]:
    """Eleven factors around ``centre``, none below .02 nor above 1."""
    start, end = max(0.02, centre - span), min(1.0, centre + span)
    return [start + (end - start) * place / 10 for place in range(11)]


def _spanning(low: float, high: float) -> StaticRange:
    low, high = min(low, 0.0), max(high, 0.0)
    return StaticRange(low, high if high - low >= _NARROWEST else low + _NARROWEST)


OBSERVERS: dict[str, Callable[[], Observer]] = {
    "minmax": MinMax,
    "histogram": Histogram,
    "percentile": Percentile,
    "mse": Mse,
}
