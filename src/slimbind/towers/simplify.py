"""Exact rewrites: the same embeddings with less arithmetic.

Inside the graph (this module): a still image takes one kernel instead of two, the last block computes the pooled token
alone, and LayerNorms can hand their gain and bias to the linear layer behind them. Outside of it, in the run plane:
texts are cut to the longest of a bucket (``runtime.batches``; nothing behind the end of a text is ever attended to),
and equal audio clips are embedded once (``media.audio``).

Every function returns a new tower that shares all untouched weights with the one it was given.
"""

from __future__ import annotations

import copy
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from slimbind.towers.layers import Attention, Block, FrameStem, Tower, TransformerTower, append_row, by_head, pick

AnyModule = TypeVar("AnyModule", bound=nn.Module)


def simplify(tower: Tower) -> Tower:
    """All rewrites that are worth it on every engine: ``stack_frames`` and ``pool_last_block``.

    A tower of another make (ResNet, mini) comes back as it is.
    """
    return pool_last_block(stack_frames(tower))


def stack_frames(tower: Tower) -> Tower:
    """Turn the convolution over two frames into a matrix product that takes a single frame for half the work."""
    if not isinstance(tower, TransformerTower) or not isinstance(tower.stem, FrameStem):
        return tower
    new = _shallow(tower)
    new.stem = StackedFrameStem(tower.stem)
    return new


def pool_last_block(tower: Tower) -> Tower:
    """Let the last block compute nothing but the token that is pooled; keys and values still come from all tokens."""
    if not isinstance(tower, TransformerTower) or tower.pools_last:
        return tower
    last = tower.blocks[-1]
    assert isinstance(last, Block)
    new = _shallow(tower)
    new.blocks = nn.ModuleList([*tower.blocks[:-1], PooledBlock(last)])
    new.pools_last = True
    return new


def fold_norms(tower: Tower) -> Tower:
    """Multiply the gain of each LayerNorm into the linear layer behind it, and add its bias to that layer's bias.

    Not part of ``simplify``: engines fuse the gain into their LayerNorm kernel, so that nothing is saved, and smoothing
    (before quantization) wants the gain where it is.
    """
    if not isinstance(tower, TransformerTower):
        return tower
    new = _shallow(tower)
    new.blocks = nn.ModuleList(_fold_block(block) for block in tower.blocks)
    new.head = _shallow(tower.head)
    new.head.norm, new.head.proj = _bare(tower.head.norm), _fold(tower.head.norm, tower.head.proj)
    return new


def _fold_block(old: nn.Module) -> nn.Module:
    assert isinstance(old, Block | PooledBlock)
    block = _shallow(old)
    if isinstance(block.attn, PooledAttention):
        pooled = _shallow(block.attn)
        pooled.q, pooled.kv = _fold(old.norm_1, pooled.q), _fold(old.norm_1, pooled.kv)
        block.attn = pooled
    else:
        block.attn = _shallow(block.attn)
        block.attn.qkv = _fold(old.norm_1, block.attn.qkv)
    block.mlp = _shallow(old.mlp)
    block.mlp.fc1 = _fold(old.norm_2, old.mlp.fc1)
    block.norm_1, block.norm_2 = _bare(old.norm_1), _bare(old.norm_2)
    return block


class StackedFrameStem(nn.Module):
    """``FrameStem`` as a matrix product: one frame meets the sum of both kernels, two frames meet one kernel each.

    The kernel's rows are stacked (both summed, first frame's, second frame's), and the number of frames says where to
    cut, so that one graph serves still images and video.
    """

    def __init__(self, stem: FrameStem) -> None:
        super().__init__()
        self.input_shape = stem.input_shape
        self.kernel = stem.kernel
        self.side = stem.input_shape[-1] // stem.kernel
        first, second = stem.proj.weight.detach().unbind(2)
        both = (first.double() + second.double()).to(first.dtype)
        rows = [part.flatten(1).t() for part in (both, first, second)]
        self.kernels = nn.Parameter(torch.cat(rows), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        """``[n, 3, 1 or 2, height, width]`` in, tokens ``[n, patches, width]`` out."""
        frames, side, kernel = x.shape[2], self.side, self.kernel
        grid = x.reshape(-1, 3, frames, side, kernel, side, kernel)
        patches = grid.permute(0, 3, 5, 2, 1, 4, 6).reshape(-1, side * side, frames * 3 * kernel * kernel)
        rows = self.kernels.shape[0] // 3
        return patches @ self.kernels[(frames - 1) * rows : (2 * frames - 1) * rows]


class PooledAttention(nn.Module):
    """``Attention`` in which one token asks and all are asked."""

    def __init__(self, attention: Attention) -> None:
        super().__init__()
        width = attention.out.in_features
        self.heads = attention.heads
        self.causal = attention.causal
        self.q = _linear(attention.qkv.weight[:width], attention.qkv.bias[:width])
        self.kv = _linear(attention.qkv.weight[width:], attention.qkv.bias[width:])
        self.out = attention.out
        self.bias_k = attention.bias_k
        self.bias_v = attention.bias_v

    def forward(self, x: Tensor, index: Tensor | None) -> Tensor:
        """Tokens ``[n, length, width]`` in, the pooled one ``[n, 1, width]`` out."""
        query = by_head(self.q(pick(x, index)), self.heads)
        key, value = (by_head(part, self.heads) for part in self.kv(x).chunk(2, -1))
        key, value = append_row(key, self.bias_k), append_row(value, self.bias_v)
        mask = None
        if self.causal and index is not None:
            mask = (torch.arange(x.shape[1], device=x.device) <= index[:, None])[:, None, None]
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        out: Tensor = self.out(mixed.transpose(1, 2).flatten(2))
        return out


class PooledBlock(nn.Module):
    """``Block`` whose output is the pooled token alone."""

    def __init__(self, block: Block) -> None:
        super().__init__()
        self.norm_1 = block.norm_1
        self.attn = PooledAttention(block.attn)
        self.norm_2 = block.norm_2
        self.mlp = block.mlp

    def forward(self, x: Tensor, index: Tensor | None = None) -> Tensor:
        """Tokens ``[n, length, width]`` in, ``[n, 1, width]`` out: the token at ``index`` ``[n]``, or the first."""
        pooled = pick(x, index) + self.attn(self.norm_1(x), index)
        out: Tensor = pooled + self.mlp(self.norm_2(pooled))
        return out


def _shallow(module: AnyModule) -> AnyModule:
    """A copy whose children and parameters can be replaced without touching the original's."""
    new = copy.copy(module)
    for name in ("_modules", "_parameters", "_buffers"):
        new.__dict__[name] = dict(module.__dict__[name])
    return new


def _linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    layer.weight = nn.Parameter(weight.detach(), requires_grad=False)
    if bias is not None:
        layer.bias = nn.Parameter(bias.detach(), requires_grad=False)
    return layer


def _fold(norm: nn.LayerNorm, linear: nn.Linear) -> nn.Linear:
    if not norm.elementwise_affine:
        return linear
    weight, gain, shift = linear.weight.double(), norm.weight.double(), norm.bias.double()
    bias = weight @ shift
    if linear.bias is not None:
        bias = bias + linear.bias.double()
    dtype = linear.weight.dtype
    return _linear((weight * gain).to(dtype), bias.to(dtype))


def _bare(norm: nn.LayerNorm) -> nn.LayerNorm:
    return nn.LayerNorm(norm.normalized_shape, eps=norm.eps, elementwise_affine=False)
