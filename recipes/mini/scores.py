"""What a score of the finished model means: its curve from cosine to probability, into its manifest and `scores.json`.

    python recipes/mini/scores.py --write             (two minutes; without --write the manifest is left alone)

The curve is fitted by `slimbind eval calibrate` on drawings of concepts that nothing was trained on, half of them, and
measured on the other half, on photographs, on emoji of a vendor that was kept out, and on CIFAR-10. Beside it, on each
of these sets: the same method and isotonic regression, fitted on 30 to all of half the pairs and measured on the other
half, the mean of ten random halves. ``python benchmarks/tables.py`` writes the tables into docs/evaluation.md.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pictures
from data import CIFAR_CLASSES, cifar_pictures

import slimbind
from slimbind import datasets
from slimbind.artifact import Artifact
from slimbind.evaluate.calibration import (
    Cosines,
    brier_score,
    calibrate,
    calibration_error,
    cosines,
    fit,
    measure,
    store,
)
from slimbind.evaluate.retrieval import embed_pairs
from slimbind.scores import Curve

HERE = Path(__file__).parent
MINI = HERE.parents[1] / "src" / "slimbind" / "models" / "mini"
COUNTS, HALVES, MOST = (30, 100, None), 10, 700
WHAT = {
    "drawings": "Openclipart drawings, concepts kept out",
    "photographs": "Tux Paint photographs",
    "emoji": "OpenMoji, a vendor kept out",
    "cifar": "CIFAR-10 test, against its ten class names",
}


@dataclass(frozen=True)
class Set:
    """Embeddings of pairs: both sides, which match, and what each item is (see ``cosines``)."""

    first: np.ndarray
    second: np.ndarray
    pairs: np.ndarray
    kin: tuple[np.ndarray, np.ndarray]

    def part(self, half: np.ndarray, random: np.random.Generator) -> Cosines:
        """The cosines of some pairs and of as many times 32 others."""
        return cosines(self.first, self.second, self.pairs[half], half, self.kin, random)


def main() -> None:
    """Draw, embed, fit, measure and write."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--cache", type=Path, default=Path.home() / ".cache" / "slimbind-mini")
    arguments.add_argument("--output", type=Path, default=HERE / "scores.json")
    arguments.add_argument("--write", action="store_true", help="put the curve into the model's manifest")
    options = arguments.parse_args()
    tables = {name: draw(name, options.cache) for name in ("drawings", "photographs", "emoji")}
    with slimbind.load(MINI, threads=1) as model:
        found = calibrate(model, datasets.open(tables["drawings"]), name="mini")
        sets = {name: embedded(model, path) for name, path in tables.items()} | {"cifar": cifar(model, options.cache)}
    curve = found.curve.model_copy(
        update={"data": "Openclipart drawings of concepts kept out (recipes/mini/scores.py)"}
    )
    if options.write:
        store(Artifact.open(MINI), curve)
    sys.path.insert(0, str(HERE.parents[1] / "benchmarks"))
    from environment import environment

    record = {
        "benchmark": "mini_scores",
        "command": "python recipes/mini/scores.py",
        "environment": environment("openvino", "scikit-learn", threads=1),
        "curve": curve.model_dump(mode="json"),
        "held_out": {name: estimate.value for name, estimate in found.record.measures.items()},
        "shipped": [shipped(name, found.curve, one) for name, one in sets.items() if name != "drawings"],
        "methods": [row for name, one in sets.items() for row in compared(name, one)],
    }
    options.output.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(f"written: {options.output}")


