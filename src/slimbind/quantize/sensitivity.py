"""Which layers may be quantized and how: what each layer's rounding costs the embedding, all of them at once.

Quantizing layer ``l`` changes its output by ``d_l``, and the embedding, a unit vector, by about ``J_l d_l``, where
``J_l`` is the derivative of the embedding by that output. The cosine then falls by ``|J_l d_l|^2 / 2``. Small falls of
several layers add up, because rounding errors of different layers have nothing to do with each other. The length of
``J_l d_l`` is estimated without ever forming ``J_l``: for a vector ``v`` of random signs the mean of
``(v . J_l d_l)^2`` is ``|J_l d_l|^2`` (Hutchinson 1990), and ``v J_l`` is what one backward pass from ``v . e`` leaves
at the layer, for every layer of the tower in the same pass. HAWQ (Dong et al. 2019) chooses bit widths by curvature in
this manner; here it is the embedding's own change that is measured, so that no labels are needed.

**Cost**, in forward passes of the tower per item: 1 and 1 for each way of quantizing that is asked about, and about 1
for each probe (backward passes without weight gradients). Trying every layer alone would take ``layers * ways``. The
memory is that of one batch's activations and, for each way, of its layers' outputs in bf16.

What this cannot see is error so large that the tower no longer answers to it in proportion. Hence every choice made
from these numbers is measured again as a whole (``agreement``), and corrected until it holds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from slimbind.errors import UsageError
from slimbind.towers.layers import Tower

PROBES = 8
_SEED = 20240607
Loss = dict[str, dict[str, float]]  # way -> layer -> how far the cosine falls


def measure(
    tower: Tower,
    batches: Iterable[Tensor],
    ways: Mapping[str, Mapping[str, nn.Module]],
    *,
    probes: int = PROBES,
    progress: Callable[[int], None] | None = None,
) -> Loss:
    """How far the cosine falls when one layer alone is quantized, for every layer and every way to quantize it.

    Args:
        tower: in float.
        batches: inputs; the items of a batch must not depend on each other. Memory grows with their size.
        ways: way -> layer -> what would stand in its place (see ``twins``).
        probes: backward passes per batch. The relative error of a result is about ``sqrt(2 / (items * probes))``;
            ways are compared on the same items and signs, and so are separate calls with the same batches.
        progress: is told how many items have gone through.

    Returns:
        way -> layer -> the mean of ``1 - cosine`` over the items, to first order.

    Raises:
        UsageError: there are no batches.
    """
    taps = {name: _Tap() for twins in ways.values() for name in twins}
    for way, twins in ways.items():
        for name, twin in twins.items():
            taps[name].twins[way] = twin
    seen = 0
    generator = torch.Generator().manual_seed(_SEED)
    with _frozen(tower), torch.enable_grad(), _hooked(tower, taps) as anchor:
        for batch in batches:
            embedding = tower(batch)
            for left in reversed(range(probes)):
                signs = torch.randint(0, 2, embedding.shape, generator=generator) * 2 - 1
                # Every tap hands its gradient on, and none of them wants the anchor's: it only opens the graph.
                torch.autograd.grad((embedding * signs).sum(), anchor, retain_graph=left > 0)
            for tap in taps.values():
                tap.errors.clear()
            seen += len(batch)
            if progress is not None:
                progress(seen)
    if not seen:
        raise UsageError("there is nothing to measure sensitivity on", hint="give at least one item")
    return {way: {name: taps[name].squares[way] / (2 * probes * seen) for name in twins} for way, twins in ways.items()}


def twins(emulated: Tower, layers: Iterable[str]) -> dict[str, nn.Module]:
    """The named layers of an emulated tower, as ``measure`` takes them."""
    return {name: emulated.get_submodule(name) for name in layers}


@dataclass(frozen=True)
class Agreement:
    """Cosines between the embeddings of two towers over ``samples`` items."""

    cosine_mean: float
    cosine_min: float
    samples: int


def embed(tower: nn.Module, batches: Iterable[Tensor]) -> Tensor:
    """The embeddings ``[n, dim]`` of all items of all batches."""
    with torch.inference_mode():
        return torch.cat([tower(batch) for batch in batches])


def agreement(reference: Tensor, found: Tensor) -> Agreement:
    """Compare unit vectors ``[n, dim]`` row by row; what is not a number agrees with nothing (cosine -1)."""
    cosines = torch.nan_to_num((reference.double() * found.double()).sum(-1), nan=-1.0)
    return Agreement(float(cosines.mean()), float(cosines.min()), len(cosines))


def restore(
    loss: Mapping[str, float],
    cost: Mapping[str, float],
    *,
    allowed: float,
    first: Sequence[str] = (),
    most: float = math.inf,
) -> list[str]:
    """The layers to leave in float so that the fall of the cosine is at most ``allowed``: most gained per cost first.

    Args:
        loss: layer -> what quantizing it costs the cosine (``measure``).
        cost: layer -> what leaving it in float costs (multiplications, bytes).
        allowed: greatest sum of the losses of the layers that stay quantized.
        first: layers that were restored already; they lead the list, whatever they cost.
        most: what all restored layers may cost together; one too dear for that is passed over.

    Returns:
        Names in the order of restoring; all that can be afforded if nothing less is enough.
    """
    chosen = list(first)
    left = sum(value for name, value in loss.items() if name not in chosen)
    spent = sum(cost[name] for name in chosen)
    order = sorted(loss, key=lambda name: loss[name] / max(cost[name], 1e-30), reverse=True)
    for name in order:
        if left <= allowed:
            break
        if name not in chosen and spent + cost[name] <= most:
            chosen.append(name)
            left -= loss[name]
            spent += cost[name]
    return chosen


class _Tap:
    """Stands at the output of one layer: holds what each way of quantizing would change there, meets the gradient."""

    def __init__(self) -> None:
        self.twins: dict[str, nn.Module] = {}
        self.errors: dict[str, Tensor] = {}
        self.squares: dict[str, float] = {}
        self.is_busy = False

    def watch(self, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        """Run the twins on the layer's input and keep by how much they are off."""
        self.is_busy = True
        with torch.no_grad():
            for way, twin in self.twins.items():
                self.errors[way] = (twin(*(x.detach() for x in inputs)) - output).to(torch.bfloat16)
        self.is_busy = False

    def meet(self, gradient: Tensor) -> None:
        """Add the squares of (gradient . error) of every item."""
        for way, error in self.errors.items():
            dots = (gradient * error).flatten(1).sum(1, dtype=torch.float64)
            self.squares[way] = self.squares.get(way, 0.0) + float(dots.square().sum())


