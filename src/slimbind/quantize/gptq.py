"""Rounding that lets later weights make up for the errors of earlier ones, as far as the inputs allow it.

GPTQ (Frantar et al. 2023, "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers"): what
counts is the output ``W x``, so the error is measured by the inputs' second moment ``H = E[x x^T]``. It is done here in
the form of Babai's nearest plane (Chen et al. 2025 show that the two are the same): with ``H = A A^T``, ``A`` upper
triangular, the squared error of a row is ``|e A|^2``, and its ``j``-th part holds ``e_j`` and earlier errors alone.
Each weight is therefore rounded after adding ``sum_(i<j) e_i A_ij / A_jj``. One Cholesky factor is all that it takes.

In 4 bits what earlier layers did wrong is no longer small. There a layer's weight is first moved to where it makes up
for that as well as it can on the inputs that it will be given: towards what the float tower has behind the layer (Li et
al. 2025, "GPTAQ"), and, where the layer adds to the residual stream, towards the float tower's stream.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from slimbind.errors import UsageError
from slimbind.quantize.activations import InputStats, observe, watching
from slimbind.quantize.emulate import twin
from slimbind.quantize.plan import LARGEST, SMALLEST, LayerPlan, Plan, WeightCodes
from slimbind.quantize.report import Progress, silent
from slimbind.quantize.rounding import grouped
from slimbind.quantize.sites import Site, replace, sites
from slimbind.towers.layers import Tower, TransformerTower, end_of_text, pick

# One part of a transformer: the tower, the tokens, and where each text ends (None where there are no texts).
Stage = Callable[[Tower, Tensor, Tensor | None], Tensor]

_RIDGE = 0.1  # of the mean square of a middling input: how far a weight is trusted to follow what few inputs show
_MOST_DAMPING = 10_000  # times what is usual
_BLOCK = 128  # columns whose errors are passed on one by one; to all others they go in one product


class DependentInputsError(ValueError):
    """The second moment has no Cholesky factor: more damping is needed."""


def compensate(
    weight: Tensor,
    moment: Tensor,
    *,
    bits: Literal[8, 4] = 4,
    group: int | None = None,
    damping: float = 0.03,
) -> WeightCodes:
    """Quantize ``weight`` so that its product with inputs like those observed changes least.

    Args:
        weight: ``[out, in]``.
        moment: ``[in, in]``, ``E[x x^T]`` of the layer's inputs. It is not changed.
        bits: 8 or 4.
        group: inputs per scale; divides ``in``; all of a row by default.
        damping: this share of the mean square of a middling input is added to each, as if there were noise: less
            trust in few observations.

    Raises:
        ValueError: shapes that do not fit, a value that is not finite, or no damping where inputs depend on each other.
    """
    rows, inputs = weight.shape
    if moment.shape != (inputs, inputs):
        raise ValueError(f"the moment is {list(moment.shape)}, the weight has {inputs} inputs")
    if not bool(torch.isfinite(moment).all()):
        raise ValueError("the second moment is infinite or not a number")
    group = inputs if group is None else group
    power = moment.diagonal().clone()
    start = grouped(weight, group, bits, search=True, importance=power.clamp(min=1e-12))
    order = power.argsort(descending=True)  # what matters most is rounded while most can still make up for it
    factor = _factor(moment, order, damping)
    codes = _rounded(weight.detach().float(), start.scale, factor, order, group, bits)
    return WeightCodes(codes, start.scale, bits)


def _factor(moment: Tensor, order: Tensor, damping: float) -> Tensor:
    """Upper triangular ``A`` with ones on its diagonal and ``A D A^T`` the damped moment in ``order``."""
    backward = order.flip(0)
    matrix = moment[backward][:, backward].float()
    diagonal = matrix.diagonal()
    # of the middle input, not of the mean: a few loud channels would drown all others in it
    usual = float(diagonal.median()) or float(diagonal.mean())
    diagonal += damping * usual if usual > 0 else 1.0
    diagonal[diagonal <= 0] = 1.0  # an input that is always zero: nothing to make up for
    lower, info = torch.linalg.cholesky_ex(matrix)
    if int(info):
        raise DependentInputsError(
            f"the inputs depend on each other; damping {damping} is not enough, try {10 * damping or 0.03}"
        )
    factor: Tensor = (lower / lower.diagonal()).flip(0, 1)
    return factor


def _rounded(weight: Tensor, scale: Tensor, factor: Tensor, order: Tensor, group: int, bits: Literal[8, 4]) -> Tensor:
    """Codes of ``weight`` ``[out, in]``; everything is held as ``[in, out]``, where a column is contiguous."""
    least, most = SMALLEST[bits], LARGEST[bits]
    wanted = weight.t()[order].contiguous()
    steps = scale.t().contiguous()
    group_of = (order // group).tolist()
    errors = torch.zeros_like(wanted)
    codes = torch.empty(wanted.shape, dtype=torch.int8)
    for start in range(0, len(wanted), _BLOCK):
        stop = min(start + _BLOCK, len(wanted))
        target = wanted[start:stop].clone()
        target.addmm_(factor[:start, start:stop].t(), errors[:start])
        for place in range(start, stop):
            step = steps[group_of[place]]
            code = (target[place - start] / step).round_().clamp_(least, most)
            codes[place] = code.to(torch.int8)
            error = code.mul_(step).neg_().add_(wanted[place])
            errors[place] = error
            target[place - start + 1 :].addr_(factor[place, place + 1 : stop], error)
    back = torch.empty_like(codes)
    back[order] = codes
    return back.t().contiguous()


def moved(weight: Tensor, moment: Tensor, gap: Tensor, *, ridge: float) -> Tensor:
    """``weight`` moved so that its product with what it is given makes up for what is amiss behind it.

    Args:
        weight: ``[out, in]``.
        moment: ``[in, in]``, ``E[x x^T]`` of the inputs.
        gap: ``[out, in]``, ``E[(wanted - had) x^T]``, with ``had`` what there is with this weight.
        ridge: this share of the mean square of a middling input holds the weight where it is.

    Returns:
        ``weight + gap (moment + ridge)^-1``: least squares.

    Raises:
        DependentInputsError: more ridge is needed.
    """
    held = moment.float().clone()
    diagonal = held.diagonal()
    diagonal += ridge * (float(diagonal.median()) or float(diagonal.mean()) or 1.0)
    lower, info = torch.linalg.cholesky_ex(held)
    if int(info):
        raise DependentInputsError(f"the inputs depend on each other; a ridge of {ridge} is not enough")
    added: Tensor = torch.cholesky_solve(gap.t(), lower).t()
    return weight.detach().float() + added


def compensated(
    tower: Tower,
    batches: Iterable[Tensor],
    plan: Plan,
    *,
    damping: float = 0.03,
    progress: Progress = silent,
) -> Plan:
    """``plan`` with the weights of its linear layers rounded once more, with compensation.

    A transformer is gone through block by block, each with the inputs that the blocks before it, already quantized,
    give it: later layers make up for earlier ones too, and memory holds the second moments of one block. Of other
    towers all linear layers are observed at once, unquantized.

    Args:
        tower: as the plan was made for.
        batches: inputs to calibrate with; a few thousand tokens at least.
        plan: its linear layers' bits, groups and activations are kept.
        damping: see ``compensate``; raised tenfold for a layer whose inputs need more.
        progress: is told of one stage, and how many layers of it are done.

    Raises:
        UsageError: there are no batches.
        ValueError: see ``compensate``.
    """
    found = sites(tower)
    wanted = [name for name, layer in plan.layers.items() if layer.weight is not None and found[name].kind == "linear"]
    work = _Work(tower, plan, found, wanted, damping, progress("compensating", len(wanted)))
    with torch.no_grad():
        if isinstance(tower, TransformerTower):
            _through_blocks(work, tower, list(batches))
        else:
            stats = observe(tower, batches, names=wanted, moments=True)
            for name in wanted:
                work.recode(name, stats.pop(name))
    return Plan({**plan.layers, **work.done}, plan.rest, plan.precision, plan.group_size)


@dataclass
class _Batch:
    """Inputs on their way through the tower: as it is rounded so far, and (where errors are followed) in float."""

    place: Tensor | None
    twin: Tensor
    real: Tensor


class _Work:
    """The tower on the way to its plan: ``twin`` is quantized as far as it has come."""

    def __init__(
        self,
        tower: Tower,
        plan: Plan,
        found: Mapping[str, Site],
        wanted: Sequence[str],
        damping: float,
        told: Callable[[int], None],
    ) -> None:
        self.tower = tower
        self.plan = plan
        self.found = found
        self.wanted = wanted
        self.damping = damping
        self.told = told
        self.follows = any(layer.weight is not None and layer.weight.bits == 4 for layer in plan.layers.values())
        self.done: dict[str, LayerPlan] = {}
        others = [name for name, layer in plan.layers.items() if layer.weight is not None and name not in wanted]
        self.twin = replace(tower, {name: twin(found[name], plan.layers[name]) for name in others})

    def recode(self, name: str, stats: InputStats, gap: Tensor | None = None) -> None:
        """Round one layer by what it was given (and by what is amiss behind it), and put it in its place."""
        layer = self.plan.layers[name]
        assert layer.weight is not None and stats.moment is not None
        site, old = self.found[name], layer.weight
        group = site.weight.shape[1] // old.scale.shape[1]
        new = self._compensated(site.weight, stats.moment, gap, old.bits, group)
        self.done[name] = LayerPlan(new, layer.activation, layer.stored)
        self.twin = replace(self.twin, {name: twin(site, self.done[name], self.plan.group_size)})
        self.told(len(self.done))

    def _compensated(
        self, weight: Tensor, moment: Tensor, gap: Tensor | None, bits: Literal[8, 4], group: int
    ) -> WeightCodes:
        """With more damping where loud inputs that depend on each other leave no digits for the rest."""
        times = 1
        while True:
            try:
                near = weight if gap is None else moved(weight, moment, gap, ridge=times * _RIDGE)
                return compensate(near, moment, bits=bits, group=group, damping=times * self.damping)
            except DependentInputsError:
                if times == _MOST_DAMPING:
                    raise
                times *= 10

    def stage(self, part: str, run: Stage, batches: Sequence[_Batch]) -> None:
        """Round the layers of one part of the tower by what they are given, and take the batches through it."""
        names = [name for name in self.wanted if name.startswith(f"{part}.")]
        if self.follows:
            for name in names:
                self._follow(name, part, run, batches)
        elif names:
            with watching({name: self.twin.get_submodule(name) for name in names}, moments=True) as stats:
                for batch in batches:
                    run(self.twin, batch.twin, batch.place)
            for name in names:
                self.recode(name, stats.pop(name))
        for batch in batches:
            batch.twin = run(self.twin, batch.twin, batch.place)
            if self.follows:
                batch.real = run(self.tower, batch.real, batch.place)

    def _follow(self, name: str, part: str, run: Stage, batches: Sequence[_Batch]) -> None:
        """Round one layer so that it also takes back what is amiss behind it."""
        gap = torch.zeros(self.found[name].weight.shape)
        with watching({name: self.twin.get_submodule(name)}, moments=True) as stats:
            for batch in batches:
                with _around(self.twin, name, part) as now:
                    run(self.twin, batch.twin, batch.place)
                with _around(self.tower, name, part) as real:
                    run(self.tower, batch.real, batch.place)
                gap.addmm_((real["behind"] - now["behind"]).t(), now["given"])
        self.recode(name, stats[name], gap / stats[name].count)


@contextmanager
def _around(tower: Tower, name: str, part: str) -> Iterator[dict[str, Tensor]]:
    """Look at what a layer is ``given``, and what is ``behind`` it: its output, or the residual stream with that added.

    Both are ``[rows, channels]``, of the last run inside of the ``with``.
    """
    seen: dict[str, Tensor] = {}

    def before(key: str) -> Callable[[nn.Module, Any], None]:
        return lambda module, inputs: seen.__setitem__(key, inputs[0].flatten(0, -2))

    def after(module: nn.Module, inputs: Any, output: Tensor) -> None:  # noqa: ANN401
        seen["behind"] = output.flatten(0, -2)

    layer = name.removeprefix(f"{part}.")
    handles = [tower.get_submodule(name).register_forward_pre_hook(before("given"))]
    if layer == "attn.out":  # the sum is what the next norm is given
        handles.append(tower.get_submodule(f"{part}.norm_2").register_forward_pre_hook(before("behind")))
    else:  # of the last layer of a block it is what the block gives
        giver = part if layer == "mlp.fc2" else name
        handles.append(tower.get_submodule(giver).register_forward_hook(after))
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def _through_blocks(work: _Work, tower: TransformerTower, inputs: Sequence[Tensor]) -> None:
    if not inputs:
        raise UsageError("there is nothing to calibrate with: no batches were given", hint="give at least one item")
    batches = [_Batch(end_of_text(x) if tower.is_text else None, x, x) for x in inputs]
    work.stage("stem", lambda at, x, place: _transformer(at).embed(x), batches)
    for number in range(len(tower.blocks)):
        name = f"blocks.{number}"
        work.stage(name, partial(_block, name), batches)
    if not tower.pools_last:
        for batch in batches:
            batch.twin, batch.real = pick(batch.twin, batch.place), pick(batch.real, batch.place)
    work.stage("head", lambda at, x, place: _transformer(at).head(x[:, 0]), batches)


def _block(name: str, tower: Tower, x: Tensor, place: Tensor | None) -> Tensor:
    out: Tensor = tower.get_submodule(name)(x, place)
    return out


def _transformer(tower: Tower) -> TransformerTower:
    assert isinstance(tower, TransformerTower)
    return tower
