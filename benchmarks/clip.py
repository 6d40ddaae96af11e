"""CLIP ViT-B/32 with random weights, in the layouts that it is published in, and inputs for it; for benchmarks.

    from clip import inputs, open_clip_model, write_huggingface, write_open_clip, write_split
    write_split(Path("clip-split"), "balanced")  # by way of `slimbind split`
    x = inputs("vision", 16)                     # [16, 3, 224, 224]

    python benchmarks/clip.py FOLDER --weights plain   # writes FOLDER/open_clip, huggingface and split

No package registry has CLIP's trained weights. Shapes are those of OpenAI's ViT-B/32; the values are made as those of
``make_huge.py`` are: every layer keeps the scale of its input, attention is sharp, and the sets of weights
(``WEIGHTS``) are those of ``fullsize.py``: "plain", with outlier "channels", and with these "balanced". The same seed
gives the same values, and all layouts have the same ones.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

import fullsize
import torchvision_cpu
from fullsize import WEIGHTS, balance_gains
from make_huge import values_of
from slimbind import hub
from slimbind.artifact import Artifact, ModelInfo
from slimbind.media.clip_tokenizer import END, START, clip_tokenizer_json
from slimbind.towers import registry, split
from slimbind.towers.checkpoint import open_weights

NAME = "clip-vit-b-32-random"
MODEL = "ViT-B-32-quickgelu"  # open_clip's name for the shapes and the activation of OpenAI's ViT-B/32
MODALITIES = ("vision", "text")
CONTEXT = 77
DIM, LAYERS, LOGIT_SCALE = 512, 12, 100.0
_SHARED = {"depth": LAYERS, "dim": DIM, "activation": "quick_gelu", "eps": 1e-5, "bias_kv": False}
CONFIGS: dict[str, dict[str, Any]] = {
    "vision": _SHARED
    | {"width": 768, "heads": 12, "hidden": 3072, "tokens": 50, "norm_pre": True, "kernel": 32, "size": 224},
    "text": _SHARED
    | {"width": 512, "heads": 8, "hidden": 2048, "tokens": CONTEXT, "norm_pre": False}
    | {"vocabulary": 49408, "logit_scale": True},
}
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)

# A part of a tower's key, and what the two layouts call it.
_OPEN = {
    "stem.proj": "conv1",
    "stem.embedding": "token_embedding",
    "cls_token": "class_embedding",
    "pos_embed": "positional_embedding",
    "norm_pre": "ln_pre",
    "blocks": "transformer.resblocks",
    "norm_1": "ln_1",
    "norm_2": "ln_2",
    "attn.qkv.": "attn.in_proj_",
    "attn.out": "attn.out_proj",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
}
_HUGGING_FACE = {
    "stem.proj": "embeddings.patch_embedding",
    "stem.embedding": "embeddings.token_embedding",
    "cls_token": "embeddings.class_embedding",
    "pos_embed": "embeddings.position_embedding.weight",
    "norm_pre": "pre_layrnorm",  # the spelling of the format
    "blocks": "encoder.layers",
    "norm_1": "layer_norm1",
    "norm_2": "layer_norm2",
    "attn.out": "self_attn.out_proj",
}
# The names of ImageBind's checkpoint, by which `values_of` knows what a weight is for.
_ROLES = {"attn.qkv.": "attn.in_proj_", "attn.out": "attn.out_proj", "stem.embedding": "token_embedding"}


def towers(weights: str = "plain", *, depth: int | None = None, seed: int = 0) -> dict[str, dict[str, Tensor]]:
    """Modality -> the values of its tower by slimbind's names, float32.

    Args:
        weights: a name of ``WEIGHTS``.
        depth: only so many of the first blocks; all by default.
        seed: of the values.
    """
    settings = WEIGHTS[weights]
    outliers = bool(settings.get("outliers", False))
    found = {}
    for modality, config in CONFIGS.items():
        bare = registry.build("clip", modality, config | {"depth": depth or config["depth"]}).state_dict()
        roles = {key: f"clip.{modality}.{_replaced(key, _ROLES)}" for key in bare}
        tensors = {}
        for key, role in roles.items():
            rng = np.random.default_rng([seed, *role.encode()])  # values do not depend on their order
            # No norm stands in front of a text's first block: massive positions would be all that it says.
            loud = outliers and (modality, key) != ("text", "pos_embed")
            values = values_of(role, tuple(bare[key].shape), rng, outliers=loud)
            tensors[role] = torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32))
        if outliers:
            balance_gains(tensors, settings.get("balance", 0.0))
        found[modality] = {key: tensors[role] for key, role in roles.items()}
        if modality == "text":
            found[modality]["log_logit_scale"] = torch.tensor(math.log(LOGIT_SCALE))
    return found


def open_clip_layout(found: dict[str, dict[str, Tensor]]) -> dict[str, Tensor]:
    """The towers as OpenAI's and OpenCLIP's state dicts name them."""
    state = {}
    for modality, tensors in found.items():
        ends = {"vision": ("ln_post", "proj"), "text": ("ln_final", "text_projection")}[modality]
        for key, value in tensors.items():
            if key == "log_logit_scale":
                state["logit_scale"] = value
                continue
            name = ends[1] if key == "head.proj.weight" else _replaced(key, _OPEN | {"head.norm": ends[0]})
            value = value.t() if key == "head.proj.weight" else value
            value = value.reshape(value.shape[-1]) if key == "cls_token" else value
            value = value.reshape(value.shape[-2:]) if key == "pos_embed" else value
            state[f"visual.{name}" if modality == "vision" else name] = value.contiguous()
    return state


def huggingface_layout(found: dict[str, dict[str, Tensor]]) -> dict[str, Tensor]:
    """The towers as transformers' ``CLIPModel`` names them."""
    state = {}
    for modality, tensors in found.items():
        projection, norm = {
            "vision": ("visual_projection.weight", "post_layernorm"),
            "text": ("text_projection.weight", "final_layer_norm"),
        }[modality]
        for key, value in tensors.items():
            name = f"{modality}_model.{_replaced(key, _HUGGING_FACE | {'head.norm': norm})}"
            if key == "log_logit_scale":
                state["logit_scale"] = value
            elif key == "head.proj.weight":
                state[projection] = value
            elif ".attn.qkv." in key:
                for part, rows in zip("qkv", value.chunk(3), strict=True):
                    state[name.replace("attn.qkv", f"self_attn.{part}_proj")] = rows.contiguous()
            elif key in ("cls_token", "pos_embed"):
                state[name] = value.reshape(value.shape[-1] if key == "cls_token" else value.shape[-2:])
            else:
                state[name] = value
    return state


