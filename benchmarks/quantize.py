"""What does each quantization scheme keep, save and cost, on full-size ImageBind with and without outlier channels?

The sets of weights are ``plain``, ``outlier`` (as ``make_huge.py --outliers``, which even bf16 does not survive) and
``balanced`` (outlier channels that a network can live with in 16 bits; see ``fullsize.full_size``).

    python benchmarks/quantize.py                          # everything; see --estimate
    python benchmarks/quantize.py --only vision/plain,imu/outlier --schemes int8-dynamic
    python benchmarks/quantize.py --depth 2 -o /tmp/q.json # towers of two blocks: a quick look

Each tower (``fullsize.py``) is written as a split folder, quantized with ``slimbind.quantize`` in a process of its own
(whose highest resident memory is noted: imports, mapped files and all), and compared in another process with the
reference: the tower as it was split, PyTorch fp32 eager. Inputs for calibration and for the comparison are different
ones. Times are processor seconds of one thread, batch 1 (a sound: its three clips); reference and candidates take
turns, the ratio of each turn is formed, and its median is told. Also: a text batch of mixed lengths (the reference pads
to 77 tokens, as the released code does), wall time with two threads, and the memory of running without PyTorch.

Held to one CPU (``taskset -c 0``, so that another may be used for something else) it leaves out the second thread;
``--keep`` leaves the towers of ``--only`` for ``--scaling``, which measures that alone, on a machine left alone.

Whatever was measured is added to the results at once. Run again, it goes on where it stopped; rows that are there stay
unless ``--again``. One row at a time needs up to 12 GB of disk and of memory.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from environment import environment
from quantize_stages import OURS

ROOT = Path(__file__).parents[1]
MODALITIES = ("vision", "text", "audio", "depth", "thermal", "imu")
WEIGHTS = ("plain", "outlier", "balanced")
SCHEMES = ("int8-static", "int4-weight", "int8-dynamic", "eager-static", "eager-dynamic")  # the longest first
# What is measured of a row unless it is asked for: with outlier channels the paper's recipes and 4 bits are left to
# ``peers.py``, which has them at a quarter of the depth.
PLAN = {"plain": SCHEMES, "outlier": ("int8-dynamic",), "balanced": ("int8-static", "int8-dynamic")}
# Of three schemes on two cores, from runs at reduced depth; rows of the results have their own seconds.
MINUTES = {"vision": 9.0, "text": 4.0, "audio": 2.5, "depth": 1.0, "thermal": 2.0, "imu": 0.8}
WITHOUT_TORCH = """
import runpy, sys
sys.modules["torch"] = None
sys.argv = sys.argv[1:]
sys.path.insert(0, {0!r})
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", help="comma-separated modality/weights; all by default")
    parser.add_argument("--schemes", help=f"some of {', '.join(SCHEMES)}; see PLAN for the default")
    parser.add_argument("--estimate", action="store_true", help="only say how long the rest would take")
    parser.add_argument("--depth", type=int, help="blocks of each tower; all by default")
    parser.add_argument("--jobs", type=int, default=2, help="schemes that are quantized to at once, a thread each")
    parser.add_argument("--again", action="store_true", help="measure rows that are there again")
    parser.add_argument("--keep", action="store_true", help="leave the towers in --work")
    parser.add_argument(
        "--scaling", action="store_true", help="only time one thread and two, with towers that were kept"
    )
    parser.add_argument("--work", type=Path, default=Path("/tmp/slimbind-quantize"), help="for towers; emptied")
    parser.add_argument("-o", "--output", type=Path, default=ROOT / "benchmarks" / "results" / "quantize.json")
    args = parser.parse_args()
    every = [f"{modality}/{weights}" for weights in WEIGHTS for modality in MODALITIES]
    rows = args.only.split(",") if args.only else every
    if unknown := set(rows) - set(every):
        raise SystemExit(f"unknown rows: {', '.join(sorted(unknown))}")
    record = _open(args)
    if args.estimate:
        left = {name: _wanted(args, name, record["rows"].get(name, {"schemes": {}})) for name in rows}
        minutes = {name: MINUTES[name.split("/")[0]] * len(schemes) / 3 for name, schemes in left.items()}
        for name, schemes in left.items():
            print(f"{name:16} {minutes[name]:5.1f} minutes  {', '.join(schemes)}")
        print(f"about {sum(minutes.values()):.0f} minutes on two cores")
        return 0
    if args.scaling:
        for name in rows:
            _scale(args, name, record["rows"][name])
            _save(args, record)
        return 0
    for modality in MODALITIES:
        _tower(args, [name for name in rows if name.startswith(f"{modality}/")], record)
    print(f"written: {args.output}")
    return 0


