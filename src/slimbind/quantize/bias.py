"""Bias correction: let every layer of a quantized tower give on average what it gave in float.

Rounding errors of weights do not cancel where an input's mean is not zero, and clipped ranges cut one side more than
the other; both shift a layer's mean output, and what shifts all inputs alike moves all embeddings the same way. The
shift is measured on data, layer by layer with all earlier ones corrected, and taken off the bias (Nagel et al.,
"Data-Free Quantization Through Weight Equalization and Bias Correction", ICCV 2019, in the form that uses data).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from slimbind.quantize.emulate import emulate
from slimbind.quantize.links import structure_copy
from slimbind.quantize.plan import Plan
from slimbind.quantize.sites import sites
from slimbind.towers.layers import Tower


def correct(
    tower: Tower, plan: Plan, batches: Iterable[Tensor], *, progress: Callable[[int], None] | None = None
) -> Tower:
    """A tower with other biases, for the same plan.

    Args:
        tower: what the plan was made for.
        plan: linear and convolution layers that it quantizes are corrected; one without a bias gets one.
        batches: inputs of the tower. Each batch is run twice; later batches refine what earlier ones found, so that the
            result is the mean over all their items.
        progress: is told how many items have gone through.

    Raises:
        ValueError: there are no batches.
    """
    names = [
        name
        for name, site in sites(tower).items()
        if site.kind in ("linear", "conv") and name in plan.layers and plan.layers[name].weight is not None
    ]
    twin = emulate(tower, plan)
    wanted: dict[str, Tensor] = {}
    shifts: dict[str, Tensor] = {}
    share = 1.0

    def remember(name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...], out: Tensor) -> None:
            wanted[name] = _mean(out)

        return hook

    def shift(name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor]:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...], out: Tensor) -> Tensor:
            before = shifts.get(name, torch.zeros_like(wanted[name]))
            gap = wanted[name] - _mean(out) - before
            shifts[name] = before + share * gap
            return out + _spread(shifts[name], out)

        return hook

    handles = [tower.get_submodule(name).register_forward_hook(remember(name)) for name in names]
    handles += [twin.get_submodule(name).register_forward_hook(shift(name)) for name in names]
    seen = 0
    try:
        with torch.no_grad():
            for batch in batches:
                seen += len(batch)
                share = len(batch) / seen
                tower(batch)
                twin(batch)
                if progress is not None:
                    progress(seen)
    finally:
        for handle in handles:
            handle.remove()
    if not seen:
        raise ValueError("biases are corrected on data, and no batches were given")
    return _with_biases(tower, shifts)


def _with_biases(tower: Tower, shifts: dict[str, Tensor]) -> Tower:
    new = structure_copy(tower)
    for name, by in shifts.items():
        layer = new.get_submodule(name)
        old = layer._parameters["bias"]
        value = by.clone() if old is None else old.detach() + by
        layer._parameters["bias"] = nn.Parameter(value, requires_grad=False)
    return new


def _mean(out: Tensor) -> Tensor:
    """The mean of every output channel: the last axis of tokens, the second of feature maps."""
    return (out if out.ndim < 4 else out.movedim(1, -1)).flatten(0, -2).mean(0)


def _spread(values: Tensor, out: Tensor) -> Tensor:
    return values.reshape(-1, *[1] * (out.ndim - 2)) if out.ndim >= 4 else values
