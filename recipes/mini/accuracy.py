"""What does making mini smaller cost in accuracy, on real pictures? Every scheme and codec, into `accuracy.json`.

    python recipes/mini/split.py mini-split && python recipes/mini/accuracy.py mini-split --work work    (over an hour)

Artifacts are made as `schemes.py` makes them; sets and what each holds are in `embedded.py`. Vectors are computed once
and kept in ``--work``, results are written after each step, and ``--steps`` does some of them again:

  mix                      the picture tower, the text tower or both in a scheme: zero-shot and retrieval
  schemes                  zero-shot on CIFAR-10, by one sentence for each class and by the mean of eighty
  codecs, crossed, gains   codes of the vectors of float32, and of two schemes: retrieval both ways and zero-shot
  probe                    a linear probe on CIFAR-10
  fashion, fashion_probe   both again on Fashion-MNIST

Every number has a 95 % interval, and beside every one but float32's stands its difference to float32, with an interval
of its own: of the same items, drawn together. ``python benchmarks/tables.py`` writes the tables into docs/results.md.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import schemes
from embedded import LABELLED, NAMES, PAIRED, SENTENCES, STEP, Embedded

from slimbind.codecs import transform
from slimbind.codecs.spec import parse
from slimbind.errors import UsageError
from slimbind.evaluate import linear_probe, metrics
from slimbind.evaluate.compression import WHOLE, compressed, ranks_through
from slimbind.evaluate.metrics import Positives
from slimbind.evaluate.record import Estimate
from slimbind.evaluate.retrieval import Paired

HERE = Path(__file__).parent
REFERENCE = "f32"
MIXES = {"pictures": (True, False), "texts": (False, True), "both": (True, True)}
USUAL = {"test": 10_000, "train": 5_000}  # pictures: all that are to be measured on, a tenth of those to learn from
DEPTHS = (1, 5, 10)
CROSSED = ("int8-dynamic", "int4-weight")
CODECS = (
    "f32", "sq8", "rabitq4", "sq4", "rabitq2", "pq192x4fs", "rabitq1", "binary", "pq96x4fs",
    "sq4,refine(original)", "rabitq1,refine(original)", "binary,refine(original)", "pq96x4fs,refine(original)",
)  # fmt: skip
WAYS = {"text to picture": ("text", 1), "picture to text": ("vision", 0)}  # who asks, and which side of the pairs it is
_TRIPLE = re.compile(r"\[\s+([-\d.e]+),\s+([-\d.e]+),\s+([-\d.e]+)\s+\]")  # a number with its interval, on one line
Right = dict[str, np.ndarray]  # name -> 1 where an item was right, else 0 [n]
Told = dict[str, Any]


def main() -> None:
    """Make, embed and measure."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("split", type=Path, help="what split.py wrote")
    arguments.add_argument("--cache", type=Path, default=Path.home() / ".cache" / "slimbind-mini")
    arguments.add_argument(
        "--work", type=Path, required=True, help="keep artifacts and vectors here, and take those there"
    )
    arguments.add_argument(
        "--test", type=_thousands, default=USUAL["test"], help="pictures of a set with classes, in thousands"
    )
    arguments.add_argument(
        "--train", type=_thousands, default=USUAL["train"], help="pictures to fit a linear probe on, likewise"
    )
    arguments.add_argument("--output", type=Path, default=HERE / "accuracy.json")
    arguments.add_argument("--steps", nargs="+", choices=STEPS, default=list(STEPS))
    options = arguments.parse_args()
    (options.work / "embedded").mkdir(parents=True, exist_ok=True)
    every = {
        name: Embedded(artifact, options.cache, options.work / "embedded", options.test, options.train)
        for name, artifact in schemes.make(options.split, options.cache, options.work)
    }
    sys.path.insert(0, str(HERE.parents[1] / "benchmarks"))
    from environment import environment

    for step in options.steps:
        started = time.process_time()
        rows = list(STEPS[step](every))
        # Read only now: another step may have been measured beside this one.
        record: dict[str, Any] = json.loads(options.output.read_text()) if options.output.exists() else {}
        record |= {
            "benchmark": "mini_accuracy",
            "environment": environment("openvino", "faiss-cpu", "scikit-learn", threads=1),
            "commands": record.get("commands", {}) | {step: _command(step, options)},
            "sets": LABELLED | PAIRED,
            step: rows,
        }
        text = _TRIPLE.sub(r"[\1, \2, \3]", json.dumps(record, indent=1))
        options.output.write_text(text + "\n", encoding="utf-8")
        print(f"{step}: {time.process_time() - started:.0f} CPU-s", flush=True)


