"""The blocks that every transformer tower is made of, and the tower itself.

Attribute names are the keys of the split weights and are relied on by quantization: ``stem``, ``cls_token``,
``pos_embed``, ``norm_pre``, ``blocks.N.{norm_1, attn.qkv, attn.out, norm_2, mlp.fc1, mlp.act, mlp.fc2}`` and
``head.{norm, proj}``. Every layer is written so that it traces with any batch and, for text, any length.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MAX_LOGIT_SCALE = 100.0


class QuickGELU(nn.Module):
    """``x * sigmoid(1.702 x)``: the activation of OpenAI's CLIP."""

    def forward(self, x: Tensor) -> Tensor:
        """Any shape in, the same shape out."""
        return x * torch.sigmoid(1.702 * x)


ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {"gelu": nn.GELU, "quick_gelu": QuickGELU}


def append_row(x: Tensor, row: Tensor | None) -> Tensor:
    """Append ``row`` ``[1, 1, heads * size]`` to ``x`` ``[n, heads, length, size]``, the same for every item."""
    if row is None:
        return x
    shaped = row.reshape(1, x.shape[1], 1, x.shape[3])
    return torch.cat([x, shaped.expand(x.shape[0], -1, -1, -1)], dim=2)


def by_head(x: Tensor, heads: int) -> Tensor:
    """Tokens ``[n, length, width]`` as ``[n, heads, length, width / heads]``."""
    return torch.unflatten(x, -1, (heads, -1)).transpose(1, 2)


class Attention(nn.Module):
    """Multi-head self-attention with one joined projection for queries, keys and values.

    With ``bias_kv`` a learned key and value, the same for every item, are attended to beside the tokens.
    """

    def __init__(self, width: int, heads: int, *, causal: bool = False, bias_kv: bool = False) -> None:
        super().__init__()
        if causal and bias_kv:
            raise ValueError("attention is either causal or has a bias key and value, not both")
        self.heads = heads
        self.causal = causal
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.bias_k = nn.Parameter(torch.randn(1, 1, width) * 0.02) if bias_kv else None
        self.bias_v = nn.Parameter(torch.randn(1, 1, width) * 0.02) if bias_kv else None

    def forward(self, x: Tensor) -> Tensor:
        """Tokens ``[n, length, width]`` in and out."""
        # cut first, then turned one by one: an engine does these turns inside of its attention
        query, key, value = (by_head(part, self.heads) for part in self.qkv(x).chunk(3, -1))
        key, value = append_row(key, self.bias_k), append_row(value, self.bias_v)
        mixed = F.scaled_dot_product_attention(query, key, value, is_causal=self.causal)
        out: Tensor = self.out(mixed.transpose(1, 2).flatten(2))
        return out


class Mlp(nn.Module):
    """Two linear layers with an activation between them."""

    def __init__(self, width: int, hidden: int, activation: str) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.act = ACTIVATIONS[activation]()
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """Tokens ``[..., width]`` in and out."""
        out: Tensor = self.fc2(self.act(self.fc1(x)))
        return out


class Block(nn.Module):
    """One pre-norm transformer block: attention, then an MLP, each added to what came in."""

    def __init__(
        self, width: int, heads: int, hidden: int, activation: str, eps: float, *, causal: bool, bias_kv: bool
    ) -> None:
        super().__init__()
        self.norm_1 = nn.LayerNorm(width, eps=eps)
        self.attn = Attention(width, heads, causal=causal, bias_kv=bias_kv)
        self.norm_2 = nn.LayerNorm(width, eps=eps)
        self.mlp = Mlp(width, hidden, activation)

    def forward(self, x: Tensor, index: Tensor | None = None) -> Tensor:
        """Tokens ``[n, length, width]`` in and out; ``index`` is for the blocks that need the pooled position."""
        x = x + self.attn(self.norm_1(x))
        out: Tensor = x + self.mlp(self.norm_2(x))
        return out


