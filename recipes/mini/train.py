"""Training of the picture tower's head and of the text tower's ``A``, on cached features: a minute or two.

InfoNCE both ways with soft targets: two captions that mean nearly the same are not pushed apart, because the target is
not "this one and no other" but the softmax over how alike the captions are. A quarter of every batch is not pictures
but points around the classifier's prototypes with their class's names, so that the head does not forget photographs.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from slimbind.towers.mini import CLASSES, DIM, ConceptHead

SYNTHETIC_POINTS = 30_000
NOISE = 0.7
LIFT = (-1.0, 7.0)  # logits above the best other class


@dataclass(frozen=True)
class Settings:
    """What was chosen on the dev concepts; the seed fixes everything else.

    ``restraint`` shrinks the learned branch after training, a step back towards the untrained head: drawings lose a
    little by it, and photographs, which were never seen, gain more (as WiSE-FT does, Wortsman et al. 2022).
    """

    steps: int = 500
    batch: int = 512
    synthetic: float = 0.25
    rate: float = 1e-3
    decay: float = 1.0
    hidden: int = 512
    dropout: float = 0.6
    restraint: float = 0.7
    scale: float = 20.0
    target_scale: float = 12.0
    adapt_decay: float = 1.0
    seed: int = 0


@dataclass
class Material:
    """What is trained on: features ``[n, views, 1280]`` of pictures, and the mean feature ``[1280]`` of photographs.

    ``captions [m, 384]`` and ``class_texts [k, 384]`` are centred unit vectors; ``class_rows`` lists for each class
    which of the latter name it. ``variants`` lists for each picture the rows that may stand for it.
    """

    features: Tensor
    photos: Tensor
    captions: Tensor
    variants: list[list[int]]
    class_texts: Tensor
    class_rows: list[list[int]]


def synthetic(
    classes: Tensor, photos: Tensor, weight: Tensor, bias: Tensor, spread: Tensor, random: torch.Generator
) -> Tensor:
    """Features ``[n, 1280]`` such as photographs of ``classes [n]`` might give, without any photograph.

    Around ``photos``, the mean feature of the classifier's own training pictures (its batch norm remembers it), noise
    of the shape that drawings have is added; then a step along ``S w``, where a linear classifier with weights ``w``
    expects the class's mean if ``S`` is the spread within classes. The step is as long as it takes to lift the class's
    logit from just below to well above all others. Features are never negative.
    """
    root = torch.linalg.cholesky(spread + 1e-4 * torch.eye(len(spread)))
    base = F.relu(photos + NOISE * torch.randn(len(classes), len(spread), generator=random) @ root.T)
    way = weight[classes] @ spread
    logits = base @ weight.T + bias
    lift = logits.amax(1, keepdim=True) - logits.gather(1, classes[:, None])
    lift += LIFT[0] + (LIFT[1] - LIFT[0]) * torch.rand(len(classes), 1, generator=random)
    return F.relu(base + way * lift / (way * weight[classes]).sum(1, keepdim=True))


def _with_synthetic(
    material: Material, weight: Tensor, bias: Tensor, settings: Settings, random: torch.Generator
) -> tuple[Tensor, Callable[[int, np.random.Generator], Tensor]]:
    """All features ``[pictures * views + synthetic, 1280]``, and a function that draws a row's caption ``[384]``."""
    pictures, views, _ = material.features.shape
    spread = torch.cov(material.features[:, 0].T)
    classes = torch.randint(CLASSES, (SYNTHETIC_POINTS,), generator=random)
    made = [synthetic(part, material.photos, weight, bias, spread, random) for part in classes.split(5000)]

    def text(row: int, picker: np.random.Generator) -> Tensor:
        at = row - pictures * views
        choices = material.variants[row // views] if at < 0 else material.class_rows[int(classes[at])]
        table = material.captions if at < 0 else material.class_texts
        return table[choices[picker.integers(len(choices))]]

    return torch.cat([material.features.flatten(0, 1), *made]), text


def train(
    material: Material, labels: Tensor, weight: Tensor, bias: Tensor, settings: Settings
) -> tuple[ConceptHead, Tensor]:
    """The trained head and ``A [384, 384]``, averaged over the last fifth of the steps.

    Args:
        material: pictures and captions.
        labels: ``L [1000, 384]``.
        weight, bias: the classifier's.
        settings: see `Settings`.
    """
    random, picker = torch.Generator().manual_seed(settings.seed), np.random.default_rng(settings.seed)
    torch.manual_seed(settings.seed)
    head = ConceptHead(settings.hidden)
    head.labels.data.copy_(labels)
    adapt = nn.Parameter(torch.zeros(DIM, DIM))
    scale = nn.Parameter(torch.tensor(math.log(settings.scale)))
    learned = [head.up.weight, head.down.weight, head.skip.weight]
    optimizer = torch.optim.AdamW(
        [
            {"params": learned, "weight_decay": settings.decay},
            {"params": [adapt], "weight_decay": settings.adapt_decay},
            {"params": [head.up.bias, head.down.bias, head.gain, scale], "weight_decay": 0.0},
        ],
        lr=settings.rate,
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, settings.rate, total_steps=settings.steps, pct_start=0.1)
    seen, texts_of = _with_synthetic(material, weight, bias, settings, random)
    with torch.inference_mode():
        z = seen @ weight.T + bias
    named, doubt = head.named(z), head.doubt(z)
    views = material.features.shape[1]
    pictures = len(material.features) * views
    made = round(settings.batch * settings.synthetic)
    average = {name: torch.zeros_like(value) for name, value in head.state_dict().items()}
    adapt_average, averaged = torch.zeros_like(adapt), 0
    for step in range(settings.steps):
        rows = torch.randint(pictures, (settings.batch - made,), generator=random)
        if made:
            rows = torch.cat([rows, torch.randint(pictures, len(seen), (made,), generator=random)])
        t = torch.stack([texts_of(row, picker) for row in rows.tolist()])
        images = head.blend(F.dropout(seen[rows], settings.dropout), named[rows], doubt[rows])
        words = F.normalize(t + t @ adapt.T, dim=-1)
        target = F.softmax(settings.target_scale * (t @ t.T), dim=-1)
        logits = scale.exp() * images @ words.T
        loss = F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step >= settings.steps * 4 // 5:
            averaged += 1
            for name, value in head.state_dict().items():
                average[name] += (value - average[name]) / averaged
            adapt_average += (adapt.detach() - adapt_average) / averaged
    head.load_state_dict(average)
    head.gain.data.mul_(settings.restraint)
    return head.eval().requires_grad_(False), adapt_average