def _thousands(text: str) -> int:
    if not text.isdigit() or not int(text) or int(text) % STEP:
        raise argparse.ArgumentTypeError(f"{text} is not a number of thousands, such as {STEP}")
    return int(text)


def _command(step: str, options: argparse.Namespace) -> str:
    """What measures a step again, with how much is measured where that is not the usual."""
    some = [f" --{name} {getattr(options, name)}" for name, usual in USUAL.items() if getattr(options, name) != usual]
    return f"python recipes/mini/accuracy.py mini-split --work work --steps {step}{''.join(some)}"


def told(right: Right, reference: Right | None, labels: np.ndarray | None = None) -> Told:
    """Shares of right items with their intervals, and their differences to the same items of a reference.

    Args:
        right: of what is judged.
        reference: of float32; None where it is that itself.
        labels: classes of the items, for the mean class recall of ``top-1``.
    """
    count, ours = len(next(iter(right.values()))), _statistics(right, labels)
    found = {name: _short(one) for name, one in metrics.bootstrap(ours, count).items()}
    if reference is not None:
        apart = metrics.paired(ours, _statistics(reference, labels), count)
        found |= {f"{name} difference": _short(one) for name, one in apart.items()}
    return found


def _statistics(right: Right, labels: np.ndarray | None) -> dict[str, metrics.Statistic]:
    found = {name: metrics.mean_of(values) for name, values in right.items()}
    return found if labels is None else found | {"mean class recall": metrics.class_mean_of(right["top-1"], labels)}


def _short(one: Estimate) -> list[float]:
    """The value and the ends of its interval."""
    return [round(float(number), 5) for number in (one.value, one.low, one.high) if number is not None]


def classified(pictures: np.ndarray, labels: np.ndarray, classes: np.ndarray) -> Right:
    """Whether the class of each picture is the nearest."""
    return {"top-1": metrics.rank(pictures, classes, Positives.one_each(labels)).ranks <= 1}


def zero_shot(data: str, every: Mapping[str, Embedded]) -> Iterable[Told]:
    """A row for each scheme: sizes, and zero-shot accuracy on a set by each set of sentences."""
    first: dict[str, Right] = {}
    for name, one in every.items():
        row: Told = {"scheme": name, "bytes": {modality: one.size(modality) for modality in ("vision", "text")}}
        vectors, labels = one.pictures(data, "test")
        for sentences in SENTENCES:
            right = classified(vectors, labels, one.classes(data, sentences))
            row[sentences] = {"items": len(labels)} | told(right, first.get(sentences), labels)
            first.setdefault(sentences, right)
        print(json.dumps(row), flush=True)
        yield row


def by_towers(every: Mapping[str, Embedded]) -> Iterable[Told]:
    """A row for each scheme and which tower has it; the other one is float32's."""
    whole = every[REFERENCE]
    reference = _asked(whole, whole)
    labels = whole.pictures("cifar", "test")[1]
    for name, one in every.items():
        for towers, (pictures, texts) in MIXES.items() if name != REFERENCE else {"none": (True, True)}.items():
            found = _asked(one if pictures else whole, one if texts else whole)
            row: Told = {"scheme": name, "towers": towers}
            for what, right in found.items():
                row[what] = told(right, None if name == REFERENCE else reference[what], _of(what, labels))
            yield row


def _of(what: str, labels: np.ndarray) -> np.ndarray | None:
    return labels if what == "cifar" else None


def _asked(pictures: Embedded, texts: Embedded) -> dict[str, Right]:
    """What is right of CIFAR-10 by one sentence, and of each set of pairs both ways, with these towers."""
    found = {"cifar": classified(*pictures.pictures("cifar", "test"), texts.classes("cifar", SENTENCES[0]))}
    for data in PAIRED:
        one, other = pictures.pairs(data), texts.pairs(data)
        mixed = Paired(one.first, other.second, one.pairs)
        for way in WAYS:
            found[f"{data}, {way}"] = searched(mixed, way, WHOLE, {})
    return found | _together(found)


def _together(found: Mapping[str, Right]) -> dict[str, Right]:
    """The queries of all sets of pairs in one, each of which searched its own set."""
    joined: dict[str, Right] = {}
    for way in WAYS:
        several = [found[f"{data}, {way}"] for data in PAIRED if f"{data}, {way}" in found]
        if len(several) == len(PAIRED):
            joined[f"all, {way}"] = {name: np.concatenate([each[name] for each in several]) for name in several[0]}
    return joined


