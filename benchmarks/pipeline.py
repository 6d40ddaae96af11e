"""What does the pipeline around a model cost: from the start of a process, and from files on disk, to vectors?

    pip install "slimbind[build]" transformers        # transformers to write the model as the peers read it
    python benchmarks/pipeline.py --steps install,make,vectors,damaged
    taskset -c 0 python benchmarks/pipeline.py --steps cold,warm
    taskset -c 0,1 python benchmarks/pipeline.py --steps two

The peers are sentence-transformers, fastembed, and the usual script around open_clip. All run the same CLIP ViT-B/32
with the same random weights (``clip.py``), each in an environment that holds what its own installation brings and
nothing else (pip has to find a build of torch for CPUs), with the batch sizes it takes where nobody says. A measurement
is a process of its own (``pipeline_child.py``); in a round each pipeline has its turn, and every second round goes
backwards. Files are in the page cache, nothing asks a network.

- ``install``: how many distributions an installation brings, and bytes on disk.
- ``cold``: from the start of the process to the end of the import, to the first photograph's and to the first
  sentence's vector: seconds, processor seconds, the most memory the process held.
- ``warm``: one core. 100 photographs of 1 MP (every tenth a PNG), 24 of 12 MP, 300 sentences; some of them first.
- ``two``: the same on two cores, by the clock too.
- ``vectors``: cosine of each pipeline's vectors to open_clip's, and how they change with the size of the batch.
- ``damaged``: one damaged file among five good ones.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import pipeline_make as make
from environment import environment
from slimbind.evaluate import fidelity

ROOT = Path(__file__).parents[1]
CHILD = Path(__file__).with_name("pipeline_child.py")
REFERENCE = "open_clip"
PEERS = ("sentence-transformers", "fastembed", REFERENCE)
OURS = ("slimbind f32", "slimbind bf16", "slimbind int8-dynamic")
# Peers that have a way of their own to use another core.
TWO = ("sentence-transformers", "fastembed", "fastembed, parallel=2", REFERENCE, "open_clip, 2 workers", *OURS)
GOOD = 5
VECTORS = {"1 MP": 40, "12 MP": 8, "texts": 64}  # how many are compared
Told = dict[str, Any]


def run(work: Path, pipeline: str, task: str, *, threads: int = 1, **told: Any) -> Told:  # noqa: ANN401
    """One measurement in a fresh process."""
    python = work / "environments" / pipeline.replace(",", " ").split()[0] / "bin" / "python"
    offline = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
    limits = {f"{library}_NUM_THREADS": str(threads) for library in ("OMP", "MKL", "OPENBLAS")}
    outside = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV")}
    told |= {"models": str(work / "models"), "threads": threads, "started": time.time()}
    done = subprocess.run(
        [str(python), str(CHILD), pipeline, task, json.dumps(told)],
        capture_output=True,
        text=True,
        check=False,
        env=outside | offline | limits,
    )
    if done.returncode:
        raise SystemExit(f"{pipeline}, {task}:\n{done.stderr[-3000:]}")
    found: Told = json.loads(done.stdout.splitlines()[-1])
    return found


def in_turn(pipelines: Sequence[str], turn: int) -> Sequence[str]:
    """Every second round goes backwards."""
    return pipelines if turn % 2 == 0 else pipelines[::-1]


def keep(rows: Told, pipeline: str, what: str, found: Told) -> None:
    """Add one measurement to those of its kind."""
    kind = rows.setdefault(pipeline, {}).setdefault(what, {})
    for name, value in found.items():
        kind.setdefault(name, []).append(round(value, 3))
    print(f"{pipeline:26} {what:8} " + "  ".join(f"{name} {value:.2f}" for name, value in found.items()), flush=True)


def cold(work: Path, rounds: int) -> Iterator[Told]:
    """What is found, again after every round."""
    rows: Told = {}
    first = {"vision": make.photographs(work)["1 MP"][:1], "text": ["a photograph of two dogs on a beach"]}
    for pipeline in [*PEERS, *OURS]:  # once for the page cache
        run(work, pipeline, "import")
    for turn in range(rounds):
        for pipeline in in_turn([*PEERS, *OURS], turn):
            if pipeline in (*PEERS, OURS[0]):
                keep(rows, pipeline, "import", run(work, pipeline, "import"))
            for modality, items in first.items():
                keep(rows, pipeline, modality, run(work, pipeline, "first", modality=modality, items=items))
        yield {"rows": rows, "rounds": turn + 1}


def warm(work: Path, rounds: int, *, pipelines: Sequence[str] = (*PEERS, *OURS), threads: int = 1) -> Iterator[Told]:
    """What is found, again after every round."""
    rows: Told = {}
    loads = {name: ("vision", files) for name, files in make.photographs(work).items()}
    loads["texts"] = ("text", make.texts())
    counts = {name: len(items) for name, (_, items) in loads.items()}
    for turn in range(rounds):
        for pipeline in in_turn(pipelines, turn):
            for name, (modality, items) in loads.items():
                keep(rows, pipeline, name, run(work, pipeline, "warm", threads=threads, modality=modality, items=items))
        yield {"rows": rows, "rounds": turn + 1, "items": counts}


def vectors(work: Path) -> Iterator[Told]:
    rows: Told = {}
    loads = {name: ("vision", files[: VECTORS[name]]) for name, files in make.photographs(work).items()}
    loads["texts"] = ("text", make.texts()[: VECTORS["texts"]])
    with tempfile.TemporaryDirectory() as folder:
        for name, (modality, items) in loads.items():
            truth = None
            for pipeline in [REFERENCE, *(each for each in (*PEERS, *OURS) if each != REFERENCE)]:
                output = str(Path(folder) / "vectors.npz")
                run(work, pipeline, "vectors", modality=modality, items=items, output=output)
                with np.load(output) as found:
                    every, alone, together = (unit(found[key]) for key in ("all", "alone", "together"))
                truth = every if truth is None else truth
                told = fidelity.measure(truth, every, data="")
                row = {
                    "cosine_mean": told.cosine_mean,
                    "cosine_min": told.cosine_min,
                    "samples": len(every),
                    "batch_1_or_32": float(np.abs(alone - together).max()),
                    "same_bits": bool(np.array_equal(alone, together)),
                }
                rows.setdefault(pipeline, {})[name] = row
                print(f"{pipeline:26} {name:8} {json.dumps(row)}", flush=True)
    yield {"rows": rows}


def unit(found: np.ndarray) -> np.ndarray:
    """Vectors ``[n, dim]`` of length 1; fastembed gives CLIP's texts as they come out of the network."""
    return found / np.linalg.norm(found, axis=1, keepdims=True)


