"""How long does it take to import slimbind, and to see its help?

    python benchmarks/startup.py

Each command runs in a fresh process, after one run that warms the file cache; the median and the fastest of ``--runs``
are given in milliseconds, less nothing: starting Python is in it, and is given beside it. Goals: ``import slimbind``
within 100 ms on top of Python's own start, ``slimbind --help`` within 300 ms in all.
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

from environment import environment

SCRIPT = shutil.which("slimbind", path=str(Path(sys.executable).parent)) or "slimbind"
COMMANDS = {
    "python": [sys.executable, "-c", "pass"],
    "import slimbind": [sys.executable, "-c", "import slimbind"],
    "import slimbind; slimbind.load": [sys.executable, "-c", "import slimbind; slimbind.load"],
    "slimbind --version": [SCRIPT, "--version"],
    "slimbind --help": [SCRIPT, "--help"],
}
GOALS = {"import slimbind": 100.0, "slimbind --help": 300.0}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=15)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "startup.json")
    args = parser.parse_args()
    rows = []
    for name, command in COMMANDS.items():
        times = [milliseconds(command) for _ in range(args.runs + 1)][1:]
        rows.append({"command": name, "median_ms": statistics.median(times), "fastest_ms": min(times)})
    python = rows[0]["median_ms"]
    failed = False
    for row in rows:
        row["median_ms"], row["fastest_ms"] = round(row["median_ms"], 1), round(row["fastest_ms"], 1)
        if (goal := GOALS.get(row["command"])) is not None:
            spent = row["median_ms"] - (python if row["command"].startswith("import") else 0.0)
            row |= {"goal_ms": goal, "counted_ms": round(spent, 1), "reached": spent <= goal}
            failed |= spent > goal
        print(f"{row['command']:32} {row['median_ms']:8.1f} ms" + (f"  (goal {goal:.0f})" if goal else ""))
    args.output.parent.mkdir(parents=True, exist_ok=True)
    record = {
        "benchmark": "startup",
        "command": f"python benchmarks/startup.py --runs {args.runs}",
        "environment": environment("typer", "pydantic", threads=1),
        "rows": rows,
    }
    args.output.write_text(json.dumps(record, indent=1) + "\n")
    print(f"written: {args.output}")
    return int(failed)


def milliseconds(command: list[str]) -> float:
    started = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return (time.perf_counter() - started) * 1000


if __name__ == "__main__":
    sys.exit(main())