def searched(found: Paired, way: str, codec: str, known: Mapping[str, np.ndarray]) -> Right:
    """Whether what belongs to each query is among the best, for each depth; what is searched is compressed."""
    asking = WAYS[way][1]
    sides = (found.first, found.second)
    queries, gallery = sides[asking], sides[1 - asking]
    positives = Positives.of_pairs(found.pairs[:, asking], found.pairs[:, 1 - asking], len(queries))
    ranks = ranks_through(parse(codec, queries.shape[1]), queries, gallery, positives, known)
    return {f"R@{depth}": ranks <= depth for depth in DEPTHS}


def by_codecs(names: Iterable[str], every: Mapping[str, Embedded]) -> Iterable[Told]:
    """A row for each scheme, codec, and whether it is fitted to what will be asked.

    Ranges and codebooks are learned from what is searched, as those of a collection are; the transform from that and
    from ``Embedded.examples``. Differences are to whole vectors of float32.
    """
    first = _compressed(every[REFERENCE], WHOLE, fitted=False)
    labels = every[REFERENCE].pictures("cifar", "test")[1]
    for name in names:
        one = every[name]
        for codec in CODECS:
            for fitted in (False, True) if codec != WHOLE else (False,):
                row: Told = {"scheme": name, "codec": codec, "fitted": fitted}
                row["bytes"] = parse(codec, one.pairs("unseen").first.shape[1]).bytes_per_vector
                reference = None if (name, codec) == (REFERENCE, WHOLE) else first
                for what, right in _compressed(one, codec, fitted=fitted).items():
                    row[what] = told(right, reference and reference[what], _of(what, labels))
                print(json.dumps(row), flush=True)
                yield row


def _compressed(one: Embedded, codec: str, *, fitted: bool) -> dict[str, Right]:
    found: dict[str, Right] = {}
    for way, (asking, _) in WAYS.items():
        known = {asking: one.examples[asking]} if fitted else {}
        for data in PAIRED:
            try:
                found[f"{data}, {way}"] = searched(one.pairs(data), way, codec, known)
            except UsageError as error:  # too few to learn codes from
                print(f"{codec}, {data}: {error.message}", flush=True)
    found |= _together(found)
    spec = parse(codec, one.classes("cifar", SENTENCES[0]).shape[1])
    if spec.refine is None:  # a second look is at the best only, and gives no score for every class
        pictures, labels = one.pictures("cifar", "test")
        known = {"text": one.examples["text"]} if fitted else {}
        stored, asked = compressed(spec, pictures, one.classes("cifar", SENTENCES[0]), known)
        found["cifar"] = classified(stored, labels, asked)
    return found


def gains(every: Mapping[str, Embedded]) -> Iterable[Told]:
    """What the transform was predicted to gain, for each scheme and what is searched; below its gate it is not used."""
    for name in (REFERENCE, *CROSSED):
        one = every[name]
        jobs = [(f"{data}, {way}", one.pairs(data), way) for data in PAIRED for way in WAYS]
        galleries = [(what, (pairs.first, pairs.second)[1 - WAYS[way][1]], WAYS[way][0]) for what, pairs, way in jobs]
        for what, gallery, asking in [*galleries, ("cifar", one.pictures("cifar", "test")[0], "text")]:
            gain = transform.predicted_gain(gallery, {asking: one.examples[asking]})
            yield {
                "scheme": name,
                "set": what,
                "gain": round(gain, 3),
                "used": gain >= transform.GATE,
                "vectors": len(gallery),
                "examples": len(one.examples[asking]),
            }


def probe(data: str, every: Mapping[str, Embedded]) -> Iterable[Told]:
    """A row for each scheme: a linear probe on a set, as `slimbind eval linear-probe` fits it."""
    first: Right | None = None
    for name, one in every.items():
        learned = one.pictures(data, "train")
        fitted = linear_probe.fit(*learned)
        vectors, labels = one.pictures(data, "test")
        right = {"top-1": fitted.scores(vectors, len(NAMES[data])).argmax(axis=1) == labels}
        row = {"scheme": name, "trained on": len(learned[1]), "items": len(labels), "C": fitted.c}
        row |= told(right, first, labels)
        first = first or right
        print(json.dumps(row), flush=True)
        yield row


STEPS: dict[str, Callable[[Mapping[str, Embedded]], Iterable[Told]]] = {
    "mix": by_towers,
    "schemes": partial(zero_shot, "cifar"),
    "codecs": partial(by_codecs, [REFERENCE]),
    "crossed": partial(by_codecs, CROSSED),
    "gains": gains,
    "probe": partial(probe, "cifar"),
    "fashion": partial(zero_shot, "fashion"),
    "fashion_probe": partial(probe, "fashion"),
}


if __name__ == "__main__":
    main()
