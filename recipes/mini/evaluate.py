"""What a pair of towers can do, measured on cached features: zero-shot classes, names to pictures and back."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from data import CIFAR_CLASSES, Shelf
from labels import prompted

Texts = Callable[[list[str]], torch.Tensor]  # sentences to unit vectors [n, 384] of the common space
Images = Callable[[np.ndarray], torch.Tensor]  # pooled features [n, 1280] to unit vectors [n, 384]


def zero_shot(features: np.ndarray, labels: np.ndarray, images: Images, texts: Texts) -> dict[str, float]:
    """Share of CIFAR-10 pictures nearest to their class: by one plain prompt, and by the mean of all prompts."""
    pictures, truth = images(features), torch.from_numpy(labels)
    one = texts([f"a photo of a {name}" for name in CIFAR_CLASSES])
    many = torch.stack([texts(prompted(name)).mean(0) for name in CIFAR_CLASSES])
    found = {}
    for name, classes in (("one_prompt", one), ("mean_of_prompts", many / many.norm(dim=-1, keepdim=True))):
        found[name] = float(((pictures @ classes.T).argmax(-1) == truth).float().mean())
    return found


def retrieval(shelf: Shelf, images: Images, texts: Texts) -> dict[str, float]:
    """Recall at 1, 5 and 10, both ways, over one picture per concept: name to picture and picture to name."""
    first: dict[str, int] = {}
    for index, picture in enumerate(shelf.pictures):
        first.setdefault(picture.concept, index)
    rows = list(first.values())
    score = texts([shelf.pictures[row].name for row in rows]) @ images(shelf.features[rows, 0]).T
    truth = score.diagonal()
    found: dict[str, float] = {"concepts": len(rows)}
    for way, better in (
        ("name_to_picture", (score > truth[:, None]).sum(1)),
        ("picture_to_name", (score > truth[None, :]).sum(0)),
    ):
        for k in (1, 5, 10):
            found[f"{way}_R@{k}"] = float((better < k).float().mean())
    return found
