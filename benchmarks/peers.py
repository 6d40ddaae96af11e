"""How do slimbind's schemes stand beside what else runs a PyTorch model on a CPU, in float and in 8 bits?

    PYTHONPATH=DIR python benchmarks/peers.py                     # vision, 8 of 32 blocks; DIR: imagebind_reference.py
    python benchmarks/peers.py --modality text --weights outlier  # some of it; what was measured before stays
    python benchmarks/peers.py --work DIR --make                  # only make what can be kept in DIR; measure later

One tower of full width (``fullsize.py``) goes through every tool (``peer_tools.py``). The reference is
``imagebind-unofficial`` in eager fp32, with the same weights. Of the reference as it is, by plain conversion, are made:
``torch.compile``, ONNX Runtime and OpenVINO in float. The ImageBind paper's two recipes (PyTorch eager mode) get
slimbind's plain tower, which says the same as the reference: the first row shows it. torchao (eager and compiled), ONNX
Runtime's ``quantize_dynamic`` and OpenVINO with NNCF's post-training quantization get the tower after slimbind's exact
rewrites. Those that calibrate see the same 16 inputs; all are compared on 16 others with the reference. Time is
processor time of one thread, batch 1, all in turns in one process. A tool that fails says so in the table.

Beside slimbind[build,onnx]: torchao, nncf, and what ``imagebind_reference.py`` names.
"""

from __future__ import annotations

import argparse
import gc
import json
import re
import shutil
import statistics
import sys
import tempfile
import time
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from environment import environment
from fullsize import MODALITIES, WEIGHTS, full_size, inputs, state_dict
from imagebind_reference import reference
from peer_tools import MIB, TOOLS, Run, Subject, Tool, one, run_reference, weights_of
from slimbind.evaluate import fidelity

ROOT = Path(__file__).parents[1]
ITEMS = 16
KEPT = ("cosine_mean", "cosine_min", "centred_mean", "centred_min", "samples")


def made(subject: Subject, name: str) -> float:
    """See that a tool has made what it keeps; processor seconds that took, then or now."""
    told = subject.work / "made.json"
    if not told.exists():
        shutil.rmtree(subject.work, ignore_errors=True)
        subject.work.mkdir(parents=True)
        started = time.process_time()
        TOOLS[name].make(subject)
        told.write_text(json.dumps(time.process_time() - started))
        gc.collect()  # traced modules refer to themselves
    seconds: float = json.loads(told.read_text())
    return seconds


def measure(args: argparse.Namespace, weights: str, work: Path) -> dict[str, Any] | None:
    """Every tool on one set of weights."""
    modality = args.modality
    settings = WEIGHTS[weights] | {"depth": args.depth}
    tower = full_size(modality, **settings)
    first = reference(modality, state_dict(modality, **settings), depth=args.depth)
    subject = Subject(modality, tower, first, inputs(modality, ITEMS), settings, work)
    rows = [one(row, modality) for row in inputs(modality, ITEMS, start=3 * ITEMS).numpy()]
    runs: dict[str, Run] = {"reference": run_reference(first, modality)}
    truth = np.concatenate([runs["reference"](x) for x in rows])
    found: dict[str, dict[str, Any]] = {}
    for name in re.split(r"(?<! )\+(?! )", args.tools) if args.tools else TOOLS:
        own = replace(subject, work=work / re.sub(r"\W+", "-", name))
        try:
            seconds = made(own, name)
            if args.make:
                print(f"{weights:8} {name:38} made in {seconds:.1f} s", flush=True)
                continue
            runs[name], found[name] = opened(own, TOOLS[name], rows, truth, seconds)
        except Exception as error:  # a tool that fails is a row too
            found[name] = {"error": f"{type(error).__name__}: {reason(error)}"}
        print(f"{weights:8} {name:38} {json.dumps(found[name])}", flush=True)
        gc.collect()
    if args.make:
        return None
    times = turns(runs, rows[0] if modality != "text" else inputs(modality, 1).numpy(), args.rounds)
    for name, row in found.items():
        if name in times:
            row |= pace(times[name], times["reference"])
    return {
        "command": f"python {' '.join(['benchmarks/peers.py', *shown(sys.argv[1:])])}",
        "reference": {"cpu_seconds": statistics.median(times["reference"]), "mib": weights_of(first) / MIB},
        "tools": found,
        "depth": len(tower.blocks),  # a tower that has fewer is whole
    }


