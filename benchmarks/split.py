"""What does it cost to take a full-size checkpoint apart: how much memory, how long, and how large are the parts?

    python benchmarks/make_huge.py /tmp/big/imagebind_huge.pth
    python benchmarks/split.py /tmp/big/imagebind_huge.pth

Runs ``slimbind split`` in a process of its own, into a folder beside the checkpoint that is deleted afterwards, and
reads the process's highest resident memory (VmHWM: everything, the interpreter, PyTorch and mapped pages included). The
goal is at most 1.2 times the largest tower; holding the whole checkpoint would take 1.9 times.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from environment import environment

ROOT = Path(__file__).parents[1]
MIB = 2**20

# The child reports its own peak: a parent cannot see it after the end.
CHILD = """
import sys
from slimbind.cli import app
def peak():
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith("VmHWM"))
import slimbind.towers.split, slimbind.towers.checkpoint
start = peak()
code = app.run(sys.argv[1:])
print(start, peak(), file=sys.stderr)
sys.exit(code)
"""


def measure(checkpoint: Path, folder: Path) -> dict[str, Any]:
    """Split once; bytes and seconds."""
    begin = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", CHILD, "split", str(checkpoint), "-o", str(folder), "--json", "--no-progress"],
        capture_output=True,
        text=True,
        check=False,
    )
    seconds = time.perf_counter() - begin
    if done.returncode:
        raise SystemExit(done.stderr)
    imported, peak = map(int, done.stderr.splitlines()[-1].split())
    towers = json.loads(done.stdout)["towers"]
    sizes = {
        modality: sum(file["bytes"] for file in tower["files"] if file["path"].endswith(".safetensors"))
        for modality, tower in towers.items()
    }
    return {
        "seconds": seconds,
        "peak_bytes": peak,
        "peak_of_imports_bytes": imported,
        "largest_tower_bytes": max(sizes.values()),
        "peak_to_largest_tower": peak / max(sizes.values()),
        "checkpoint_bytes": checkpoint.stat().st_size,
        "towers_mib": {modality: size / MIB for modality, size in sizes.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("-o", "--output", type=Path, default=ROOT / "benchmarks" / "results" / "split.json")
    args = parser.parse_args()
    folder = args.checkpoint.with_name(args.checkpoint.name + ".split")
    rows = []
    for _ in range(args.rounds):
        try:
            rows.append(measure(args.checkpoint, folder))
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        row = rows[-1]
        print(
            f"{row['seconds']:.1f} s, peak {row['peak_bytes'] / MIB:.0f} MiB = {row['peak_to_largest_tower']:.2f} x "
            f"the largest tower ({row['largest_tower_bytes'] / MIB:.0f} MiB); imports alone "
            f"{row['peak_of_imports_bytes'] / MIB:.0f} MiB",
            flush=True,
        )
    record = {
        "benchmark": "split",
        "command": f"python benchmarks/split.py {args.checkpoint.name} --rounds {args.rounds}",
        "environment": environment("torch", "safetensors"),
        "rows": rows,
    }
    args.output.parent.mkdir(parents=True, exist_ok=True)
    args.output.write_text(json.dumps(record, indent=1) + "\n")
    print(f"written: {args.output}")


if __name__ == "__main__":
    main()
