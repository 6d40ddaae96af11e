"""Is the gap-aware transform worth on real embeddings what it predicts? Pictures and words embedded by `mini`.

    OMP_NUM_THREADS=1 python benchmarks/real_gap.py

Documents are crops of the sample pictures, queries are words of mini's vocabulary as captions, "a photo of a ...".
Both are split: the transform is fitted on crops of every other picture and on every other word, and judged on the rest.
Error is that of one-bit codes (rabitq1), over the spread of a query's exact scores; agreement is how many of the exact
ten best pictures one-bit codes have among their ten. The last row asks pictures with pictures.

Results go to ``benchmarks/results/real-gap.json``.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tokenizers import Tokenizer

import slimbind
from environment import ROOT, environment
from slimbind.codecs import Transform, fit, open_codec

RESULTS = Path(__file__).parent / "results" / "real-gap.json"
Vectors = NDArray[np.float32]


def crops(each: int) -> list[list[Image.Image]]:
    """``each`` crops of every sample picture, of a third to all of its sides."""
    rng = np.random.default_rng(0)
    found = []
    for path in sorted([*(ROOT / "samples").glob("photos/*.jpg"), *(ROOT / "samples").glob("illustrations/*.png")]):
        with Image.open(path) as opened:
            picture = opened.convert("RGB")
        some = []
        for _ in range(each):
            width, height = (int(side * rng.uniform(0.33, 1)) for side in picture.size)
            left, top = rng.integers(0, picture.width - width + 1), rng.integers(0, picture.height - height + 1)
            some.append(picture.crop((int(left), int(top), int(left) + width, int(top) + height)))
        found.append(some)
    return found


def words(model: slimbind.Model, count: int) -> list[str]:
    """Whole words of the text tower's vocabulary, evenly spread."""
    file = next((Path(model.artifact.folder) / "text").glob("*tokenizer*.json"))
    known = sorted(word for word in Tokenizer.from_file(str(file)).get_vocab() if word.isalpha() and len(word) > 3)
    return [known[int(at)] for at in np.linspace(0, len(known) - 1, count)]


def judged(transform: Transform | None, learn: Vectors, x: Vectors, q: Vectors, *, centred: bool) -> dict[str, float]:
    """Error and agreement of one-bit codes of ``x`` asked by ``q``."""
    codec = open_codec("rabitq1", x.shape[1])
    codec.train(learn if transform is None else transform.documents(learn))
    if not centred:
        codec.restore({**codec.state(), "mean": np.zeros(x.shape[1], np.float32)})
    stored, asked = (x, q) if transform is None else (transform.documents(x), transform.queries(q))
    scores = codec.score(asked, codec.encode(stored))
    exact = q @ x.T
    error = (scores - exact).std(axis=1) / exact.std(axis=1)
    best, found = np.argsort(-exact, axis=1)[:, :10], np.argsort(-scores, axis=1)[:, :10]
    same = np.mean([len(np.intersect1d(a, b)) / 10 for a, b in zip(best, found, strict=True)])
    return {"error": round(float(error.mean()), 3), "agreement": round(float(same), 3)}


def row(name: str, learn: tuple[Vectors, Vectors], test: tuple[Vectors, Vectors]) -> dict[str, Any]:
    """Raw, centred and transformed, for one kind of query."""
    transform = fit(learn[0], {name: learn[1]}, gate=0)
    assert transform is not None
    return {
        "queries": name,
        "fitted_on": [len(part) for part in learn],
        "judged_on": [len(part) for part in test],
        "predicted_gain": round(transform.predicted_gain, 2),
        "raw": judged(None, learn[0], *test, centred=False),
        "centred": judged(None, learn[0], *test, centred=True),
        "transformed": judged(transform, learn[0], *test, centred=True),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--crops", type=int, default=24, help="of each picture")
    parser.add_argument("--words", type=int, default=3000)
    parser.add_argument("--output", type=Path, default=RESULTS)
    args = parser.parse_args()
    with slimbind.load("mini") as model:
        pictures = crops(args.crops)
        vision = [model.embed(some, modality="vision") for some in pictures]
        text = model.embed([f"a photo of a {word}" for word in words(model, args.words)], modality="text")
    learn, test = np.concatenate(vision[0::2]), np.concatenate(vision[1::2])
    mean = learn.mean(axis=0)
    results = {
        "benchmark": "real_gap",
        "rows": [
            row("text", (learn, text[0::2]), (test, text[1::2])),
            row("vision", (learn[0::2], learn[1::2]), (test[0::2], test[1::2])),
        ],
        "pictures": len(pictures),
        "cosine": {
            "picture-picture": round(float(mean @ mean), 3),
            "caption-caption": round(float(text.mean(0) @ text.mean(0)), 3),
            "picture-caption": round(float(mean @ text.mean(0)), 3),
        },
        "environment": environment("slimbind", "faiss-cpu", "openvino", threads=1),
    }
    print(json.dumps(results["rows"], indent=1))
    args.output.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
