"""CLIP's two towers, from checkpoints in OpenAI's and OpenCLIP's format or in Hugging Face's.

Radford et al., "Learning Transferable Visual Models From Natural Language Supervision" (2021). The transformers are the
same as ImageBind's (``layers.TransformerTower``) with another epsilon and, in OpenAI's models, another activation. That
activation leaves no trace in the weights, so a config has to tell it: an OpenCLIP or Hugging Face config file, or one
of ``VARIANTS``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from slimbind.errors import CheckpointError
from slimbind.towers import resnet
from slimbind.towers.keys import (
    Config,
    Family,
    Layout,
    Rule,
    Rules,
    Shapes,
    affine,
    check_heads,
    copy,
    depth_of,
    require,
)
from slimbind.towers.layers import ACTIVATIONS, PatchStem, TokenStem, Tower, TransformerTower

VARIANTS: dict[str, dict[str, Any]] = {"openai": {"quick_gelu": True}, "openclip": {"quick_gelu": False}}

NORM_EPS = 1e-5
HEAD_WIDTH = 64
# Where the heads are wider than 64: ViT-H, ViT-g and ViT-bigG of OpenCLIP.
WIDE_HEADS = {("vision", 1280): 16, ("vision", 1408): 16, ("vision", 1664): 16}

_OPEN = {
    "vision": {
        "stem.proj.weight": "visual.conv1.weight",
        "cls_token": "visual.class_embedding",
        "pos_embed": "visual.positional_embedding",
        "norm_pre": "visual.ln_pre",
        "blocks": "visual.transformer.resblocks",
        "head.norm": "visual.ln_post",
        "head.proj.weight": "visual.proj",
    },
    "text": {
        "stem.embedding.weight": "token_embedding.weight",
        "pos_embed": "positional_embedding",
        "blocks": "transformer.resblocks",
        "head.norm": "ln_final",
        "head.proj.weight": "text_projection",
    },
}
_HUGGING_FACE = {
    "vision": {
        "stem.proj.weight": "vision_model.embeddings.patch_embedding.weight",
        "cls_token": "vision_model.embeddings.class_embedding",
        "pos_embed": "vision_model.embeddings.position_embedding.weight",
        "norm_pre": "vision_model.pre_layrnorm",  # the spelling of the format
        "blocks": "vision_model.encoder.layers",
        "head.norm": "vision_model.post_layernorm",
        "head.proj.weight": "visual_projection.weight",
    },
    "text": {
        "stem.embedding.weight": "text_model.embeddings.token_embedding.weight",
        "pos_embed": "text_model.embeddings.position_embedding.weight",
        "blocks": "text_model.encoder.layers",
        "head.norm": "text_model.final_layer_norm",
        "head.proj.weight": "text_projection.weight",
    },
}
_LOGIT_SCALE = "logit_scale"


def claims(shapes: Shapes) -> bool:
    """Whether a checkpoint has one of CLIP's two key formats."""
    return _is_hugging_face(shapes) or any(
        key.startswith(("visual.", "transformer.resblocks.", "token_embedding.")) for key in shapes
    )


def read(shapes: Shapes, config: Mapping[str, Any] | None) -> Layout:
    """Find the towers of a CLIP checkpoint.

    ``config`` is the content of an OpenCLIP ``open_clip_config.json``, of a Hugging Face ``config.json``, or flat:
    ``quick_gelu`` (bool) and, if need be, ``vision_heads`` and ``text_heads``.

    Raises:
        CheckpointError: a key is missing, the activation is not known, or the config does not fit or asks for a variant
            that is not supported.
    """
    hugging_face = _is_hugging_face(shapes)
    names = _HUGGING_FACE if hugging_face else _OPEN
    given = _flat(config)
    layout = Layout(configs={}, rules={})
    if not hugging_face and any(key.startswith("visual.layer1.") for key in shapes):
        layout.configs["vision"] = resnet.config_of(shapes, "visual.", given)
        layout.rules["vision"], unused = resnet.rules_of(layout.configs["vision"], "visual.")
        layout.recomputed.update({key: _anything for key in unused if key in shapes})
    elif any(key.startswith(("visual.", "vision_model.")) for key in shapes):
        _add_transformer(layout, "vision", names["vision"], shapes, given, hugging_face=hugging_face)
    if names["text"]["stem.embedding.weight"] in shapes or any(
        key.startswith((names["text"]["blocks"], "text_model.")) for key in shapes
    ):
        _add_transformer(layout, "text", names["text"], shapes, given, hugging_face=hugging_face)
        if layout.configs["text"]["logit_scale"]:
            layout.rules["text"]["log_logit_scale"] = copy(_LOGIT_SCALE)
    for key, expected in _numbers(layout).items():
        if key in shapes:
            layout.recomputed[key] = expected
    return layout


