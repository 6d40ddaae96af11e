"""How much work a forward pass of a transformer tower is: multiplications and additions, and weights that are read.

    counted = count("vision", entry.config, (1, 3, 1, 224, 224))

Counted is what the tower needs after the exact rewrites (``slimbind.towers.simplify``), whatever an engine makes of it:
a multiplication and an addition are two operations. LayerNorms, activation functions and sums are not counted. Causal
attention counts in full, as engines compute it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from slimbind.towers import registry
from slimbind.towers.layers import Attention, PatchStem, Tower
from slimbind.towers.simplify import PooledAttention, StackedFrameStem, simplify


@dataclass
class Work:
    """Of one forward pass.

    Args:
        linear: operations of the linear layers, whose weights a scheme rounds.
        attention: of the two products of each attention: queries with keys, and what comes of it with values.
        stem: of the patches' kernel.
        weights: numbers in the matrices of ``linear`` and ``stem``: all of them are read once.
    """

    linear: int = 0
    attention: int = 0
    stem: int = 0
    weights: int = 0

    @property
    def total(self) -> int:
        """All operations."""
        return self.linear + self.attention + self.stem


def count(modality: str, config: Mapping[str, Any], shape: tuple[int, ...]) -> Work:
    """The work of an ImageBind tower of this configuration on an input of ``shape``; nothing is computed."""
    tower = simplify(registry.build("imagebind", modality, config, device="meta"))
    with torch.device("meta"):  # also for what the tower makes on its way
        return count_tower(tower, torch.zeros(shape, dtype=torch.int32 if modality == "text" else torch.float32))


def count_tower(tower: Tower, x: Tensor) -> Work:
    """The work of ``tower(x)``, which is run once."""
    work = Work()
    hooks = [module.register_forward_hook(_counter(work)) for module in tower.modules()]
    try:
        with torch.no_grad():
            tower(x)
    finally:
        for hook in hooks:
            hook.remove()
    return work


def _counter(work: Work) -> Any:  # noqa: ANN401  (a hook of PyTorch)
    def hook(module: nn.Module, given: tuple[Tensor, ...], out: Tensor) -> None:
        if isinstance(module, nn.Linear):
            work.linear += 2 * (out.numel() // out.shape[-1]) * module.weight.numel()
            work.weights += module.weight.numel()
        elif isinstance(module, Attention | PooledAttention):
            batch, length, width = given[0].shape
            keys = length + (module.bias_k is not None)
            asking = 1 if isinstance(module, PooledAttention) else length
            work.attention += 2 * 2 * batch * asking * keys * width
        elif isinstance(module, PatchStem | StackedFrameStem):
            # one kernel of three where a picture stands still
            kernel = module.proj.weight if isinstance(module, PatchStem) else module.kernels.chunk(3)[0]
            work.stem += 2 * out.shape[0] * out.shape[1] * kernel.numel()
            work.weights += kernel.numel()

    return hook
