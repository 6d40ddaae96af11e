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
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from environment import environment

ROOT = Path(__file__).parents[1]
MIB = 1 << 20
MODALITIES = ("vision", "text", "audio", "depth", "thermal", "imu")
WEIGHTS = ("plain", "outlier", "balanced")
OURS = ("int8-dynamic", "int8-static", "int4-weight")
SCHEMES = ("int8-static", "int4-weight", "int8-dynamic", "eager-static", "eager-dynamic")  # the longest first
# What is measured of a row unless it is asked for: with outlier channels the paper's recipes and 4 bits are left to
# ``peers.py``, which has them at a quarter of the depth.
PLAN = {"plain": SCHEMES, "outlier": ("int8-dynamic",), "balanced": ("int8-static", "int8-dynamic")}
# Of three schemes on two cores, from runs at reduced depth; rows of the results have their own seconds.
MINUTES = {"vision": 9.0, "text": 4.0, "audio": 2.5, "depth": 1.0, "thermal": 2.0, "imu": 0.8}
CALIBRATION = {"vision": 16, "text": 64, "audio": 12}  # items; 24 of the others
COMPARED = {"vision": 12, "text": 48, "audio": 18}  # 24 of the others
ROUNDS = {"vision": 4, "text": 6, "audio": 6}  # 12 of the others
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
    parser.add_argument("--child", nargs="+", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        print(json.dumps(CHILDREN[args.child[0]](args, *args.child[1:])))
        return 0
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
    command = [sys.executable, __file__, *told, "--child", stage, *rest]
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


def split(args: argparse.Namespace, name: str) -> dict[str, Any]:
    """Write the split folder and the calibration data."""
    from fullsize import WEIGHTS, inputs, write_split

    modality, weights = name.split("/")
    made = write_split(args.work / "split", modality, depth=args.depth, **WEIGHTS[weights])
    count = CALIBRATION.get(modality, 24)
    # ``samples=count`` takes as many to calibrate with as to judge by
    np.savez(args.work / "data.npz", **{modality: inputs(modality, 2 * count).numpy()})
    return {"file_mib": max(file.bytes for file in made.tower(modality).files) / MIB}


def quantize(args: argparse.Namespace, name: str, scheme: str) -> dict[str, Any]:
    """Quantize, and read this process's highest memory afterwards."""
    from slimbind.quantize.job import quantize as job

    modality = name.split("/")[0]
    imported = _peak()
    started = time.monotonic()
    stages: list[tuple[str, float]] = []

    def progress(stage: str, total: int) -> Callable[[int], None]:
        stages.append((stage.split(": ")[-1], time.process_time()))
        return lambda done: None

    made = job(
        args.work / "split",
        args.work / scheme,
        scheme=scheme,
        modalities=[modality],
        calibrate=[str(args.work / "data.npz")],
        samples=CALIBRATION.get(modality, 24),
        threads=1,
        progress=progress,
        force=True,  # the table tells what the gate would refuse
    )
    entry = made.tower(modality)
    ends = [begun for _, begun in stages[1:]] + [time.process_time()]
    return {
        "calibrated_with": CALIBRATION.get(modality, 24),
        "stages_cpu_seconds": [
            [stage, round(end - begun, 1)] for (stage, begun), end in zip(stages, ends, strict=True)
        ],
        "file_mib": max(file.bytes for file in entry.files) / MIB,
        "quantize_seconds": round(time.monotonic() - started, 1),
        "quantize_cpu_seconds": round(time.process_time(), 1),
        "quantize_peak_mib": _peak() / MIB,
        "quantize_peak_imports_mib": imported / MIB,
        "report": {key: value for key, value in (entry.quantization or {}).get("report", {}).items() if key == "kept"},
    }


def _peak() -> int:
    with open("/proc/self/status", encoding="ascii") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmHWM"))


def measure(args: argparse.Namespace, name: str, *schemes: str) -> dict[str, Any]:
    """Compare the written towers with the reference: what they say, and how fast."""
    import torch

    from fullsize import inputs
    from slimbind.artifact import Artifact
    from slimbind.evaluate import fidelity
    from slimbind.export.job import load_tower

    modality = name.split("/")[0]
    origin = Artifact.open(args.work / "split")
    tower = load_tower(origin, modality)

    def reference(x: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return tower(torch.from_numpy(x)).numpy()

    rows = _rows(
        modality, inputs(modality, COMPARED.get(modality, 24), start=2 * CALIBRATION.get(modality, 24)).numpy()
    )
    torch.set_num_threads(2)
    truth = np.concatenate([reference(x) for x in rows])
    torch.set_num_threads(1)
    runs = {scheme: _opened(args, modality, scheme, 1) for scheme in schemes}
    found: dict[str, Any] = {}
    for scheme, run in runs.items():
        told = fidelity.measure(truth, np.concatenate([run(x) for x in rows]), data="")
        found[scheme] = {
            key: getattr(told, key) for key in ("cosine_mean", "cosine_min", "centred_mean", "centred_min", "samples")
        }
    one = _timed(modality, rows)
    times = _turns({"reference": reference} | runs, one, ROUNDS.get(modality, 12))
    for scheme in schemes:
        found[scheme] |= _ratios(times, scheme)
    result: dict[str, Any] = {
        "reference": {"cpu_seconds": statistics.median(times["reference"]), "shape": list(one.shape)},
        "schemes": found,
    }
    if modality == "text":
        _mixed(
            reference, {scheme: run for scheme, run in runs.items() if scheme in OURS}, found, tower.config["tokens"]
        )
    return result


def scaling(args: argparse.Namespace, name: str, scheme: str) -> dict[str, Any]:
    """Wall time of one thread and of two, in turns."""
    from fullsize import inputs

    modality = name.split("/")[0]
    x = _timed(modality, _rows(modality, inputs(modality, 3).numpy()))
    times = _turns(
        {"reference": _opened(args, modality, scheme, 1), "double": _opened(args, modality, scheme, 2)},
        x,
        7,
        time.perf_counter,
    )
    told = _ratios(times, "double")
    return {"one": statistics.median(times["reference"]), "two": told["cpu_seconds"], "ratio": told["ratio"]}


def _opened(args: argparse.Namespace, modality: str, scheme: str, threads: int) -> Callable[[np.ndarray], np.ndarray]:
    from slimbind.artifact import Artifact
    from slimbind.runtime.engine import INPUT, Options, engine

    made = Artifact.open(args.work / scheme)
    entry, model = made.tower(modality), made.manifest.model
    session = engine(entry.engine).open(made.folder, entry, Options(threads), model=model, modality=modality)
    return lambda x: session.run({INPUT: x})


def _rows(modality: str, x: np.ndarray) -> list[np.ndarray]:
    """Batches of one; texts without padding, as the run plane has them but for its steps of four."""
    if modality != "text":
        return [x[place : place + 1] for place in range(len(x))]
    return [row[None, : -(-int((row != 0).sum()) // 4) * 4] for row in x]


def _timed(modality: str, rows: list[np.ndarray]) -> np.ndarray:
    if modality == "audio":
        return np.concatenate(rows[:3])
    if modality == "text":
        ids = np.random.default_rng(0).integers(1, 49406, (1, 77)).astype(np.int32)
        ids[0, 0], ids[0, -1] = 49406, 49407
        return ids
    return rows[0]


def _turns(
    runs: dict[str, Callable[[np.ndarray], np.ndarray]],
    x: np.ndarray,
    rounds: int,
    clock: Callable[[], float] = time.process_time,
) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {name: [] for name in runs}
    for run in runs.values():
        run(x)
    for turn in range(rounds):
        for name in runs if turn % 2 == 0 else reversed(runs):
            started = clock()
            runs[name](x)
            times[name].append(clock() - started)
    return times


def _ratios(times: dict[str, list[float]], scheme: str) -> dict[str, Any]:
    each = [before / after for before, after in zip(times["reference"], times[scheme], strict=True)]
    return {
        "cpu_seconds": statistics.median(times[scheme]),
        "ratio": statistics.median(each),
        "ratio_range": [min(each), max(each)],
    }


def _mixed(
    reference: Callable[[np.ndarray], np.ndarray],
    runs: dict[str, Callable[[np.ndarray], np.ndarray]],
    found: dict[str, Any],
    context: int,
) -> None:
    """32 sentences of different lengths: padded to the full length, against buckets of like length."""
    from exact import SENTENCES
    from slimbind.media import preprocessor
    from slimbind.media.spec import TextSpec
    from slimbind.runtime.batches import batches

    tokenize = preprocessor(TextSpec())
    ids = [(place, tokenize(sentence)[None]) for place, sentence in enumerate(SENTENCES)]
    full = np.zeros((len(ids), context), np.int32)
    for place, one in ids:
        full[place, : one.shape[1]] = one[0]
    packed = [batch.array for batch in batches(ids, size=32, pad_id=0, context=context)]
    both: dict[str, Callable[[np.ndarray], Any]] = {
        name: lambda _, run=run: [run(array) for array in packed] for name, run in runs.items()
    }
    times = _turns({"reference": reference} | both, full, 2)
    for scheme in runs:
        found[scheme]["mixed"] = _ratios(times, scheme) | {
            "reference_cpu_seconds": statistics.median(times["reference"]),
            "tokens_mean": float(np.mean([one.shape[1] for _, one in ids])),
        }


CHILDREN: dict[str, Callable[..., dict[str, Any]]] = {
    "split": split,
    "quantize": quantize,
    "measure": measure,
    "scaling": scaling,
}

if __name__ == "__main__":
    sys.exit(main())