def damaged(work: Path) -> Iterator[Told]:
    rows: Told = {}
    good = make.photographs(work)["1 MP"][:GOOD]
    for kind, path in make.damaged(work, good[0]).items():
        items = [*good[:3], path, *good[3:]]
        for pipeline in (*PEERS, OURS[0]):
            row = run(work, pipeline, "damaged", modality="vision", items=items, damaged=[path])
            rows.setdefault(pipeline, {})[kind] = row | {"said": row["said"].replace(path, Path(path).name)}
            print(f"{pipeline:26} {kind}: {json.dumps(rows[pipeline][kind])}", flush=True)
    yield {"rows": rows, "good": GOOD}


def install(work: Path) -> Iterator[Told]:
    yield {"rows": make.environments(work)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", default="install,make,vectors,damaged,cold,warm")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--work", type=Path, default=Path("slimbind-pipeline"), help="for environments, models, files")
    parser.add_argument("-o", "--output", type=Path, default=ROOT / "benchmarks" / "results" / "pipeline.json")
    args = parser.parse_args()
    work = args.work.resolve()
    steps: dict[str, Callable[[], Iterator[Told]]] = {
        "install": partial(install, work),
        "vectors": partial(vectors, work),
        "damaged": partial(damaged, work),
        "cold": partial(cold, work, args.rounds),
        "warm": partial(warm, work, args.rounds),
        "two": partial(warm, work, args.rounds, pipelines=TWO, threads=2),
    }
    for step in args.steps.split(","):
        if step == "make":
            make.models(work)
            make.photographs(work)
            continue
        for found in steps[step]():
            record = json.loads(args.output.read_text(encoding="utf-8")) if args.output.exists() else {}
            known = environment("torch", "openvino", "onnxruntime", threads=2 if step == "two" else 1)
            record |= {"benchmark": "pipeline", "command": "python benchmarks/pipeline.py", "environment": known}
            record[step] = found | {"environment": known}
            args.output.parent.mkdir(parents=True, exist_ok=True)
            args.output.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        print(f"written: {args.output}")


if __name__ == "__main__":
    main()