def open_clip_config(depth: int | None = None) -> dict[str, Any]:
    """What ``open_clip_config.json`` says of the model."""
    vision, text = CONFIGS["vision"], CONFIGS["text"]
    layers = depth or LAYERS
    return {
        "embed_dim": DIM,
        "quick_gelu": True,
        "vision_cfg": {"image_size": vision["size"], "layers": layers, "width": vision["width"], "patch_size": 32},
        "text_cfg": {
            "context_length": CONTEXT,
            "vocab_size": text["vocabulary"],
            "width": text["width"],
            "heads": text["heads"],
            "layers": layers,
        },
    }


def write_open_clip(folder: Path, weights: str = "plain", *, depth: int | None = None, seed: int = 0) -> Path:
    """A folder as OpenCLIP publishes it; ``open_clip.create_model("local-dir:" + folder)`` reads it."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(open_clip_layout(towers(weights, depth=depth, seed=seed)), folder / "open_clip_model.safetensors")
    preparation = {"mean": MEAN, "std": STD, "interpolation": "bicubic", "resize_mode": "shortest"}
    _write_json(folder / "open_clip_config.json", {"model_cfg": open_clip_config(depth), "preprocess_cfg": preparation})
    return folder


def write_huggingface(folder: Path, weights: str = "plain", *, depth: int | None = None, seed: int = 0) -> Path:
    """A folder as transformers writes it, with slimbind's own CLIP tokenizer."""
    folder.mkdir(parents=True, exist_ok=True)
    state = huggingface_layout(towers(weights, depth=depth, seed=seed))
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    parts = {
        f"{modality}_config": {
            "hidden_size": config["width"],
            "intermediate_size": config["hidden"],
            "num_attention_heads": config["heads"],
            "num_hidden_layers": depth or LAYERS,
            "hidden_act": "quick_gelu",
            "layer_norm_eps": config["eps"],
            "projection_dim": DIM,
            "model_type": f"clip_{modality}_model",
        }
        for modality, config in CONFIGS.items()
    }
    parts["vision_config"] |= {"image_size": 224, "patch_size": 32, "num_channels": 3}
    ids = {"bos_token_id": 49406, "eos_token_id": 49407, "pad_token_id": 49407}
    parts["text_config"] |= {"vocab_size": 49408, "max_position_embeddings": CONTEXT} | ids
    told = {"architectures": ["CLIPModel"], "model_type": "clip", "projection_dim": DIM, "torch_dtype": "float32"}
    _write_json(folder / "config.json", told | parts | {"logit_scale_init_value": math.log(LOGIT_SCALE)})
    steps = ("resize", "center_crop", "rescale", "normalize", "convert_rgb")
    preparation = {f"do_{step}": True for step in steps} | {
        "image_processor_type": "CLIPImageProcessor",
        "feature_extractor_type": "CLIPFeatureExtractor",
        "size": {"shortest_edge": 224},
        "crop_size": {"height": 224, "width": 224},
        "resample": 3,
        "rescale_factor": 1 / 255,
        "image_mean": MEAN,
        "image_std": STD,
    }
    _write_json(folder / "preprocessor_config.json", preparation)
    tokenizer = json.loads(clip_tokenizer_json())
    # slimbind cleans text itself; here the tokenizer has to.
    clean = [{"type": "NFC"}, {"type": "Replace", "pattern": {"Regex": r"\s+"}, "content": " "}, {"type": "Lowercase"}]
    _write_json(folder / "tokenizer.json", tokenizer | {"normalizer": {"type": "Sequence", "normalizers": clean}})
    specials = {"bos_token": START, "eos_token": END, "unk_token": END, "pad_token": END}
    _write_json(folder / "special_tokens_map.json", specials)
    about = {"tokenizer_class": "CLIPTokenizer", "model_max_length": CONTEXT, "do_lower_case": True}
    _write_json(folder / "tokenizer_config.json", about | specials)
    return folder


