"""The two towers with their published weights, before anything is trained, and ways to run many inputs."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load
from sources import member
from tokenizers import Tokenizer
from vocabulary import CONTEXT

from slimbind.media.image import ImagePreprocessor
from slimbind.media.limits import Limits
from slimbind.media.spec import ImageSpec, VideoSpec
from slimbind.runtime import quiet
from slimbind.towers.mini import (
    TEXT_CONFIG,
    MiniText,
    MiniVision,
    read_efficientnet,
    read_minilm,
)

# The checkpoint's own scaling is (x - 127) / 128. It knows no motion: of a video five frames are enough.
IMAGE = ImageSpec(
    size=224,
    resize=224,
    interpolation="bicubic",
    mean=(127 / 255,) * 3,
    std=(128 / 255,) * 3,
    video=VideoSpec(clips=5, frames=1, crops=1),
)


def vision(cache: Path) -> MiniVision:
    """The picture tower with ImageNet weights and an empty head."""
    weights = torch.load(
        io.BytesIO(member("efficientnet", "efficientnet-lite0-57934424.pth", cache)), weights_only=True
    )
    tower = MiniVision().eval().requires_grad_(False)
    tower.backbone.load_state_dict(read_efficientnet(weights))
    return tower


def text(cache: Path, rows: torch.Tensor) -> MiniText:
    """The text tower with all-MiniLM-L6-v2's weights for the given rows of its vocabulary."""
    config = TEXT_CONFIG | {"vocabulary": len(rows), "tokens": CONTEXT}
    tower = MiniText(config).eval().requires_grad_(False)
    weights = read_minilm(load(member("minilm", "model/model.safetensors", cache)), rows, config)
    missing, unexpected = tower.load_state_dict(weights, strict=False)
    assert set(missing) == {"centre", "adapt.weight"} and not unexpected, (missing, unexpected)
    return tower


_PREPARE = ImagePreprocessor(IMAGE, Limits())


def pixels(image: Image.Image) -> np.ndarray:
    """A picture as the tower takes it: ``[3, 224, 224]`` float32, prepared exactly as at run time."""
    return _PREPARE(image)[0]


class _Backbone(torch.nn.Module):
    def __init__(self, tower: MiniVision) -> None:
        super().__init__()
        self.backbone = tower.backbone

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.backbone.features(x)


def features(tower: MiniVision, images: Iterable[Image.Image]) -> np.ndarray:
    """Pooled features ``[n, 1280]`` float32 of many pictures, by the engine that is quickest here."""
    model = quiet.convert_model(_Backbone(tower), example_input=torch.zeros(2, 3, 224, 224), input=[-1, 3, 224, 224])
    compiled = quiet.openvino().compile_model(
        model, "CPU", {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
    )
    parts = [compiled(batch)[0].copy() for batch in _batches((pixels(image) for image in images), 32)]
    return np.concatenate(parts)


def _batches(arrays: Iterator[np.ndarray], size: int) -> Iterator[np.ndarray]:
    waiting = []
    for array in arrays:
        waiting.append(array)
        if len(waiting) == size:
            yield np.stack(waiting)
            waiting = []
    if waiting:
        yield np.stack(waiting)


def encode(tokenizer: Tokenizer, lines: list[str]) -> list[list[int]]:
    """Token ids with [CLS] and [SEP], cut to the context."""
    return [
        ids if len(ids) <= CONTEXT else [*ids[: CONTEXT - 1], ids[-1]]
        for ids in (encoding.ids for encoding in tokenizer.encode_batch(lines))
    ]


@torch.inference_mode()
def sentences(tower: MiniText, tokenizer: Tokenizer, lines: list[str], *, full: bool = False) -> torch.Tensor:
    """Unit vectors ``[n, 384]`` of texts: MiniLM's own (neither centred nor adapted), or with ``full`` the tower's."""
    encoded = encode(tokenizer, lines)
    order = sorted(range(len(lines)), key=lambda index: len(encoded[index]))
    out = torch.empty(len(lines), 384)
    for start in range(0, len(order), 128):
        chosen = order[start : start + 128]
        longest = max(len(encoded[index]) for index in chosen)
        ids = torch.tensor([encoded[index] + [0] * (longest - len(encoded[index])) for index in chosen])
        out[chosen] = tower(ids) if full else tower.sentence(ids)
    return out
