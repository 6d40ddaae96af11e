"""Move what is hard to quantize from a layer's input into its weights: exact in float, and much kinder to 8 bits.

Each channel of a layer's input is divided by ``s`` and the layer's weights for it are multiplied by ``s``, with
``s = max|x| ** alpha / max|w| ** (1 - alpha)`` (SmoothQuant, Xiao et al., ICML 2023). The division costs nothing where
it goes into a norm, into the rows of the values, or through a ReLU; behind a GELU it is one multiplication per value.

Unlike the paper's, ``max|w|`` is taken after each row of the weights was divided by its own greatest entry, because
every row gets a scale of its own when it is quantized; a loud row would otherwise decide for all.

Two things help beyond that (``benchmarks/smoothing.py``, two blocks of full width each). A few channels can stay in
float: better in the mean of every tower with outliers, and nothing where there are none. Channels can be moved to lie
around zero, as in Outlier Suppression+ (Wei et al., EMNLP 2023): better in the mean, with the loud ones in float, where
inputs are rounded per token with steps symmetric around zero; mostly worse where one calibrated range serves all
tokens. An alpha searched by a layer's own output error helped the calibrated ranges a little, and inputs rounded
per token hardly.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from slimbind.quantize.links import READER, WRITER, Apart, Link, Scaled, links, structure_copy
from slimbind.towers.layers import Tower

# A channel that the calibration data hardly woke is taken to be this loud, as part of the median channel: blowing it up
# on the word of a few inputs would let the first other input spoil its whole row.
QUIET = 1 / 32
SPREAD = 256.0  # scales stay within so many times their geometric mean, for 16-bit floats and for channels of zeros
ALPHAS = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
EVEN = 0.5
PLAIN = 0.85  # another alpha than that has to lower the error to this part, or a few rows would decide by chance
WORTH = 0.95  # ... and a multiplication of its own, to this part of the error without
STILL = 0.01  # of the mean variance of outputs: what an output's own variance is taken to be at least
LOUD = 16.0  # times the median's product of input and weight
FEW = 64  # a link leaves out one in so many channels at most


class Loudness(Protocol):
    """What smoothing wants to know of a layer's input (``activations.InputStats`` knows it)."""

    @property
    def low(self) -> Tensor:
        """The smallest value of every channel, ``[in]``."""
        ...

    @property
    def high(self) -> Tensor:
        """The greatest value of every channel, ``[in]``."""
        ...

    @property
    def mean(self) -> Tensor:
        """The mean of every channel, ``[in]``."""
        ...


class Rows(Loudness, Protocol):
    """``Loudness`` with a sample of rows."""

    @property
    def rows(self) -> Tensor | None:
        """``[n, in]``."""
        ...


def smooth(
    tower: Tower,
    stats: Mapping[str, Loudness],
    *,
    alpha: float | Mapping[str, float] = 0.5,
    shift: bool = False,
    loud: Mapping[str, Sequence[int]] | None = None,
) -> Tower:
    """Scale the links of a tower, so that inputs and weights share the difficulty.

    Args:
        tower: any tower; one without links comes back as it is.
        stats: of the input of every layer that reads from a link, by the layer's name.
        alpha: 0 leaves all difficulty in the inputs, 1 moves all of it into the weights. A mapping by link
            (``links.links``) scales the named links only.
        shift: also move every channel so that it lies around zero on average.
        loud: by link, channels that are to stay in float (``loud_channels`` finds them).

    Returns:
        A new tower which gives the same embeddings up to float rounding. Layers keep their names, except that one with
        loud channels becomes ``NAME.quiet``; weights that did not change are shared.

    Raises:
        ValueError: an alpha outside of 0..1, a link that the tower does not have, or a layer without statistics.
    """
    found = links(tower)
    alphas = dict.fromkeys(found, alpha) if isinstance(alpha, float | int) else dict(alpha)
    apart = {name: torch.tensor(sorted(channels)) for name, channels in (loud or {}).items() if len(channels)}
    unknown = sorted((alphas.keys() | apart.keys()) - found.keys())
    if unknown:
        raise ValueError(f"the {tower.modality} tower has no link {unknown[0]!r}; it has {', '.join(found) or 'none'}")
    wrong = [f"{name}: {value}" for name, value in alphas.items() if not 0 <= value <= 1]
    if wrong:
        raise ValueError(f"alpha lies between 0 and 1, not {wrong[0]}")
    if not alphas and not apart:
        return tower
    new = structure_copy(tower)
    for name, link in found.items():
        if name in alphas or name in apart:
            weights = [_weight(new, reader) for reader in link.readers]
            offset = middle(link, stats) if shift else None
            by = scale(loudness(link, stats, offset), weights, alphas.get(name, 0.0), apart.get(name))
            apply(new, link, by, offset)
    for name, channels in apart.items():
        _take_apart(new, found[name], channels)
    return new