def _open(args: argparse.Namespace) -> dict[str, Any]:
    if args.output.exists():
        record: dict[str, Any] = json.loads(args.output.read_text())
        if record["depth"] != args.depth:
            raise SystemExit(f"{args.output} is of depth {record['depth']}, not {args.depth}; give another -o")
        return record
    return {
        "benchmark": "quantize",
        "command": "python benchmarks/quantize.py" + (f" --depth {args.depth}" if args.depth else ""),
        "depth": args.depth,
        "environment": environment("torch", "numpy", "openvino", "onnxruntime", threads=1),
        "rows": {},
    }


def _tower(args: argparse.Namespace, names: list[str], record: dict[str, Any]) -> None:
    """The rows of one tower: quantized two at a time, then compared and run one at a time, alone on the machine."""
    started = time.monotonic()
    rows = {name: record["rows"].setdefault(name, {"schemes": {}}) for name in names}
    wanted = {name: schemes for name, row in rows.items() if (schemes := _wanted(args, name, row))}
    if not wanted:
        return
    for name in wanted:
        shutil.rmtree(_place(args, name), ignore_errors=True)
    args.work.mkdir(parents=True, exist_ok=True)
    try:
        for name in wanted:
            rows[name]["split"] = _child(args, "split", name)
        with ThreadPoolExecutor(args.jobs) as pool:
            pairs = [(name, scheme) for scheme in SCHEMES for name, some in wanted.items() if scheme in some]
            made = pool.map(lambda pair: _child(args, "quantize", *pair), pairs)
            for (name, scheme), found in zip(pairs, made, strict=True):
                rows[name]["schemes"][scheme] = found
                _told(name, scheme, found)
                _save(args, record)
        for name, schemes in wanted.items():
            good = [scheme for scheme in schemes if "error" not in rows[name]["schemes"][scheme]]
            _compare(args, name, rows[name], good)
            _save(args, record)
    finally:
        for name in wanted if not args.keep else ():
            shutil.rmtree(_place(args, name), ignore_errors=True)
    print(f"{', '.join(wanted)}: {time.monotonic() - started:.0f} s", flush=True)


def _compare(args: argparse.Namespace, name: str, row: dict[str, Any], schemes: list[str]) -> None:
    measured = _child(args, "measure", name, *schemes) if schemes else {"error": "no scheme"}
    if "error" in measured:
        return  # told already; the next run tries again
    row["reference"] = measured["reference"]
    for scheme in schemes:
        row["schemes"][scheme] |= measured["schemes"][scheme]
        if scheme in OURS:
            row["schemes"][scheme]["memory"] = _child(args, "memory", name, scheme)
    if len(os.sched_getaffinity(0)) > 1:
        _scale(args, name, row)
    for scheme in schemes:
        _told(name, scheme, row["schemes"][scheme])


def _scale(args: argparse.Namespace, name: str, row: dict[str, Any]) -> None:
    for scheme in OURS:
        if (_place(args, name) / scheme).exists():
            row["schemes"][scheme]["threads"] = _child(args, "scaling", name, scheme)
            print(f"{name:16} {scheme:14} {json.dumps(row['schemes'][scheme]['threads'])}", flush=True)


def _place(args: argparse.Namespace, name: str) -> Path:
    return Path(args.work) / name.replace("/", "-")


def _wanted(args: argparse.Namespace, name: str, row: dict[str, Any]) -> list[str]:
    planned = args.schemes.split(",") if args.schemes else PLAN[name.split("/")[1]]
    return [scheme for scheme in planned if args.again or "ratio" not in row["schemes"].get(scheme, {})]


def _save(args: argparse.Namespace, record: dict[str, Any]) -> None:
    args.output.parent.mkdir(parents=True, exist_ok=True)
    part = args.output.with_suffix(".part")
    part.write_text(json.dumps(record, indent=1) + "\n")
    part.replace(args.output)


def _told(name: str, scheme: str, result: dict[str, Any]) -> None:
    said = {
        key: round(value, 5) if isinstance(value, float) else value
        for key, value in result.items()
        if isinstance(value, int | float | str)
    }
    print(f"{name:16} {scheme:14} {json.dumps(said)[1:-1]}", flush=True)


def _child(args: argparse.Namespace, stage: str, *rest: str) -> dict[str, Any]:
    """Run a stage in a process of its own, so that its memory is its own."""
    work = _place(args, rest[0])
    told = ["--work", str(work)]
    if args.depth:
        told += ["--depth", str(args.depth)]
    command = [sys.executable, str(ROOT / "benchmarks" / "quantize_stages.py"), *told, stage, *rest]
    if stage == "memory":  # nothing of PyTorch can be loaded there
        place = work / rest[1]
        modality = rest[0].split("/")[0]
        code = WITHOUT_TORCH.format(str(ROOT / "benchmarks"))
        script = str(ROOT / "benchmarks" / "memory.py")
        command = [sys.executable, "-c", code, script, str(place), "--child", "--subset", modality]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        print(f"{stage} {' '.join(rest)}: {done.stderr[-2000:]}", file=sys.stderr)
        return {"error": f"{last[:300]}"}
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


if __name__ == "__main__":
    sys.exit(main())
