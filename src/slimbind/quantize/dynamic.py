"""``int8-dynamic``: int8 weights per output channel, inputs of linear layers rounded per token when the tower runs."""

from __future__ import annotations

from itertools import combinations
from math import gcd
from typing import Literal

from torch import Tensor

from slimbind.quantize import bias, emulate, gptq, rounding
from slimbind.quantize.activations import observe
from slimbind.quantize.calibration import Calibration
from slimbind.quantize.links import links
from slimbind.quantize.options import layer_plan
from slimbind.quantize.plan import LayerPlan, Plan
from slimbind.quantize.report import Progress, Report
from slimbind.quantize.schemes import Int8Dynamic, Made
from slimbind.quantize.sites import Site, sites
from slimbind.quantize.smooth import loud_channels, search, smooth
from slimbind.towers.layers import Tower

# Part of all linear weights that must share a group size. The few that do not fit (the stem of imu has 48 inputs) stay
# in 16 bits: a smaller group for their sake would slow down all others.
_COVERED = 0.99
_ROWS = 256  # of every layer's input, to search alphas with


def make(tower: Tower, calibration: Calibration, config: Int8Dynamic, progress: Progress, /) -> Made:
    """See ``schemes.Make``."""
    alphas: dict[str, float] = {}
    loud: dict[str, list[int]] = {}
    if config.smoothing != "off":
        searched = config.smoothing == "searched"
        told = progress("observing", len(calibration))
        stats = observe(tower, calibration.batches(), rows=_ROWS if searched else 0, progress=told)
        if searched:
            alphas = search(tower, stats, _quantized, progress=progress("smoothing", len(links(tower))))
        else:
            alphas = dict.fromkeys(links(tower), 0.5)
        loud = loud_channels(tower, stats, shift=config.move) if config.loud else {}
        tower = smooth(tower, stats, alpha=alphas, shift=config.move, loud=loud)
        del stats
    plan, kept = _plan(tower, progress)
    if config.compensate and plan.layers:
        plan = gptq.compensated(tower, calibration.batches(), plan, progress=progress)
    if config.correct:
        told = progress("correcting biases", len(calibration))
        tower = bias.correct(tower, plan, calibration.batches(), progress=told)
    report = Report(
        layers=sum(layer.weight is not None for layer in plan.layers.values()),
        kept=kept,
        smoothing=alphas,
        settings={"channels_in_float": {link: len(channels) for link, channels in loud.items()}} if loud else {},
    )
    return tower, plan, report


def _plan(tower: Tower, progress: Progress) -> tuple[Plan, dict[str, str]]:
    found = sites(tower)
    group, kept = group_of(found)
    layers = {}
    done = progress("rounding", len(found))
    for number, (name, site) in enumerate(found.items(), 1):
        if site.kind == "linear" and name not in kept:
            layers[name] = LayerPlan(rounding.per_channel(site.weight), "dynamic")
        elif site.kind != "linear":
            layers[name] = layer_plan(site, "int8-weight")
        done(number)
    return Plan(layers, rest="bf16", precision=precision_of(tower), group_size=group), kept


def _quantized(rows: Tensor, weight: Tensor) -> Tensor:
    """What a layer gives for ``rows`` ``[n, in]``: ``[n, out]``."""
    return emulate.dynamic(rows) @ rounding.per_channel(weight).dequantize().t()


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
