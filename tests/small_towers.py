"""Settings of small towers of every kind that ImageBind does not have: name -> family, modality, configuration."""

from __future__ import annotations

BLOCKS = {"width": 32, "heads": 2, "depth": 2, "hidden": 64, "dim": 24, "eps": 1e-5, "bias_kv": False}
CONFIGS = {
    "clip-vit": (
        "clip",
        "vision",
        BLOCKS | {"tokens": 10, "activation": "quick_gelu", "norm_pre": True, "kernel": 8, "size": 24},
    ),
    "clip-text": (
        "clip",
        "text",
        BLOCKS | {"tokens": 20, "activation": "gelu", "norm_pre": False, "vocabulary": 99, "logit_scale": True},
    ),
    "clip-resnet": (
        "clip",
        "vision",
        {"architecture": "resnet", "width": 8, "layers": [1, 2, 1, 1], "heads": 4, "dim": 24, "size": 64},
    ),
    "mini-text": (
        "mini",
        "text",
        {"width": 384, "heads": 12, "depth": 1, "hidden": 64, "dim": 384, "tokens": 16, "vocabulary": 50},
    ),
    "mini-vision": ("mini", "vision", {"size": 64, "hidden": 32, "temperature": 1.5, "dim": 384}),
}