def build(modality: str, config: Config) -> Tower:
    """A tower with random weights, on the default device."""
    if config.get("architecture") == "resnet":
        return resnet.ResNetTower("clip", modality, config)
    stem: nn.Module
    if modality == "text":
        stem = TokenStem(int(config["vocabulary"]), int(config["width"]))
    else:
        size, patch = int(config["size"]), int(config["kernel"])
        stem = PatchStem(3, (size, size), int(config["width"]), patch, patch, None)
    return TransformerTower("clip", modality, config, stem, logit_scale=bool(config.get("logit_scale", False)))


def _is_hugging_face(shapes: Shapes) -> bool:
    return any(key.startswith(("vision_model.", "text_model.")) for key in shapes)


def _add_transformer(
    layout: Layout, modality: str, names: Mapping[str, str], shapes: Shapes, given: Config, *, hugging_face: bool
) -> None:
    first = "self_attn.q_proj.weight" if hugging_face else "attn.in_proj_weight"
    projection = names["head.proj.weight"]
    dim_axis = 0 if hugging_face else 1
    width = require(shapes, f"{names['blocks']}.0.{first}", 2)[1]
    tokens = require(shapes, names["pos_embed"], 2)[0]
    config: Config = {
        "width": width,
        "heads": _heads(modality, width, given),
        "depth": depth_of(shapes, names["blocks"]),
        "hidden": require(shapes, f"{names['blocks']}.0.mlp.{'fc1' if hugging_face else 'c_fc'}.weight", 2)[0],
        "dim": require(shapes, projection, 2)[dim_axis],
        "tokens": tokens,
        "activation": _activation(modality, given),
        "eps": given.get(f"{modality}_eps", NORM_EPS),
        "norm_pre": modality == "vision",
        "bias_kv": False,
    }
    if modality == "vision":
        kernel = require(shapes, names["stem.proj.weight"], 4)[-1]
        config |= {"kernel": kernel, "size": math.isqrt(max(tokens - 1, 0)) * kernel}
    else:
        config |= {
            "vocabulary": require(shapes, names["stem.embedding.weight"], 2)[0],
            # A text tower that was saved alone comes without; beside a vision tower it belongs to the model.
            "logit_scale": _LOGIT_SCALE in shapes or "vision" in layout.configs,
        }
    layout.configs[modality] = config
    layout.rules[modality] = _rules(names, config["depth"], hugging_face=hugging_face)


def _rules(names: Mapping[str, str], depth: int, *, hugging_face: bool) -> Rules:
    rules: Rules = {}
    for ours, theirs in names.items():
        if ours == "blocks":
            continue
        if ours in ("norm_pre", "head.norm"):
            rules |= affine(ours, theirs)
        elif ours == "head.proj.weight" and not hugging_face:
            rules[ours] = Rule((theirs,), "transpose")
        else:
            rules[ours] = copy(theirs)
    for number in range(depth):
        ours, theirs = f"blocks.{number}", f"{names['blocks']}.{number}"
        if hugging_face:
            layers = ("layer_norm1", "self_attn.out_proj", "layer_norm2", "mlp.fc1", "mlp.fc2")
        else:
            layers = ("ln_1", "attn.out_proj", "ln_2", "mlp.c_fc", "mlp.c_proj")
        for layer, source in zip(("norm_1", "attn.out", "norm_2", "mlp.fc1", "mlp.fc2"), layers, strict=True):
            rules |= affine(f"{ours}.{layer}", f"{theirs}.{source}")
        for name in ("weight", "bias"):
            if hugging_face:
                parts = tuple(f"{theirs}.self_attn.{part}_proj.{name}" for part in "qkv")
                rules[f"{ours}.attn.qkv.{name}"] = Rule(parts, "concat")
            else:
                rules[f"{ours}.attn.qkv.{name}"] = copy(f"{theirs}.attn.in_proj_{name}")
    return rules