def draw(name: str, cache: Path) -> Path:
    """A table of pairs with its pictures, one for each concept, in the cache."""
    folder = cache / "scores" / name
    if not (folder / "pairs.csv").exists():
        folder.mkdir(parents=True, exist_ok=True)
        every = {
            "drawings": pictures.openclipart,
            "unseen": pictures.openclipart,
            "photographs": pictures.stamps,
            "emoji": lambda cache: pictures.emoji(pictures.HELD_OUT_VENDOR, cache),
        }[name](cache)
        if name == "photographs":
            every = [one for one in every if one.source == "stamps"]
        elif name == "drawings":
            every = [one for one in every if pictures.role(one.concept) != "train"]
        elif name == "unseen":  # without those that settings were chosen by
            every = [one for one in every if pictures.role(one.concept) == "test"]
        seen: set[str] = set()
        rows = []
        for number, one in enumerate(every):
            image = None if one.concept in seen else pictures.render(one.art)
            if image is not None:
                seen.add(one.concept)
                pictures.place(image).save(folder / f"{number}.png", compress_level=1)
                rows.append((f"{number}.png", one.name))
        with open(folder / "pairs.csv", "w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([("image", "caption"), *rows])
    return folder / "pairs.csv"


def embedded(model: slimbind.Model, path: Path) -> Set:
    """Pictures and their names; every name is another."""
    found = embed_pairs(model, datasets.open(path), samples=MOST)
    kin = np.full(len(found.first), -1), np.arange(len(found.second))
    kin[0][found.pairs[:, 0]] = found.pairs[:, 1]
    return Set(found.first, found.second, found.pairs, kin)


def cifar(model: slimbind.Model, cache: Path) -> Set:
    """Pictures and "a photo of a ..." of their class."""
    images, truth = cifar_pictures(cache, "test")
    first = model.embed(images[:MOST], "vision")
    second = model.embed([f"a photo of a {name}" for name in CIFAR_CLASSES], "text")
    pairs = np.stack([np.arange(len(first)), truth[:MOST]], axis=1)
    return Set(first, second, pairs, (truth[:MOST], np.arange(len(second))))


def shipped(name: str, curve: Curve, one: Set) -> dict[str, object]:
    """The shipped curve on pairs of another kind than it was fitted on."""
    told = measure(one.part(np.arange(len(one.pairs)), np.random.default_rng(0)), curve)
    return {"set": WHAT[name], "pairs": len(one.pairs), **{name: estimate.value for name, estimate in told.items()}}


def compared(name: str, one: Set) -> list[dict[str, object]]:
    """Both methods on one set, by how many pairs they were fitted on."""
    from sklearn.isotonic import IsotonicRegression

    rows: dict[tuple[str, int], list[tuple[float, float, float]]] = {}
    for seed in range(HALVES):
        random = np.random.default_rng(seed)
        order = random.permutation(len(one.pairs))
        test = one.part(order[len(order) // 2 :], random)
        for count in COUNTS:
            some = one.part(order[: len(order) // 2][:count], random)
            others = some.others[np.isfinite(some.others)]
            slope, intercept = fit(some.matching, others)
            values = np.concatenate([some.matching, others])
            truth = np.concatenate([np.ones(len(some.matching)), np.zeros(len(others))])
            weight = np.where(truth == 1, 0.5 / len(some.matching), 0.5 / len(others))
            steps = IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip").fit(values, truth, sample_weight=weight)
            said = {
                "Platt": lambda x, a=slope, b=intercept: 1 / (1 + np.exp(-(a * x + b))),
                "isotonic": lambda x, steps=steps: np.where(
                    np.isnan(x), np.nan, steps.predict(np.nan_to_num(x).ravel()).reshape(x.shape)
                ),
            }
            for method, probability in said.items():
                rows.setdefault((method, len(some.matching)), []).append(scored(test, probability))
    return [
        {
            "set": WHAT[name],
            "method": method,
            "fitted on": count,
            "brier": means[0],
            "ece": means[1],
            "levels": means[2],
        }
        for (method, count), each in rows.items()
        for means in [np.mean(each, axis=0).tolist()]
    ]


def scored(test: Cosines, probability) -> tuple[float, float, float]:  # noqa: ANN001
    """Brier score, calibration error, and the share of cosines that are still told apart."""
    yes, no = probability(test.matching), probability(test.others)
    whole = np.ones((1, len(yes)))
    brier = brier_score(yes, no)(whole)[0]
    ece = calibration_error(yes, no)(whole)[0]
    every = np.concatenate([yes, no[np.isfinite(no)]])
    plain = np.concatenate([test.matching, test.others[np.isfinite(test.others)]])
    return float(brier), float(ece), len(np.unique(every)) / len(np.unique(plain))


if __name__ == "__main__":
    main()
