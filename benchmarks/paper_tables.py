"""The ImageBind paper's Tables I to VII again: its recipes as they run today, ours, and what was published.

    python benchmarks/paper_tables.py              # measures what `results/quantize.json` does not have yet
    python benchmarks/paper_tables.py --no-measure # arranges what is there

I: sizes after splitting. II, III, IV: size, time and cosine similarity of dynamic quantization. V, VI, VII: of static
quantization. The paper's recipes are PyTorch's eager mode as `slimbind quantize --scheme eager-dynamic` and
`eager-static` apply them; ours are `int8-dynamic` and `int8-static`. The released weights may not be redistributed:
the towers here are of the released shapes with random weights (``make_huge.py``), so sizes compare with the published
ones exactly, times as ratios, and cosines only between columns that were measured here. Of the published numbers those
are given that are known one by one; of the others, what was published of all six together.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from quantize import MODALITIES

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
WEIGHTS = ("plain", "balanced")
PAIRS = {"dynamic": ("eager-dynamic", "int8-dynamic"), "static": ("eager-static", "int8-static")}
PUBLISHED: dict[str, Any] = {
    "size_mib": {
        "vision": 2414.05,
        "text": 1350.55,
        "audio": 328.96,
        "thermal": 328.87,
        "depth": 83.44,
        "imu": 74.77,
    },
    "dynamic": {"smaller": 0.51, "faster": 0.33, "cosine": "0.90 to 0.99"},
    "static": {"smaller": 0.71, "faster": 0.69, "cosine": {"text": 0.407, "vision": 0.779}},
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--no-measure", action="store_true")
    parser.add_argument("--input", type=Path, default=RESULTS / "quantize.json")
    parser.add_argument("-o", "--output", type=Path, default=RESULTS / "paper_tables.json")
    args = parser.parse_args()
    if not args.no_measure:
        schemes = ",".join(name for pair in PAIRS.values() for name in pair)
        command = [
            sys.executable,
            str(ROOT / "benchmarks" / "quantize.py"),
            "--schemes",
            schemes,
            "-o",
            str(args.input),
        ]
        if subprocess.run(command, check=False).returncode:
            return 1
    measured = json.loads(args.input.read_text(encoding="utf-8"))
    record = {
        "benchmark": "paper_tables",
        "command": "python benchmarks/paper_tables.py",
        "environment": measured["environment"],
        "depth": measured["depth"],
        "published": PUBLISHED,
        "tables": tables(measured["rows"]),
    }
    args.output.write_text(json.dumps(record, indent=1) + "\n")
    print(f"written: {args.output}")
    return 0


def tables(rows: dict[str, Any]) -> dict[str, Any]:
    """Number of the table -> its title and rows; what was not measured is None."""
    found: dict[str, Any] = {
        "I": {
            "title": "size after splitting, MiB",
            "rows": {
                modality: {
                    "here": rows.get(f"{modality}/plain", {}).get("split", {}).get("file_mib"),
                    "published": PUBLISHED["size_mib"][modality],
                }
                for modality in MODALITIES
            },
        }
    }
    numbers = iter(("II", "III", "IV", "V", "VI", "VII"))
    for kind, pair in PAIRS.items():
        found[next(numbers)] = {"title": f"{kind} quantization: size, MiB", "rows": sizes(rows, pair)}
        found[next(numbers)] = {
            "title": f"{kind} quantization: processor seconds of fp32, over the ratio taken in turns",
            "rows": times(rows, pair),
        }
        found[next(numbers)] = {"title": f"{kind} quantization: cosine similarity", "rows": cosines(rows, kind, pair)}
    return found


def sizes(rows: dict[str, Any], pair: tuple[str, str]) -> dict[str, Any]:
    found = {}
    for modality in MODALITIES:
        row = rows.get(f"{modality}/plain", {})
        theirs, ours = (_of(row, scheme, "file_mib") for scheme in pair)
        found[modality] = {"fp32": row.get("split", {}).get("file_mib"), "paper": theirs, "ours": ours}
    return found | {"all": _sum(found)}


def times(rows: dict[str, Any], pair: tuple[str, str]) -> dict[str, Any]:
    """Seconds of fp32, and those seconds over each ratio: schemes were measured in runs of different speed."""
    found = {}
    for modality in MODALITIES:
        row = rows.get(f"{modality}/plain", {})
        before = row.get("reference", {}).get("cpu_seconds")
        theirs, ours = (before / ratio if (ratio := _of(row, scheme, "ratio")) else None for scheme in pair)
        found[modality] = {"fp32": before, "paper": theirs, "ours": ours}
    return found | {"all": _sum(found)}


def cosines(rows: dict[str, Any], kind: str, pair: tuple[str, str]) -> dict[str, Any]:
    published = PUBLISHED[kind]["cosine"]
    found: dict[str, Any] = {}
    for modality in MODALITIES:
        told: dict[str, Any] = {"published": published.get(modality) if isinstance(published, dict) else None}
        for weights in WEIGHTS:
            row = rows.get(f"{modality}/{weights}", {})
            for name, scheme in zip(("paper", "ours"), pair, strict=True):
                told[f"{name}_{weights}"] = [_of(row, scheme, key) for key in ("cosine_mean", "cosine_min")]
        found[modality] = told
    return found


def _of(row: dict[str, Any], scheme: str, key: str) -> float | None:
    value: float | None = row.get("schemes", {}).get(scheme, {}).get(key)
    return value


def _sum(found: dict[str, Any]) -> dict[str, float | None]:
    """Over all modalities; None where one is missing, because a part of the sum would look like the whole."""
    total: dict[str, float | None] = {}
    for key in ("fp32", "paper", "ours"):
        values = [row[key] for row in found.values()]
        total[key] = None if None in values else sum(values)
    return total


if __name__ == "__main__":
    sys.exit(main())
