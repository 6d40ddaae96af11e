"""Records of every kind, made up: what a page of all tasks is tested with."""

from __future__ import annotations

import base64
import io

import numpy as np

from slimbind.evaluate.record import Estimate, Record

ENVIRONMENT = {"time": "2026-01-02T03:04:05+00:00", "slimbind": "0.1.0", "cpu": "a CPU", "cores": 2, "python": "3.11"}
CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
MODELS = {"clip-split/": 0.0, "clip-int8/": 0.06, "a/rather/long/path/of/a/folder/that/someone/has/clip-int4": 0.2}
LAYERS = 30


def picture(number: int) -> str:
    """A thumbnail as a data URI."""
    from PIL import Image

    buffer = io.BytesIO()
    pixels = np.random.default_rng(number).integers(0, 255, (40, 40, 3), np.uint8)
    Image.fromarray(pixels).save(buffer, "png")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def everything() -> list[Record]:
    """A record of each task for each of three models, the first the reference."""
    made = []
    for name, loss in MODELS.items():
        made += [zero_shot(name, loss), retrieval(name, loss), similarity(name, loss), speed(name, loss)]
        made += [fidelity(name, loss), memory(name, loss)]
    return [*made, activations("clip-split/"), *(zero_shot(name, loss, 120) for name, loss in list(MODELS.items())[:1])]


def _estimate(value: float, n: int = 500) -> Estimate:
    return Estimate(value, value - 0.02, value + 0.02, n)


def _difference(measure: str, loss: float) -> dict[str, Estimate]:
    return {f"{measure} difference": Estimate(-loss, -loss - 0.015, -loss + 0.01, 500)} if loss else {}


def zero_shot(name: str, loss: float, count: int = 10) -> Record:
    draw = np.random.default_rng(0)
    classes = CLASSES if count == 10 else [f"class {number}" for number in range(count)]
    table = draw.poisson(2, (count, count)) + np.diag(draw.integers(40, 90, count))
    return Record(
        "zero-shot",
        f"photos: vision, {count} classes",
        name,
        {"data": "/data/photos", "templates": ["a photo of a {}", "a bad photo of a {}"], "seed": 0, "items": 500},
        {"top-1": _estimate(0.71 - loss), "top-5": _estimate(0.93 - loss)} | _difference("top-1", loss),
        {"classes": classes, "confusion": table.tolist()},
        (("/data/photos/cat/broken.png", "no known image format"),) if not loss else (),
        ENVIRONMENT,
    )


def retrieval(name: str, loss: float) -> Record:
    sides = {"text to vision": 0.5 - loss, "vision to text": 0.45 - loss}
    measures = {f"{side} R@{k}": _estimate(value + k / 50) for side, value in sides.items() for k in (1, 5, 10)}
    measures |= _difference("text to vision R@1", loss)
    details = {"directions": {side: {"queries": 500, "gallery": 500, "median rank": 3} for side in sides}}
    return Record("retrieval", "captions", name, {"seed": 0}, measures, details, (), ENVIRONMENT)


def similarity(name: str, loss: float) -> Record:
    draw = np.random.default_rng(1)
    reference = 0.15 + 0.05 * draw.normal(size=(8, 8)) + 0.18 * np.eye(8)
    scores = reference + loss * draw.normal(size=(8, 8)) / 2
    details = {
        "rows": [f"photos/animal-{number}.jpg" for number in range(8)],
        "columns": [f"a photo of a {one}" for one in CLASSES[:8]],
        "scores": scores.tolist(),
        "reference": reference.tolist() if loss else None,
        "thumbnails": [picture(number) for number in range(8)],
    }
    settings = {"reference": "clip-split/"} if loss else {}
    measures = {"mean difference": Estimate(loss)}
    return Record("similarity", "images and texts", name, settings, measures, details, (), ENVIRONMENT)


def speed(name: str, loss: float) -> Record:
    rows = [
        {
            "modality": modality,
            "threads": threads,
            "batch": batch,
            "items_per_second": 40 * threads**0.8 * batch**0.3 * (1 + 8 * loss),
            "p50_seconds": 0.02 / threads**0.8,
            "p99_seconds": 0.03 / threads**0.7,
        }
        for modality in ("vision", "text")
        for threads in (1, 2, 4)
        for batch in (1, 8, 32)
    ]
    return Record("speed", "speed", name, {}, {"items_per_second": Estimate(100.0)}, {"rows": rows}, (), ENVIRONMENT)


def fidelity(name: str, loss: float) -> Record:
    measures = {"vision cosine_mean": Estimate(1 - loss / 50), "vision cosine_min": Estimate(1 - loss / 10)}
    return Record("fidelity", "against the first", name, {}, measures, {}, (), ENVIRONMENT)


def memory(name: str, loss: float) -> Record:
    measures = {"vision bytes": Estimate(350e6 * (1 - 3 * loss)), "peak_bytes": Estimate(500e6 * (1 - 2 * loss))}
    return Record("memory", "memory", name, {}, measures, {}, (), ENVIRONMENT)


def activations(name: str) -> Record:
    draw = np.random.default_rng(2)
    layers = []
    for number in range(LAYERS):
        high = float(10 ** draw.uniform(0.2, 2))
        counts = (1e5 * np.exp(-(np.linspace(-5, 5, 40) ** 2))).astype(int)
        edges = np.linspace(-high, high, 41).tolist()
        layers.append(
            {
                "name": f"trunk.blocks.{number}.mlp.linear_in",
                "kind": "linear",
                "parameters": 1024 * 4096,
                "ratio": high / 0.5,
                "channels": [0.1, 0.3, 0.5, 0.8, high],
                "weight": {"edges": np.linspace(-0.2, 0.3, 41).tolist(), "counts": counts.tolist()},
                "input": {"edges": edges, "counts": counts.tolist()},
                "outliers": [{"channel": 133 + place, "ratio": high / (place + 1)} for place in range(6)],
            }
        )
    layers.sort(key=lambda layer: -layer["ratio"])
    measures = {"greatest ratio": Estimate(200.0)}
    return Record("activations", "vision layers", name, {"data": "x"}, measures, {"layers": layers}, (), ENVIRONMENT)
