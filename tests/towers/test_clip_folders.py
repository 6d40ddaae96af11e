"""CLIP as people publish it, from a folder of files to vectors: decoding, tokens, towers and engines in one go.

The reference is open_clip's own model behind open_clip's own preprocessing and tokenizer.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

import slimbind
from slimbind.cli.app import run

from .test_clip import hugging_face, make

SAMPLES = Path(__file__).parents[2] / "samples" / "photos"
PICTURES = [SAMPLES / f"{name}.jpg" for name in ("airliner", "butterfly", "hammer")]
TEXTS = ["a dog", "  A photo\n of two CATS &amp;amp; naïve café, it's 1234 o'clock", "日本 🐶", "", "word " * 120]
VISION = {"image_size": 96, "patch_size": 32, "width": 128, "layers": 2}
RESNET = {"image_size": 96, "width": 16, "layers": [1, 2, 1, 1]}
TEXT = {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 1, "layers": 2}
# What the files say: the resize and the crop differ from the defaults, or the test would not notice them ignored.
NORMALISATION = {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.25, 0.3]}


def write_hugging_face(folder, model):
    """Two shards with an index, a nested config with the ids of old versions, a preprocessor config."""
    weights = hugging_face(model.state_dict())
    names = sorted(weights)
    parts = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    for file, keys in parts.items():
        save_file({key: weights[key].contiguous() for key in keys}, folder / file, metadata={"format": "pt"})
    index = {"metadata": {"total_size": 1}, "weight_map": {key: file for file, keys in parts.items() for key in keys}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    shared = {"hidden_act": "quick_gelu", "layer_norm_eps": 1e-05, "projection_dim": 24}
    config = {
        "architectures": ["CLIPModel"],
        "model_type": "clip",
        "projection_dim": 24,
        "text_config": shared | {"num_attention_heads": 1, "bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 1},
        "text_config_dict": None,
        "vision_config": shared | {"num_attention_heads": 2, "image_size": 96, "patch_size": 32},
        "vision_config_dict": None,
    }
    (folder / "config.json").write_text(json.dumps(config))
    steps = {"do_resize": True, "do_center_crop": True, "do_normalize": True, "resample": 3, "size": 96}
    named = {"image_mean": NORMALISATION["mean"], "image_std": NORMALISATION["std"], "crop_size": 96}
    (folder / "preprocessor_config.json").write_text(json.dumps(steps | named))


def write_open_clip(folder, model, vision, quick_gelu):
    save_file(
        {key: value.contiguous() for key, value in model.state_dict().items()}, folder / "open_clip_model.safetensors"
    )
    told = {"embed_dim": 24, "vision_cfg": vision, "text_cfg": TEXT, "quick_gelu": quick_gelu}
    preparation = NORMALISATION | {"interpolation": "bicubic", "resize_mode": "shortest"}
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": told, "preprocess_cfg": preparation}))


def halve_convolutions(model):
    """What OpenAI's files hold: convolutions in half precision, batch normalisations in single."""
    for module in model.visual.modules():
        if isinstance(module, torch.nn.Conv2d):
            module.half()


@torch.no_grad()
def reference(open_clip, model):
    transform = open_clip.image_transform(96, is_train=False, **NORMALISATION)
    images = torch.stack([transform(Image.open(path)) for path in PICTURES])
    return {
        "vision": model.float().encode_image(images, normalize=True).numpy(),
        "text": model.encode_text(open_clip.get_tokenizer("ViT-B-32")(TEXTS), normalize=True).numpy(),
    }


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["hugging face", "open_clip", "open_clip resnet"])
def test_from_a_folder_to_vectors(open_clip, tmp_path, kind):
    source = tmp_path / "model"
    source.mkdir()
    vision = RESNET if "resnet" in kind else VISION
    model = make(open_clip, vision, TEXT, quick_gelu=kind != "open_clip")
    if kind == "hugging face":
        write_hugging_face(source, model)
    else:
        if "resnet" in kind:
            halve_convolutions(model)
        write_open_clip(source, model, vision, quick_gelu=kind != "open_clip")
    expected = reference(open_clip, model)
    folders = {"torch": tmp_path / "torch", "openvino": tmp_path / "openvino", "onnx": tmp_path / "onnx"}
    assert run(["split", str(source), "-o", str(folders["torch"])]) == 0
    for engine in ("openvino", "onnx"):
        assert (
            run(["export", str(folders["torch"]), "-o", str(folders[engine]), "--engine", engine, "--threads", "1"])
            == 0
        )
    for engine, folder in folders.items():
        with slimbind.load(folder, threads=1) as loaded:
            for modality, items in (("vision", PICTURES), ("text", TEXTS)):
                got = loaded.embed(items, modality=modality)
                wanted = expected[modality]
                alike = (wanted @ wanted.T)[np.triu_indices(len(items), 1)].max()
                assert 1 - alike > 1e-3, f"{modality}: the items must tell apart"
                distance = 1 - (got * wanted).sum(axis=1).min()
                assert distance < 1e-6, f"{modality} of {kind} on {engine} is off by {distance:.1e}"
