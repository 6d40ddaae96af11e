"""What does it cost to evaluate embeddings that are there already?

    python benchmarks/evaluate.py                     # 10,000 pairs and 1000 classes, of 1024 dimensions
    python benchmarks/evaluate.py --items 2000 --rounds 1

Each row is one evaluation in a fresh process: ``retrieval`` (R@1, R@5, R@10 and the median rank, both directions) and
``zero-shot`` (top-1, top-5, mean class recall, confusion matrix), with the 95 % intervals of 1000 resamples. ``plain``
is the way it is usually written, with the whole matrix of scores, a sort of every row and no intervals; the two take
turns, and have to find the same. Given are the medians over the rounds: processor seconds of the process (one thread
unless --threads says more), seconds on the clock, and the growth of its resident memory over what held the embeddings.
Goal for retrieval and zero-shot together: 10 s on two cores, and 1 GB.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from environment import environment

GOAL_SECONDS, GOAL_BYTES = 10.0, 10**9
CLASSES = 1000
WAYS = ("slimbind", "plain")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=10_000)
    parser.add_argument("--dims", default="1024")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("-o", "--output", type=Path, default=Path(__file__).parent / "results" / "evaluate.json")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        way, task, dim = args.child.split(",")
        print(json.dumps(measure(way, task, args.items, int(dim))))
        return 0
    rows: list[dict[str, Any]] = []
    for dim in (int(one) for one in args.dims.split(",")):
        both = []
        for task in ("retrieval", "zero-shot"):
            found: dict[str, list[dict[str, Any]]] = {way: [] for way in WAYS}
            for number in range(args.rounds):
                for way in WAYS if number % 2 == 0 else WAYS[::-1]:
                    found[way].append(child(way, task, dim, args))
            told = {way: found[way][0]["found"] for way in WAYS}
            # One product of matrices sums in another order than many: a rank may differ where two scores are equal.
            if not np.allclose(told["slimbind"], told["plain"], rtol=1e-3, atol=2 / args.items):
                print(f"{task}, {dim} dimensions: {told['slimbind']} and {told['plain']}", file=sys.stderr)
                return 1
            both.append({"task": task, "dim": dim, **{way: median(found[way]) for way in WAYS}})
        rows += both
        seconds = sum(row["slimbind"]["cpu_seconds"] for row in both)
        peak = max(row["slimbind"]["total_bytes"] for row in both)
        for row in both:
            print(
                f"{row['task']:10} {dim:5} dimensions  "
                + "   ".join(
                    f"{way} {row[way]['cpu_seconds']:6.2f} CPU-s {row[way]['grown_bytes'] / 1e6:6.0f} MB"
                    for way in WAYS
                ),
                flush=True,
            )
        rows.append({"task": "both", "dim": dim, "cpu_seconds": seconds, "total_bytes": peak})
        print(f"{'both':10} {dim:5} dimensions  {seconds:.2f} CPU-s, {peak / 1e6:.0f} MB in all", flush=True)
    record = {
        "benchmark": "evaluate",
        "command": f"python benchmarks/evaluate.py --items {args.items} --dims {args.dims} --rounds {args.rounds}"
        f" --threads {args.threads}",
        "environment": environment("numpy", threads=args.threads),
        "items": args.items,
        "classes": CLASSES,
        "goal_seconds": GOAL_SECONDS,
        "goal_bytes": GOAL_BYTES,
        "rows": rows,
    }
    args.output.parent.mkdir(parents=True, exist_ok=True)
    args.output.write_text(json.dumps(record, indent=1) + "\n")
    print(f"written: {args.output}")
    totals = [row for row in rows if row["task"] == "both"]
    return int(any(row["cpu_seconds"] > GOAL_SECONDS or row["total_bytes"] > GOAL_BYTES for row in totals))


def child(way: str, task: str, dim: int, args: argparse.Namespace) -> dict[str, Any]:
    threads = {name: str(args.threads) for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")}
    command = [sys.executable, __file__, "--child", f"{way},{task},{dim}", "--items", str(args.items)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | threads)
    if done.returncode:
        raise SystemExit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def median(runs: list[dict[str, Any]]) -> dict[str, float]:
    keys = ("cpu_seconds", "seconds", "grown_bytes", "total_bytes")
    return {key: statistics.median(run[key] for run in runs) for key in keys}


def measure(way: str, task: str, items: int, dim: int) -> dict[str, Any]:
    """One evaluation in this process."""
    from slimbind.evaluate import retrieval, zero_shot  # noqa: F401  (before the memory is looked at)

    random = np.random.default_rng(0)
    first, second = pairs(random, items, dim)
    labels = random.integers(0, CLASSES, items)
    job = {
        ("slimbind", "retrieval"): lambda: ours_retrieval(first, second),
        ("plain", "retrieval"): lambda: plain_retrieval(first, second),
        ("slimbind", "zero-shot"): lambda: ours_zero_shot(first, labels, second[:CLASSES]),
        ("plain", "zero-shot"): lambda: plain_zero_shot(first, labels, second[:CLASSES]),
    }[way, task]
    before, started, cpu = peak_bytes(reset=True), time.perf_counter(), time.process_time()
    found = job()
    cpu, seconds, after = time.process_time() - cpu, time.perf_counter() - started, peak_bytes()
    return {
        "cpu_seconds": cpu,
        "seconds": seconds,
        "grown_bytes": max(0, after - before),
        "total_bytes": after,
        "found": found,
    }


def pairs(random: np.random.Generator, items: int, dim: int) -> tuple[np.ndarray, np.ndarray]:
    """Two noisy copies of the same directions, so that some partners find each other and some do not."""
    centre = random.standard_normal((items, dim), dtype=np.float32)
    sides = []
    for _ in range(2):
        side = centre + 3 * random.standard_normal((items, dim), dtype=np.float32)
        sides.append(side / np.linalg.norm(side, axis=1, keepdims=True))
    return sides[0], sides[1]


def ours_retrieval(first: np.ndarray, second: np.ndarray) -> list[float]:
    from slimbind.evaluate.retrieval import Paired, score

    numbers = np.arange(len(first))
    measures, _ = score(Paired(first, second, np.stack([numbers, numbers], axis=1)), ("vision", "text"))
    return [round(one.value, 9) for name, one in measures.items() if "R@" in name or "rank" in name]


def plain_retrieval(first: np.ndarray, second: np.ndarray) -> list[float]:
    found: list[float] = []
    scores = first @ second.T
    for table in (scores, scores.T):
        order = np.argsort(-table, axis=1, kind="stable")
        ranks = 1 + (order == np.arange(len(table))[:, None]).argmax(axis=1)
        found += [round(float((ranks <= depth).mean()), 9) for depth in (1, 5, 10)] + [float(np.median(ranks))]
    return found


def ours_zero_shot(items: np.ndarray, labels: np.ndarray, classes: np.ndarray) -> list[float]:
    from slimbind.evaluate.zero_shot import score

    measures, table = score(items, labels, classes)
    return [round(one.value, 9) for one in measures.values()] + [float(np.trace(table))]


def plain_zero_shot(items: np.ndarray, labels: np.ndarray, classes: np.ndarray) -> list[float]:
    order = np.argsort(-(items @ classes.T), axis=1, kind="stable")
    hits = order == labels[:, None]
    table = np.zeros((len(classes), len(classes)), np.int64)
    np.add.at(table, (labels, order[:, 0]), 1)
    sizes = table.sum(axis=1)
    recall = float((np.diag(table)[sizes > 0] / sizes[sizes > 0]).mean())
    accuracy = [float(hits[:, :depth].any(axis=1).mean()) for depth in (1, 5)]
    return [round(value, 9) for value in (*accuracy, recall)] + [float(np.trace(table))]


def peak_bytes(*, reset: bool = False) -> int:
    """The most resident memory so far; ``reset`` begins anew at what is resident now."""
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) * 1024
    raise SystemExit("this system does not tell the peak of resident memory (Linux does)")


if __name__ == "__main__":
    sys.exit(main())
