"""The schemes that round weights alone and leave arithmetic in float: ``int8-weight``, ``int4-weight``, f16, bf16."""

from __future__ import annotations

from collections.abc import Mapping
from math import gcd

from slimbind.errors import UsageError
from slimbind.quantize import gptq, rounding
from slimbind.quantize.activations import InputStats, observe
from slimbind.quantize.calibration import Calibration
from slimbind.quantize.dynamic import precision_of
from slimbind.quantize.links import links
from slimbind.quantize.options import layer_plan
from slimbind.quantize.plan import LayerPlan, Plan
from slimbind.quantize.report import Progress, Report
from slimbind.quantize.schemes import F16, Bf16, Int4Weight, Int8Weight, Made
from slimbind.quantize.sites import Site, sites
from slimbind.quantize.smooth import smooth
from slimbind.towers.layers import Tower


def half(tower: Tower, calibration: Calibration, config: F16 | Bf16, progress: Progress, /) -> Made:
    """Every matrix in 16 bits; see ``schemes.Make``."""
    return tower, Plan(rest="f16" if isinstance(config, F16) else "bf16", precision="bf16"), Report(layers=0)


_USUAL = 64  # inputs of a group


def left_in_8_bits(modality: str, found: Mapping[str, Site], group: int) -> str:
    """Which linear layers of a tower cannot be stored in 4 bits, in words; empty where all can.

    Raises:
        UsageError: none of them can.
    """
    widths = {name: site.weight.shape[1] for name, site in found.items() if site.kind == "linear"}
    odd = [name for name, width in widths.items() if width % group]
    if odd and len(odd) == len(widths):
        raise UsageError(
            f"int4-weight: groups of {group} divide the inputs of no linear layer of the {modality} tower",
            hint=f"give --set group={gcd(_USUAL, *widths.values())}, or use --scheme int8-weight",
        )
    if not odd:
        return ""
    names = ", ".join(odd[:3]) + (", ..." if len(odd) > 3 else "")
    return f"{modality}: {len(odd)} of {len(widths)} linear layers keep 8 bits, groups of {group} do not fit: {names}"


def int8(tower: Tower, calibration: Calibration, config: Int8Weight, progress: Progress, /) -> Made:
    """Every layer in 8 bits per output channel; see ``schemes.Make``."""
    found = sites(tower)
    done = progress("rounding", len(found))
    layers = {}
    for number, (name, site) in enumerate(found.items(), 1):
        layers[name] = layer_plan(site, "int8-weight")
        done(number)
    return tower, Plan(layers, rest="bf16", precision=precision_of(tower)), Report(layers=len(layers))


def int4(tower: Tower, calibration: Calibration, config: Int4Weight, progress: Progress, /) -> Made:
    """Linear layers in 4 bits, everything else in 8; see ``schemes.Make``.

    Groups that do not divide a layer's inputs leave it in 8 bits. ``gptq`` rounds twice: the first codes only say how
    each layer is to be stored, the second ones make up for each other's errors (``gptq.compensated``).
    """
    stats: dict[str, InputStats] = {}
    if config.smoothing:
        seen = observe(tower, calibration.batches(), progress=progress("observing", len(calibration)))
        tower = smooth(tower, seen, alpha=config.smoothing)
    if config.method == "importance":
        stats = observe(tower, calibration.batches(), progress=progress("observing", len(calibration)))
    found = sites(tower)
    layers: dict[str, LayerPlan] = {}
    kept: dict[str, str] = {}
    done = progress("rounding", len(found))
    for number, (name, site) in enumerate(found.items(), 1):
        if site.kind == "linear" and site.weight.shape[1] % config.group == 0:
            power = stats[name].square if stats else None
            searched = config.method != "gptq"
            codes = rounding.grouped(site.weight, config.group, search=searched, importance=power)
            layers[name] = LayerPlan(codes)
        else:
            layers[name] = layer_plan(site, "int8-weight")
            if site.kind == "linear":
                kept[name] = f"8 bits: its {site.weight.shape[1]} inputs are no multiple of {config.group}"
        done(number)
    plan = Plan(layers, rest="bf16", precision=precision_of(tower))
    smoothing = dict.fromkeys(links(tower), config.smoothing) if config.smoothing else {}
    if config.method == "gptq":
        plan = gptq.compensated(tower, calibration.batches(), plan, progress=progress)
    return tower, plan, Report(layers=len(layers), kept=kept, smoothing=smoothing)
