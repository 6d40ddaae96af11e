"""How fast is a collection: adding, opening, searching from disk to hits, and indexing a folder where nothing changed?

    python benchmarks/collection.py

Vectors are random, of 512 dimensions. Searches are whole ones: from the query to hits with their metadata. The folder
holds small pictures that were indexed before with the encoder ids of `mini` and made-up vectors; then the program
itself is run on it, as a process of its own.

How that grows with the number of items: ``scaling.py``.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

import slimbind
from environment import environment, rounded
from slimbind.bulk import Reader, update_index
from slimbind.collection import Collection

DIM = 512
RESULT = Path(__file__).parent / "results" / "collection.json"


def seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def units(count: int, seed: int) -> NDArray[np.float32]:
    """Unit vectors around some hundred centres, so that there is something to find."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(0).standard_normal((300, DIM)).astype(np.float32)
    rows = centres[rng.integers(0, len(centres), count)] + rng.standard_normal((count, DIM)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def items(count: int, folder: Path) -> dict[str, Any]:
    rows = units(count, 1)
    ids = [f"/photos/{n:07d}.jpg" for n in range(count)]
    metadata = [{"year": 2000 + n % 25, "suffix": ".jpg"} for n in range(count)]
    told: dict[str, Any] = {"items": count, "dim": DIM}
    shelf = Collection.create(folder / "once")
    told["add_seconds"] = seconds(lambda: shelf.add(rows, ids=ids, modality="vision", metadata=metadata))
    shelf.close()
    with Collection.create(folder / "steps") as steps:

        def in_steps() -> None:
            for start in range(0, count, 1000):
                part = slice(start, start + 1000)
                steps.add(rows[part], ids=ids[part], modality="vision", metadata=metadata[part])

        told["add_in_steps_of_1000_seconds"] = seconds(in_steps)
    told["open_ms"] = 1000 * min(seconds(lambda: Collection.open(folder / "once").close()) for _ in range(5))
    queries = units(1000, 2)
    with Collection.open(folder / "once") as shelf:
        told["build_codes_seconds"] = seconds(shelf.build)
        told["stats"] = {name: getattr(shelf.stats(), name) for name in ("method", "database_bytes", "codes_bytes")}
    with Collection.open(folder / "once") as shelf:
        told["first_search_ms"] = 1000 * seconds(lambda: shelf.search(queries[0]))
        times = sorted(seconds(lambda one=query: shelf.search(one)) for query in queries[:200])
        told["search_ms"] = 1000 * times[100]
        told["search_batch_of_1000_queries_per_second"] = 1000 / seconds(lambda: shelf.search_batch(queries))
        # The answer of a filter is kept: these let the same items through, and none of them was asked before.
        fresh = [f"year >= {2020 - n / 100}" for n in range(20)]
        told["search_where_a_fifth_ms"] = (
            1000
            * sorted(
                seconds(lambda one=query, where=where: shelf.search(one, where=where))
                for query, where in zip(queries, fresh, strict=False)
            )[10]
        )
        again = sorted(seconds(lambda one=query: shelf.search(one, where=fresh[-1])) for query in queries[:20])
        told["search_where_again_ms"] = 1000 * again[10]
        report = shelf.verify()
        assert report.ok
        told["recall_at_10"] = report.recall
        told["verify_seconds"] = seconds(shelf.verify)
        told["delete_a_tenth_seconds"] = seconds(lambda: shelf.delete(ids[::10]))
        told["compact_seconds"] = seconds(shelf.compact)
    return told


def unchanged(count: int, folder: Path) -> dict[str, Any]:
    from PIL import Image

    pictures = folder / "pictures"
    for n in range(count):
        place = pictures / f"{n // 100:03d}"
        place.mkdir(parents=True, exist_ok=True)
        path = place / f"{n:05d}.png"
        Image.new("RGB", (8, 8), (n % 256, n // 256 % 256, 7)).save(path)
        os.utime(path, (n, n))  # files written a moment ago would be read again
    with slimbind.load("mini") as model:
        ids = {name: model.encoder(name).id for name in model.modalities}
        dim, modalities = model.dim, model.modalities

    def stream(sources: list[Any], modality: str, *, batch_size: int | None) -> Iterator[Any]:
        for row in np.random.default_rng(0).standard_normal((len(sources), dim)).astype(np.float32):
            yield SimpleNamespace(vector=row, error=None)

    made_up: Any = SimpleNamespace(encoder=lambda name: SimpleNamespace(id=ids[name]), stream=stream)
    with Collection.create(folder / "index", dim=dim, model="mini", encoders=ids) as shelf:
        reader = Reader("mini", modalities, wanted=["vision"])
        first = update_index(shelf, made_up, reader, [str(pictures)])
        assert first.added == count
    command = [sys.executable, "-m", "slimbind", "index", str(pictures), "--index", str(folder / "index")]
    start = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    took = time.perf_counter() - start
    assert f" {count} unchanged" in done.stderr, done.stderr
    for path in pictures.rglob("*.png"):
        os.utime(path, (1, 1))
    touched = seconds(lambda: subprocess.run(command, capture_output=True, check=True))
    return {
        "files": count,
        "first_without_embedding_seconds": first.seconds,
        "unchanged_seconds": took,
        "touched_seconds": touched,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--files", type=int, default=10_000)
    parser.add_argument("--output", type=Path, default=RESULT)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        result: dict[str, Any] = {
            "benchmark": "collection",
            "environment": environment("numpy", "faiss-cpu", threads=1),
            "collection": items(asked.items, folder),
            "folder": unchanged(asked.files, folder),
        }
    asked.output.write_text(json.dumps(rounded(result, 4), indent=1) + "\n", encoding="utf-8")
    print(json.dumps(rounded(result, 4), indent=1))


if __name__ == "__main__":
    main()
