"""Where a tower can take a scale per channel without saying anything else: what gives a layer its input, and how.

A link joins the layers that read the same values (``readers``) with everything that makes these values (``writers``).
Dividing what the writers give by ``s`` and multiplying the readers' input channels by ``s`` changes no embedding, as
long as only linear maps, normalisation's affine part, ReLU and averages lie between. Where something else does (GELU, a
norm whose output goes on beside the branch), the division is a multiplication of its own (``gate``).
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeVar

from torch import Tensor, nn

from slimbind.towers.layers import Attention, Block, Tower, TransformerTower
from slimbind.towers.mini import MiniText
from slimbind.towers.resnet import Bottleneck, ResNetTower
from slimbind.towers.simplify import PooledAttention, PooledBlock

AnyModule = TypeVar("AnyModule", bound=nn.Module)
READER = (nn.Linear, nn.Conv2d)
WRITER = (nn.Linear, nn.Conv2d, nn.LayerNorm)


@dataclass(frozen=True)
class Link:
    """Channels that can be scaled.

    Args:
        name: of the last reader; what the link is called.
        readers: layers whose input channels are multiplied.
        writers: norms, and layers whose last output channels (as many as the link has) are divided.
        vectors: parameters whose last axis is divided.
        gate: a module behind which a multiplication is put instead.
        shifts: whether the channels can be moved as well, the readers' biases making up for it. Not through a ReLU, nor
            into a convolution that pads with zeros.
    """

    name: str
    readers: tuple[str, ...]
    writers: tuple[str, ...] = ()
    vectors: tuple[str, ...] = ()
    gate: str | None = None
    shifts: bool = True


class Apart(nn.Module):
    """A linear layer in two: a few channels too loud for 8 bits go past the one that is quantized, and stay in float.

    ``quiet`` is the layer with zeros for these channels, ``loud`` their weights ``[channels, out]``.
    """

    channels: Tensor

    def __init__(self, quiet: nn.Linear, loud: Tensor, channels: Tensor) -> None:
        super().__init__()
        self.quiet = quiet
        self.loud = nn.Parameter(loud, requires_grad=False)
        self.register_buffer("channels", channels)

    def forward(self, x: Tensor) -> Tensor:
        """``[..., in]`` in, ``[..., out]`` out."""
        out: Tensor = self.quiet(x) + x.index_select(-1, self.channels) @ self.loud
        return out


class Scaled(nn.Module):
    """A module whose output is multiplied by a number per channel of the last axis; another is added where given."""

    def __init__(self, inner: nn.Module, factor: Tensor, offset: Tensor | None = None) -> None:
        super().__init__()
        self.inner = inner
        self.factor = nn.Parameter(factor, requires_grad=False)
        self.offset = None if offset is None else nn.Parameter(offset, requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        """``[..., channels]`` in and out."""
        out: Tensor = self.inner(x) * self.factor
        return out if self.offset is None else out + self.offset


def links(tower: Tower) -> dict[str, Link]:
    """Every link of a tower by name, those nearer to the input first; none where the architecture has none."""
    found = {link.name: link for link in _walk(tower)}
    shared = _shared(tower)
    modules = dict(tower.named_modules(remove_duplicate=False))

    def free(link: Link) -> bool:
        known = all(isinstance(modules[name], READER) for name in link.readers) and all(
            isinstance(modules[name], WRITER) for name in link.writers
        )
        return known and shared.isdisjoint((*link.readers, *link.writers, *link.vectors))

    return {name: link for name, link in found.items() if free(link)}


def structure_copy(module: AnyModule) -> AnyModule:
    """A copy of a module tree in which modules and parameters can be replaced; all tensors are the original's."""
    return _copy(module, {})


def _copy(module: AnyModule, done: dict[int, nn.Module]) -> AnyModule:
    if id(module) not in done:
        new = copy.copy(module)
        for name, value in module.__dict__.items():
            if name.startswith("_") and isinstance(value, dict):  # children, parameters, buffers, hooks
                new.__dict__[name] = value.copy()
        done[id(module)] = new
        for name, child in module._modules.items():
            new._modules[name] = None if child is None else _copy(child, done)
    return done[id(module)]  # type: ignore[return-value]


