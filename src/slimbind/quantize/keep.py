"""More bits for the few layers that lose most, where a tower would otherwise be refused.

A scheme that rounds all weights alike takes most of what it loses from a handful of small layers: the first
convolutions of a network for pictures, or depthwise ones. What a tower loses is judged by a part of the calibration
data; if it is too much, layers get the next larger store, most gained per byte first, until it is not.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial

from torch import Tensor

from slimbind.quantize import rounding
from slimbind.quantize.calibration import Calibration
from slimbind.quantize.emulate import emulate
from slimbind.quantize.plan import LayerPlan, Plan
from slimbind.quantize.report import Progress
from slimbind.quantize.schemes import Made
from slimbind.quantize.sensitivity import Agreement, agreement, embed, restore, twins
from slimbind.quantize.sites import Site, sites
from slimbind.quantize.static import Data
from slimbind.towers.layers import Tower

MOST = 0.2  # of the bytes of all quantized weights that may be added
_SAFE = 0.7  # of the distance to 1 that is allowed: other data are not quite like those judged by
_ROUNDS = 4


def enough(made: Made, float_tower: Tower, calibration: Calibration, least: float, progress: Progress) -> Made:
    """Give layers of what a scheme made more bits until it says enough of what the float tower says.

    Args:
        made: the tower, plan and report of a scheme without calibrated ranges.
        float_tower: what the scheme was given.
        calibration: its data; none of it is what the tower is measured with in the end.
        least: the cosine that the worst item must have.
        progress: is told of two stages.

    Returns:
        ``made`` itself where that is enough, or where nothing can be told (there is no data). Otherwise a new plan,
        and a report that names the layers with what they lost. It can still be too little.
    """
    tower, plan, report = made
    data = Data(calibration)
    if not len(calibration):
        return made
    allowed = _SAFE * (1 - least)
    reference = embed(float_tower, data.judge())
    judge = partial(_judged, tower, reference=reference, data=data)
    done = progress("judging", _ROUNDS + 1)
    found = judge(plan)
    done(1)
    if 1 - found.cosine_min <= allowed:
        return made
    all_sites = sites(tower)
    layers = {name: all_sites[name] for name, layer in plan.layers.items() if layer.weight is not None}
    costs = {name: _added(site, plan.layers[name]) for name, site in layers.items()}
    most = MOST * sum(costs.values())  # the next larger store takes twice as much
    way = {"planned": twins(emulate(tower, plan), layers)}
    loss = data.sensitivity(tower, way, progress)["planned"]
    chosen: list[str] = []
    done = progress("judging", _ROUNDS)
    new = plan
    for turn in range(_ROUNDS):
        left = sum(value for name, value in loss.items() if name not in chosen)
        target = left * allowed / max(1 - found.cosine_min, 1e-12)
        before = len(chosen)
        chosen = restore(loss, costs, allowed=target, first=chosen, most=most)
        new = raised(plan, layers, chosen)
        found = judge(new)
        done(turn + 1)
        if 1 - found.cosine_min <= allowed or len(chosen) == before:
            break
    kept = {name: f"{_named(new.layers[name])}: as planned it takes {loss[name]:.1e} off the cosine" for name in chosen}
    lost = sum(layer.weight is None for name, layer in new.layers.items() if name in chosen)
    judged = {"cosine_mean": found.cosine_mean, "cosine_min": found.cosine_min, "samples": found.samples}
    told_of = report.model_copy(
        update={
            "layers": report.layers - lost,
            "kept": report.kept | kept,
            "settings": report.settings | {"judged": judged},
        }
    )
    return tower, new, told_of


def raised(plan: Plan, layers: Mapping[str, Site], chosen: list[str]) -> Plan:
    """The plan with 8 bits for chosen layers of 4, and 16 for those of 8."""
    new = dict(plan.layers)
    for name in chosen:
        weight = plan.layers[name].weight
        if weight is not None and weight.bits == 4:
            new[name] = replace(plan.layers[name], weight=rounding.per_channel(layers[name].weight))
        else:
            new[name] = LayerPlan(stored="bf16")
    return replace(plan, layers=new)


def _added(site: Site, layer: LayerPlan) -> float:
    """Bytes that the next larger store of a layer takes more."""
    assert layer.weight is not None
    return site.weight.numel() * layer.weight.bits / 8


def _named(layer: LayerPlan) -> str:
    return "8 bits" if layer.weight is not None else "bf16"


def _judged(tower: Tower, plan: Plan, *, reference: Tensor, data: Data) -> Agreement:
    return agreement(reference, embed(emulate(tower, plan), data.judge()))
