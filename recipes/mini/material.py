"""Pictures and their captions made ready for training: every text embedded once, every picture with its rows."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import wordnet
from data import Shelf, is_trained_on
from labels import prompted
from pictures import Picture
from sources import member
from torch import Tensor
from train import Material


def captions(picture: Picture) -> list[str]:
    """What may stand for a picture: its name (three times as often as the rest), in sentences, and with its tags."""
    lines = [picture.name] * 3 + [f"a drawing of a {picture.name}", f"a picture of a {picture.name}"]
    if picture.tags:
        lines += [", ".join((picture.name, *picture.tags[:4])), ", ".join(picture.tags[:5])]
    return lines


def photo_mean(cache: Path) -> Tensor:
    """The mean pooled feature ``[1280]`` of ImageNet's photographs, told by the backbone's last batch norm.

    A channel is, over all pictures and places, spread about as a normal distribution with the norm's own scale and
    bias; what ReLU6 leaves of it has this mean.
    """
    weights = torch.load(io.BytesIO(member("efficientnet", "lite0-57934424.pth", cache)), weights_only=True)
    quantiles = torch.special.ndtri((torch.arange(2000) + 0.5) / 2000)
    spread = weights["_bn1.weight"].abs() * quantiles[:, None] + weights["_bn1.bias"]
    return spread.clamp(0, 6).mean(0)


def prepare(shelf: Shelf, embed: Callable[[list[str]], Tensor], cache: Path) -> Material:
    """The training part of ``shelf``; ``embed`` gives centred unit vectors ``[n, 384]``."""
    chosen = shelf.where(np.array([is_trained_on(picture) for picture in shelf.pictures]))
    lines: dict[str, int] = {}
    variants = [[lines.setdefault(line, len(lines)) for line in captions(picture)] for picture in chosen.pictures]
    named: dict[str, int] = {}
    class_rows = [
        [
            named.setdefault(line, len(named))
            for line in (
                *(p for name in known.names for p in prompted(name)),
                *(g for g, level in known.general if level < 4),
            )
        ]
        for known in wordnet.classes(cache)
    ]
    return Material(
        torch.from_numpy(chosen.features),
        photo_mean(cache),
        embed(list(lines)),
        variants,
        embed(list(named)),
        class_rows,
    )