def loud_channels(tower: Tower, stats: Mapping[str, Loudness], *, shift: bool = False) -> dict[str, list[int]]:
    """Channels that no scale makes good, by link: so loud that input and weights together lack the digits.

    A channel is loud where the product of its greatest input and its share of the weights' rows is ``LOUD`` times that
    of the median channel, which neither side can take over without hurting the others; links have ``1 / FEW`` of their
    channels at most. Only linear layers can do without them (LLM.int8, Dettmers et al., NeurIPS 2022, does so too, but
    chooses anew for every input).
    """
    found = {}
    for name, link in links(tower).items():
        weights = [_weight(tower, reader) for reader in link.readers]
        if any(weight.ndim > 2 for weight in weights):
            continue
        both = loudness(link, stats, middle(link, stats) if shift else None).double() * _height(weights)
        median = both[both > 0].median() if bool((both > 0).any()) else both.new_ones(())
        order = both.argsort(descending=True)[: len(both) // FEW]
        channels = sorted(int(place) for place in order if both[place] > LOUD * median)
        if channels:
            found[name] = channels
    return found


def search(
    tower: Tower,
    stats: Mapping[str, Rows],
    layer: Callable[[Tensor, Tensor], Tensor],
    *,
    alphas: Sequence[float] = ALPHAS,
    shift: bool = False,
    progress: Callable[[int], None] | None = None,
) -> dict[str, float]:
    """The alpha of every link with which its readers' outputs are closest to what they are in float.

    Args:
        tower: in float.
        stats: of all inputs, with a sample of rows (``observe(..., rows=256)``).
        layer: what a layer gives once it is quantized: rows ``[n, in]`` and weight ``[out, in]`` to ``[n, out]``.
        alphas: what is tried.
        shift: whether ``smooth`` will be told to move channels.
        progress: is told how many links are done.

    Returns:
        link -> alpha, for ``smooth``; 0.5 where no other is clearly better. A link that would cost a multiplication
        and gains nothing is left out, and so is one that a convolution reads. The error of each output counts in
        relation to how much that output varies.
    """
    chosen = {}
    for number, (name, link) in enumerate(links(tower).items(), 1):
        weights = [_weight(tower, reader) for reader in link.readers]
        if all(weight.ndim == 2 for weight in weights):
            offset = middle(link, stats) if shift else None
            loud = loudness(link, stats, offset)
            read = [(stats[reader].rows, weight) for reader, weight in zip(link.readers, weights, strict=True)]
            costs = {
                alpha: sum(_cost(rows, weight, offset, scale(loud, weights, alpha), layer) for rows, weight in read)
                for alpha in alphas
            }
            alone = sum(_cost(rows, weight, None, torch.ones_like(loud), layer) for rows, weight in read)
            best = min(costs, key=lambda alpha: costs[alpha])
            if EVEN in costs and costs[best] > PLAIN * costs[EVEN]:
                best = EVEN
            if link.gate is None or shift or costs[best] < WORTH * alone:
                chosen[name] = best
        if progress is not None:
            progress(number)
    return chosen


def _cost(
    rows: Tensor | None, weight: Tensor, offset: Tensor | None, by: Tensor, layer: Callable[[Tensor, Tensor], Tensor]
) -> float:
    if rows is None:
        raise ValueError("the search for alphas needs a sample of rows with the statistics")
    by, rows = by.to(weight.dtype), rows if offset is None else rows - offset
    true = rows @ weight.t()
    error = (layer(rows / by, weight * by) - true).square().mean(0)
    spread = true.var(0, correction=0)
    # An output that hardly varies must not outweigh all others by its own small errors.
    # Where none varies (a single row), all count alike.
    floor = float(spread.mean()) * STILL or 1.0
    return float((error / spread.clamp(min=floor)).mean())


def scale(absmax: Tensor, weights: Iterable[Tensor], alpha: float, loud: Tensor | None = None) -> Tensor:
    """The scale ``s`` per channel.

    Args:
        absmax: of the input, ``[in]``.
        weights: ``[out, in]`` or ``[out, in, height, width]`` of every layer that reads the input.
        alpha: how much of the difficulty goes into the weights, 0..1.
        loud: channels whose weights stay in float: they are made no louder than the median of the others.

    Returns:
        ``[in]`` float64, finite and positive, with a geometric mean near 1.
    """
    inputs, heights = _floored(absmax).log(), _floored(_height(weights)).log()
    logs = alpha * inputs - (1 - alpha) * heights
    if loud is not None:
        others = torch.ones_like(logs, dtype=torch.bool)
        others[loud] = False
        logs[loud] = inputs[loud] - (inputs - logs)[others].median()
    limit = torch.tensor(SPREAD, dtype=torch.float64).log()
    return (logs - logs.mean()).clamp(-limit, limit).exp()


def middle(link: Link, stats: Mapping[str, Loudness]) -> Tensor | None:
    """Where each channel lies on average, ``[channels]``; None where the link's channels cannot be moved."""
    if not link.shifts:
        return None
    return _of(link, stats)[-1].mean


def loudness(link: Link, stats: Mapping[str, Loudness], offset: Tensor | None = None) -> Tensor:
    """The greatest magnitude of each channel ``[channels]`` once ``offset`` is taken off.

    Raises:
        ValueError: a layer that reads the link has no statistics.
    """
    found = _of(link, stats)
    low, high = torch.stack([one.low for one in found]).amin(0), torch.stack([one.high for one in found]).amax(0)
    if offset is not None:
        low, high = low - offset, high - offset
    return torch.maximum(low.abs(), high.abs())


def _of(link: Link, stats: Mapping[str, Loudness]) -> list[Loudness]:
    missing = [name for name in link.readers if name not in stats]
    if missing:
        raise ValueError(f"no statistics of the input of {missing[0]!r}, which smoothing needs")
    return [stats[name] for name in link.readers]


def apply(tower: Tower, link: Link, by: Tensor, offset: Tensor | None = None) -> None:
    """Let a link carry ``(x - offset) / by`` ``[channels]``, in place: modules of ``tower`` get new parameters."""
    dtype = _weight(tower, link.readers[0]).dtype
    by = by.to(dtype)
    move = torch.zeros_like(by) if offset is None else offset.to(dtype)
    for name in link.writers:
        _divide(tower, name, by, move)
    for name in link.vectors:
        at, _, key = name.rpartition(".")
        owner = tower.get_submodule(at)
        owner._parameters[key] = _frozen((getattr(owner, key).detach() - move) / by)
    if link.gate is not None:
        _put_gate(tower, link.gate, by, None if offset is None else move)
    for name in link.readers:
        module = tower.get_submodule(name)
        weight = _weight(tower, name)
        if offset is not None:
            old = module._parameters["bias"]
            added = (weight.double() @ offset.double()).to(dtype)
            module._parameters["bias"] = _frozen(added if old is None else old.detach() + added)
        module._parameters["weight"] = _frozen(weight * by.reshape(1, -1, *[1] * (weight.ndim - 2)))


def _take_apart(tower: Tower, link: Link, channels: Tensor) -> None:
    for name in link.readers:
        at, _, key = name.rpartition(".")
        layer = tower.get_submodule(name)
        if not isinstance(layer, nn.Linear):
            raise ValueError(f"{name} is no linear layer; only these can leave channels out")
        weight = layer.weight.detach()
        rest = weight.clone()
        rest[:, channels] = 0
        layer._parameters["weight"] = _frozen(rest)
        tower.get_submodule(at)._modules[key] = Apart(layer, weight[:, channels].t().contiguous(), channels)


def _divide(tower: Tower, name: str, by: Tensor, move: Tensor) -> None:
    writer = tower.get_submodule(name)
    assert isinstance(writer, WRITER)
    if isinstance(writer, nn.LayerNorm) and not writer.elementwise_affine:  # its gain was folded away
        at, _, key = name.rpartition(".")
        norm = nn.LayerNorm(writer.normalized_shape, eps=writer.eps, device="meta")
        norm._parameters["weight"], norm._parameters["bias"] = _frozen(1 / by), _frozen(-move / by)
        tower.get_submodule(at)._modules[key] = norm
        return
    for key in ("weight", "bias"):
        parameter = writer._parameters[key]
        assert parameter is not None
        changed = parameter.detach().clone()
        rows = changed[-len(by) :]
        if key == "bias":
            rows -= move
        rows /= by.reshape(-1, *[1] * (rows.ndim - 1))
        writer._parameters[key] = _frozen(changed)


def _put_gate(tower: Tower, name: str, by: Tensor, move: Tensor | None) -> None:
    at, _, key = name.rpartition(".")
    inner, factor = tower.get_submodule(name), 1 / by
    offset = None if move is None else -move / by
    if isinstance(inner, Scaled):
        before: Tensor | None = inner.offset
        if before is not None:
            offset = before.detach() / by + (0 if offset is None else offset)
        factor = inner.factor.detach() / by
        inner = inner.inner
    tower.get_submodule(at)._modules[key] = Scaled(inner, factor, offset)


def _weight(tower: Tower, name: str) -> Tensor:
    module = tower.get_submodule(name)
    assert isinstance(module, READER)
    return module.weight.detach()


def _height(weights: Iterable[Tensor]) -> Tensor:
    return torch.stack([_row_share(weight) for weight in weights]).amax(0)


def _row_share(weight: Tensor) -> Tensor:
    """The greatest entry of each input channel, as part of the greatest of its row: ``[in]`` in 0..1."""
    entries = weight.abs().flatten(2).amax(2) if weight.ndim > 2 else weight.abs()
    return (entries / entries.amax(1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)).amax(0)


def _floored(values: Tensor) -> Tensor:
    """Positive float64 values, none far below the median of those that are not zero."""
    values = values.double()
    awake = values[values > 0]
    if len(awake) == 0:
        return torch.ones_like(values)
    return values.clamp(min=float(awake.median()) * QUIET)


def _frozen(value: Tensor) -> nn.Parameter:
    return nn.Parameter(value, requires_grad=False)
