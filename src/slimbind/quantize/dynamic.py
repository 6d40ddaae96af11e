"""``int8-dynamic``: int8 weights per output channel, inputs of linear layers rounded per token when the tower runs."""

from __future__ import annotations

from itertools import combinations
from math import gcd
from typing import Literal

from slimbind.quantize import rounding
from slimbind.quantize.activations import observe
from slimbind.quantize.calibration import Calibration
from slimbind.quantize.plan import LayerPlan, Plan
from slimbind.quantize.report import Progress, Report
from slimbind.quantize.schemes import Int8Dynamic, Made
from slimbind.quantize.sites import Site, sites
from slimbind.quantize.smooth import smooth
from slimbind.towers.layers import Tower

# Part of all linear weights that must share a group size. The few that do not fit (the stem of imu has 48 inputs) stay
# in 16 bits: a smaller group for their sake would slow down all others.
_COVERED = 0.99


def make(tower: Tower, calibration: Calibration, config: Int8Dynamic, progress: Progress, /) -> Made:
    """See ``schemes.Make``."""
    if config.smoothing != "off":
        stats = observe(tower, calibration.batches(), progress=progress("observing", len(calibration)))
        tower = smooth(tower, stats)
        del stats
    found = sites(tower)
    group, kept = group_of(found)
    layers = {}
    done = progress("rounding", len(found))
    for number, (name, site) in enumerate(found.items(), 1):
        if site.kind == "linear" and name not in kept:
            layers[name] = LayerPlan(rounding.per_channel(site.weight), "dynamic")
        elif site.kind in ("conv", "embedding"):
            layers[name] = LayerPlan(rounding.per_channel(site.weight))
        done(number)
    plan = Plan(layers, rest="bf16", precision=precision_of(tower), group_size=group)
    return tower, plan, Report(layers=len(layers), kept=kept)


def group_of(found: dict[str, Site]) -> tuple[int | None, dict[str, str]]:
    """The group size that all linear layers can share, and the layers (with the reason) that have to stay out."""
    linear = {name: site.weight.shape for name, site in found.items() if site.kind == "linear"}
    if not linear:
        return None, {}
    total = sum(shape.numel() for shape in linear.values())
    widths = {shape[1] for shape in linear.values()}
    candidates = widths | {gcd(*some) for count in range(2, len(widths) + 1) for some in combinations(widths, count)}
    for group in sorted(candidates, reverse=True):
        kept = [name for name, shape in linear.items() if shape[1] % group]
        if sum(linear[name].numel() for name in kept) <= (1 - _COVERED) * total:
            return group, {name: f"its {linear[name][1]} inputs are no multiple of {group}" for name in kept}
    raise AssertionError("the last candidate divides all widths")


def precision_of(tower: Tower) -> Literal["f32", "bf16"]:
    """What the rest is computed in: bf16, except beside many convolutions.

    Those take another kernel in bf16 for another batch, so that vectors depend on it; the writer can keep a single one
    (the stem of a transformer) in f32, but not a network of them.
    """
    return "f32" if sum(site.kind == "conv" for site in sites(tower).values()) > 1 else "bf16"
