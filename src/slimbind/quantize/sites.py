"""The layers of a tower that can be quantized, in the order of the forward pass, and how to put others there."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, TypeVar

from torch import Tensor, nn

from slimbind.towers.layers import Tower
from slimbind.towers.simplify import StackedFrameStem

AnyModule = TypeVar("AnyModule", bound=nn.Module)
Kind = Literal["linear", "conv", "embedding", "frames"]
_KINDS: tuple[tuple[type[nn.Module], Kind], ...] = (
    (nn.Linear, "linear"),
    (nn.Conv2d, "conv"),
    (nn.Conv3d, "conv"),
    (nn.Embedding, "embedding"),
    (StackedFrameStem, "frames"),
)


@dataclass(frozen=True)
class Site:
    """A layer with a weight: its name in the tower, the module, and what kind it is."""

    name: str
    module: nn.Module
    kind: Kind

    @property
    def weight(self) -> Tensor:
        """Rows of outputs: ``[out, in]``, ``[out, in, height, width]``, or the ``[rows, width]`` of an embedding.

        ``frames`` (the stem of a simplified vision tower) gives its three kernels side by side, ``[out, 3 * in]``:
        quantized in groups of ``in`` (``group_of``), each kernel has scales of its own.
        """
        weight = self.module.kernels if isinstance(self.module, StackedFrameStem) else self.module.weight
        assert isinstance(weight, Tensor)
        return weight.detach().t() if self.kind == "frames" else weight.detach()

    @property
    def group_of(self) -> int:
        """How many inputs share a scale at most: all of a row, except where a row holds several kernels."""
        inputs = self.weight[0].numel()
        return inputs // 3 if self.kind == "frames" else inputs


def sites(tower: Tower) -> dict[str, Site]:
    """Every linear, convolution and embedding layer by name.

    Positions are not among them where they are parameters (ImageBind, CLIP); they are small.
    """
    return {site.name: site for site in _walk(tower)}


def replace(tower: Tower, modules: Mapping[str, nn.Module]) -> Tower:
    """A new tower with ``modules`` in the places they are named for; everything else is shared with the old one.

    Raises:
        AttributeError: the tower has no module of that name.
    """
    new = shallow(tower)
    copied: dict[str, nn.Module] = {"": new}
    for name, module in modules.items():
        tower.get_submodule(name)
        parts = name.split(".")
        for depth in range(1, len(parts)):
            path = ".".join(parts[:depth])
            if path not in copied:
                above = copied[".".join(parts[: depth - 1])]
                below = above._modules[parts[depth - 1]]
                assert below is not None
                copied[path] = above._modules[parts[depth - 1]] = shallow(below)
        copied[".".join(parts[:-1])]._modules[parts[-1]] = module
    return new


def shallow(module: AnyModule) -> AnyModule:
    """A copy whose children, parameters and buffers can be replaced without touching the original's."""
    new = copy.copy(module)
    for name in ("_modules", "_parameters", "_buffers"):
        new.__dict__[name] = dict(module.__dict__[name])
    return new


def _walk(tower: Tower) -> Iterator[Site]:
    for name, module in tower.named_modules():
        for kind, label in _KINDS:
            if isinstance(module, kind):
                yield Site(name, module, label)
