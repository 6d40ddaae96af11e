"""What one layer can be stored as: each scheme of a recipe as that layer's plan, and the bytes it takes."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from slimbind.errors import UsageError
from slimbind.quantize import rounding
from slimbind.quantize.plan import Float, LayerPlan, StaticRange
from slimbind.quantize.recipe import LayerScheme
from slimbind.quantize.sites import Site

GROUP = 64  # inputs that share a scale in 4 bits, where a recipe does not say
FLOATS: Mapping[str, Float] = {"f32": "f32", "f16": "f16", "bf16": "bf16"}
BYTES = {"f32": 4, "f16": 2, "bf16": 2}
_SCALE_8, _SCALE_4 = 4, 2  # bytes of a scale: f32 beside 8-bit codes, f16 beside 4-bit ones
_FIT: dict[str, tuple[str, ...]] = {
    "linear": ("int8-dynamic", "int8-static", "int8-weight", "int4-weight", *FLOATS),
    "conv": ("int8-static", "int8-weight", *FLOATS),
    "embedding": ("int8-weight", *FLOATS),
    "frames": ("int8-weight", *FLOATS),
}


def can(site: Site, scheme: LayerScheme, group: int | None, dynamic: int | None) -> str:
    """Why a layer cannot be stored so; empty where it can.

    Args:
        site: the layer.
        scheme: of a rule.
        group: of a rule; ``GROUP`` by default.
        dynamic: the values per token that dynamic inputs share a scale in (``Plan.group_size``).
    """
    if scheme not in _FIT[site.kind]:
        return f"{site.name} is of the kind {site.kind}, which takes {', '.join(_FIT[site.kind])}"
    inputs = site.weight[0].numel()
    if scheme == "int4-weight" and inputs % (group or GROUP):
        return f"{site.name} has {inputs} inputs, no multiple of the group {group or GROUP}"
    if scheme in ("int8-dynamic", "int4-weight") and dynamic is not None and inputs % dynamic:
        return f"{site.name} has {inputs} inputs, no multiple of the {dynamic} that inputs are rounded in"
    return ""


def layer_plan(
    site: Site,
    scheme: LayerScheme,
    *,
    group: int | None = None,
    dynamic: int | None = None,
    range_: StaticRange | None = None,
    importance: Tensor | None = None,
) -> LayerPlan:
    """A layer as a scheme stores it.

    Args:
        site: the layer.
        scheme: of a rule.
        group: of a rule; ``GROUP`` by default.
        dynamic: see ``can``. 4-bit weights too get inputs rounded per token where it is set: the engine has one
            setting for all.
        range_: of the input, for ``int8-static``.
        importance: ``[in]``, the mean square of every input, for 4 bits.

    Raises:
        UsageError: the layer cannot be stored so.
    """
    if reason := can(site, scheme, group, dynamic):
        raise UsageError(f"{scheme} is not possible: {reason}", hint="put a narrower rule for it before this one")
    if scheme in FLOATS:
        return LayerPlan(stored=FLOATS[scheme])
    if scheme == "int4-weight":
        codes = rounding.grouped(site.weight, group or GROUP, importance=importance)
        return LayerPlan(codes, "float" if dynamic is None else "dynamic")
    if site.kind == "frames":
        return LayerPlan(rounding.grouped(site.weight, site.group_of, 8))
    codes = rounding.per_channel(site.weight)
    if scheme == "int8-dynamic":
        return LayerPlan(codes, "dynamic")
    if scheme == "int8-static":
        assert range_ is not None
        return LayerPlan(codes, range_)
    return LayerPlan(codes)


def stored_bytes(site: Site, scheme: LayerScheme, group: int | None = None) -> int:
    """What the weight takes in the file, with its scales."""
    values, rows = site.weight.numel(), len(site.weight)
    if scheme in FLOATS:
        return values * BYTES[scheme]
    if scheme == "int4-weight":
        return values // 2 + values // (group or GROUP) * _SCALE_4
    return values + rows * (values // rows // site.group_of) * _SCALE_8