class Head(nn.Module):
    """LayerNorm, then a projection without bias into the embedding space."""

    def __init__(self, width: int, dim: int, eps: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, eps=eps)
        self.proj = nn.Linear(width, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """``[n, width]`` in, ``[n, dim]`` out."""
        out: Tensor = self.proj(self.norm(x))
        return out


class PatchStem(nn.Module):
    """Cut a picture (or a spectrogram) into patches by a convolution; normalise each where the model does."""

    def __init__(
        self, channels: int, size: tuple[int, int], width: int, kernel: int, stride: int, norm_eps: float | None
    ) -> None:
        super().__init__()
        self.input_shape = (channels, *size)
        self.tokens = math.prod((side - kernel) // stride + 1 for side in size)
        self.proj = nn.Conv2d(channels, width, kernel, stride=stride, bias=False)
        self.norm = nn.LayerNorm(width, eps=norm_eps) if norm_eps is not None else None

    def forward(self, x: Tensor) -> Tensor:
        """``[n, channels, height, width]`` in, tokens ``[n, patches, width]`` out."""
        tokens: Tensor = self.proj(x).flatten(2).transpose(1, 2)
        return tokens if self.norm is None else self.norm(tokens)


class FrameStem(nn.Module):
    """Cut one or two frames into patches by a convolution over both; one frame is taken as a film of two equal ones."""

    def __init__(self, size: int, width: int, kernel: int) -> None:
        super().__init__()
        self.input_shape = (3, 1, size, size)
        self.tokens = (size // kernel) ** 2
        self.kernel = kernel
        self.proj = nn.Conv3d(3, width, (2, kernel, kernel), stride=(2, kernel, kernel), bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """``[n, 3, 1 or 2, height, width]`` in, tokens ``[n, patches, width]`` out."""
        if x.shape[2] == 1:
            x = x.repeat(1, 1, 2, 1, 1)
        tokens: Tensor = self.proj(x).flatten(2).transpose(1, 2)
        return tokens


class WindowStem(nn.Module):
    """Cut a recording into windows without overlap: linear, then LayerNorm."""

    def __init__(self, channels: int, length: int, width: int, kernel: int, norm_eps: float) -> None:
        super().__init__()
        self.input_shape = (channels, length)
        self.tokens = length // kernel
        self.kernel = kernel
        self.proj = nn.Linear(channels * kernel, width, bias=False)
        self.norm = nn.LayerNorm(width, eps=norm_eps)

    def forward(self, x: Tensor) -> Tensor:
        """``[n, channels, length]`` in, tokens ``[n, length / kernel, width]`` out."""
        windows = torch.unflatten(x, 2, (-1, self.kernel)).transpose(1, 2).flatten(2)
        tokens: Tensor = self.norm(self.proj(windows))
        return tokens


class TokenStem(nn.Module):
    """Look up the vectors of token ids."""

    def __init__(self, vocabulary: int, width: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)

    def forward(self, ids: Tensor) -> Tensor:
        """Ids ``[n, length]`` in, tokens ``[n, length, width]`` out."""
        tokens: Tensor = self.embedding(ids)
        return tokens


def end_of_text(ids: Tensor) -> Tensor:
    """Where each text ends, ``[n]``: the first place of the greatest id, which is the end mark.

    Written without argmax, whose choice among equals is left open by most engines.
    """
    places = torch.arange(ids.shape[1], device=ids.device)
    is_end = ids == ids.amax(dim=1, keepdim=True)
    return torch.where(is_end, places, ids.shape[1]).amin(dim=1)


def pick(tokens: Tensor, index: Tensor | None) -> Tensor:
    """One token of each item, ``[n, 1, width]``: the first, or the one at ``index`` ``[n]``."""
    if index is None:
        return tokens[:, :1]
    return tokens.gather(1, index[:, None, None].expand(-1, 1, tokens.shape[-1]))


def logit_scale_of(logarithm: Tensor) -> float:
    """The logit scale whose learned logarithm this is: ``exp``, at most 100."""
    return min(math.exp(float(logarithm)), MAX_LOGIT_SCALE)


class Tower(nn.Module):
    """The network of one modality: ``forward`` gives unit vectors, ``forward_raw`` keeps the logit scale in.

    Attributes: ``family``, ``modality``, ``config`` (JSON-able, enough to build the tower again), ``dim``.
    """

    def __init__(self, family: str, modality: str, config: dict[str, Any], *, logit_scale: bool) -> None:
        super().__init__()
        self.family = family
        self.modality = modality
        self.config = config
        self.dim = int(config["dim"])
        start = torch.tensor(math.log(1 / 0.07))
        self.log_logit_scale = nn.Parameter(start) if logit_scale else None

    def features(self, x: Tensor) -> Tensor:
        """The embeddings ``[n, dim]`` before they are normalised."""
        raise NotImplementedError

    def example(self, batch: int = 2) -> Tensor:
        """A random input of the right shape and type, for tracing and timing."""
        raise NotImplementedError

    @property
    def dynamic_axes(self) -> dict[int, str]:
        """The axes of the input whose size may change, with a name for each."""
        return {0: "batch"}

    @property
    def logit_scale(self) -> float:
        """What the unit vectors are multiplied by in ``forward_raw``: ``exp(log_logit_scale)``, at most 100."""
        if self.log_logit_scale is None:
            return 1.0
        return logit_scale_of(self.log_logit_scale.detach())

    def forward(self, x: Tensor) -> Tensor:
        """The input of one modality in, unit vectors ``[n, dim]`` out."""
        return F.normalize(self.features(x), dim=-1)

    def forward_raw(self, x: Tensor) -> Tensor:
        """Like ``forward``, but each vector has the length ``logit_scale``, as the reference models return it."""
        return self.forward(x) * self.logit_scale


class TransformerTower(Tower):
    """A transformer over patches, windows or token ids, pooled at one token and projected.

    ``config``: ``width``, ``heads``, ``depth``, ``hidden`` (of the MLP), ``dim``, ``tokens`` (positions),
    ``activation``, ``eps`` (of the LayerNorms), ``norm_pre`` (a LayerNorm before the blocks), ``bias_kv``. Texts are
    causal and pooled at their end, all else has a class token in front and is pooled there.
    """

    def __init__(
        self, family: str, modality: str, config: dict[str, Any], stem: nn.Module, *, logit_scale: bool
    ) -> None:
        super().__init__(family, modality, config, logit_scale=logit_scale)
        width, eps = int(config["width"]), float(config["eps"])
        if modality != "text" and stem.tokens != int(config["tokens"]) - 1:
            raise ValueError(f"it has {config['tokens']} positions for {stem.tokens} tokens and one of its class")
        self.is_text = modality == "text"
        self.pools_last = False  # whether the last block gives the pooled token alone (see ``simplify``)
        self.stem = stem
        self.cls_token = None if self.is_text else nn.Parameter(torch.randn(1, 1, width) * 0.02)
        self.pos_embed = nn.Parameter(torch.randn(1, int(config["tokens"]), width) * 0.02)
        self.norm_pre = nn.LayerNorm(width, eps=eps) if config["norm_pre"] else None
        self.blocks = nn.ModuleList(
            Block(
                width,
                int(config["heads"]),
                int(config["hidden"]),
                str(config["activation"]),
                eps,
                causal=self.is_text,
                bias_kv=bool(config["bias_kv"]),
            )
            for _ in range(int(config["depth"]))
        )
        self.head = Head(width, self.dim, eps)

    def embed(self, x: Tensor) -> Tensor:
        """The tokens ``[n, length, width]`` that go into the first block."""
        tokens: Tensor = self.stem(x)
        if self.cls_token is None:
            tokens = tokens + self.pos_embed[:, : tokens.shape[1]]
        else:
            cls = self.cls_token.expand(tokens.shape[0], -1, -1)
            tokens = torch.cat([cls, tokens], dim=1) + self.pos_embed
        return tokens if self.norm_pre is None else self.norm_pre(tokens)

    def features(self, x: Tensor) -> Tensor:
        """The embeddings ``[n, dim]`` before they are normalised."""
        index = end_of_text(x) if self.is_text else None
        tokens = self.embed(x)
        for block in self.blocks:
            tokens = block(tokens, index)
        if not self.pools_last:
            tokens = pick(tokens, index)
        out: Tensor = self.head(tokens[:, 0])
        return out

    def example(self, batch: int = 2) -> Tensor:
        """A random input of the right shape and type, for tracing and timing."""
        if self.is_text:
            length = min(9, int(self.config["tokens"]))
            vocabulary = int(self.config["vocabulary"])
            ids = torch.randint(1, vocabulary - 1, (batch, length), dtype=torch.int32)
            ids[:, -1] = vocabulary - 1
            return ids
        return torch.randn(batch, *self.stem.input_shape)  # type: ignore[misc]

    @property
    def dynamic_axes(self) -> dict[int, str]:
        """The axes of the input whose size may change, with a name for each."""
        if self.is_text:
            return {0: "batch", 1: "length"}
        return {0: "batch", 2: "frames"} if len(self.stem.input_shape) == 4 else {0: "batch"}  # type: ignore[arg-type]