def write_split(
    folder: Path,
    weights: str = "plain",
    *,
    modalities: Sequence[str] = MODALITIES,
    depth: int | None = None,
    seed: int = 0,
) -> Artifact:
    """The split folder, made of an OpenCLIP one as ``slimbind split`` makes it."""
    with tempfile.TemporaryDirectory(dir=folder.parent) as name:
        published = write_open_clip(Path(name), weights, depth=depth, seed=seed)
        return split_of(published, folder, modalities=modalities)


def split_of(published: Path, folder: Path, *, modalities: Sequence[str] = MODALITIES) -> Artifact:
    """What ``slimbind split PUBLISHED -o FOLDER --license CC0-1.0`` writes, under this model's name."""
    found = hub.checkpoint(published)
    with open_weights(found.files) as weights:
        plan = split.plan(weights, modalities=modalities, config=found.config, preparation=found.preparation)
        model = ModelInfo(id=NAME, family=plan.family, license="CC0-1.0", source="benchmarks/clip.py")
        split.run(plan, folder, model=model)
    return Artifact.open(folder)


def open_clip_model(weights: str = "plain", *, values: dict[str, dict[str, Tensor]] | None = None) -> Any:  # noqa: ANN401
    """The values (by default those of ``towers(weights)``) in ``open_clip``'s own model, in eval mode."""
    torchvision_cpu.name_operators()
    from open_clip.model import CLIP

    config = open_clip_config()
    model = CLIP(config["embed_dim"], config["vision_cfg"], config["text_cfg"], quick_gelu=True)
    model.load_state_dict(open_clip_layout(values or towers(weights)), strict=True)
    return model.eval().requires_grad_(False)


def inputs(modality: str, n: int, *, start: int = 0) -> Tensor:
    """``n`` inputs of the samples, the first ``start`` left out: always the same ones.

    Returns:
        float32 ``[n, 3, 224, 224]``, or int32 ``[n, 77]`` filled up with 0 as the reference does.
    """
    found = fullsize.inputs(modality, n, start=start)  # prepared as CLIP's are
    return found[:, :, 0] if modality == "vision" else found


def _replaced(key: str, names: dict[str, str]) -> str:
    for ours, theirs in names.items():
        key = key.replace(ours, theirs)
    return key


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--weights", choices=WEIGHTS, default="plain")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    published = write_open_clip(args.folder / "open_clip", args.weights, seed=args.seed)
    write_huggingface(args.folder / "huggingface", args.weights, seed=args.seed)
    made = split_of(published, args.folder / "split")
    for modality in MODALITIES:
        print(f"{modality}: {made.tower(modality).bytes / 2**20:.1f} MiB")


if __name__ == "__main__":
    main()