def _walk(tower: Tower) -> Iterator[Link]:
    if isinstance(tower, TransformerTower):
        for number, block in enumerate(tower.blocks):
            yield from _block(block, f"blocks.{number}")
        yield Link("head.proj", ("head.proj",), ("head.norm",))
    elif isinstance(tower, MiniText):
        for number in range(len(tower.layers)):
            at = f"layers.{number}"
            yield Link(f"{at}.qkv", (f"{at}.qkv",), gate=f"{at}.qkv_in")
            yield Link(f"{at}.out", (f"{at}.out",), (f"{at}.qkv",))
            yield Link(f"{at}.up", (f"{at}.up",), gate=f"{at}.up_in")
            yield Link(f"{at}.down", (f"{at}.down",), gate=f"{at}.act")
    elif isinstance(tower, ResNetTower):
        yield from _resnet(tower)


def _block(block: nn.Module, at: str) -> Iterator[Link]:
    assert isinstance(block, Block | PooledBlock)
    attention: Attention | PooledAttention = block.attn
    # Values are the last third of `qkv`, and the second half of `kv`.
    joined = f"{at}.attn.kv" if isinstance(attention, PooledAttention) else f"{at}.attn.qkv"
    readers = (f"{at}.attn.q", joined) if isinstance(attention, PooledAttention) else (joined,)
    bias = () if attention.bias_v is None else (f"{at}.attn.bias_v",)
    yield Link(joined, readers, (f"{at}.norm_1",))
    yield Link(f"{at}.attn.out", (f"{at}.attn.out",), (joined,), bias)
    yield Link(f"{at}.mlp.fc1", (f"{at}.mlp.fc1",), (f"{at}.norm_2",))
    yield Link(f"{at}.mlp.fc2", (f"{at}.mlp.fc2",), gate=f"{at}.mlp.act")


def _resnet(tower: ResNetTower) -> Iterator[Link]:
    """A link inside of every block, and one along each stage's sum, which all of its blocks write to and read."""
    yield Link("stem.2", ("stem.2",), ("stem.0",), shifts=False)
    yield Link("stem.4", ("stem.4",), ("stem.2",), shifts=False)
    writers = ["stem.4"]
    readers: list[str] = []
    for stage, blocks in enumerate(tower.stages):
        assert isinstance(blocks, nn.Sequential)
        for number, block in enumerate(blocks):
            assert isinstance(block, Bottleneck)
            at = f"stages.{stage}.{number}"
            readers.append(f"{at}.conv1")
            if block.shortcut is not None:
                readers.append(f"{at}.shortcut")
                yield Link(readers[-1], tuple(readers), tuple(writers), shifts=False)
                readers, writers = [], [f"{at}.shortcut"]
            writers.append(f"{at}.conv3")
            yield Link(f"{at}.conv2", (f"{at}.conv2",), (f"{at}.conv1",), shifts=False)
            yield Link(f"{at}.conv3", (f"{at}.conv3",), (f"{at}.conv2",), shifts=False)
    readers += ["head.q", "head.kv"]
    yield Link("head.kv", tuple(readers), tuple(writers), ("head.pos_embed",), shifts=False)
    yield Link("head.out", ("head.out",), ("head.kv",))


def _shared(tower: Tower) -> set[str]:
    """Modules and parameters that stand in more than one place: scaling one would scale the others."""
    owners: dict[int, list[str]] = {}
    for at, module in tower.named_modules(remove_duplicate=False):
        for name, parameter in module._parameters.items():
            if parameter is not None:
                owners.setdefault(id(parameter), []).append(f"{at}.{name}" if at else name)
    several = [name for names in owners.values() if len(names) > 1 for name in names]
    return {*several, *(name.rpartition(".")[0] for name in several)}