class _Meeting(torch.autograd.Function):
    """The identity, which shows its gradient to a tap on the way back."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, output: Tensor, anchor: Tensor, tap: _Tap) -> Tensor:
        ctx.tap = tap  # type: ignore[attr-defined]
        return output.view_as(output)

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        gradient = gradients[0]
        ctx.tap.meet(gradient)  # type: ignore[attr-defined]
        return gradient, torch.zeros(()), None


@contextmanager
def _hooked(tower: Tower, taps: Mapping[str, _Tap]) -> Iterator[Tensor]:
    """Put the taps in place; gives the leaf that all of them hang on, so that a graph is built without weights."""
    anchor = torch.zeros((), requires_grad=True)

    def hook_of(tap: _Tap) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor]:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
            if tap.is_busy:  # a twin may run the layer that it stands for, whose hook this is
                return output
            tap.watch(inputs, output)
            met: Tensor = _Meeting.apply(output, anchor, tap)  # type: ignore[no-untyped-call]
            return met

        return hook

    handles = [tower.get_submodule(name).register_forward_hook(hook_of(tap)) for name, tap in taps.items()]
    try:
        yield anchor
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _frozen(tower: Tower) -> Iterator[None]:
    """No weight asks for a gradient: that would keep every layer's input, and take as long again."""
    asking = [parameter for parameter in tower.parameters() if parameter.requires_grad]
    for parameter in asking:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in asking:
            parameter.requires_grad_(True)
