"""How strongly each input is smoothed when it has one calibrated range: searched by what it costs the embedding.

Smoothing changes nothing in float, and what a link's scale does to rounding stays within the layers that read the link
(a writer's rows, which have a scale each, round the same whatever they are divided by). So every alpha of every link is
tried in one measurement of sensitivity, with stand-ins for the reading layers: no tower is smoothed but the last.

The output error of each layer alone (SmoothQuant's own criterion, Xiao et al. 2022, and that of many after it) is
cheaper, but weighs rows and tokens by their loudness, not by what the embedding makes of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from slimbind.quantize import emulate, rounding
from slimbind.quantize.activations import InputStats
from slimbind.quantize.links import Link, links
from slimbind.quantize.plan import StaticRange, WeightCodes
from slimbind.quantize.sensitivity import Loss, measure
from slimbind.quantize.smooth import loudness, scale
from slimbind.towers.layers import Tower

ALPHAS = (0.3, 0.5, 0.7)
PROBES = 3
_ASIDE = "alone"  # the way that leaves a link as it is
_WORTH = 0.95  # a link is smoothed only where that lowers its layers' loss to this part of it
_AT_ONCE = 4 * 10**8  # weights that the ways tried in one measurement hold in all, as int8


def search(
    tower: Tower,
    stats: Mapping[str, InputStats],
    few: Callable[[], Iterator[Tensor]],
    *,
    alphas: Sequence[float] = ALPHAS,
    loud: Mapping[str, Sequence[int]] = MappingProxyType({}),
    progress: Callable[[int], None] | None = None,
) -> dict[str, float]:
    """How strongly to smooth each link, so that its layers cost the embedding least with their input in one range.

    Args:
        tower: in float.
        stats: of all inputs.
        few: gives batches to measure on; called for every few ways.
        alphas: what is tried.
        loud: by link, channels that stay in float (``smooth.loud_channels``).
        progress: is told how many ways were tried.

    Returns:
        link -> alpha, for ``smooth.smooth``. A link that is best left alone is not in it.
    """
    found = links(tower)
    if not found:
        return {}
    ways: list[float | None] = [None, *alphas]
    loss: Loss = {}
    size = sum(_weight(tower.get_submodule(reader)).numel() for link in found.values() for reader in link.readers)
    at_once = max(2, _AT_ONCE // size)
    for start in range(0, len(ways), at_once):
        tried = {_name(alpha): _stand_ins(tower, found, stats, alpha, loud) for alpha in ways[start : start + at_once]}
        loss |= measure(tower, few(), tried, probes=PROBES)
        if progress is not None:
            progress(start + len(tried))
    chosen = {}
    for name, link in found.items():
        costs = {alpha: sum(loss[_name(alpha)][reader] for reader in link.readers) for alpha in ways}
        best = min(alphas, key=lambda alpha: costs[alpha])
        if costs[best] < _WORTH * costs[None]:
            chosen[name] = best
    return chosen


class Smoothed(nn.Module):
    """Stands in for a layer that is given ``x / by``: rounds that and its weight, but not what loud channels add."""

    def __init__(self, layer: nn.Module, stats: InputStats, by: Tensor, loud: Sequence[int]) -> None:
        super().__init__()
        assert isinstance(layer, nn.Linear | nn.Conv2d)
        self.layer = [layer]  # in a list: its weight is not this module's
        self.by = by
        self.loud = list(loud)
        weight = layer.weight.detach() * by.reshape(1, -1, *[1] * (layer.weight.ndim - 2))
        weight[:, self.loud] = 0.0
        self.codes: WeightCodes = rounding.per_channel(weight)
        least, most = min(0.0, float((stats.low / by).min())), max(0.0, float((stats.high / by).max()))
        self.range = StaticRange(least, most if most > least else least + 1.0)

    def forward(self, x: Tensor) -> Tensor:
        """As the layer's."""
        layer, weight = self.layer[0], self.codes.dequantize()
        if isinstance(layer, nn.Linear):
            out = F.linear(emulate.static(x / self.by, self.range), weight, layer.bias)
            return out + F.linear(x[..., self.loud], layer.weight[:, self.loud]) if self.loud else out
        assert isinstance(layer, nn.Conv2d)
        rounded = emulate.static(x / self.by.reshape(-1, 1, 1), self.range)
        mapped: Tensor = layer._conv_forward(rounded, weight, layer.bias)
        return mapped


def _stand_ins(
    tower: Tower,
    found: Mapping[str, Link],
    stats: Mapping[str, InputStats],
    alpha: float | None,
    loud: Mapping[str, Sequence[int]],
) -> dict[str, nn.Module]:
    made: dict[str, nn.Module] = {}
    for name, link in found.items():
        layers = [tower.get_submodule(reader) for reader in link.readers]
        apart = loud.get(name, ())
        by = torch.ones(len(stats[link.readers[0]].low))
        if alpha is not None or apart:  # a link with loud channels is scaled in any case
            weights = [_weight(layer) for layer in layers]
            few = torch.tensor(apart) if apart else None
            by = scale(loudness(link, stats), weights, alpha or 0.0, few).float()
        for reader, layer in zip(link.readers, layers, strict=True):
            made[reader] = Smoothed(layer, stats[reader], by, apart)
    return made


def _weight(layer: nn.Module) -> Tensor:
    assert isinstance(layer.weight, Tensor)
    return layer.weight.detach()


def _name(alpha: float | None) -> str:
    return _ASIDE if alpha is None else str(alpha)
