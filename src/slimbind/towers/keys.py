"""How the keys of a checkpoint become the keys of a tower, and what a model family must offer.

A tower key is made from one checkpoint key where the layouts agree, and from several where they do not: Hugging Face
keeps the query, key and value weights of CLIP apart (joined here), and a batch normalisation is folded into the
convolution before it. A ``Rule`` says which; it is applied one tensor at a time, so a split never holds two towers.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from slimbind.errors import CheckpointError

if TYPE_CHECKING:
    from torch import Tensor

    from slimbind.towers.layers import Tower

Shape = tuple[int, ...]
Shapes = Mapping[str, Shape]
Read = Callable[[str], "Tensor"]
Config = dict[str, Any]

BATCH_NORM_EPS = 1e-5


@dataclass(frozen=True)
class Rule:
    """Which checkpoint keys make one tower key, and by which operation.

    ``copy`` keeps the values (and takes the tower's shape where only the number of axes differs), ``transpose`` swaps
    the two axes of a matrix, ``concat`` joins along the first axis, ``bn_weight`` scales a convolution
    ``(weight, gain, variance)`` by its batch normalisation and ``bn_bias`` makes the bias
    ``(gain, bias, mean, variance)`` that goes with it, both in float32 whatever the factors are.
    """

    sources: tuple[str, ...]
    op: Literal["copy", "transpose", "concat", "bn_weight", "bn_bias"] = "copy"

    def shape(self, shapes: Shapes) -> Shape:
        """The shape that the rule makes from the shapes of its sources; raises ``CheckpointError`` if they differ."""
        first, *others = (shapes[key] for key in self.sources)
        wanted = first if self.op == "concat" else first[:1]
        for key, shape in zip(self.sources[1:], others, strict=True):
            if shape != wanted:
                raise CheckpointError(
                    f"the checkpoint's {key!r} has shape {list(shape)}; beside {self.sources[0]!r} it must have "
                    f"{list(wanted)}",
                    hint="the file is damaged or of another model",
                )
        if self.op == "transpose":
            return first[::-1]
        if self.op == "concat":
            return (sum(shapes[key][0] for key in self.sources), *first[1:])
        return first

    def apply(self, read: Read, shape: Shape) -> Tensor:
        """The tower's tensor of ``shape``, from ``read(checkpoint key) -> Tensor``."""
        import torch

        parts = [read(key) for key in self.sources]
        if self.op == "copy":
            return parts[0].reshape(shape)
        if self.op == "transpose":
            return parts[0].t().contiguous().reshape(shape)
        if self.op == "concat":
            return torch.cat(parts, dim=0).reshape(shape)
        # Folding in float64: the quotient gain / sqrt(variance) is then rounded once, not three times.
        wide = [part.double() for part in parts]
        if self.op == "bn_weight":
            weight, gain, variance = wide
            scale = gain / torch.sqrt(variance + BATCH_NORM_EPS)
            folded = weight * scale.reshape(-1, *([1] * (weight.dim() - 1)))
        else:
            gain, bias, mean, variance = wide
            folded = bias - mean * gain / torch.sqrt(variance + BATCH_NORM_EPS)
        return folded.float().reshape(shape)


Rules = dict[str, Rule]


def copy(source: str) -> Rule:
    """The rule for a tensor that is kept as it is."""
    return Rule((source,))


def affine(target: str, source: str, names: Iterable[str] = ("weight", "bias")) -> Rules:
    """Copy rules for the weight and the bias of one layer."""
    return {f"{target}.{name}": copy(f"{source}.{name}") for name in names}


@dataclass(frozen=True)
class Layout:
    """What a checkpoint holds: a config and the key rules of every modality in it.

    ``recomputed`` are the keys that are not stored because the tower computes them (the causal mask, position numbers),
    each with a check ``tensor -> bool`` of its values.
    """

    configs: dict[str, Config]
    rules: dict[str, Rules]
    recomputed: dict[str, Callable[[Tensor], bool]] = field(default_factory=dict)


@dataclass(frozen=True)
class Family:
    """A model family: how to know its checkpoints, read their layout and build its towers.

    ``claims(shapes)`` tells whether a checkpoint is of this family, ``read(shapes, config)`` finds the layout, and
    ``build(modality, config)`` makes a tower on torch's current default device.
    """

    name: str
    build: Callable[[str, Config], Tower]
    claims: Callable[[Shapes], bool] = lambda shapes: False
    read: Callable[[Shapes, Mapping[str, Any] | None], Layout] | None = None


def require(shapes: Shapes, key: str, axes: int) -> Shape:
    """The shape of ``key``, which must be there and have that many axes; raises ``CheckpointError`` if not."""
    if key not in shapes:
        raise CheckpointError(f"the checkpoint lacks the key {key!r}", hint="check that the file is complete")
    shape = tuple(shapes[key])
    if len(shape) != axes:
        raise CheckpointError(
            f"the checkpoint's {key!r} has shape {list(shape)}; expected {axes} axes",
            hint="check that the file is a checkpoint of this family",
        )
    return shape


def check_heads(key: str, heads: object, width: int) -> int:
    """``heads`` if ``width`` can be shared among so many; raises ``CheckpointError`` naming the config's ``key``."""
    if not isinstance(heads, int) or isinstance(heads, bool) or heads < 1 or width % heads:
        raise CheckpointError(
            f"the config's {key} is {heads!r}; the tower's width {width} must be a whole multiple of it",
            hint="correct the config",
        )
    return heads


def depth_of(shapes: Shapes, prefix: str) -> int:
    """How many blocks ``prefix.0 ... prefix.N-1`` there are; raises ``CheckpointError`` where one is missing."""
    pattern = re.compile(re.escape(prefix) + r"\.(\d+)\.")
    numbers = {int(found.group(1)) for key in shapes if (found := pattern.match(key))}
    absent = next(number for number in range(len(numbers) + 1) if number not in numbers)
    if absent < max(numbers, default=1):
        raise CheckpointError(
            f"the checkpoint lacks the block {prefix}.{absent}", hint="check that the file is complete"
        )
    return len(numbers)
