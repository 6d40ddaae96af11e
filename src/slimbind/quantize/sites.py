"""The layers of a tower that can be quantized, in the order of the forward pass, whatever the architecture."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from slimbind.towers.layers import Tower

Kind = Literal["linear", "conv", "embedding"]
_KINDS: tuple[tuple[type[nn.Module], Kind], ...] = (
    (nn.Linear, "linear"),
    (nn.Conv2d, "conv"),
    (nn.Conv3d, "conv"),
    (nn.Embedding, "embedding"),
)


@dataclass(frozen=True)
class Site:
    """A layer with a weight: its name in the tower, the module, and what kind it is."""

    name: str
    module: nn.Module
    kind: Kind

    @property
    def weight(self) -> Tensor:
        """``[out, in]``, ``[out, in, height, width]`` or ``[rows, width]``."""
        weight = self.module.weight
        assert isinstance(weight, Tensor)
        return weight.detach()


def sites(tower: Tower) -> dict[str, Site]:
    """Every linear, convolution and embedding layer by name.

    Positions are not among them where they are parameters (ImageBind, CLIP); they are small.
    """
    return {site.name: site for site in _walk(tower)}


def _walk(tower: Tower) -> Iterator[Site]:
    for name, module in tower.named_modules():
        for kind, label in _KINDS:
            if isinstance(module, kind):
                yield Site(name, module, label)
