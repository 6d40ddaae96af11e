"""CLIP's ResNet image tower: three-convolution stem, anti-aliased strides, attention pooling, no batch norms left.

Radford et al., "Learning Transferable Visual Models From Natural Language Supervision" (2021), section 2.4. The batch
normalisations are folded into the convolutions when a checkpoint is read, which is exact up to rounding.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from slimbind.errors import CheckpointError
from slimbind.towers.keys import Config, Rule, Rules, Shapes, affine, check_heads, copy, depth_of, require
from slimbind.towers.layers import Tower, by_head

EXPANSION = 4
HEAD_WIDTH = 64
SHRINK = 32  # pixels per cell of the last feature map
STAGES = 4


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 convolutions and a shortcut; a stride is an average pooling, so that nothing aliases."""

    def __init__(self, inner: int, outer: int, stride: int, *, shortcut: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inner, outer // EXPANSION, 1)
        self.conv2 = nn.Conv2d(outer // EXPANSION, outer // EXPANSION, 3, padding=1)
        self.conv3 = nn.Conv2d(outer // EXPANSION, outer, 1)
        self.shortcut = nn.Conv2d(inner, outer, 1) if shortcut else None
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """``[n, inner, height, width]`` in, ``[n, outer, height / stride, width / stride]`` out."""
        y = F.relu(self.conv2(F.relu(self.conv1(x))))
        if self.stride > 1:
            y, x = F.avg_pool2d(y, self.stride), F.avg_pool2d(x, self.stride)
        x = x if self.shortcut is None else self.shortcut(x)
        return F.relu(self.conv3(y) + x)


class AttentionPool(nn.Module):
    """One attention layer in which only the mean of the feature map asks; its answer is the embedding."""

    def __init__(self, cells: int, width: int, heads: int, dim: int) -> None:
        super().__init__()
        self.heads = heads
        self.pos_embed = nn.Parameter(torch.randn(cells + 1, width) * width**-0.5)
        self.q = nn.Linear(width, width)
        self.kv = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, dim)

    def forward(self, x: Tensor) -> Tensor:
        """A feature map ``[n, width, height, width']`` in, ``[n, dim]`` out."""
        cells = x.flatten(2).transpose(1, 2)
        tokens = torch.cat([cells.mean(dim=1, keepdim=True), cells], dim=1) + self.pos_embed
        query = by_head(self.q(tokens[:, :1]), self.heads)
        key, value = (by_head(part, self.heads) for part in self.kv(tokens).chunk(2, -1))
        mixed = F.scaled_dot_product_attention(query, key, value)
        out: Tensor = self.out(mixed.transpose(1, 2).flatten(1))
        return out


class ResNetTower(Tower):
    """CLIP's ResNet.

    ``config``: ``width`` (channels after the stem), ``layers`` (blocks per stage), ``heads`` (of the pooling), ``dim``,
    ``size`` (of the input, in pixels).
    """

    def __init__(self, family: str, modality: str, config: Config) -> None:
        super().__init__(family, modality, config, logit_scale=False)
        width = int(config["width"])
        half = width // 2
        self.stem = nn.Sequential(
            nn.Conv2d(3, half, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(half, half, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(half, width, 3, padding=1),
            nn.ReLU(),
            nn.AvgPool2d(2),
        )
        stages, inner = [], width
        for stage, count in enumerate(config["layers"]):
            outer = width * EXPANSION * 2**stage
            blocks = []
            for number in range(count):
                stride = 2 if stage > 0 and number == 0 else 1
                blocks.append(Bottleneck(inner, outer, stride, shortcut=stride > 1 or inner != outer))
                inner = outer
            stages.append(nn.Sequential(*blocks))
        self.stages = nn.Sequential(*stages)
        cells = (int(config["size"]) // SHRINK) ** 2
        self.head = AttentionPool(cells, inner, int(config["heads"]), self.dim)

    def features(self, x: Tensor) -> Tensor:
        """Pictures ``[n, 3, size, size]`` in, embeddings ``[n, dim]`` before normalising out."""
        out: Tensor = self.head(self.stages(self.stem(x)))
        return out

    def example(self, batch: int = 2) -> Tensor:
        """Random pictures of the right shape."""
        size = int(self.config["size"])
        return torch.randn(batch, 3, size, size)


def config_of(shapes: Shapes, prefix: str, given: Mapping[str, Any]) -> Config:
    """Read the sizes of a ResNet off the shapes below ``prefix``; ``given`` may hold ``vision_heads``."""
    cells, channels = require(shapes, f"{prefix}attnpool.positional_embedding", 2)
    width = require(shapes, f"{prefix}layer1.0.conv1.weight", 4)[0]
    side = math.isqrt(cells - 1)
    if side * side != cells - 1:
        raise CheckpointError(
            f"the checkpoint's {prefix}attnpool.positional_embedding has {cells} rows; expected a square and one more",
            hint="the file is damaged or of another model",
        )
    heads = check_heads("vision_heads", given.get("vision_heads", width * 32 // HEAD_WIDTH), channels)
    return {
        "architecture": "resnet",
        "width": width,
        "layers": [depth_of(shapes, f"{prefix}layer{stage + 1}") for stage in range(STAGES)],
        "heads": heads,
        "dim": require(shapes, f"{prefix}attnpool.c_proj.weight", 2)[0],
        "size": side * SHRINK,
    }


def rules_of(config: Config, prefix: str) -> tuple[Rules, list[str]]:
    """The key rules below ``prefix``, and the keys that inference has no use for (counts of batches seen)."""
    rules: Rules = {}
    unused: list[str] = []

    def fold(target: str, conv: str, norm: str) -> None:
        gain, bias, mean, variance = (f"{norm}.{name}" for name in ("weight", "bias", "running_mean", "running_var"))
        rules[f"{target}.weight"] = Rule((f"{conv}.weight", gain, variance), "bn_weight")
        rules[f"{target}.bias"] = Rule((gain, bias, mean, variance), "bn_bias")
        unused.append(f"{norm}.num_batches_tracked")

    for number in range(3):
        fold(f"stem.{2 * number}", f"{prefix}conv{number + 1}", f"{prefix}bn{number + 1}")
    for stage, count in enumerate(config["layers"]):
        for block in range(count):
            ours, theirs = f"stages.{stage}.{block}", f"{prefix}layer{stage + 1}.{block}"
            for number in (1, 2, 3):
                fold(f"{ours}.conv{number}", f"{theirs}.conv{number}", f"{theirs}.bn{number}")
            if block == 0:
                fold(f"{ours}.shortcut", f"{theirs}.downsample.0", f"{theirs}.downsample.1")
    pool = f"{prefix}attnpool"
    rules["head.pos_embed"] = copy(f"{pool}.positional_embedding")
    rules |= affine("head.q", f"{pool}.q_proj") | affine("head.out", f"{pool}.c_proj")
    for name in ("weight", "bias"):
        rules[f"head.kv.{name}"] = Rule((f"{pool}.k_proj.{name}", f"{pool}.v_proj.{name}"), "concat")
    return rules, unused
