"""Move what is hard to quantize from a layer's input into its weights: exact in float, and much kinder to 8 bits.

Each channel of a layer's input is divided by ``s`` and the layer's weights for it are multiplied by ``s``, with
``s = max|x| ** alpha / max|w| ** (1 - alpha)`` (SmoothQuant, Xiao et al., ICML 2023). The division costs nothing where
it goes into a norm, into the rows of the values, or through a ReLU; behind a GELU it is one multiplication per value.

Unlike the paper's, ``max|w|`` is taken after each row of the weights was divided by its own greatest entry, because
every row gets a scale of its own when it is quantized; a loud row would otherwise decide for all.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Protocol

import torch
from torch import Tensor, nn

from slimbind.quantize.links import READER, WRITER, Link, Scaled, links, structure_copy
from slimbind.towers.layers import Tower

# A channel that the calibration data hardly woke is taken to be this loud, as part of the median channel: blowing it up
# on the word of a few inputs would let the first other input spoil its whole row.
QUIET = 1 / 32
SPREAD = 256.0  # scales stay within so many times their geometric mean, for 16-bit floats and for channels of zeros


class Loudness(Protocol):
    """What smoothing wants to know of a layer's input (``activations.InputStats`` knows it)."""

    @property
    def absmax(self) -> Tensor:
        """The greatest absolute value of every channel, ``[in]``."""
        ...


def smooth(tower: Tower, stats: Mapping[str, Loudness], *, alpha: float | Mapping[str, float] = 0.5) -> Tower:
    """Scale the links of a tower, so that inputs and weights share the difficulty.

    Args:
        tower: any tower; one without links comes back as it is.
        stats: of the input of every layer that reads from a link, by the layer's name.
        alpha: 0 leaves all difficulty in the inputs, 1 moves all of it into the weights. A mapping by link
            (``links.links``) scales the named links only.

    Returns:
        A new tower which gives the same embeddings up to float rounding. Layers keep their names; weights that did not
        change are shared.

    Raises:
        ValueError: an alpha outside of 0..1, a link that the tower does not have, or a layer without statistics.
    """
    found = links(tower)
    alphas = dict.fromkeys(found, alpha) if isinstance(alpha, float | int) else dict(alpha)
    unknown = sorted(alphas.keys() - found.keys())
    if unknown:
        raise ValueError(f"the {tower.modality} tower has no link {unknown[0]!r}; it has {', '.join(found) or 'none'}")
    wrong = [f"{name}: {value}" for name, value in alphas.items() if not 0 <= value <= 1]
    if wrong:
        raise ValueError(f"alpha lies between 0 and 1, not {wrong[0]}")
    if not alphas:
        return tower
    new = structure_copy(tower)
    for name, value in alphas.items():
        link = found[name]
        weights = [_weight(new, reader) for reader in link.readers]
        apply(new, link, scale(_loudness(link, stats), weights, value))
    return new


def scale(absmax: Tensor, weights: Iterable[Tensor], alpha: float) -> Tensor:
    """The scale ``s`` per channel.

    Args:
        absmax: of the input, ``[in]``.
        weights: ``[out, in]`` or ``[out, in, height, width]`` of every layer that reads the input.
        alpha: how much of the difficulty goes into the weights, 0..1.

    Returns:
        ``[in]`` float64, finite and positive, with a geometric mean near 1.
    """
    heights = [_row_share(weight) for weight in weights]
    loud, heavy = _floored(absmax), _floored(torch.stack(heights).amax(0))
    logs = alpha * loud.log() - (1 - alpha) * heavy.log()
    limit = torch.tensor(SPREAD, dtype=torch.float64).log()
    return (logs - logs.mean()).clamp(-limit, limit).exp()


def apply(tower: Tower, link: Link, by: Tensor) -> None:
    """Divide what a link carries by ``by`` ``[channels]``, in place: modules of ``tower`` get new parameters."""
    by = by.to(_weight(tower, link.readers[0]).dtype)
    for name in link.writers:
        _divide(tower, name, by)
    for name in link.vectors:
        at, _, key = name.rpartition(".")
        owner = tower.get_submodule(at)
        owner._parameters[key] = _frozen(getattr(owner, key).detach() / by)
    if link.gate is not None:
        _put_gate(tower, link.gate, by)
    for name in link.readers:
        module = tower.get_submodule(name)
        weight = _weight(tower, name)
        module._parameters["weight"] = _frozen(weight * by.reshape(1, -1, *[1] * (weight.ndim - 2)))


def _divide(tower: Tower, name: str, by: Tensor) -> None:
    writer = tower.get_submodule(name)
    assert isinstance(writer, WRITER)
    if isinstance(writer, nn.LayerNorm) and not writer.elementwise_affine:  # its gain was folded away
        at, _, key = name.rpartition(".")
        norm = nn.LayerNorm(writer.normalized_shape, eps=writer.eps, device="meta")
        norm._parameters["weight"] = _frozen(1 / by)
        norm._parameters["bias"] = _frozen(torch.zeros_like(by))
        tower.get_submodule(at)._modules[key] = norm
        return
    for key in ("weight", "bias"):
        parameter = writer._parameters[key]
        if parameter is not None:
            changed = parameter.detach().clone()
            rows = changed[-len(by) :]
            rows /= by.reshape(-1, *[1] * (rows.ndim - 1))
            writer._parameters[key] = _frozen(changed)


def _put_gate(tower: Tower, name: str, by: Tensor) -> None:
    at, _, key = name.rpartition(".")
    before = tower.get_submodule(name)
    if isinstance(before, Scaled):
        gate = Scaled(before.inner, before.factor.detach() / by)
    else:
        gate = Scaled(before, 1 / by)
    tower.get_submodule(at)._modules[key] = gate


def _loudness(link: Link, stats: Mapping[str, Loudness]) -> Tensor:
    missing = [name for name in link.readers if name not in stats]
    if missing:
        raise ValueError(f"no statistics of the input of {missing[0]!r}, which smoothing needs")
    return torch.stack([stats[name].absmax for name in link.readers]).amax(0)


def _weight(tower: Tower, name: str) -> Tensor:
    module = tower.get_submodule(name)
    assert isinstance(module, READER)
    return module.weight.detach()


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
