"""What does the first embedding of a picture cost, from nothing: with the whole model, and with the one tower it needs?

    python benchmarks/make_huge.py huge.pth
    slimbind split huge.pth -o split --modalities vision
    slimbind export split -o vision-f32
    slimbind quantize split --scheme int8-dynamic --samples 8 --calibrate vision=PHOTOS -o vision-int8
    PYTHONPATH=DIR python benchmarks/cold_start.py huge.pth vision-f32 vision-int8    # DIR: see imagebind_reference.py

The whole model is ``imagebind-unofficial``, opened as its README says, and once more with the checkpoint mapped into
memory (``torch.load(mmap=True)``, ``load_state_dict(assign=True)``), which its README does not say. Each opening is a
fresh process, all in turns; the time runs from the start of the process (Python and the imports included) to the first
vector. Each is started with the model's files in the system's file cache, and without (dropped from it before; the
libraries' files stay). Counted are the process's resident pages, file-mapped ones included, at most until the first
vector, and after further pictures. Those are photographs of the samples that are not in PHOTOS, more in the first
process of each than in the others; the cosines are those with the vectors of the whole model.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from environment import environment
from slimbind.artifact import Artifact
from slimbind.evaluate import fidelity

ROOT = Path(__file__).parents[1]
PHOTOS = sorted((ROOT / "samples" / "photos").iterdir())
FEW, MORE = 3, 8
CHECKPOINT = Path(".checkpoints") / "imagebind_huge.pth"  # where the package looks for it
WHOLE = "whole model, as its README says"
MAPPED = "whole model, checkpoint mapped"
MIB = 1 << 20


def first_whole(mapped: bool) -> Any:  # noqa: ANN401  (a function of one path)
    """Open the whole model; gives a function from a picture's path to its vector."""
    import torch

    from imagebind_reference import imagebind

    package = imagebind()
    if mapped:
        model = package.imagebind_model.imagebind_huge()
        model.load_state_dict(torch.load(CHECKPOINT, mmap=True, weights_only=True), assign=True)
    else:
        model = package.imagebind_model.imagebind_huge(pretrained=True)
    model.eval()

    def embed(path: Path) -> np.ndarray:
        with torch.no_grad():
            x = package.data.load_and_transform_vision_data([path], "cpu")
            return model({"vision": x})["vision"].numpy()

    return embed


def child(what: str, photos: list[Path]) -> None:
    """What one fresh process does; reports on standard output."""
    if what in (WHOLE, MAPPED):
        embed = first_whole(what == MAPPED)
    else:
        import slimbind

        model = slimbind.load(what)

        def embed(path: Path) -> np.ndarray:
            return model.embed([path], "vision")

    vectors = [embed(photos[0])]
    at, used, peak = time.time(), os.times(), status("VmHWM")
    vectors += [embed(path) for path in photos[1:]]
    told = {"at": at, "cpu": used.user + used.system, "peak_mib": peak, "steady_mib": status("VmRSS")}
    print(json.dumps(told | {"vectors": np.concatenate(vectors).tolist()}))


def status(name: str) -> float:
    """A line of this process's status, MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:")) / 1024


def run(what: str, files: list[Path], folder: str, count: int, *, cached: bool) -> dict[str, Any]:
    """Start one process, after its files were read, or dropped from the cache."""
    for file in files:
        with open(file, "rb", buffering=0) as opened:
            if cached:
                while opened.read(64 * MIB):
                    pass
            else:
                os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    started = time.time()
    command = [sys.executable, __file__, "--child", what, "--pictures", str(count)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return told | {"seconds": told["at"] - started}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("artifacts", type=Path, nargs="*", help="folders with the vision tower alone")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--pictures", type=int, default=FEW, help=argparse.SUPPRESS)
    parser.add_argument("-o", "--output", type=Path, default=ROOT / "benchmarks" / "results" / "cold_start.json")
    args = parser.parse_args()
    if args.child:
        child(str(args.checkpoint), PHOTOS[: args.pictures])
        return
    checkpoint = args.checkpoint.resolve()
    files = {WHOLE: [checkpoint], MAPPED: [checkpoint]}
    names = {WHOLE: WHOLE, MAPPED: MAPPED}
    for folder in args.artifacts:
        artifact = Artifact.open(folder.resolve())
        entry = artifact.tower("vision")
        files[str(artifact.folder)] = [artifact.folder / file.path for file in entry.files]
        names[str(artifact.folder)] = f"slimbind, vision tower, {entry.scheme}"
    found: dict[tuple[str, bool], list[dict[str, Any]]] = {(what, how): [] for what in files for how in (True, False)}
    del found[MAPPED, False]  # what a mapped file costs is seen with the other
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / CHECKPOINT
        place.parent.mkdir()
        place.symlink_to(checkpoint)
        for turn in range(args.rounds):
            for what, cached in found if turn % 2 == 0 else reversed(found):
                count = MORE if cached and not found[what, cached] else FEW
                told = run(what, files[what], folder, count, cached=cached)
                found[what, cached].append(told)
                print(
                    f"{names[what]:38} {'cached' if cached else 'from disk':9} {told['seconds']:6.1f} s, "
                    f"{told['cpu']:6.1f} CPU-s, peak {told['peak_mib']:6.0f}, steady {told['steady_mib']:6.0f} MiB",
                    flush=True,
                )
                write(args, found, files, names)
    print(f"written: {args.output}")


def write(
    args: argparse.Namespace,
    found: dict[tuple[str, bool], list[dict[str, Any]]],
    files: dict[str, list[Path]],
    names: dict[str, str],
) -> None:
    """What was found so far, so that a run that is stopped is not lost."""
    truth = np.array(found[WHOLE, True][0]["vectors"]) if found[WHOLE, True] else None
    rows = []
    for what, paths in files.items():
        row: dict[str, Any] = {"row": names[what], "disk_mib": sum(path.stat().st_size for path in paths) / MIB}
        for cached, key in ((True, "cached"), (False, "from_disk")):
            if runs := found.get((what, cached)):
                row[f"{key}_seconds"] = statistics.median(one["seconds"] for one in runs)
                row[f"{key}_range"] = [min(one["seconds"] for one in runs), max(one["seconds"] for one in runs)]
                row[f"{key}_cpu_seconds"] = statistics.median(one["cpu"] for one in runs)
        if runs := found[what, True]:
            row["peak_mib"] = statistics.median(one["peak_mib"] for one in runs)
            row["steady_mib"] = statistics.median(one["steady_mib"] for one in runs)
            if truth is not None:
                told = fidelity.measure(truth, np.array(runs[0]["vectors"]), data="")
                row |= {"cosine_mean": told.cosine_mean, "cosine_min": told.cosine_min, "pictures": told.samples}
        rows.append(row)
    record = {
        "benchmark": "cold_start",
        "command": f"python benchmarks/cold_start.py {' '.join(p.name for p in (args.checkpoint, *args.artifacts))}",
        "environment": environment("imagebind-unofficial", "torch", "openvino", threads=1),
        "rounds": len(found[WHOLE, True]),
        "rows": rows,
    }
    args.output.parent.mkdir(parents=True, exist_ok=True)
    args.output.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
