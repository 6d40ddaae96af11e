"""The parts of ``quantize.py`` that run in a process of their own: its memory and its time are that of one thing."""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

MIB = 1 << 20
OURS = ("int8-dynamic", "int8-static", "int4-weight")
CALIBRATION = {"vision": 16, "text": 64, "audio": 12}  # items; 24 of the others
COMPARED = {"vision": 12, "text": 48, "audio": 18}  # 24 of the others
ROUNDS = {"vision": 4, "text": 6, "audio": 6}  # 12 of the others


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


STAGES: dict[str, Callable[..., dict[str, Any]]] = {
    "split": split,
    "quantize": quantize,
    "measure": measure,
    "scaling": scaling,
}


def main() -> None:
    """Run one stage and print what it found as JSON, on the last line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("stage", choices=STAGES)
    parser.add_argument("rest", nargs="+", help="modality/weights, and the scheme or schemes")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--depth", type=int)
    args = parser.parse_args()
    print(json.dumps(STAGES[args.stage](args, *args.rest)))


if __name__ == "__main__":
    main()
