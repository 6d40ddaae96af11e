"""Small towers with a few loud channels, and what is seen of their layers' inputs: for the tests of smoothing."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from slimbind.quantize import sites
from slimbind.towers import registry

GOLDEN = Path(__file__).parent.parent / "golden"
IMAGEBIND = ["vision", "text", "audio", "depth", "thermal", "imu"]
COMMON = {"depth": 2, "hidden": 64, "dim": 16, "eps": 1e-5, "bias_kv": False}
MADE = {
    "clip vision": (
        "clip",
        "vision",
        COMMON
        | {
            "activation": "quick_gelu",
            "width": 32,
            "heads": 2,
            "tokens": 10,
            "kernel": 16,
            "size": 48,
            "norm_pre": True,
        },
    ),
    "clip text": (
        "clip",
        "text",
        COMMON
        | {
            "activation": "gelu",
            "width": 32,
            "heads": 4,
            "tokens": 12,
            "vocabulary": 90,
            "norm_pre": False,
            "logit_scale": True,
        },
    ),
    "resnet": (
        "clip",
        "vision",
        {"architecture": "resnet", "width": 16, "layers": [2, 1, 1, 1], "heads": 8, "dim": 16, "size": 64},
    ),
    "mini text": ("mini", "text", {"dim": 384, "vocabulary": 90, "tokens": 12, "depth": 2, "heads": 4, "width": 384,
                                   "hidden": 64}),
}  # fmt: skip


@dataclass
class Stats:
    low: torch.Tensor
    high: torch.Tensor
    mean: torch.Tensor
    rows: torch.Tensor | None = None

    @property
    def absmax(self):
        return torch.maximum(self.low.abs(), self.high.abs())


def tiny_imagebind():
    """Every tower of the tiny ImageBind by modality, with its golden weights; what follows in torch is seeded."""
    weights = torch.load(GOLDEN / "imagebind_tiny.pth", weights_only=True)
    config = json.loads((GOLDEN / "imagebind_tiny_config.json").read_text())
    checkpoint = registry.detect({key: tuple(value.shape) for key, value in weights.items()}, config)
    torch.manual_seed(0)
    made = {}
    for modality in IMAGEBIND:
        tower = registry.build("imagebind", modality, checkpoint.configs[modality])
        made[modality] = registry.load(tower, dict(registry.convert(checkpoint, modality, weights.__getitem__)))
    return made


def make_towers():
    """Small towers of every architecture that has links, with norms that do something and a few loud channels."""
    made = tiny_imagebind()
    for name, (family, modality, config) in MADE.items():
        made[name] = registry.build(family, modality, config, device="cpu")
    for tower in made.values():
        for module in tower.modules():
            if isinstance(module, nn.LayerNorm):
                with torch.no_grad():
                    module.weight.normal_(1, 0.2)
                    module.weight[:2] *= 20
                    module.bias.normal_(0, 0.2)
        tower.eval().requires_grad_(False)
    return made


NAMES = [*IMAGEBIND, *MADE]


def observe(tower, x):
    """The loudness of every layer's input."""
    found, handles = {}, []
    for name, site in sites.sites(tower).items():
        if site.kind not in ("linear", "conv"):
            continue

        def hook(module, given, name=name):
            values = given[0] if isinstance(module, nn.Linear) else given[0].movedim(1, -1)
            flat = values.reshape(-1, values.shape[-1])
            found[name] = Stats(*flat.aminmax(dim=0), flat.mean(0), flat)

        handles.append(site.module.register_forward_pre_hook(hook))
    with torch.no_grad():
        tower(x)
    for handle in handles:
        handle.remove()
    return found


def agree(before, after, x, tolerance=5e-6):
    """The channels made loud here cost a float32 tower some digits by themselves; float64 has no such excuse."""
    with torch.no_grad():
        torch.testing.assert_close(after(x), before(x), rtol=0, atol=tolerance)
