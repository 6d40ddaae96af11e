"""What does an open tower cost in memory, and what is left when it is closed?

    python benchmarks/make_huge.py huge.pth && slimbind split huge.pth -o huge && slimbind export huge -o huge-f32
    python benchmarks/memory.py huge-f32                    # each tower alone, vision + text, all six
    python benchmarks/memory.py huge-f32 --every-subset     # all 63

Each subset is opened in a fresh process. Counted is the growth of the resident set (RSS, file-mapped pages included)
over the same process before it opened anything, with the engine's libraries loaded and every preprocessor run once:
``opened`` after the first item of each modality, ``steady`` after batches of several sizes, ``peak`` the highest on the
way, ``closed`` after ``unload()``: the engine's own code and kernels, about 20 MiB once per process, whatever is open.
``ratio`` is ``steady`` over the size of the weights files, and the goal for it 1.15; ``returned_ratio`` is what
``unload()`` gave back over the size of the weights files.
``paper_mib`` is what the paper adds up from its Table I for a subset (whole model: 4580.64).
"""

from __future__ import annotations

import argparse
import io
import json
import subprocess
import sys
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

import slimbind
from environment import environment
from slimbind.evaluate import memory
from slimbind.modalities import MODALITIES

MIB = 1 << 20
GOAL = 1.15
PAPER_MIB = {"vision": 2414.05, "text": 1350.55, "audio": 328.96, "depth": 83.44, "thermal": 328.87, "imu": 74.77}
WORDS = "a photo of two dogs that are playing in the snow behind an old wooden house on a hill in winter".split()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("artifact", type=Path)
    parser.add_argument("--subset", action="append", help="comma-separated modalities; may be repeated")
    parser.add_argument("--every-subset", action="store_true")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("-o", "--output", type=Path, default=None, help="default: results/memory-ENGINE-SCHEME.json")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    artifact = slimbind.Artifact.open(args.artifact)
    if args.child:
        print(json.dumps(measure(args.artifact, args.subset[0].split(","), args.threads)))
        return 0
    first = artifact.tower(artifact.modalities[0])
    output = args.output or Path(__file__).parent / "results" / f"memory-{first.engine}-{first.scheme}.json"
    rows = []
    for subset in subsets(artifact.modalities, args):
        command = [sys.executable, __file__, str(args.artifact), "--child", "--subset", ",".join(subset)]
        done = subprocess.run([*command, "--threads", str(args.threads)], capture_output=True, text=True, check=False)
        if done.returncode:
            print(done.stderr, file=sys.stderr)
            return 1
        rows.append(json.loads(done.stdout.splitlines()[-1]))
        row = rows[-1]
        print(
            f"{'+'.join(subset):40} weights {row['weights_mib']:7.0f}  opened {row['opened_mib']:7.0f}  "
            f"steady {row['steady_mib']:7.0f}  ratio {row['ratio']:.3f} ({row['returned_ratio']:.3f})  "
            f"peak {row['peak_mib']:7.0f}  closed {row['closed_mib']:5.0f} MiB",
            flush=True,
        )
    record = {
        "benchmark": "memory",
        "command": f"python benchmarks/memory.py {args.artifact.name}" + " --every-subset" * args.every_subset,
        "environment": environment("numpy", first.engine.replace("onnx", "onnxruntime"), threads=args.threads),
        "engine": first.engine,
        "scheme": first.scheme,
        "goal_ratio": GOAL,
        "rows": rows,
    }
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(record, indent=1) + "\n")
    print(f"written: {output}")
    return 0


def subsets(found: tuple[str, ...], args: argparse.Namespace) -> list[tuple[str, ...]]:
    if args.subset:
        return [tuple(text.split(",")) for text in args.subset]
    sizes = range(1, len(found) + 1)
    every = [subset for size in sizes for subset in combinations(found, size)]
    if args.every_subset:
        return every
    return [one for one in every if len(one) in (1, len(found)) or set(one) == {"vision", "text"}]


def measure(folder: Path, subset: list[str], threads: int) -> dict[str, Any]:
    with slimbind.load(folder, threads=threads, verify=False) as model:
        used = memory.measure(model, subset, items)
        weights = sum(max(file.bytes for file in model.artifact.tower(name).files) for name in subset)
    return {
        "modalities": subset,
        "weights_mib": round(weights / MIB, 2),
        "paper_mib": round(sum(PAPER_MIB[modality] for modality in subset), 2),
        "opened_mib": round(used.opened / MIB, 1),
        "steady_mib": round(used.steady / MIB, 1),
        "steady_anonymous_mib": round(used.anonymous / MIB, 1),
        "steady_file_mapped_mib": round(used.mapped / MIB, 1),
        "ratio": round(used.steady / weights, 3),
        "peak_mib": round(used.peak / MIB, 1),
        "returned_ratio": round((used.steady - used.closed) / weights, 3),
        "reached": used.steady / weights <= GOAL,
        "closed_mib": round(used.closed / MIB, 1),
        "process_before_mib": round(used.before / MIB, 1),
        "open_and_first_embedding_seconds": used.seconds,
    }


def items(modality: str, count: int) -> list[Any]:
    """Inputs of one modality, texts of different lengths."""
    random = np.random.default_rng(count)
    if modality == "vision":
        return list(random.integers(0, 256, (count, 240, 320, 3), dtype=np.uint8))
    if modality == "text":
        return [" ".join(WORDS[: 2 + 5 * n % len(WORDS)]) for n in range(count)]
    if modality == "audio":
        return [wave(random.normal(size=80000)) for _ in range(count)]
    if modality == "depth":
        return list(random.uniform(0.5, 8, (count, 240, 320)).astype(np.float32))
    if modality == "thermal":
        return list(random.integers(0, 256, (count, 240, 320), dtype=np.uint8))
    return list(random.normal(size=(count, 6, 2000)).astype(np.float32))


def wave(samples: np.ndarray) -> bytes:
    import soundfile

    file = io.BytesIO()
    soundfile.write(file, 0.1 * samples, 16000, format="WAV")
    return file.getvalue()


if __name__ == "__main__":
    assert set(PAPER_MIB) == set(MODALITIES)
    sys.exit(main())
