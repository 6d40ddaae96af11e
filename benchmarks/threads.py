"""How do throughput and latency grow with threads, callers and forward passes side by side, and is the choice right?

    python benchmarks/threads.py                                  # all towers; both cores have to be quiet
    python benchmarks/threads.py --towers mini-text,imu --seconds 1
    python benchmarks/threads.py --mark      # measure nothing; mark in the last run's rows what would be chosen today

Each tower is one of ``mini``, or one of ImageBind-Huge at full size with random weights (``fullsize.py``), exported to
OpenVINO in fp32; of the text tower the first 6 of 24 blocks, which are large enough to count as large. Measured is all
of ``Encoder.embed``, from item to vector, by ``slimbind.evaluate.throughput``: every number of threads, with every
number of forward passes side by side that fits, one item and a usual batch a call, one caller and eight. All settings
of a tower take turns. ``chosen`` marks the rows with as many passes as are taken where nobody asks; by the others a
choice can be judged, and another one tried on the same numbers.

``verdict`` holds, for each tower and all threads, items per second of the chosen passes over the best that was measured
with the same batch and callers (1 is right, below 1 is a loss), and of eight callers over one.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import slimbind
from environment import environment
from slimbind.evaluate.throughput import Plan, measure, thread_counts
from slimbind.runtime.layout import of_tower
from slimbind.runtime.threads import available_cpus

OUTPUT = Path(__file__).parent / "results" / "threads.json"
# Name -> modality, and how many blocks of the full-size tower (None: all); of mini where there is no such pair.
FULL_SIZE: dict[str, tuple[str, int | None]] = {"imu": ("imu", None), "depth": ("depth", None), "text": ("text", 6)}
MINI = {"mini-text": "text", "mini-vision": "vision"}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--towers", default=",".join((*MINI, *FULL_SIZE)))
    parser.add_argument("--threads", type=int, default=available_cpus(), help="up to so many")
    parser.add_argument("--callers", default="1,8")
    parser.add_argument("--seconds", type=float, default=3.0, help="for each setting")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cache", type=Path, help="keep the full-size towers there")
    parser.add_argument("--mark", action="store_true", help="see above")
    parser.add_argument("-o", "--output", type=Path, default=OUTPUT)
    args = parser.parse_args()
    if args.mark:
        return mark(args.output, args.cache)
    names = [name for name in args.towers.split(",") if name]
    if unknown := [name for name in names if name not in {**MINI, **FULL_SIZE}]:
        parser.error(f"no such towers: {', '.join(unknown)}; there are {', '.join((*MINI, *FULL_SIZE))}")
    cores = args.threads
    callers = [int(part) for part in args.callers.split(",")]
    towers: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as place:
        for name in names:
            source, modality = opened(name, args.cache or Path(place))
            found = measure(
                source,
                modality,
                Plan(
                    threads=thread_counts(cores),
                    streams=thread_counts(cores),
                    callers=callers,
                    seconds=args.seconds,
                    rounds=args.rounds,
                ),
                on_done=lambda: print(".", end="", file=sys.stderr, flush=True),
            )
            print(file=sys.stderr)
            told = replace(found, model="mini" if name in MINI else "imagebind-huge-random")
            rows: list[Any] = list(told.details["rows"])  # type: ignore[call-overload]
            towers[name] = {
                "settings": dict(told.settings),
                "measures": {key: vars(value) for key, value in told.measures.items()},
                "rows": rows,
                "verdict": verdict(rows, cores),
            }
            show(name, rows, towers[name]["verdict"])
            # After each tower: an interrupted run has what it measured.
            record = {
                "benchmark": "threads",
                "command": "python benchmarks/threads.py" + (f" --towers {args.towers}" if len(names) < 5 else ""),
                "environment": environment("numpy", "openvino", threads=cores),
                "seconds": args.seconds,
                "rounds": args.rounds,
                "towers": towers,
            }
            args.output.parent.mkdir(parents=True, exist_ok=True)
            args.output.write_text(json.dumps(record, indent=1) + "\n")
    print(f"written: {args.output}")
    return 0


def opened(name: str, place: Path) -> tuple[str, str]:
    """A model as ``slimbind.load`` takes it, and the modality of the tower that is meant."""
    return ("mini", MINI[name]) if name in MINI else full_size(name, place)


def mark(output: Path, cache: Path | None) -> int:
    """Write anew which rows are chosen, and the verdicts that follow."""
    record = json.loads(output.read_text())
    with tempfile.TemporaryDirectory() as place:
        for name, told in record["towers"].items():
            source, modality = opened(name, cache or Path(place))
            with slimbind.load(source) as model:
                entry = model.artifact.tower(modality)
            for row in told["rows"]:
                row["chosen"] = row["streams"] == of_tower(entry, modality, row["threads"]).streams
            told["verdict"] = verdict(told["rows"], record["environment"]["threads"])
            show(name, told["rows"], told["verdict"])
    output.write_text(json.dumps(record, indent=1) + "\n")
    return 0


def full_size(name: str, place: Path) -> tuple[str, str]:
    """The folder of an exported full-size tower, made if it is not there yet, and its modality."""
    from fullsize import write_split
    from slimbind.export.job import export

    modality, depth = FULL_SIZE[name]
    folder = place / f"f32-{name}"
    if not (folder / "manifest.json").exists():
        with tempfile.TemporaryDirectory() as split:
            write_split(Path(split) / "split", modality, depth=depth)
            export(Path(split) / "split", folder)
    return str(folder), modality


def verdict(rows: list[dict[str, Any]], cores: int) -> dict[str, float | None]:
    """See the top of this file."""
    full = [row for row in rows if row["threads"] == cores]
    shares = []
    for batch, callers in sorted({(row["batch"], row["callers"]) for row in full}):
        same = [row for row in full if (row["batch"], row["callers"]) == (batch, callers)]
        best = max(row["items_per_second"] for row in same)
        shares.append(next(row["items_per_second"] for row in same if row["chosen"]) / best)
    chosen = [row for row in full if row["chosen"]]
    many = max(row["callers"] for row in chosen)
    speedups = {
        f"callers_speedup_batch_{row['batch']}": round(row["items_per_second"] / alone["items_per_second"], 3)
        for row in chosen
        for alone in chosen
        if row["callers"] == many > 1 and alone["callers"] == 1 and alone["batch"] == row["batch"]
    }
    return {"least_share_of_best": round(min(shares), 3), **speedups}


def show(name: str, rows: list[dict[str, Any]], told: dict[str, float | None]) -> None:
    print(f"{name}: {', '.join(f'{key} {value}' for key, value in told.items())}")
    for row in rows:
        print(
            f"  threads {row['threads']:2} streams {row['streams']:2}{'*' if row['chosen'] else ' '} "
            f"batch {row['batch']:2} callers {row['callers']:2}  {row['items_per_second']:8.1f} items/s  "
            f"p50 {1e3 * row['p50_seconds']:8.1f} ms  p99 {1e3 * row['p99_seconds']:8.1f} ms  "
            f"cores {row['cores_used']:.2f}  threads {row['process_threads']}  {row['resident_bytes'] >> 20} MiB",
            flush=True,
        )


if __name__ == "__main__":
    sys.exit(main())
