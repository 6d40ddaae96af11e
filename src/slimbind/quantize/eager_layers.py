"""Transformer towers rebuilt from modules that PyTorch's eager-mode quantization can swap, as in the ImageBind paper.

The split towers have attention with one joined linear layer, sums written with ``+``, and no marks where numbers become
quantized. Eager mode sees modules only: attention has to be ``nn.MultiheadAttention`` (dynamic: its two projections are
not seen and stay in float32) or its quantizable twin (static), sums have to be ``FloatFunctional``, and stubs say
where quantization begins and ends. The rebuilt towers share the weights of the tower they are made from.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.ao.nn.quantizable import MultiheadAttention as QuantizableAttention
from torch.ao.nn.quantized import FloatFunctional
from torch.ao.quantization import DeQuantStub, QuantStub

from slimbind.towers.layers import Attention, Block, Mlp, QuickGELU, Tower, TransformerTower, end_of_text

# Where the released model was trained with stochastic depth. It does nothing when embedding, but the paper's static
# recipe wraps it, and the wrapped module costs one more rounding.
_DROP_PATH = frozenset({("imagebind", "audio"), ("imagebind", "imu")})


class SplitAttention(nn.Module):
    """Attention as an ``nn.MultiheadAttention``, which dynamic quantization passes over. Length first."""

    def __init__(self, old: Attention) -> None:
        super().__init__()
        width, has_bias_kv = old.out.in_features, old.bias_k is not None
        self.mha = nn.MultiheadAttention(width, old.heads, add_bias_kv=has_bias_kv, device="meta")
        assert isinstance(old.qkv.weight, nn.Parameter)
        self.mha.in_proj_weight, self.mha.in_proj_bias = old.qkv.weight, old.qkv.bias
        self.mha.out_proj.weight, self.mha.out_proj.bias = old.out.weight, old.out.bias
        self.mha.bias_k, self.mha.bias_v = old.bias_k, old.bias_v
        self.causal = old.causal

    def forward(self, x: Tensor) -> Tensor:
        """Tokens ``[length, n, width]`` in and out."""
        out: Tensor = self.mha(x, x, x, need_weights=False, attn_mask=_mask(x, self.causal))[0]
        return out


class StaticAttention(nn.Module):
    """Attention as PyTorch's quantizable one: four quantized linear layers around a softmax in float. Length first."""

    def __init__(self, old: Attention) -> None:
        super().__init__()
        width, has_bias_kv = old.out.in_features, old.bias_k is not None
        self.mha = QuantizableAttention(width, old.heads, add_bias_kv=has_bias_kv, device="meta")
        parts = zip(old.qkv.weight.chunk(3), old.qkv.bias.chunk(3), strict=True)
        for linear, (weight, bias) in zip(
            (self.mha.linear_Q, self.mha.linear_K, self.mha.linear_V), parts, strict=True
        ):
            linear.weight = nn.Parameter(weight, requires_grad=False)
            linear.bias = nn.Parameter(bias, requires_grad=False)
        self.mha.out_proj.weight, self.mha.out_proj.bias = old.out.weight, old.out.bias
        self.mha.bias_k, self.mha.bias_v = old.bias_k, old.bias_v
        self.causal = old.causal

    def forward(self, x: Tensor) -> Tensor:
        """Tokens ``[length, n, width]`` in and out."""
        out: Tensor = self.mha(x, x, x, need_weights=False, attn_mask=_mask(x, self.causal))[0]
        return out


def _mask(x: Tensor, causal: bool) -> Tensor | None:
    return torch.full((x.shape[0], x.shape[0]), -torch.inf).triu(1) if causal else None