def opened(
    subject: Subject, tool: Tool, rows: list[np.ndarray], truth: np.ndarray, seconds: float
) -> tuple[Run, dict[str, Any]]:
    """What a tool made, ready to run, and what it keeps of the truth; ``seconds`` is what the making took."""
    started = time.process_time()
    run, size = tool.open(subject)
    said = np.concatenate([run(x) for x in rows])
    seconds += time.process_time() - started
    told = fidelity.measure(truth, said, data="")
    row = {"mib": size / MIB, "made_in_cpu_seconds": round(seconds, 1), **{key: getattr(told, key) for key in KEPT}}
    return run, row | {"difference": float(np.abs(said - truth).max())}


def pace(times: list[float], reference: list[float]) -> dict[str, Any]:
    """How long a pass takes, and how many times as fast as the reference that is."""
    each = [before / after for before, after in zip(reference, times, strict=True)]
    return {
        "cpu_seconds": statistics.median(times),
        "ratio": statistics.median(each),
        "ratio_range": [min(each), max(each)],
    }


def reason(error: Exception) -> str:
    """The line of a long message that says what was wrong: OpenVINO's names the operation behind two dashes."""
    lines = str(error).strip().splitlines() or ["no reason given"]
    return next(
        (line.removeprefix("-- ").removesuffix(" with a message:") for line in lines if line.startswith("-- ")),
        lines[0],
    )[:200]


def turns(runs: dict[str, Run], x: np.ndarray, rounds: int) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {name: [] for name in runs}
    for run in runs.values():
        run(x)
    for turn in range(rounds):
        for name in runs if turn % 2 == 0 else reversed(runs):
            started = time.process_time()
            runs[name](x)
            times[name].append(time.process_time() - started)
    return times


def shown(arguments: list[str]) -> list[str]:
    """The command line without what says where files lie; of a list of tools only that there was one."""
    places = ("--work", "-o", "--output")
    pairs = zip(["", *arguments], arguments, strict=False)
    return ["..." if before == "--tools" else text for before, text in pairs if not {before, text} & set(places)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--modality", choices=MODALITIES, default="vision")
    parser.add_argument("--weights", default="plain,balanced,outlier")
    parser.add_argument("--depth", type=int, default=8, help="blocks at most")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--tools", help=f"joined by +: some of {'; '.join(TOOLS)}")
    parser.add_argument("--work", type=Path, help="what was made is kept here, and taken from here the next time")
    parser.add_argument("--make", action="store_true", help="measure nothing, only fill --work")
    parser.add_argument("-o", "--output", type=Path, default=ROOT / "benchmarks" / "results" / "peers.json")
    args = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # of the tools, about their own future
    record: dict[str, Any] = {"rows": {}}
    if args.output.exists():
        record = json.loads(args.output.read_text())
    with tempfile.TemporaryDirectory() as spare:
        for weights in args.weights.split(","):
            row = measure(args, weights, (args.work or Path(spare)) / f"{args.modality}-{args.depth}-{weights}")
            if row is None:
                continue
            rows = record["rows"] | {f"{args.modality}/{weights}": row}
            record = {
                "benchmark": "peers",
                "command": "; ".join(dict.fromkeys(one["command"] for one in rows.values() if "command" in one)),
                "environment": environment(
                    *("imagebind-unofficial", "torch", "torchao", "openvino", "nncf", "onnxruntime", "onnx", "numpy"),
                    threads=1,
                ),
                "rows": rows,
            }
            args.output.parent.mkdir(parents=True, exist_ok=True)
            args.output.write_text(json.dumps(record, indent=1) + "\n")
            print(f"written: {args.output}")


if __name__ == "__main__":
    main()
