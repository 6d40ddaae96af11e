"""Pictures to cached features: what is trained on and what is measured on, each computed once."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pictures
from pictures import HELD_OUT_VENDOR, TRAIN_VENDORS, Picture
from PIL import Image
from sources import member, members

import towers

VIEWS = 4  # the whole picture on white, and three altered ones
CIFAR_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


@dataclass
class Shelf:
    """Pictures with their features ``[n, views, 1280]``; view 0 is the unaltered one."""

    pictures: list[Picture]
    features: np.ndarray = field(repr=False)

    def where(self, mask: np.ndarray) -> Shelf:
        """The pictures where ``mask [n]`` is true."""
        return Shelf([p for p, keep in zip(self.pictures, mask, strict=True) if keep], self.features[mask])


def gather(cache: Path) -> list[Picture]:
    """Every captioned picture of every source, in a fixed order."""
    found = pictures.openclipart(cache)
    for vendor in (*TRAIN_VENDORS, HELD_OUT_VENDOR):
        found += pictures.emoji(vendor, cache)
    return found + pictures.stamps(cache)


def is_trained_on(picture: Picture) -> bool:
    """Whether a picture may be learned from: its source is for training, and its concept is not held out."""
    return picture.source in ("openclipart", *TRAIN_VENDORS) and pictures.role(picture.concept) == "train"


def _draw(job: tuple[int, Picture]) -> np.ndarray | None:
    seed, picture = job
    image = pictures.render(picture.art)
    if image is None:
        return None
    rng = np.random.default_rng(seed)
    views = [pictures.place(image)]
    if is_trained_on(picture):
        views += [pictures.place(image, rng) for _ in range(VIEWS - 1)]
    return np.stack([np.asarray(view) for view in views])


def shelf(cache: Path) -> Shelf:
    """All captioned pictures with their features, from the cache or made now (about ten minutes on two cores)."""
    found, path = gather(cache), cache / "features.npz"
    if not path.exists():
        started = time.perf_counter()
        kept: list[int] = []
        counts: list[int] = []

        def views() -> Iterator[Image.Image]:
            jobs = list(enumerate(found))
            with ProcessPoolExecutor(2) as pool:
                for start in range(0, len(jobs), 256):  # in blocks: what waits to be read is held in memory
                    for (index, _), drawn in zip(
                        jobs[start:], pool.map(_draw, jobs[start : start + 256]), strict=False
                    ):
                        if drawn is not None:
                            kept.append(index)
                            counts.append(len(drawn))
                            yield from map(Image.fromarray, drawn)

        flat = towers.features(towers.vision(cache), views())
        features = np.zeros((len(kept), VIEWS, flat.shape[1]), np.float32)
        start = 0
        for row, count in enumerate(counts):
            features[row, :count] = flat[start : start + count]
            features[row, count:] = flat[start]
            start += count
        np.savez(path, kept=np.array(kept), features=features, seconds=time.perf_counter() - started)
    data = np.load(path)
    return Shelf([found[index] for index in data["kept"]], data["features"])


def cifar_pictures(cache: Path, part: str) -> tuple[list[Image.Image], np.ndarray]:
    """CIFAR-10 pictures and their classes: the ``test`` set, the ``train`` set, or ``dev``, the first 3000 of it."""
    sheets = {"test": ["test_batch"], "dev": ["data_batch_1"]}.get(part, [f"data_batch_{n}" for n in range(1, 6)])
    drawn = [Image.open(io.BytesIO(member("cifar", f"{sheet}.png", cache))).convert("RGB") for sheet in sheets]
    pixels = np.concatenate([np.asarray(sheet).reshape(-1, 32, 32, 3) for sheet in drawn])
    pixels = pixels[:3000] if part == "dev" else pixels
    labels = "test_lables.json" if part == "test" else "train_lables.json"
    truth = np.array(json.loads(member("cifar", labels, cache)))[: len(pixels)]
    return [Image.fromarray(picture) for picture in pixels], truth


def cifar(cache: Path, part: str) -> tuple[np.ndarray, np.ndarray]:
    """Features ``[n, 1280]`` and classes ``[n]`` of a part of CIFAR-10. Measured on, never trained on."""
    path = cache / f"cifar-{part}.npz"
    if not path.exists():
        started = time.perf_counter()
        images, truth = cifar_pictures(cache, part)
        found = towers.features(towers.vision(cache), images)
        np.savez(path, features=found, labels=truth, seconds=time.perf_counter() - started)
    data = np.load(path)
    return data["features"], data["labels"]


def fashion(cache: Path) -> Path:
    """A folder with the files of Fashion-MNIST as their authors published them, which Debian ships."""
    folder = cache / "fashion-mnist"
    folder.mkdir(parents=True, exist_ok=True)
    if len(list(folder.glob("*.gz"))) < 4:
        for path, contents in members("fashion", cache):
            if path.endswith("-ubyte.gz"):
                (folder / Path(path).name).write_bytes(contents)
    return folder


def seconds(cache: Path) -> float:
    """How long the cached features took when they were made."""
    return sum(float(np.load(cache / name)["seconds"]) for name in ("features.npz", "cifar-test.npz"))