class Wrapped(nn.Module):
    """A module that needs float numbers, between a dequantization and a new quantization."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.dequant, self.inner, self.quant = DeQuantStub(), inner, QuantStub()

    def forward(self, x: Tensor) -> Tensor:
        """Any shape in, what ``inner`` makes of it out."""
        out: Tensor = self.quant(self.inner(self.dequant(x)))
        return out


class EagerBlock(nn.Module):
    """A pre-norm block, length first. ``static``: sums and wrapped modules as eager mode wants them."""

    def __init__(self, old: Block, *, static: bool, drop_path: bool) -> None:
        super().__init__()
        self.norm_1, self.norm_2 = old.norm_1, old.norm_2
        self.attn = StaticAttention(old.attn) if static else SplitAttention(old.attn)
        self.mlp = old.mlp
        self.add_1: Any = FloatFunctional() if static else None
        self.add_2: Any = FloatFunctional() if static else None
        self.drop_path = Wrapped(nn.Identity()) if static and drop_path else None
        if static and isinstance(old.mlp.act, QuickGELU):  # a product of quantized numbers: eager mode has no module
            self.mlp = _with_activation(old.mlp, Wrapped(old.mlp.act))

    def forward(self, x: Tensor) -> Tensor:
        """Tokens ``[length, n, width]`` in and out."""
        x = self._join(x, self.attn(self.norm_1(x)), 1)
        return self._join(x, self.mlp(self.norm_2(x)), 2)

    def _join(self, x: Tensor, y: Tensor, number: int) -> Tensor:
        if self.drop_path is not None:
            y = self.drop_path(y)
        if self.add_1 is None:
            return x + y
        total: Tensor = (self.add_1 if number == 1 else self.add_2).add(x, y)
        return total


def _with_activation(mlp: Mlp, act: nn.Module) -> Mlp:
    new = copy.copy(mlp)
    new.__dict__["_modules"] = dict(mlp._modules) | {"act": act}
    return new


class EagerTower(TransformerTower):
    """A transformer tower in the form that eager mode can quantize; the same embeddings before it has been.

    Args:
        old: the tower as it was split (``simplify`` would hide its attention from eager mode).
        static: with stubs and functional modules, for static quantization.
    """

    def __init__(self, old: TransformerTower, *, static: bool) -> None:
        Tower.__init__(self, old.family, old.modality, old.config, logit_scale=False)  # its parts are the old one's
        self.log_logit_scale = old.log_logit_scale
        self.is_text, self.static = old.is_text, static
        self.pools_last = False
        self.stem, self.cls_token, self.pos_embed, self.norm_pre = old.stem, old.cls_token, old.pos_embed, old.norm_pre
        drops = (old.family, old.modality) in _DROP_PATH
        self.blocks = nn.ModuleList(
            EagerBlock(block, static=static, drop_path=drops and number > 0)  # the rate grows from 0 at the first
            for number, block in enumerate(old.blocks)
            if isinstance(block, Block)
        )
        self.head = old.head
        if static:
            self.quant, self.dequant, self.quant_pos = QuantStub(), DeQuantStub(), QuantStub()
            self.quant_cls = None if old.cls_token is None else QuantStub()
            self.cat, self.add = FloatFunctional(), FloatFunctional()

    def features(self, x: Tensor) -> Tensor:
        """The embeddings ``[n, dim]`` before they are normalised, which is done on dequantized values."""
        tokens = self._embed_static(x) if self.static else self._embed(x)
        if self.norm_pre is not None:
            tokens = self.norm_pre(tokens)
        tokens = tokens.transpose(0, 1)
        for block in self.blocks:
            tokens = block(tokens)
        tokens = tokens.transpose(0, 1)
        rows = torch.arange(tokens.shape[0])
        places = end_of_text(x) if self.is_text else torch.zeros_like(rows)
        out: Tensor = self.head(tokens[rows, places])
        return self.dequant(out) if self.static else out

    def _embed(self, x: Tensor) -> Tensor:
        tokens: Tensor = self.stem(x)
        if self.cls_token is None:
            return tokens + self.pos_embed[:, : tokens.shape[1]]
        return torch.cat([self.cls_token.expand(tokens.shape[0], -1, -1), tokens], dim=1) + self.pos_embed

    def _embed_static(self, x: Tensor) -> Tensor:
        # Quantized embedding tables give float vectors; everything else is quantized before the stem.
        tokens: Tensor = self.quant(self.stem(x)) if self.is_text else self.stem(self.quant(x))
        places = self.pos_embed[:, : tokens.shape[1]]
        if self.cls_token is not None and self.quant_cls is not None:
            cls = self.quant_cls(self.cls_token.expand(tokens.shape[0], -1, -1).contiguous())
            tokens = self.cat.cat([cls, tokens], dim=1)
            places = self.pos_embed
        # Quantized sums do not broadcast.
        places = self.quant_pos(places.expand(tokens.shape[0], -1, -1).contiguous())
        total: Tensor = self.add.add(tokens, places)
        return total

    def forward(self, x: Tensor) -> Tensor:
        """The input of one modality in, unit vectors ``[n, dim]`` out."""
        return F.normalize(self.features(x), dim=-1)
