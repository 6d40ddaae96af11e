"""What mini's accuracy is measured on, embedded by one scheme: each set once, then read from a folder again.

Nothing that is measured on was trained on: the test pictures of CIFAR-10 and of Fashion-MNIST; and pictures with names,
which are drawings of concepts that were kept out, photographs, and emoji of a vendor that was kept out. Linear probes
learn from training pictures of both sets. What codes are fitted to is none of these: texts that people ask, and
pictures of concepts that were trained on.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache as remembered
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import sets
from data import CIFAR_CLASSES, cifar_pictures, fashion
from PIL import Image
from scores import draw

import slimbind
from slimbind import datasets
from slimbind.artifact import Artifact
from slimbind.bulk.prompts import PROMPTS
from slimbind.datasets.idx import FASHION
from slimbind.evaluate.retrieval import Paired, embed_pairs
from slimbind.evaluate.templates import SETS, fill
from slimbind.evaluate.zero_shot import describe_classes, spoken_name

LABELLED = {"cifar": "CIFAR-10", "fashion": "Fashion-MNIST"}
PAIRED = {
    "unseen": "Openclipart drawings, concepts kept out",
    "photographs": "Tux Paint photographs",
    "emoji": "OpenMoji, a vendor kept out",
}
SENTENCES = ("photo", "imagenet80")
STEP = 1000  # pictures that are embedded at a time
NAMES = {"cifar": list(CIFAR_CLASSES), "fashion": [spoken_name(one) for one in FASHION]}
Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Embedded:
    """All sets by one scheme.

    Args:
        artifact: what embeds; float32 and all others take the same items.
        cache: of what is downloaded and drawn.
        folder: of the embeddings, named by set and encoder.
        test: how many pictures of a set with classes are measured on.
        train: how many of its training pictures linear probes learn from.
    """

    artifact: Artifact
    cache: Path
    folder: Path
    test: int
    train: int

    def pictures(self, name: str, part: str) -> tuple[np.ndarray, np.ndarray]:
        """Vectors ``[n, dim]`` and classes ``[n]`` of the ``train`` or ``test`` pictures of a set with classes.

        They are evenly spread over the set and embedded in steps of ``STEP``, so that more can be added later.
        """
        items = self.train if part == "train" else self.test
        steps = [self._step(name, part, number) for number in range(items // STEP)]
        return np.concatenate([step["vectors"] for step in steps]), np.concatenate([step["labels"] for step in steps])

    def _step(self, name: str, part: str, number: int) -> Arrays:
        def make(model: slimbind.Model) -> Arrays:
            images, labels = _labelled(name, self.cache, part)
            stride = len(images) // STEP
            if number >= stride:
                raise ValueError(f"{name} has {len(images)} {part} pictures, no more")
            return {"vectors": model.embed(images[number::stride], "vision"), "labels": labels[number::stride]}

        return self._kept(f"{name}-{part}-{number}", ("vision",), make)

    def classes(self, name: str, sentences: str) -> np.ndarray:
        """The vector of each class ``[classes, dim]``, by a set of sentences."""

        def make(model: slimbind.Model) -> Arrays:
            return {"vectors": describe_classes(model, NAMES[name], SETS[sentences])}

        return self._kept(f"{name}-{sentences}", ("text",), make)["vectors"]

    def pairs(self, name: str) -> Paired:
        """Pictures and their names; a name that two pictures share is there once."""

        def make(model: slimbind.Model) -> Arrays:
            found = embed_pairs(model, datasets.open(draw(name, self.cache)))
            if found.failed:
                raise ValueError(f"{name}: {found.failed[:3]}")
            return {"first": found.first, "second": found.second, "pairs": found.pairs}

        kept = self._kept(name, ("vision", "text"), make)
        return Paired(kept["first"], kept["second"], kept["pairs"])

    @cached_property
    def examples(self) -> dict[str, np.ndarray]:
        """What codes are fitted to where a modality asks: texts, as `slimbind index` takes them, and pictures."""

        def texts(model: slimbind.Model) -> Arrays:
            return {"vectors": model.embed(_prompts(self.cache), "text")}

        def pictures(model: slimbind.Model) -> Arrays:
            return {"vectors": model.embed(_learned(self.cache), "vision")}

        return {
            "text": self._kept("asked", ("text",), texts)["vectors"],
            "vision": self._kept("learned", ("vision",), pictures)["vectors"],
        }

    def size(self, modality: str) -> int:
        """Bytes of a tower, without the tokenizer, which is the same for all."""
        return sum(file.bytes for file in self.artifact.tower(modality).files if "tokenizer" not in file.path)

    def _kept(self, what: str, modalities: tuple[str, ...], make: Callable[[slimbind.Model], Arrays]) -> Arrays:
        encoders = "-".join(self.artifact.tower(modality).encoder_id[:12] for modality in modalities)
        path = self.folder / f"{what}-{encoders}.npz"
        if not path.exists():
            with slimbind.load(self.artifact.folder, threads=1) as model:
                found = make(model)
            unfinished = path.with_suffix(".part.npz")
            np.savez(unfinished, **found)  # type: ignore[arg-type]
            unfinished.replace(path)
            print(f"embedded: {path.name}", flush=True)
        with np.load(path) as data:
            return dict(data)


@remembered
def _labelled(name: str, cache: Path, part: str) -> tuple[Sequence[Any], np.ndarray]:
    if name == "cifar":
        return cifar_pictures(cache, part)
    samples = list(datasets.open(fashion(cache), split=part))
    return [sample.data for sample in samples], np.array([sample.label for sample in samples])


@remembered
def _prompts(cache: Path) -> list[str]:
    """What people ask, without what the sets ask themselves."""
    asked = {_plain(fill(sentence, name)) for names in NAMES.values() for name in names for sentence in SETS["photo"]}
    for name in PAIRED:
        asked |= {_plain(str(sample.other)) for sample in datasets.open(draw(name, cache))}
    return [prompt for prompt in PROMPTS if _plain(prompt) not in asked]


def _plain(text: str) -> str:
    return re.sub(r"^(a|an|the) ", "", text.lower().strip(" ."))


@remembered
def _learned(cache: Path) -> list[Image.Image]:
    return [Image.fromarray(picture.transpose(1, 2, 0)) for picture in sets.learn(cache)]
