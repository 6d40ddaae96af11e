"""Weights to whole numbers: one scale per output channel, or one per group of inputs; searched where that pays.

Zero is the code zero, so that it stays exactly zero and a product of integers needs no correction. 8-bit codes are
symmetric. Of 4-bit codes there are eight below zero and seven above: the scale of a group has the sign that puts its
loudest weight among the eight, so that all 16 levels are of use.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from slimbind.quantize.plan import LARGEST, SMALLEST, WeightCodes

# Fractions of the largest weight of a group that are tried as its range: in 4 bits a few clipped weights cost less
# than a wider step for all.
_SHRINK = tuple(1.0 - 0.02 * step for step in range(26))
_ROWS = 1 << 22  # weights handled at once, which bounds the memory of a search
_TINIEST = 2.0**-24  # the smallest f16 above zero: 4-bit scales are stored as f16


def per_channel(weight: Tensor, bits: Literal[8, 4] = 8, *, search: bool = False) -> WeightCodes:
    """One scale per row of ``weight`` (an output channel, or a row of an embedding).

    Args:
        weight: ``[out, ...]`` of any float type.
        bits: 8 or 4.
        search: choose each scale by the squared error of the weights, not by the largest one.

    Raises:
        ValueError: a weight is not finite.
    """
    return grouped(weight, weight[0].numel(), bits, search=search)


def grouped(
    weight: Tensor, group: int, bits: Literal[8, 4] = 4, *, search: bool = True, importance: Tensor | None = None
) -> WeightCodes:
    """One scale per ``group`` neighbouring inputs of each row.

    Args:
        weight: ``[out, in]`` (``[out, ...]`` where a group is a whole row).
        group: divides ``in``.
        bits: 8 or 4. 4-bit scales are rounded to f16, as files keep them.
        search: choose each scale by the squared error of the weights, not by the largest one.
        importance: ``[in]``, what a squared error of each input counts in the search (its mean square); 1 by default.

    Raises:
        ValueError: a weight is not finite, or ``group`` does not divide the inputs.
    """
    rows, inputs = weight.shape[0], weight[0].numel()
    if group < 1 or inputs % group:
        raise ValueError(f"groups of {group} do not divide the {inputs} inputs")
    groups = inputs // group
    matrix = weight.detach().reshape(rows, groups, group)
    codes = torch.empty(rows, groups, group, dtype=torch.int8)
    scale = torch.empty(rows, groups)
    counts = None if importance is None else importance.detach().float().reshape(groups, group)
    step = max(1, _ROWS // inputs)
    for start in range(0, rows, step):
        part = matrix[start : start + step].float()
        scale[start : start + step] = best = scales(part, bits, search=search, importance=counts)
        codes[start : start + step] = encode(part, best, bits)
    return WeightCodes(codes.reshape(weight.shape), scale, bits)


def scales(
    weights: Tensor, bits: Literal[8, 4] = 8, *, search: bool = False, importance: Tensor | None = None
) -> Tensor:
    """The scales ``[...]`` of weights ``[..., group]``; see ``grouped``.

    Raises:
        ValueError: a weight is not finite.
    """
    low, high = weights.aminmax(dim=-1)
    largest = torch.maximum(high, -low)
    if not bool(torch.isfinite(largest).all()):
        raise ValueError("a weight is infinite or not a number")
    widest = largest / LARGEST[bits]
    if bits == 4:
        widest = torch.where(high > -low, -widest, widest)
    best = _storable(widest, bits)
    if not search:
        return best
    least = _error(weights, best, bits, importance)
    for shrink in _SHRINK[1:]:
        trial = _storable(widest * shrink, bits)
        error = _error(weights, trial, bits, importance)
        better = error < least
        best, least = torch.where(better, trial, best), torch.where(better, error, least)
    return best


def encode(weights: Tensor, scale: Tensor, bits: Literal[8, 4] = 8) -> Tensor:
    """Weights ``[..., group]`` with scales ``[...]`` to int8 codes of the same shape."""
    return (weights / scale[..., None]).round_().clamp_(SMALLEST[bits], LARGEST[bits]).to(torch.int8)


def _storable(scale: Tensor, bits: Literal[8, 4]) -> Tensor:
    """Scales as files keep them, never zero (weights that are all zero get codes of zero by any scale)."""
    if bits == 4:
        size = scale.abs().to(torch.float16).float().clamp(_TINIEST, 65504.0)
        return torch.where(scale < 0, -size, size)
    return scale.clamp(min=torch.finfo(torch.float32).tiny)


def _error(weights: Tensor, scale: Tensor, bits: Literal[8, 4], importance: Tensor | None) -> Tensor:
    step = scale[..., None]
    gap = (weights / step).round_().clamp_(SMALLEST[bits], LARGEST[bits]).mul_(step).sub_(weights).square_()
    return (gap if importance is None else gap * importance).sum(dim=-1)
