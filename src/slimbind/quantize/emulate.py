"""What a plan does to a tower, in PyTorch: the twin of what ``export`` writes, to measure with before that.

The twin computes what the engines compute: weights are codes times scales; a dynamic input is rounded per token (and
group) to int8 with ``max |x| / 127`` as its step; a static one to uint8 on its calibrated grid. Only the order of float
additions differs. What is not quantized stays in float32 here, also where an engine takes bf16.

The rounding of inputs passes gradients on as if it were not there (the straight-through estimator; Bengio et al. 2013),
and clipping stops them; weights are codes and do not train (``qat_layers`` has some that do).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from slimbind.errors import UsageError
from slimbind.quantize.plan import LARGEST, LEVELS, Float, LayerPlan, Plan, StaticRange, WeightCodes
from slimbind.quantize.sites import Site, replace, shallow, sites
from slimbind.towers.layers import Tower
from slimbind.towers.simplify import StackedFrameStem

_DTYPES = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}


def emulate(tower: Tower, plan: Plan) -> Tower:
    """The tower that ``plan`` makes of ``tower``, sharing every weight that stays as it is.

    Args:
        tower: as the plan was made for (simplified, smoothed).
        plan: what becomes of each layer.

    Raises:
        UsageError: the plan names a layer that the tower does not have, or asks for what its kind cannot do.
    """
    found = sites(tower)
    for name in plan.layers:
        if name not in found:
            raise UsageError.unknown("layer of the plan", name, found)
    modules: dict[str, nn.Module] = {}
    for name, site in found.items():
        layer = plan.layers.get(name, LayerPlan(stored=plan.rest))
        if layer.weight is not None or layer.stored != "f32":
            modules[name] = twin(site, layer, plan.group_size)
    new = replace(tower, modules)
    return _round_rest(new, plan.rest) if plan.rest != "f32" else new


def dynamic(x: Tensor, group: int | None = None) -> Tensor:
    """Round ``x`` ``[..., in]`` as int8 per token and group of ``group`` values (all of a token by default)."""
    parts = x if group is None else torch.unflatten(x, -1, (-1, group))
    step = parts.detach().abs().amax(dim=-1, keepdim=True) / LARGEST[8]
    step = step.clamp(min=torch.finfo(torch.float32).tiny)
    return (_round(parts / step) * step).reshape(x.shape)


def static(x: Tensor, range_: StaticRange) -> Tensor:
    """Round ``x`` to the 256 levels of a calibrated range; what lies outside is clipped."""
    lowest = -range_.zero_point
    return _round((x / range_.scale).clamp(lowest, lowest + LEVELS - 1)) * range_.scale


class Emulated(nn.Module):
    """A layer as a plan stores it: weight, the rounding of its input, and its bias.

    Attributes: ``codes`` and ``scale``, or ``stored`` where the weight stays float.
    """

    codes: Tensor
    scale: Tensor

    def __init__(self, site: Site, layer: LayerPlan, group: int | None) -> None:
        super().__init__()
        self.site = site.name
        self.layer = layer
        self.group = group
        self.shape = tuple(site.weight.shape)
        activation = layer.activation
        if activation != "float" and site.kind not in ("linear", "conv"):
            raise UsageError(f"{site.name} is given no numbers that could be rounded", hint='activation="float"')
        if activation == "dynamic" and site.kind == "conv":
            raise UsageError(
                f"{site.name} is a convolution, its input cannot be rounded per token",
                hint="a StaticRange, or float with a weight of 8 bits",
            )
        if activation == "dynamic" and group is not None and self.shape[1] % group:
            raise UsageError(f"groups of {group} do not divide the {self.shape[1]} inputs of {site.name}")
        if layer.weight is None:
            self.stored = nn.Parameter(site.weight.to(_DTYPES[layer.stored]), requires_grad=False)
        elif tuple(layer.weight.codes.shape) != self.shape:
            raise UsageError(
                f"the plan's weight of {site.name} is {list(layer.weight.codes.shape)}, the tower's {list(self.shape)}",
                hint="make the plan from this tower",
            )
        else:
            self.register_buffer("codes", layer.weight.codes)
            self.register_buffer("scale", layer.weight.scale)

    @property
    def weight(self) -> Tensor:
        """The float32 weight that the engine computes with, made anew each time: memory holds the codes alone."""
        if self.layer.weight is None:
            return self.stored.float()
        return WeightCodes(self.codes, self.scale, self.layer.weight.bits).dequantize()

    def rounded(self, x: Tensor) -> Tensor:
        """The input as the engine takes it."""
        if self.layer.activation == "float":
            return x
        if isinstance(self.layer.activation, StaticRange):
            return static(x, self.layer.activation)
        return dynamic(x, self.group)


class EmulatedLinear(Emulated):
    """``nn.Linear`` under a plan."""

    def __init__(self, site: Site, layer: LayerPlan, group: int | None) -> None:
        super().__init__(site, layer, group)
        assert isinstance(site.module, nn.Linear)
        self.bias = site.module.bias

    def forward(self, x: Tensor) -> Tensor:
        """``[..., in]`` to ``[..., out]``."""
        return F.linear(self.rounded(x), self.weight, self.bias)


class EmulatedConv(Emulated):
    """``nn.Conv2d`` or ``nn.Conv3d`` under a plan."""

    def __init__(self, site: Site, layer: LayerPlan, group: int | None) -> None:
        super().__init__(site, layer, group)
        assert isinstance(site.module, nn.Conv2d | nn.Conv3d)
        self.bias = site.module.bias
        self.like = [site.module]  # in a list: its weight must not become a parameter of the twin

    def forward(self, x: Tensor) -> Tensor:
        """A feature map to the next."""
        out: Tensor = self.like[0]._conv_forward(self.rounded(x), self.weight, self.bias)
        return out


class EmulatedEmbedding(Emulated):
    """``nn.Embedding`` under a plan."""

    def forward(self, ids: Tensor) -> Tensor:
        """Ids of any shape to the rows of the table."""
        if self.layer.weight is None:
            return F.embedding(ids, self.weight)
        rows = WeightCodes(self.codes[ids.flatten().long()], self.scale[ids.flatten().long()])
        return rows.dequantize().reshape(*ids.shape, -1)


class EmulatedFrames(Emulated):
    """The frame stem under a plan; its three kernels are what is stored."""

    def __init__(self, site: Site, layer: LayerPlan, group: int | None) -> None:
        super().__init__(site, layer, group)
        assert isinstance(site.module, StackedFrameStem)
        self.input_shape = site.module.input_shape
        self.like = [site.module]

    def forward(self, x: Tensor) -> Tensor:
        """Frames to tokens."""
        stem = shallow(self.like[0])
        del stem._parameters["kernels"]
        stem.kernels = self.weight.t()  # type: ignore[assignment]
        out: Tensor = stem(x)
        return out


_TWINS: dict[str, type[Emulated]] = {
    "linear": EmulatedLinear,
    "conv": EmulatedConv,
    "embedding": EmulatedEmbedding,
    "frames": EmulatedFrames,
}


def twin(site: Site, layer: LayerPlan, group: int | None = None) -> Emulated:
    """One layer under a plan, its dynamic input rounded in groups of ``group``.

    Raises:
        UsageError: the plan does not fit the layer.
    """
    return _TWINS[site.kind](site, layer, group)


def _round(x: Tensor) -> Tensor:
    """To the nearest whole number, halves to even; the gradient passes as if nothing had been done."""
    return x + (x.round() - x).detach() if x.requires_grad else x.round()


def _round_rest(tower: Tower, stored: Float) -> Tower:
    """Positions and other matrices that are no layer of their own, rounded to what they are stored as."""
    done = {id(p) for m in tower.modules() if isinstance(m, Emulated) for p in m.parameters()}
    done |= {id(p) for name, site in sites(tower).items() for p in site.module.parameters()}
    holders: dict[str, nn.Module] = {}
    for path, module in tower.named_modules():
        rounded = {
            name: nn.Parameter(value.detach().to(_DTYPES[stored]).float(), requires_grad=False)
            for name, value in module._parameters.items()
            if value is not None and id(value) not in done and sum(size > 1 for size in value.shape) >= 2
        }
        if rounded:
            holders[path] = shallow(module)
            holders[path]._parameters.update(rounded)
    root = holders.pop("", None)
    if root is not None:
        assert isinstance(root, Tower)
        tower = root
    return replace(tower, holders)
