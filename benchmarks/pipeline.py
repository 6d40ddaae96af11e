"""What does the pipeline around a model cost: from the start of a process, and from files on disk, to vectors?

    pip install "slimbind[build,onnx]" transformers   # transformers to write the model as fastembed reads it
    python benchmarks/pipeline.py --steps install,make,damaged
    taskset -c 0 python benchmarks/pipeline.py --steps one
    taskset -c 0,1 python benchmarks/pipeline.py --steps two

The peers are sentence-transformers, fastembed, and the usual script around open_clip. All run the same CLIP ViT-B/32
with the same random weights (``clip.py``), each in an environment that holds what its own installation brings and
nothing else (pip has to find a build of torch for CPUs), with the batch sizes it takes where nobody says. A measurement
is a process of its own (``pipeline_child.py``); in a round each pipeline has its turn, and every second round goes
backwards. Files are in the page cache, nothing asks a network.

- ``install``: how many distributions an installation brings, and bytes on disk.
- ``damaged``: one damaged file among five good ones.
- ``one``: one core. From the start of the process to the end of the import, and to the vector of the first photograph
  or sentence: seconds, processor seconds, the most memory the process held. Then, warm, from files to vectors:
  photographs of 1 MP (every tenth a PNG) and of 12 MP, sentences. Then the cosine to open_clip's vectors, and by how
  much they change with the size of the batch (1 or 8).
- ``two``: the same on two cores, by the clock (processes that fastembed starts are not in its processor time).
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import pipeline_make as make
from environment import environment
from slimbind.evaluate import fidelity

ROOT = Path(__file__).parents[1]
CHILD = Path(__file__).with_name("pipeline_child.py")
# The first is what the others' vectors are compared with.
PEERS = ("open_clip", "sentence-transformers", "fastembed")
OURS = ("slimbind f32", "slimbind bf16", "slimbind int8-dynamic")
ONE = (*PEERS, *OURS)
TWO = (*PEERS, "open_clip, 2 workers", "fastembed, parallel=2", *OURS)  # some have a way of their own to use two cores
GOOD = 5
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


def in_turn(pipelines: list[Any], turn: int) -> list[Any]:
    """Every second round goes backwards."""
    return pipelines if turn % 2 == 0 else pipelines[::-1]


def keep(rows: Told, pipeline: str, what: str, found: Told) -> None:
    """Add one measurement to those of its kind."""
    kind = rows.setdefault(pipeline, {}).setdefault(what, {})
    for name, value in found.items():
        kind.setdefault(name, []).append(round(value, 3))
    print(f"{pipeline:26} {what:8} " + "  ".join(f"{name} {value:.2f}" for name, value in found.items()), flush=True)


def whole(work: Path, rounds: int, pipelines: Sequence[str], threads: int) -> Iterator[Told]:
    """What is found, again after every process."""
    rows: Told = {}
    compared: Told = {}
    loads: dict[str, dict[str, list[str]]] = {"vision": make.photographs(work), "text": {"texts": make.texts()}}
    counts = {name: len(items) for each in loads.values() for name, items in each.items()}
    truth: dict[str, np.ndarray] = {}
    with tempfile.TemporaryDirectory() as folder:
        for turn in range(rounds):
            for pipeline, (modality, each) in in_turn([*itertools.product(pipelines, loads.items())], turn):
                output = "" if turn else str(Path(folder) / "vectors.npz")
                told = run(work, pipeline, "whole", threads=threads, modality=modality, loads=each, output=output)
                for name, found in told.items():
                    keep(rows, pipeline, name if name in each else f"{name}, {modality}", found)
                if output:
                    with np.load(output) as vectors:
                        compared.setdefault(pipeline, {}).update(compare({**vectors}, each, truth))
                yield {"rows": rows, "items": counts, "vectors": compared}


def compare(vectors: dict[str, np.ndarray], names: Iterable[str], truth: dict[str, np.ndarray]) -> Told:
    """How near they are to the first pipeline's, and whether the size of a batch changes them."""
    vectors = {name: unit(found) for name, found in vectors.items()}
    rows: Told = {}
    for name in names:
        told = fidelity.measure(truth.setdefault(name, vectors[name]), vectors[name], data="")
        rows[name] = {"cosine_mean": told.cosine_mean, "cosine_min": told.cosine_min, "samples": told.samples}
    alone, together = vectors["alone"], vectors["together"]
    rows[next(iter(names))] |= {
        "batches_differ_by": float(np.abs(alone - together).max()),
        "same_bits": bool(np.array_equal(alone, together)),
    }
    return rows


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
    parser.add_argument("--steps", default="install,make,damaged,one")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--work", type=Path, default=Path("/tmp/slimbind-pipeline"), help="for environments, models, files"
    )
    parser.add_argument("-o", "--output", type=Path, default=ROOT / "benchmarks" / "results" / "pipeline.json")
    args = parser.parse_args()
    work = args.work.resolve()
    steps: dict[str, Callable[[], Iterator[Told]]] = {
        "install": partial(install, work),
        "damaged": partial(damaged, work),
        "one": partial(whole, work, args.rounds, ONE, 1),
        "two": partial(whole, work, args.rounds, TWO, 2),
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
