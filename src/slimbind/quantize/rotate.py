"""Turn the residual stream of a tower, so that no channel stands out; exact in float.

A rotation spreads a massive channel over all of them (QuaRot, Ashkboos et al., NeurIPS 2024). It is multiplied into
every weight that writes to the stream or reads from it. Between them lie LayerNorms: their gain and bias are first
folded into the weights behind them. What is left subtracts the mean and divides by the length, and commutes with every
rotation that keeps the vector of ones where it is: ``norm(Q x) = Q norm(x)`` if ``Q 1 = 1``. QuaRot makes an RMSNorm
of each LayerNorm instead; here it stays what engines have a kernel for.

Only where a norm gives the stream itself (before the first block, or after the stem) the rotation is a linear layer of
its own. The values of attention are turned within each head, which costs nothing.

No scheme does this by default: on towers with outliers it lost more than smoothing alone, and smoothed as well it
lost more than smoothing with the loudest channels left in float (``benchmarks/smoothing.py``).
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

from slimbind.quantize.links import structure_copy
from slimbind.towers.layers import Block, Head, PatchStem, TokenStem, Tower, TransformerTower, WindowStem
from slimbind.towers.simplify import PooledAttention, PooledBlock, fold_norms

Turn = Literal["hadamard", "random"]
_SMALL = 1e-9


def rotate(tower: Tower, *, turn: Turn = "hadamard", values: bool = True, seed: int = 0) -> Tower:
    """A tower whose residual stream is turned; towers that are no pre-norm transformers come back as they are.

    Args:
        tower: as it is or simplified, not smoothed (smooth what this gives).
        turn: a Hadamard matrix with random signs where the width has one, or any random rotation.
        values: also turn the values within each attention head.
        seed: of the random part.

    Returns:
        A new tower with the same embeddings up to float rounding, and norms without gain and bias. All its weights are
        new, except for the stem's.
    """
    if not isinstance(tower, TransformerTower):
        return tower
    random = torch.Generator().manual_seed(seed)
    new = structure_copy(fold_norms(tower))
    assert isinstance(new, TransformerTower)
    around = keep_ones(rotation(int(tower.config["width"]), turn, random))
    _turn_entry(new, around)
    for block in new.blocks:
        assert isinstance(block, Block | PooledBlock)
        attention = block.attn
        readers = [attention.q, attention.kv] if isinstance(attention, PooledAttention) else [attention.qkv]
        if values:
            size = attention.out.in_features // attention.heads
            _turn_values(block, readers[-1], rotation(size, turn, random))
        for reader in (*readers, block.mlp.fc1):
            _reads(reader, around)
        for writer in (attention.out, block.mlp.fc2):
            _writes(writer, around)
    head = new.head
    assert isinstance(head, Head)
    _reads(head.proj, around)
    return new


def rotation(size: int, turn: Turn, random: torch.Generator) -> Tensor:
    """An orthogonal matrix ``[size, size]``, float64."""
    known = hadamard(size) if turn == "hadamard" else None
    if known is None:
        columns, triangle = torch.linalg.qr(torch.randn(size, size, dtype=torch.float64, generator=random))
        turned: Tensor = columns * triangle.diagonal().sign()  # without the signs some rotations would be likelier
        return turned
    signs = torch.randint(0, 2, (size,), generator=random) * 2 - 1
    return known * signs / math.sqrt(size)


def hadamard(size: int) -> Tensor | None:
    """A matrix of 1 and -1 ``[size, size]`` with orthogonal rows, float64; None where none is known here.

    Sylvester's doubling, from order 1, 12, 20 or 24 (Paley's first construction).
    """
    doublings = 0
    while size % 2 == 0 and size not in (12, 20, 24):
        size, doublings = size // 2, doublings + 1
    if size == 1:
        found = torch.ones(1, 1, dtype=torch.float64)
    elif size in (12, 20, 24):
        found = _paley(size - 1)
    else:
        return None
    for _ in range(doublings):
        found = torch.cat([torch.cat([found, found], 1), torch.cat([found, -found], 1)])
    return found


def keep_ones(turn: Tensor) -> Tensor:
    """Mirror a rotation ``[n, n]`` so that it keeps the vector of ones, which makes it commute with LayerNorm."""
    ones = torch.full((len(turn),), 1 / math.sqrt(len(turn)), dtype=turn.dtype)
    gap = turn @ ones - ones
    length = gap.norm()
    if length < _SMALL:
        return turn
    mirror = gap / length
    return turn - 2 * torch.outer(mirror, mirror @ turn)


def _paley(prime: int) -> Tensor:
    squares = {k * k % prime for k in range(1, prime)}
    residue = [0] + [1 if k in squares else -1 for k in range(1, prime)]
    skew = torch.tensor([[residue[(j - i) % prime] for j in range(prime)] for i in range(prime)])
    whole = torch.zeros(prime + 1, prime + 1, dtype=torch.float64)
    whole[0, 1:], whole[1:, 0], whole[1:, 1:] = 1, -1, skew
    return whole + torch.eye(prime + 1, dtype=torch.float64)


def _turn_entry(tower: TransformerTower, around: Tensor) -> None:
    """The tokens that go into the first block."""
    if tower.norm_pre is not None:
        tower.norm_pre = _turned_norm(tower.norm_pre, around)  # type: ignore[assignment]
        return
    stem = tower.stem
    if isinstance(stem, TokenStem):
        stem.embedding._parameters["weight"] = _turned(stem.embedding.weight, around)
    elif isinstance(stem, PatchStem | WindowStem) and stem.norm is not None:
        stem.norm = _turned_norm(stem.norm, around)  # type: ignore[assignment]
    else:
        assert isinstance(stem, PatchStem)
        weight = stem.proj.weight.detach()
        turned = around @ weight.double().flatten(1)
        stem.proj._parameters["weight"] = _frozen(turned.reshape(weight.shape).to(weight.dtype))
    for name in ("cls_token", "pos_embed"):
        vectors = getattr(tower, name)
        if vectors is not None:
            tower._parameters[name] = _turned(vectors, around)


def _turned_norm(norm: nn.LayerNorm, around: Tensor) -> nn.Module:
    """A norm with its gain and bias in the rotation behind it."""
    weight, bias = around * norm.weight.detach().double(), around @ norm.bias.detach().double()
    linear = nn.Linear(len(around), len(around), device="meta")
    dtype = norm.weight.dtype
    linear._parameters["weight"], linear._parameters["bias"] = _frozen(weight.to(dtype)), _frozen(bias.to(dtype))
    return nn.Sequential(nn.LayerNorm(norm.normalized_shape, eps=norm.eps, elementwise_affine=False), linear)


def _turn_values(block: Block | PooledBlock, joined: nn.Linear, turn: Tensor) -> None:
    """Turn the values of each head, and back what reads their mixture."""
    attention, size = block.attn, len(turn)
    width = attention.out.in_features
    for name in ("weight", "bias"):
        whole = joined._parameters[name]
        assert whole is not None
        changed = whole.detach().clone()
        heads = changed[-width:].double().reshape(width // size, size, -1)
        changed[-width:] = (turn @ heads).reshape(changed[-width:].shape).to(whole.dtype)
        joined._parameters[name] = _frozen(changed)
    if attention.bias_v is not None:
        attention._parameters["bias_v"] = _by_head(attention.bias_v, turn)
    attention.out._parameters["weight"] = _by_head(attention.out.weight, turn)


def _by_head(values: Tensor, turn: Tensor) -> nn.Parameter:
    heads = torch.unflatten(values.detach().double(), -1, (-1, len(turn)))
    return _frozen((heads @ turn.t()).flatten(-2).to(values.dtype))


def _reads(linear: nn.Linear, around: Tensor) -> None:
    linear._parameters["weight"] = _turned(linear.weight, around)


def _writes(linear: nn.Linear, around: Tensor) -> None:
    linear._parameters["weight"] = _frozen((around @ linear.weight.detach().double()).to(linear.weight.dtype))
    if linear.bias is not None:
        linear._parameters["bias"] = _frozen((around @ linear.bias.detach().double()).to(linear.bias.dtype))


def _turned(vectors: Tensor, around: Tensor) -> nn.Parameter:
    """Vectors ``[..., n]``, turned. A reader's rows are such vectors too: what they are multiplied with turns alike."""
    return _frozen((vectors.detach().double() @ around.t()).to(vectors.dtype))


def _frozen(value: Tensor) -> nn.Parameter:
    return nn.Parameter(value, requires_grad=False)
