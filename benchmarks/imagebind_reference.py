"""The reference that slimbind is measured against: Meta's ImageBind in PyTorch, as ``imagebind-unofficial`` has it.

    pip install --no-deps --target DIR imagebind-unofficial==0.1.1 timm
    pip install einops ftfy regex                    # beside slimbind[build] and torchvision
    PYTHONPATH=DIR python benchmarks/peers.py        # or another benchmark that asks for it

Its modules and its reading of pictures run as they are. What it imports beside them to read sounds and videos and to
fetch files (pytorchvideo, torchaudio, iopath, pkg_resources) is replaced by empty stand-ins: nothing here calls it,
pytorchvideo does not load beside a torchvision of today, and the time its import would take is left out.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from torchvision_cpu import name_operators

# What tells ImageBind-Huge from the smaller defaults of its class.
HUGE = {
    "vision_embed_dim": 1280,
    "text_embed_dim": 1024,
    "text_num_heads": 16,
    "out_embed_dim": 1024,
    "imu_drop_path": 0.7,
}
STAND_INS = {
    "pkg_resources": (),
    "torchaudio": (),
    "pytorchvideo": ("transforms",),
    "pytorchvideo.data": (),
    "pytorchvideo.data.clip_sampling": ("ConstantClipsPerVideoSampler",),
    "pytorchvideo.data.encoded_video": ("EncodedVideo",),
    "iopath": (),
    "iopath.common": (),
    "iopath.common.file_io": ("g_pathmgr",),
}
_BLOCKS = {"vision": 32, "text": 24, "audio": 12, "depth": 12, "thermal": 12, "imu": 6}


def imagebind() -> Any:  # noqa: ANN401  (it has no types)
    """The package ``imagebind``, imported over the stand-ins."""
    for name, members in STAND_INS.items():
        module = sys.modules.setdefault(name, ModuleType(name))
        for member in members:
            if not hasattr(module, member):
                setattr(module, member, None)
    name_operators()
    import imagebind

    return imagebind


class Reference(nn.Module):
    """One modality of the model: its forward pass takes what the model's takes, and gives its embeddings."""

    def __init__(self, model: nn.Module, modality: str) -> None:
        super().__init__()
        self.model, self.modality = model, modality

    def forward(self, x: Tensor) -> Tensor:
        """Embeddings ``[n, dim]``, of another length than 1 for all but vision."""
        found: Tensor = self.model({self.modality: x})[self.modality]
        return found


def reference(modality: str, tensors: dict[str, Tensor], *, depth: int | None = None) -> Reference:
    """The model with the weights of one modality (``fullsize.state_dict``), the others left out.

    Args:
        modality: one of the six.
        tensors: all that the checkpoint has of it.
        depth: blocks at most, as in ``tensors``.
    """
    blocks = _BLOCKS[modality] if depth is None else min(depth, _BLOCKS[modality])
    settings = HUGE | {f"{name}_num_blocks": 0 for name in _BLOCKS} | {f"{modality}_num_blocks": blocks}
    model = imagebind().imagebind_model.ImageBindModel(**settings)
    for parts in (
        model.modality_preprocessors,
        model.modality_trunks,
        model.modality_heads,
        model.modality_postprocessors,
    ):
        for other in _BLOCKS.keys() - {modality}:
            del parts[other]
    model.load_state_dict(tensors, assign=True)
    return Reference(model.eval().requires_grad_(False), modality)


def as_given(x: Tensor, modality: str) -> Tensor:
    """slimbind's input ``[n, ...]`` as the model takes it: a picture without the axis of its frames, texts full."""
    if modality == "vision":
        return x[:, :, 0] if x.ndim == 5 else x
    if modality == "text":
        return nn.functional.pad(x, (0, 77 - x.shape[1]))
    return x


def unit(y: Tensor) -> Tensor:
    """Without the scale that all modalities but vision end with."""
    return torch.nn.functional.normalize(y, dim=-1)
