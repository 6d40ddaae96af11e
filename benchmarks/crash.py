"""What does a collection keep when its process is killed at any moment, or the disk is full, or a byte of it flips?

    python benchmarks/crash.py --kills 200

A child process adds, replaces, deletes and compacts, and tells before each change what it is about to do and after it
that it was done. It is killed (SIGKILL) at a random moment, some of them in the middle of a commit. Then the collection
must open, `verify` must pass, every change that was told to be done must be there, the one that was under way must be
there as a whole or not at all, and there must be nothing else.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

DIM = 32
RESULT = Path(__file__).parent / "results" / "crash.json"
State = dict[str, int]  # id -> seed of its vector


def vector(seed: int) -> NDArray[np.float32]:
    row = np.random.default_rng(seed).standard_normal(DIM).astype(np.float32)
    return row / np.linalg.norm(row)


def plan(rng: random.Random, state: State) -> dict[str, Any]:
    """The next change, as JSON."""
    kind = rng.choices(["add", "upsert", "delete", "compact"], [6, 3, 3, 1])[0]
    if kind == "compact" or (kind == "delete" and not state):
        return {"kind": "compact"}
    some = rng.sample(sorted(state), min(len(state), rng.choice([1, 5, 30])))
    if kind == "delete":
        return {"kind": "delete", "ids": some}
    ids = [f"{rng.getrandbits(48):012x}" for _ in range(rng.choice([1, 3, 50]))]
    ids += some if kind == "upsert" else []
    return {"kind": kind, "items": {name: rng.getrandbits(32) for name in ids}}


def after(state: State, change: dict[str, Any]) -> State:
    """What is there when a change was made."""
    if change["kind"] == "delete":
        return {name: seed for name, seed in state.items() if name not in set(change["ids"])}
    return {**state, **change.get("items", {})}


def work(folder: str, seed: int) -> None:
    """The child: changes until it is killed."""
    from slimbind.codecs import index
    from slimbind.collection import Collection, codes

    # Small numbers, so that code files are made and replaced all the time.
    index.EXACT_BELOW, codes._TAIL, codes._YOUNG = 60, 30, 0.0
    rng = random.Random(seed)
    with Collection.open(folder) as shelf:
        state = {entry.id: int(entry.metadata["seed"]) for entry in shelf.entries()}
        while True:
            change = plan(rng, state)
            print(json.dumps(change), flush=True)
            if change["kind"] == "compact":
                shelf.compact()
            elif change["kind"] == "delete":
                shelf.delete(change["ids"])
            else:
                told = change["items"]
                write = shelf.add if change["kind"] == "add" else shelf.upsert
                rows = np.stack([vector(number) for number in told.values()])
                write(rows, ids=list(told), metadata=[{"seed": number} for number in told.values()])
            print("done", flush=True)
            state = after(state, change)
            if rng.random() < 0.3:
                shelf.search(vector(1))


def kill_once(folder: Path, expected: State, seed: int) -> State:
    """Let a child work, kill it, and compare; returns what is there. AssertionError where something is lost."""
    rng = random.Random(seed)
    command = [sys.executable, __file__, "--work", str(folder), "--seed", str(seed)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        lines = [child.stdout.readline()]  # it has begun
        time.sleep(rng.uniform(0, 0.4))
        child.send_signal(signal.SIGKILL)
        lines += child.stdout.read().split("\n")
    changes = [
        json.loads(line) for line in lines if line.strip() and line.startswith("{") and line.rstrip().endswith("}")
    ]
    done = sum(line.strip() == "done" for line in lines)
    for change in changes[:done]:
        expected = after(expected, change)
    return check(folder, [expected, *(after(expected, change) for change in changes[done:])])


def check(folder: Path, allowed: list[State]) -> State:
    """The collection opens, is whole, can be searched, and is in one of these states."""
    from slimbind.codecs import index
    from slimbind.collection import Collection, codes

    index.EXACT_BELOW, codes._TAIL, codes._YOUNG = 60, 30, 0.0
    with Collection.open(folder) as shelf:
        report = shelf.verify(samples=10)
        assert report.ok, report.problems
        found = {entry.id: int(entry.metadata["seed"]) for entry in shelf.entries()}
        assert found in allowed, f"{len(found)} items, not one of {[len(state) for state in allowed]}"
        ids = sorted(found)
        if ids:
            np.testing.assert_allclose(shelf.vectors(ids), np.stack([vector(found[name]) for name in ids]), atol=1e-6)
            hits = shelf.search(vector(found[ids[0]]), len(found) + 1)
            assert {hit.id for hit in hits} == set(ids)
        assert shelf.verify(samples=0).codes == ""
    return found


def soak(kills: int, seed: int) -> dict[str, Any]:
    from slimbind.collection import Collection

    folder = Path(tempfile.mkdtemp()) / "shelf"
    Collection.create(folder).close()
    state: State = {}
    start = time.perf_counter()
    most = 0
    try:
        for number in range(kills):
            state = kill_once(folder, state, seed + number)
            most = max(most, len(state))
            if len(state) > 3000:  # so that one check does not take longer than the work
                with Collection.open(folder) as shelf:
                    shelf.delete(list(state))
                state = {}
            print(f"{number + 1}/{kills}: {len(state)} items, all there", file=sys.stderr, flush=True)
    finally:
        shutil.rmtree(folder.parent)
    return {"kills": kills, "lost": 0, "most_items": most, "seconds": round(time.perf_counter() - start, 1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.work:
        work(asked.work, asked.seed)
        return
    from environment import environment

    told = {
        "benchmark": "crash",
        "environment": environment("numpy", "faiss-cpu", threads=1),
        **soak(asked.kills, asked.seed),
    }
    RESULT.write_text(json.dumps(told, indent=1) + "\n")
    print(json.dumps(told, indent=1))


if __name__ == "__main__":
    main()