def _heads(modality: str, width: int, given: Config) -> int:
    usual = WIDE_HEADS.get((modality, width), max(width // HEAD_WIDTH, 1))
    return check_heads(f"{modality}_heads", given.get(f"{modality}_heads", usual), width)


def _activation(modality: str, given: Config) -> str:
    name = given.get(f"{modality}_activation")
    if name is None:
        raise CheckpointError(
            f"the activation of CLIP's {modality} tower cannot be read from the weights",
            hint="give the model's config file, or one that says "
            '{"quick_gelu": true} for OpenAI\'s models and those trained like them, {"quick_gelu": false} for others',
        )
    if not isinstance(name, str) or name not in ACTIVATIONS:
        raise CheckpointError(
            f"the config's {modality} activation is {name!r}; allowed: {', '.join(sorted(ACTIVATIONS))}",
            hint="this variant of CLIP is not supported",
        )
    return name


def _flat(config: Mapping[str, Any] | None) -> Config:
    """One flat form for the three kinds of config: ``<modality>_{activation, heads, eps}``."""
    if not config:
        return {}
    config = _part(config, "model_cfg") or config
    flat: Config = {key: config[key] for key in ("vision_heads", "text_heads") if key in config}
    alone = {"clip_vision_model": "vision", "clip_text_model": "text"}.get(str(config.get("model_type")))
    if alone is not None:
        config = {f"{alone}_config": config}
    if any(f"{modality}_config{old}" in config for modality in ("vision", "text") for old in ("", "_dict")):
        for modality, heads in (("vision", 12), ("text", 8)):
            # Files of old versions say it in ..._config_dict, which comes first where both are there.
            part = {**_part(config, f"{modality}_config"), **_part(config, f"{modality}_config_dict")}
            # What a Hugging Face config leaves out has these values.
            flat[f"{modality}_activation"] = part.get("hidden_act", "quick_gelu")
            flat[f"{modality}_heads"] = part.get("num_attention_heads", heads)
            flat[f"{modality}_eps"] = _eps(part.get("layer_norm_eps", NORM_EPS))
        return flat
    if "vision_cfg" in config or "text_cfg" in config:
        flat |= _flat_openclip(_part(config, "vision_cfg"), _part(config, "text_cfg"))
        activation = _quick(config.get("quick_gelu", False))
        return flat | {"vision_activation": activation, "text_activation": activation}
    if "quick_gelu" in config:
        activation = _quick(config["quick_gelu"])
        flat |= {"vision_activation": activation, "text_activation": activation}
    return flat


def _flat_openclip(vision: Mapping[str, Any], text: Mapping[str, Any]) -> Config:
    usual: dict[str, tuple[Any, ...]] = {
        "pool_type": ("tok", "argmax"),
        "no_causal_mask": (False,),
        "global_average_pool": (False,),
        "act_kwargs": (None, {}),
        "hf_tokenizer_name": (None, ""),
        "tokenizer_kwargs": (None, {}),
    }
    for part in (vision, text):
        for key in ("timm_model_name", "hf_model_name"):
            if part.get(key):
                raise CheckpointError(
                    f"the config asks for a tower of another library ({key} {part[key]!r})",
                    hint="supported are CLIP's own transformers and ResNets",
                )
        for key, allowed in usual.items():
            if part.get(key, allowed[0]) not in allowed:
                raise CheckpointError(
                    f"the config's {key} is {part[key]!r}; supported: {', '.join(map(str, allowed))}",
                    hint="this variant of CLIP is not supported",
                )
    flat: Config = {}
    if "heads" in text:
        flat["text_heads"] = text["heads"]
    if "head_width" in vision and "width" in vision and isinstance(vision.get("layers"), int):
        flat["vision_heads"] = vision["width"] // check_heads("head_width", vision["head_width"], vision["width"])
    for modality, part in (("vision", vision), ("text", text)):
        if "eps" in _part(part, "norm_kwargs"):
            flat[f"{modality}_eps"] = _eps(part["norm_kwargs"]["eps"])
    return flat


def _part(config: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    part = config.get(key)
    if part is not None and not isinstance(part, Mapping):
        raise CheckpointError(f"the config's {key} is {part!r}; it must be an object", hint="correct the config")
    return part or {}


def _quick(value: object) -> str:
    if not isinstance(value, bool):
        raise CheckpointError(f"the config's quick_gelu is {value!r}; allowed: true, false", hint="correct the config")
    return "quick_gelu" if value else "gelu"


def _eps(value: object) -> float:
    if not isinstance(value, float) or not 0 < value < 1:
        raise CheckpointError(f"the config's LayerNorm epsilon is {value!r}", hint="correct the config; usual is 1e-5")
    return value


def _anything(tensor: Tensor) -> bool:
    return True


def _numbers(layout: Layout) -> dict[str, Callable[[Tensor], bool]]:
    """Keys that only repeat a size of the model, or count positions."""

    def equals(number: int) -> Callable[[Tensor], bool]:
        return lambda tensor: tensor.numel() == 1 and int(tensor) == number

    def counts(number: int) -> Callable[[Tensor], bool]:
        return lambda tensor: tensor.flatten().tolist() == list(range(number))

    checks: dict[str, Callable[[Tensor], bool]] = {}
    if "vision" in layout.configs:
        vision = layout.configs["vision"]
        checks["input_resolution"] = equals(vision["size"])
        checks["vision_model.embeddings.position_ids"] = counts(vision.get("tokens", 0))
    if "text" in layout.configs:
        text = layout.configs["text"]
        checks |= {"context_length": equals(text["tokens"]), "vocab_size": equals(text["vocabulary"])}
        checks["text_model.embeddings.position_ids"] = counts(text["tokens"])
    return checks


FAMILY = Family(name="clip", build=build, claims=claims, read=read)
