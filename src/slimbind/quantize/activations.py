"""What the layers of a tower are given: their inputs watched while real batches run through, and summed up on the way.

Nothing is kept of a batch but sums, extremes, and (on request) a bounded sample of rows, so that any amount of data
fits into memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from slimbind.errors import EngineError, UsageError
from slimbind.quantize.emulate import EmulatedConv
from slimbind.quantize.observers import OBSERVERS, Histogram, Observer
from slimbind.quantize.plan import StaticRange
from slimbind.quantize.sites import Site, sites
from slimbind.towers.layers import Tower

_SEED = 20240607  # of the sample of rows
_OF_MAPS = (nn.Conv2d, nn.Conv3d, EmulatedConv)  # their channels are the second axis


@dataclass
class InputStats:
    """What one layer was given. Channels are the last axis of a linear layer's input, the second of a convolution's.

    Attributes:
        count: rows (tokens, or pixels of a feature map) seen.
        low, high: the smallest and the largest value of each channel, ``[in]``.
        mean: of each channel, ``[in]``.
        square: the mean square of each channel, ``[in]``.
        moment: the mean of ``x x^T`` over all rows, ``[in, in]``; only where asked for, and only of linear layers.
        rows: an unbiased sample of rows, ``[n, in]``; only where asked for.
        ranges: what each observer that was asked for settled on, by its name.
        histogram: how often the values of all channels lie where; only where asked for.
    """

    count: int
    low: Tensor
    high: Tensor
    mean: Tensor
    square: Tensor
    moment: Tensor | None = None
    rows: Tensor | None = None
    ranges: dict[str, StaticRange] = field(default_factory=dict)
    histogram: Histogram | None = None

    @property
    def absmax(self) -> Tensor:
        """The largest magnitude of each channel, ``[in]``."""
        return torch.maximum(self.low.abs(), self.high.abs())


def observe(
    tower: nn.Module,
    batches: Iterable[Tensor],
    *,
    names: Iterable[str] | None = None,
    moments: bool = False,
    rows: int = 0,
    observers: Sequence[str] = (),
    histograms: bool = False,
    progress: Callable[[int], None] | None = None,
) -> dict[str, InputStats]:
    """Run ``batches`` through ``tower`` once and sum up what its linear and convolution layers were given.

    Args:
        tower: any tower, an emulated one too (give ``names`` then).
        batches: its inputs.
        names: of the layers to watch; all linear and convolution layers by default.
        moments: also the second moment of every linear layer's input (``in * in`` floats each).
        rows: also a sample of at most so many rows.
        observers: names from ``OBSERVERS``, each gives a range for the whole input.
        histograms: also how often values lie where.
        progress: is told how many items have gone through.

    Raises:
        UsageError: an observer is unknown, or there are no batches.
        EngineError: an input is not finite.
        AttributeError: the tower has no layer of that name.
    """
    watched = _modules(tower, names)
    seen = 0
    watch = watching(watched, moments=moments, rows=rows, observers=observers, histograms=histograms)
    with watch as stats, torch.no_grad():
        for batch in batches:
            tower(batch)
            seen += len(batch)
            if progress is not None:
                progress(seen)
        if not seen:
            raise UsageError("there is nothing to observe: no batches were given", hint="give at least one item")
    return stats


@contextmanager
def watching(
    modules: Mapping[str, nn.Module],
    *,
    moments: bool = False,
    rows: int = 0,
    observers: Sequence[str] = (),
    histograms: bool = False,
) -> Iterator[dict[str, InputStats]]:
    """Sum up what ``modules`` are given inside of the ``with``, at whose end the dictionary is filled."""
    for name in observers:
        if name not in OBSERVERS:
            raise UsageError.unknown("observer", name, OBSERVERS)
    running = {
        name: _Running(
            name,
            moments=moments,
            rows=rows,
            observers={o: OBSERVERS[o]() for o in observers},
            histogram=Histogram() if histograms else None,
        )
        for name in modules
    }
    stats: dict[str, InputStats] = {}
    handles = [module.register_forward_pre_hook(_hook(running[name])) for name, module in modules.items()]
    try:
        yield stats
    finally:
        for handle in handles:
            handle.remove()
    stats.update((name, state.finish()) for name, state in running.items())


def _modules(tower: nn.Module, names: Iterable[str] | None) -> dict[str, nn.Module]:
    if names is not None:
        return {name: tower.get_submodule(name) for name in names}
    assert isinstance(tower, Tower)
    return {name: site.module for name, site in sites(tower).items() if watchable(site)}


def watchable(site: Site) -> bool:
    """Whether a layer has an input of numbers (an embedding is given ids, the frame stem pixels)."""
    return site.kind in ("linear", "conv")


def _hook(state: _Running) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
    def hook(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        x = inputs[0].detach()
        state.update(x.movedim(1, -1) if isinstance(module, _OF_MAPS) else x)

    return hook


class _Running:
    """The sums of one layer."""

    def __init__(
        self, name: str, *, moments: bool, rows: int, observers: dict[str, Observer], histogram: Histogram | None = None
    ) -> None:
        self.name = name
        self.histogram = histogram
        self.moments = moments
        self.most_rows = rows
        self.observers = observers
        self.count = 0
        self.low = self.high = torch.empty(0)
        self.total = self.squares = torch.empty(0)
        self.moment: Tensor | None = None
        self.rows: Tensor | None = None
        self.keys = torch.empty(0)
        self.random = torch.Generator().manual_seed(_SEED)

    def update(self, x: Tensor) -> None:
        """Take in ``[..., in]``."""
        flat = x.reshape(-1, x.shape[-1]).float()
        low, high = flat.amin(0), flat.amax(0)
        if not bool(torch.isfinite(low).all() and torch.isfinite(high).all()):
            raise EngineError(
                f"the input of {self.name} is infinite or not a number",
                hint="check the calibration data and the tower's weights for extreme values",
            )
        total, squares = flat.double().sum(0), flat.double().square().sum(0)
        if self.count == 0:
            self.low, self.high, self.total, self.squares = low, high, total, squares
        else:
            self.low, self.high = torch.minimum(self.low, low), torch.maximum(self.high, high)
            self.total, self.squares = self.total + total, self.squares + squares
        self.count += len(flat)
        if self.moments:
            if self.moment is None:
                self.moment = torch.zeros(flat.shape[1], flat.shape[1])
            self.moment.addmm_(flat.t(), flat)
        if self.most_rows:
            self._sample(flat)
        for observer in self.observers.values():
            observer.update(flat)
        if self.histogram is not None:
            self.histogram.update(flat)

    def _sample(self, flat: Tensor) -> None:
        """Every row draws a number; those with the smallest ones stay, whatever the batches were."""
        keys = torch.rand(len(flat), generator=self.random)
        rows = flat
        if self.rows is not None:
            keys, rows = torch.cat([self.keys, keys]), torch.cat([self.rows, rows])
        chosen = keys.argsort()[: self.most_rows].sort().values
        self.keys, self.rows = keys[chosen], rows[chosen].clone()

    def finish(self) -> InputStats:
        if self.count == 0:
            raise ValueError(f"{self.name} was never used by the batches given")
        return InputStats(
            count=self.count,
            low=self.low,
            high=self.high,
            mean=(self.total / self.count).float(),
            square=(self.squares / self.count).float(),
            moment=None if self.moment is None else self.moment.div_(self.count),
            rows=self.rows,
            ranges={name: observer.range() for name, observer in self.observers.items()},
            histogram=self.histogram,
        )
