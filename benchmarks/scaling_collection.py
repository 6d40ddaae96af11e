"""A collection of so many documents, a stage at a time; the part ``collection`` of ``scaling.py``.

    python benchmarks/scaling_collection.py fill FOLDER 100000      # prints what it found as JSON, on the last line

Each stage is a process of its own: what it holds in memory is counted from before it opens the collection.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from clip_like import Generator
from slimbind.collection import Collection

DIM = 512
STEP = 20_000  # items in one call of add
QUERIES = 200
SHOWN = 1000  # captions of other pictures, to fit codes to
MIB = 1 << 20


def spent(call: Callable[[], object]) -> float:
    """CPU seconds."""
    started = time.process_time()
    call()
    return time.process_time() - started


def resident(kind: str = "VmRSS") -> float:
    """MiB that this process holds, or (VmHWM) has held at most."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(kind))


def forget_peak() -> None:
    """Count the highest use from now on."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def fill(folder: Path, count: int) -> dict[str, float]:
    """Make the collection and the exact answers to the queries."""
    made = Generator(DIM)
    documents, queries = made.documents(count), made.captions(max(QUERIES, 2))[:QUERIES]
    scores = np.concatenate([queries @ documents[start : start + STEP].T for start in range(0, count, STEP)], axis=1)
    np.save(folder.with_suffix(".truth.npy"), np.argpartition(-scores, 10, axis=1)[:, :10])
    np.save(folder.with_suffix(".queries.npy"), queries)
    del scores
    shown, took = made.sample(SHOWN), 0.0
    with Collection.create(folder) as shelf:
        shelf.learn_queries(shown, "text")
        for start in range(0, count, STEP):
            names = range(start, min(count, start + STEP))
            ids = [f"/photos/{n:07d}.jpg" for n in names]
            metadata = [{"year": 2000 + n % 25, "suffix": ".jpg"} for n in names]
            rows = documents[start : start + STEP]
            took += spent(lambda: shelf.add(rows, ids=ids, modality="vision", metadata=metadata))  # noqa: B023
    return {"add_cpu_seconds": took}


def build(folder: Path, count: int) -> dict[str, float]:
    """Make codes; small collections have none."""
    before = resident()
    with Collection.open(folder) as shelf:
        forget_peak()
        took = spent(shelf.build)
    return {"build_cpu_seconds": took, "build_peak_mib": resident("VmHWM") - before}


def search(folder: Path, count: int) -> dict[str, Any]:
    """One query at a time, and many at once."""
    queries, truth = (np.load(folder.with_suffix(f".{name}.npy")) for name in ("queries", "truth"))
    before = resident()
    started = time.perf_counter()
    with Collection.open(folder) as shelf:
        opened = time.perf_counter() - started
        first = spent(lambda: shelf.search(queries[0]))
        hits: list[list[Any]] = []
        times = [spent(lambda one=query: hits.append(shelf.search(one, k=10))) for query in queries]  # type: ignore[misc]
        holds = resident() - before
        right = [
            len({int(hit.id[8:15]) for hit in some} & set(best.tolist()))
            for some, best in zip(hits, truth, strict=True)
        ]
        batch = spent(lambda: shelf.search_batch(queries))
        # The answer of a filter is kept: these let the same items through, and none of them was asked before.
        fresh = [f"year >= {2020 - n / 100}" for n in range(10)]
        where = [
            spent(lambda one=query, text=text: shelf.search(one, where=text))  # type: ignore[misc]
            for query, text in zip(queries, fresh, strict=False)
        ]
        stats = shelf.stats()
    return {
        "open_ms": 1e3 * opened,
        "first_search_cpu_ms": 1e3 * first,
        "search_cpu_ms": 1e3 * float(np.median(times)),
        "search_p99_cpu_ms": 1e3 * float(np.quantile(times, 0.99)),
        "recall_at_10": sum(right) / truth.size,
        "batch_per_cpu_second": len(queries) / batch,
        "where_a_fifth_cpu_ms": 1e3 * float(np.median(where)),
        "resident_mib": holds,
        "method": stats.method,
        "bytes_per_code": (stats.codes or {}).get("bytes_per_vector"),
        "database_bytes": stats.database_bytes,
        "codes_bytes": stats.codes_bytes,
    }


STAGES: dict[str, Callable[[Path, int], dict[str, Any]]] = {"fill": fill, "build": build, "search": search}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", choices=STAGES)
    parser.add_argument("folder", type=Path)
    parser.add_argument("count", type=int)
    args = parser.parse_args()
    print(json.dumps(STAGES[args.stage](args.folder, args.count)))


if __name__ == "__main__":
    main()
