"""Pictures that the picture tower's quantization is tuned with and judged by, of the size that the tower takes.

To tune with: drawings and emoji of training concepts, CIFAR-10's training pictures, and crops of every other sample
photograph of this repository. To judge by: the other sample photographs, drawings of concepts that are kept out, and
Tux Paint's stamps. None of the latter was ever learned from, by the head or here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import data
import numpy as np
import pictures
import torch
from PIL import Image

import towers

PHOTOS = Path(__file__).parents[2] / "samples" / "photos"
DRAWN, CIFAR, CROPS = 640, 120, 8  # pictures, pictures, crops of each photograph
JUDGED = 60  # of each kind at most


def learn(cache: Path) -> np.ndarray:
    """Pictures ``[n, 3, 224, 224]`` uint8 to tune with, in random order (always the same)."""
    rng = np.random.default_rng(0)
    known = [picture for picture in data.gather(cache) if data.is_trained_on(picture)]
    chosen = [known[place] for place in rng.permutation(len(known))[:DRAWN]]
    found = [_bytes(pictures.place(image, rng)) for image in _rendered(chosen)]
    found += [_bytes(image) for image in data.cifar_pictures(cache, "dev")[0][:CIFAR]]
    for path in sorted(PHOTOS.glob("*.jpg"))[0::2]:
        with Image.open(path) as photo:
            found += [_bytes(_crop(photo.convert("RGB"), rng)) for _ in range(CROPS)]
    return np.stack(found)[rng.permutation(len(found))]


def judge(cache: Path) -> dict[str, np.ndarray]:
    """Kind of picture -> pictures ``[n, 3, 224, 224]`` uint8 to judge by."""
    every = data.gather(cache)
    unseen = [p for p in every if p.source == "openclipart" and pictures.role(p.concept) == "test"]
    stamps = [p for p in every if p.source == "stamps"]
    photos = []
    for path in sorted(PHOTOS.glob("*.jpg"))[1::2]:
        with Image.open(path) as photo:
            photos.append(_bytes(photo.convert("RGB")))
    found = {"photographs": photos}
    for name, some in (("drawings of unseen concepts", unseen), ("Tux Paint photographs", stamps)):
        spread = some[:: len(some) // JUDGED][:JUDGED]
        found[name] = [_bytes(pictures.place(image)) for image in _rendered(spread)]
    return {name: np.stack(images[:JUDGED]) for name, images in found.items()}


def tensor(images: np.ndarray) -> torch.Tensor:
    """uint8 pictures as the tower takes them, in the memory order that PyTorch convolves fastest in."""
    mean, scale = 255 * towers.IMAGE.mean[0], 255 * towers.IMAGE.std[0]
    scaled = torch.from_numpy((images.astype(np.float32) - np.float32(mean)) / np.float32(scale))
    return scaled.contiguous(memory_format=torch.channels_last)


def _bytes(image: Image.Image) -> np.ndarray:
    mean, scale = 255 * towers.IMAGE.mean[0], 255 * towers.IMAGE.std[0]
    return np.round(towers.pixels(image) * scale + mean).clip(0, 255).astype(np.uint8)


def _rendered(some: Iterable[pictures.Picture]) -> Iterator[Image.Image]:
    return (image for image in (pictures.render(picture.art) for picture in some) if image is not None)


def _crop(photo: Image.Image, rng: np.random.Generator) -> Image.Image:
    side = rng.uniform(0.3, 1.0) * min(photo.size)
    left, top = (rng.uniform(0, length - side) for length in photo.size)
    part = photo.crop((int(left), int(top), int(left + side), int(top + side)))
    return part.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if rng.random() < 0.5 else part
