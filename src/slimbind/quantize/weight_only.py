"""The schemes that round weights alone and leave arithmetic in float: ``int8-weight``, ``int4-weight``, f16, bf16."""

from __future__ import annotations

from collections.abc import Sequence

from slimbind.quantize import gptq, rounding
from slimbind.quantize.activations import InputStats, observe
from slimbind.quantize.calibration import Calibration
from slimbind.quantize.dynamic import precision_of
from slimbind.quantize.emulate import emulate
from slimbind.quantize.plan import LayerPlan, Plan, WeightCodes
from slimbind.quantize.report import Progress, Report
from slimbind.quantize.schemes import F16, Bf16, Int4Weight, Int8Weight, Made
from slimbind.quantize.sites import Site, sites
from slimbind.towers.layers import Tower

_MOMENTS = 0.4  # as part of the tower's weights


def half(tower: Tower, calibration: Calibration, config: F16 | Bf16, progress: Progress, /) -> Made:
    """Every matrix in 16 bits; see ``schemes.Make``."""
    return tower, Plan(rest="f16" if isinstance(config, F16) else "bf16", precision="bf16"), Report(layers=0)


def int8(tower: Tower, calibration: Calibration, config: Int8Weight, progress: Progress, /) -> Made:
    """Every layer in 8 bits per output channel; see ``schemes.Make``."""
    found = sites(tower)
    done = progress("rounding", len(found))
    layers = {}
    for number, (name, site) in enumerate(found.items(), 1):
        if site.kind != "frames":
            layers[name] = LayerPlan(rounding.per_channel(site.weight))
        done(number)
    return tower, Plan(layers, rest="bf16", precision=precision_of(tower)), Report(layers=len(layers))


def int4(tower: Tower, calibration: Calibration, config: Int4Weight, progress: Progress, /) -> Made:
    """Linear layers in 4 bits, everything else in 8; see ``schemes.Make``.

    With ``gptq`` the layers are taken in portions from input to output: the second moments of all at once would need
    more memory than the tower. Each portion is observed in a tower whose earlier layers are rounded already, and so
    makes up for their errors too.
    """
    found = sites(tower)
    layers: dict[str, LayerPlan] = {}
    kept: dict[str, str] = {}
    small = []
    for name, site in found.items():
        if site.kind == "linear" and site.weight.shape[1] % config.group == 0:
            small.append(site)
        elif site.kind != "frames":
            layers[name] = LayerPlan(rounding.per_channel(site.weight))
            if site.kind == "linear":
                kept[name] = f"8 bits: its {site.weight.shape[1]} inputs are no multiple of {config.group}"
    portions = _portions(small, tower) if config.method == "gptq" else [small]
    for number, portion in enumerate(portions, 1):
        names = [site.name for site in portion]
        stats = {}
        if config.method != "nearest":
            watched = emulate(tower, Plan(layers)) if config.method == "gptq" else tower
            told = progress(f"observing, part {number} of {len(portions)}", len(calibration))
            stats = observe(watched, calibration.batches(), names=names, moments=config.method == "gptq", progress=told)
        done = progress(f"rounding, part {number} of {len(portions)}", len(portion))
        for count, site in enumerate(portion, 1):
            layers[site.name] = LayerPlan(_in_4_bits(site, stats.pop(site.name, None), config))
            done(count)
    plan = Plan(layers, rest="bf16", precision=precision_of(tower))
    return tower, plan, Report(layers=len(layers), kept=kept)


def _in_4_bits(site: Site, stats: InputStats | None, config: Int4Weight) -> WeightCodes:
    if stats is None:
        return rounding.grouped(site.weight, config.group)
    if stats.moment is not None:
        return gptq.compensate(site.weight, stats.moment, group=config.group)
    return rounding.grouped(site.weight, config.group, importance=stats.square)


def _portions(found: Sequence[Site], tower: Tower) -> list[list[Site]]:
    """Neighbouring layers whose second moments together need at most ``_MOMENTS`` of the tower's own size."""
    room = _MOMENTS * sum(value.numel() for value in tower.parameters())
    portions: list[list[Site]] = [[]]
    used = 0
    for site in found:
        needed = site.weight.shape[1] ** 2
        if portions[-1] and used + needed > room:
            portions.append([])
            used = 0
        portions[-1].append(site)
        used += needed
    return [portion for portion in portions if portion]
