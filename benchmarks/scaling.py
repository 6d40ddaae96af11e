"""How do towers scale with the batch, and collections with the number of documents?

    python recipes/mini/split.py mini-split
    python benchmarks/scaling.py --cache FOLDER --mini-split mini-split      # both parts, all rows
    python benchmarks/scaling.py --cache FOLDER --only imu,10000             # some rows; what was measured stays

**batch.** Forward passes of prepared inputs (no decoding), ``mini`` and full-size towers with random weights
(``fullsize_schemes.py``), in f32 and int8-dynamic. All sizes and both schemes take turns in one process; each run is
timed the second time, as a shape that is new makes the engine prepare. Items per CPU second of one thread; ``gain`` is
how many times that of a single item, the median over the turns. Memory is the most that a fresh process holds while it
runs batches of this size, less what it held before it opened the tower; one item was run before, then smaller sizes
before larger ones.

**collection.** ``slimbind.Collection`` with its own choice of codes, filled with pictures of ``clip_like.py`` and asked
captions; 1000 captions of other pictures were shown to it before. A stage at a time, each in a fresh process
(``scaling_collection.py``). Recall is against exact search. CPU time of one thread.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from environment import environment, rounded
from fullsize_schemes import artifact, example, opened
from scaling_collection import STAGES, forget_peak, resident
from slimbind.artifact import Artifact
from slimbind.export.job import export
from slimbind.quantize.job import quantize
from slimbind.runtime.engine import INPUT, Session

OUTPUT = Path(__file__).parent / "results" / "scaling.json"
SCHEMES = ("f32", "int8-dynamic")
BATCHES = (1, 2, 4, 8, 16, 32)
SIZES = (1_000, 10_000, 100_000, 1_000_000)
TOKENS = 12  # a sentence of ten words or so
# Name -> modality, and how many blocks of the full-size tower; None: all.
FULL_SIZE: dict[str, tuple[str, int | None]] = {
    "text": ("text", 6),
    "vision": ("vision", 4),
    "depth": ("depth", None),
    "imu": ("imu", None),
}
MOST = {"vision": 8}  # items in a batch; else all of BATCHES
MINI = {"mini-text": "text", "mini-vision": "vision"}


def made(name: str, scheme: str, args: argparse.Namespace) -> Artifact:
    """The artifact of one row."""
    if name in FULL_SIZE:
        return artifact(args.cache, *FULL_SIZE[name], scheme)
    folder = args.cache / name / scheme
    if (folder / "manifest.json").exists():
        return Artifact.open(folder)
    if args.mini_split is None:
        raise SystemExit(f"{name} is not in {args.cache}: give --mini-split")
    if scheme == "f32":
        return export(args.mini_split, folder, modalities=[MINI[name]], threads=1)
    return quantize(args.mini_split, folder, scheme=scheme, modalities=[MINI[name]], threads=1, force=True)


def given(name: str, batch: int) -> np.ndarray:
    """``[batch, ...]``, without decoding."""
    if name == "mini-text":
        return np.random.default_rng(0).integers(1000, 2000, (batch, TOKENS)).astype(np.int32)
    if name == "mini-vision":
        return np.random.default_rng(0).standard_normal((batch, 3, 224, 224)).astype(np.float32)
    return example(FULL_SIZE[name][0], batch, tokens=TOKENS)


def sizes_of(name: str) -> list[int]:
    return [batch for batch in BATCHES if batch <= MOST.get(name, max(BATCHES))]


def by_batch(name: str, args: argparse.Namespace) -> dict[str, Any]:
    """Both schemes, all sizes, in turns."""
    modality = MINI.get(name) or FULL_SIZE[name][0]
    artifacts = {scheme: made(name, scheme, args) for scheme in SCHEMES}
    sessions = {scheme: opened(one, modality) for scheme, one in artifacts.items()}
    sizes = sizes_of(name)
    x = given(name, max(sizes))
    keys = [(scheme, batch) for batch in sizes for scheme in SCHEMES]
    times: dict[tuple[str, int], list[float]] = {key: [] for key in keys}
    for turn in range(args.rounds):
        for scheme, batch in keys if turn % 2 == 0 else reversed(keys):
            times[scheme, batch].append(seconds(sessions[scheme], x[:batch]))
    found: dict[str, Any] = {"shape": list(x.shape[1:]), "rounds": args.rounds}
    for scheme in SCHEMES:
        memory = child(["--memory", name, "--scheme", scheme, "--cache", str(args.cache)], __file__)
        weights = max(file.bytes for file in artifacts[scheme].tower(modality).files)
        rows = []
        for batch in sizes:
            rates = [batch / took for took in times[scheme, batch]]
            ones = [1 / took for took in times[scheme, 1]]
            gains = [rate / one for rate, one in zip(rates, ones, strict=True)]
            rows.append(
                {
                    "batch": batch,
                    "items_per_cpu_second": statistics.median(rates),
                    "gain": statistics.median(gains),
                    "gain_range": [min(gains), max(gains)],
                    "ms": 1e3 * statistics.median(times[scheme, batch]),
                    "memory_mib": memory[str(batch)],
                }
            )
            print(f"{name:12} {scheme:13} {json.dumps(rounded(rows[-1]))}", flush=True)
        found[scheme] = {"weights_mib": weights / (1 << 20), "rows": rows}
        sessions[scheme].close()
    return found


def seconds(session: Session, x: np.ndarray) -> float:
    """CPU seconds of a pass whose shape was seen a moment ago."""
    session.run({INPUT: x})
    started = time.process_time()
    session.run({INPUT: x})
    return time.process_time() - started


def memory(name: str, scheme: str, args: argparse.Namespace) -> dict[str, float]:
    """Batch -> MiB while it is run; in a process of its own."""
    from slimbind.runtime import quiet

    one, sizes = made(name, scheme, args), sizes_of(name)
    x = given(name, max(sizes))
    quiet.openvino().Core().get_property("CPU", "FULL_DEVICE_NAME")  # its libraries are there before
    before, found = resident(), {}
    session = opened(one, MINI.get(name) or FULL_SIZE[name][0])
    session.run({INPUT: x[:1]})  # weights are read and laid out anew, which is not what is asked
    for batch in sizes:
        forget_peak()
        for _ in range(3):
            session.run({INPUT: x[:batch]})
        found[str(batch)] = resident("VmHWM") - before
    return found


def by_documents(count: int, args: argparse.Namespace) -> dict[str, Any]:
    """One collection, all stages."""
    folder, found = args.cache / f"collection-{count}", {"documents": count}
    for place in args.cache.glob(f"{folder.name}*"):
        shutil.rmtree(place) if place.is_dir() else place.unlink()
    script = str(Path(__file__).parent / "scaling_collection.py")
    for stage in STAGES:
        found |= child([stage, str(folder), str(count)], script)
        print(f"{count:9,} {stage:7} {json.dumps(rounded(found))}", flush=True)
    for place in args.cache.glob(f"{folder.name}*"):
        shutil.rmtree(place) if place.is_dir() else place.unlink()
    return found


def child(arguments: list[str], script: str) -> dict[str, Any]:
    done = subprocess.run([sys.executable, script, *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return told


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path, required=True, help="towers are kept there, collections made there")
    parser.add_argument("--mini-split", type=Path, help="what recipes/mini/split.py wrote")
    every = (*MINI, *FULL_SIZE, *map(str, SIZES))
    parser.add_argument("--only", default=",".join(every), help="some of %(default)s")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--make", action="store_true", help="only make the towers")
    parser.add_argument("--memory", choices=(*MINI, *FULL_SIZE), help=argparse.SUPPRESS)
    parser.add_argument("--scheme", choices=SCHEMES, help=argparse.SUPPRESS)
    parser.add_argument("-o", "--output", type=Path, default=OUTPUT)
    args = parser.parse_args()
    if args.memory:
        print(json.dumps(memory(args.memory, args.scheme, args)))
        return 0
    record: dict[str, Any] = json.loads(args.output.read_text()) if args.output.exists() else {}
    for name in args.only.split(","):
        if name not in every:
            parser.error(f"no such row: {name}")
        part, key = ("documents", name) if name.isdigit() else ("batch", name)
        if args.make:
            if part == "batch":
                for scheme in SCHEMES:
                    made(name, scheme, args)
            continue
        told = by_documents(int(name), args) if part == "documents" else by_batch(name, args)
        record.setdefault(part, {})[key] = rounded(told)
        record |= {"benchmark": "scaling"}
        record |= {"command": "python benchmarks/scaling.py --cache FOLDER --mini-split mini-split"}
        record |= {"environment": environment("openvino", "numpy", "faiss-cpu", threads=1)}
        args.output.parent.mkdir(parents=True, exist_ok=True)
        args.output.write_text(json.dumps(record, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
