"""ImageBind at any size: six towers, and the key format of the released checkpoint.

Girdhar et al., "ImageBind: One Embedding Space To Bind Them All" (CVPR 2023). Every tower is a pre-norm transformer
(``layers.TransformerTower``); they differ in how they cut their input into tokens. The number of attention heads cannot
be read from the shapes of the weights: it is known for the released widths and must be given for others.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from slimbind.errors import CheckpointError
from slimbind.towers.keys import Config, Family, Layout, Rules, Shapes, affine, check_heads, copy, depth_of, require
from slimbind.towers.layers import FrameStem, PatchStem, TokenStem, TransformerTower, WindowStem

MODALITIES = ("vision", "text", "audio", "depth", "thermal", "imu")

KNOWN_HEADS = {1280: 16, 1024: 16, 768: 12, 512: 8, 384: 8}

NORM_EPS = 1e-6
STEM_NORM_EPS = 1e-5

AUDIO_SIZE = (128, 204)
IMU_CHANNELS = 6
IMU_WINDOW = 8

_MASK = "modality_preprocessors.text.mask"
_STEMS = {
    "vision": "rgbt_stem.proj.1",
    "text": "token_embedding",
    "audio": "rgbt_stem.proj",
    "depth": "depth_stem.proj",
    "thermal": "rgbt_stem.proj",
    "imu": "imu_stem.proj",
}
_PATCH_STRIDES = {"audio": 10, "depth": 16, "thermal": 16}


def claims(shapes: Shapes) -> bool:
    """Whether a checkpoint has the released key format."""
    return any(key.startswith(("modality_trunks.", "modality_preprocessors.")) for key in shapes)


def read(shapes: Shapes, config: Mapping[str, Any] | None) -> Layout:
    """Find the towers of a checkpoint: all six, or those that are there.

    ``config`` may hold ``<modality>_num_heads`` (and ``_embed_dim``, ``_num_blocks``, ``out_embed_dim``, which are then
    compared with the shapes).

    Raises:
        CheckpointError: a key is missing, the heads are not known, or the config does not fit.
    """
    found = [m for m in MODALITIES if any(key.startswith(f"modality_trunks.{m}.") for key in shapes)]
    if not found:
        raise CheckpointError(
            "the checkpoint has ImageBind's key format but no modality_trunks.<modality> keys",
            hint="check that the file is complete",
        )
    configs = {modality: _config(modality, shapes, config or {}) for modality in found}
    rules = {modality: _rules(modality, configs[modality]) for modality in found}
    layout = Layout(configs=configs, rules=rules)
    if "text" in found:
        layout.recomputed[_MASK] = is_causal_mask
        length = configs["text"]["tokens"]
        if shapes.get(_MASK, (length, length)) != (length, length):
            raise CheckpointError(
                f"the checkpoint's {_MASK!r} has shape {list(shapes[_MASK])}; its text tower has {length} positions",
                hint="the file is damaged or of another model",
            )
    return layout


def is_causal_mask(mask: Tensor) -> bool:
    """Whether an attention mask ``[length, length]`` forbids exactly what comes later."""
    return torch.equal(mask.float(), torch.full(mask.shape, -math.inf).triu(1))


def build(modality: str, config: Config) -> TransformerTower:
    """A tower with random weights, on the default device."""
    width = int(config["width"])
    kernel = int(config.get("kernel", 0))
    stem: nn.Module
    if modality == "vision":
        stem = FrameStem(int(config["size"]), width, kernel)
    elif modality == "text":
        stem = TokenStem(int(config["vocabulary"]), width)
    elif modality == "imu":
        stem = WindowStem(IMU_CHANNELS, int(config["length"]), width, kernel, STEM_NORM_EPS)
    else:
        height, breadth = config["size"]
        stem = PatchStem(
            int(config["channels"]), (int(height), int(breadth)), width, kernel, int(config["stride"]), STEM_NORM_EPS
        )
    return TransformerTower("imagebind", modality, config, stem, logit_scale=modality != "vision")


def _config(modality: str, shapes: Shapes, given: Mapping[str, Any]) -> Config:
    before, trunk = f"modality_preprocessors.{modality}", f"modality_trunks.{modality}.blocks"
    positions = before + (".pos_embed" if modality in ("text", "imu") else ".pos_embedding_helper.pos_embed")
    _, tokens, width = require(shapes, positions, 3)
    kernel_shape = require(shapes, f"{before}.{_STEMS[modality]}.weight", _stem_axes(modality))
    head = {"text": "proj.1", "imu": "3"}.get(modality, "2")
    found: Config = {
        "width": width,
        "heads": 0,
        "depth": depth_of(shapes, trunk),
        "hidden": require(shapes, f"{trunk}.0.mlp.fc1.weight", 2)[0],
        "dim": require(shapes, f"modality_heads.{modality}.{head}.weight", 2)[0],
        "tokens": tokens,
        "activation": "gelu",
        "eps": NORM_EPS,
        "norm_pre": modality == "vision",
        "bias_kv": modality not in ("vision", "text"),
    }
    found["heads"] = _heads(modality, width, given)
    for ours, theirs in (("width", "embed_dim"), ("depth", "num_blocks")):
        _compare(f"{modality}_{theirs}", found[ours], given)
    _compare("out_embed_dim", found["dim"], given)
    return found | _stem_config(modality, kernel_shape, tokens)


def _stem_axes(modality: str) -> int:
    return {"vision": 5, "text": 2, "imu": 2}.get(modality, 4)


def _stem_config(modality: str, shape: tuple[int, ...], tokens: int) -> Config:
    if modality == "text":
        return {"vocabulary": shape[0]}
    if modality == "imu":
        return {"kernel": IMU_WINDOW, "length": (tokens - 1) * IMU_WINDOW}
    kernel = shape[-1]
    if modality == "vision":
        return {"kernel": kernel, "size": math.isqrt(tokens - 1) * kernel}
    stride = _PATCH_STRIDES[modality]
    side = math.isqrt(tokens - 1) * stride
    size = list(AUDIO_SIZE) if modality == "audio" else [side, side]
    return {"channels": shape[1], "kernel": kernel, "stride": stride, "size": size}


def _heads(modality: str, width: int, given: Mapping[str, Any]) -> int:
    key = f"{modality}_num_heads"
    heads = given.get(key, KNOWN_HEADS.get(width))
    if heads is None:
        raise CheckpointError(
            f"the number of attention heads of {modality} (width {width}) cannot be read from the weights and is only "
            f"known for the widths {', '.join(map(str, sorted(KNOWN_HEADS)))}",
            hint=f'give a config with "{key}"',
        )
    return check_heads(key, heads, width)


def _compare(key: str, found: int, given: Mapping[str, Any]) -> None:
    if key in given and given[key] != found:
        raise CheckpointError(
            f"the config's {key} is {given[key]!r}, but the checkpoint's weights say {found}",
            hint="use the config that belongs to this checkpoint",
        )


def _rules(modality: str, config: Config) -> Rules:
    before, trunk = f"modality_preprocessors.{modality}", f"modality_trunks.{modality}"
    head, after = f"modality_heads.{modality}", f"modality_postprocessors.{modality}"
    stem = f"{before}.{_STEMS[modality]}"
    rules: Rules = {}
    if modality == "text":
        rules["stem.embedding.weight"] = copy(f"{stem}.weight")
        rules["pos_embed"] = copy(f"{before}.pos_embed")
    else:
        rules["stem.proj.weight"] = copy(f"{stem}.weight")
        rules["cls_token"] = copy(f"{before}.cls_token")
        helper = "" if modality == "imu" else "pos_embedding_helper."
        rules["pos_embed"] = copy(f"{before}.{helper}pos_embed")
        if modality == "vision":
            rules |= affine("norm_pre", f"{trunk}.pre_transformer_layer.0")
        else:
            rules |= affine("stem.norm", stem.removesuffix("proj") + "norm_layer")
    for number in range(config["depth"]):
        ours, theirs = f"blocks.{number}", f"{trunk}.blocks.{number}"
        for layer in ("norm_1", "norm_2", "mlp.fc1", "mlp.fc2"):
            rules |= affine(f"{ours}.{layer}", f"{theirs}.{layer}")
        rules |= affine(f"{ours}.attn.out", f"{theirs}.attn.out_proj")
        for name in ("weight", "bias"):
            rules[f"{ours}.attn.qkv.{name}"] = copy(f"{theirs}.attn.in_proj_{name}")
        if config["bias_kv"]:
            for name in ("bias_k", "bias_v"):
                rules[f"{ours}.attn.{name}"] = copy(f"{theirs}.attn.{name}")
    norm, proj = {"text": ("proj.0", "proj.1"), "imu": ("0", "3")}.get(modality, ("0", "2"))
    rules |= affine("head.norm", f"{head}.{norm}")
    rules["head.proj.weight"] = copy(f"{head}.{proj}.weight")
    if modality != "vision":
        rules["log_logit_scale"] = copy(f"{after}.1.log_logit_scale")
    return rules


FAMILY = Family(name="imagebind", build=build, claims=claims, read=read)
