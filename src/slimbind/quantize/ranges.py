"""How strongly each input is smoothed when it has one calibrated range: searched by what it costs the embedding.

Smoothing changes nothing in float, and what a link's scale does to rounding stays within the layers that read the link
(a writer's rows, which have a scale each, round the same whatever they are divided by). So every alpha of every link is
tried in one measurement of sensitivity, with stand-ins for the reading layers: no tower is smoothed but the last.

The output error of each layer alone (SmoothQuant's own criterion, Xiao et al. 2022, and that of many after it) is
cheaper, but weighs rows and tokens by their loudness, not by what the embedding makes of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from slimbind.quantize import emulate, rounding
from slimbind.quantize.activations import InputStats
from slimbind.quantize.links import Link, links
from slimbind.quantize.plan import StaticRange, WeightCodes
from slimbind.quantize.sensitivity import Loss, measure
from slimbind.quantize.smooth import scale
from slimbind.towers.layers import Tower

ALPHAS = (0.2, 0.35, 0.5, 0.65, 0.8)
PROBES = 4
_ASIDE = "alone"  # the way that leaves a link as it is
_WORTH = 0.95  # a link is smoothed only where that lowers its layers' loss to this part of it
_AT_ONCE = 2  # ways that are tried in one measurement: each holds all weights as int8


def search(
    tower: Tower,
    stats: Mapping[str, InputStats],
    few: Callable[[], Iterator[Tensor]],
    *,
    alphas: Sequence[float] = ALPHAS,
    progress: Callable[[int], None] | None = None,
) -> dict[str, float]:
    """How strongly to smooth each link, so that its layers cost the embedding least with their input in one range.

    Args:
        tower: in float.
        stats: of all inputs.
        few: gives batches to measure on; called for every few ways.
        alphas: what is tried.
        progress: is told how many ways were tried.

    Returns:
        link -> alpha, for ``smooth.smooth``. A link that is best left alone is not in it.
    """
    found = links(tower)
    if not found:
        return {}
    ways: list[float | None] = [None, *alphas]
    loss: Loss = {}
    for start in range(0, len(ways), _AT_ONCE):
        tried = {_name(alpha): _stand_ins(tower, found, stats, alpha) for alpha in ways[start : start + _AT_ONCE]}
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
    """Stands in for a layer whose input is divided by a scale, and both it and the weight rounded."""

    def __init__(self, layer: nn.Module, stats: InputStats, by: Tensor) -> None:
        super().__init__()
        assert isinstance(layer, nn.Linear | nn.Conv2d)
        self.layer = [layer]  # in a list: its weight is not this module's
        self.by = by
        weight = layer.weight.detach()
        self.codes: WeightCodes = rounding.per_channel(weight * by.reshape(1, -1, *[1] * (weight.ndim - 2)))
        low, high = min(0.0, float((stats.low / by).min())), max(0.0, float((stats.high / by).max()))
        self.range = StaticRange(low, high if high > low else low + 1.0)

    def forward(self, x: Tensor) -> Tensor:
        """As the layer's."""
        layer, weight = self.layer[0], self.codes.dequantize()
        if isinstance(layer, nn.Linear):
            return F.linear(emulate.static(x / self.by, self.range), weight, layer.bias)
        assert isinstance(layer, nn.Conv2d)
        rounded = emulate.static(x / self.by.reshape(-1, 1, 1), self.range)
        out: Tensor = layer._conv_forward(rounded, weight, layer.bias)
        return out


def _stand_ins(
    tower: Tower, found: Mapping[str, Link], stats: Mapping[str, InputStats], alpha: float | None
) -> dict[str, nn.Module]:
    made: dict[str, nn.Module] = {}
    for link in found.values():
        layers = [tower.get_submodule(reader) for reader in link.readers]
        loud = torch.stack([stats[reader].absmax for reader in link.readers]).amax(0)
        by = torch.ones(len(loud))
        if alpha is not None:
            by = scale(loud, [layer.weight.detach() for layer in layers], alpha).float()  # type: ignore[operator]
        for reader, layer in zip(link.readers, layers, strict=True):
            made[reader] = Smoothed(layer, stats[reader], by)
    return made


def _name(alpha: float | None) -> str:
    return _ASIDE if alpha is None else str(alpha)
