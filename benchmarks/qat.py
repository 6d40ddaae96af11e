"""How much of what 8-bit static quantization loses does fine-tuning give back? Shown on mini's picture tower.

    python recipes/mini/split.py mini-split && python benchmarks/qat.py mini-split      (some minutes on two cores)

Rows: plain static int8 (ranges from the smallest and largest value, everything quantized), static int8 with all its
help, and both after fine-tuning. Every tower is written for OpenVINO and run by it; embeddings are compared with those
of the float32 tower on pictures that nothing was tuned with (``recipes/mini/sets.py``). Stopped, it goes on where it
was when it is run again with the same ``--work``.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch

from environment import environment
from slimbind.artifact import Artifact, ArtifactWriter
from slimbind.evaluate import fidelity
from slimbind.export import openvino
from slimbind.export.job import load_tower
from slimbind.quantize import qat, static
from slimbind.quantize.calibration import Calibration
from slimbind.quantize.plan import Plan
from slimbind.quantize.report import silent
from slimbind.quantize.schemes import Int8Static
from slimbind.runtime.engine import INPUT, Options
from slimbind.runtime.engine import engine as runtime_engine
from slimbind.towers.layers import Tower
from slimbind.towers.simplify import simplify

ROOT = Path(__file__).parents[1]
CALIBRATED = 48  # pictures that ranges are calibrated with; all others are only learned from
HELD_OUT = 40  # pictures that fine-tuning stops early by
BATCH = 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("split", type=Path, help="what recipes/mini/split.py wrote")
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache" / "slimbind-mini")
    parser.add_argument("--work", type=Path, help="keep unfinished work here, and go on from it")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "qat.json")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory() as temporary:
        record = run(args, args.work or Path(temporary))
    args.output.parent.mkdir(parents=True, exist_ok=True)
    args.output.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(f"written: {args.output}")


def run(args: argparse.Namespace, work: Path) -> dict[str, Any]:
    sys.path.insert(0, str(ROOT / "recipes" / "mini"))
    import sets

    work.mkdir(parents=True, exist_ok=True)
    learned, judged = _pictures(sets, args.cache, work)
    artifact = Artifact.open(args.split)
    tower = simplify(load_tower(artifact, "vision"))
    reference = {kind: _embed(tower, sets.tensor(images)) for kind, images in judged.items()}
    calibration = Calibration(
        items=[sets.tensor(image[None]).numpy() for image in learned[:CALIBRATED]], held=[], source="sets.learn"
    )
    held = [sets.tensor(learned[start : start + BATCH]) for start in range(CALIBRATED, CALIBRATED + HELD_OUT, BATCH)]
    rest = learned[CALIBRATED + HELD_OUT :]

    def batches(number: int) -> Iterable[torch.Tensor]:
        order = np.random.default_rng(number).permutation(len(rest))
        return (sets.tensor(rest[order[at : at + BATCH]]) for at in range(0, len(order) - BATCH + 1, BATCH))

    rows = []
    for name, config in (("plain", Int8Static(plain=True)), ("with help", Int8Static())):
        row = work / f"{name}.json"
        if row.exists():
            rows += json.loads(row.read_text())
            continue
        made, plan, report = static.make(tower, calibration, config, silent)
        kept = len(report.kept)
        found = [_row(f"int8-static, {name}", artifact, made, plan, sets, judged, reference) | {"kept": kept}]
        print(json.dumps(found[-1]), flush=True)
        done = qat.refine(
            made,
            plan,
            batches,
            held,
            qat.QatConfig(steps=args.steps, every=20),
            teacher=tower,
            checkpoint=work / f"{name}.safetensors",
            progress=lambda told: print(told.step, told.loss, told.score or "", flush=True),
        )
        found.append(
            _row(f"int8-static, {name}, fine-tuned", artifact, done.tower, done.plan, sets, judged, reference)
            | {"kept": kept, "steps": done.steps, "pictures": done.steps * BATCH}
        )
        print(json.dumps(found[-1]), flush=True)
        row.write_text(json.dumps(found))
        rows += found
    return {
        "benchmark": "qat",
        "command": f"python benchmarks/qat.py mini-split --steps {args.steps} --threads {args.threads}",
        "environment": environment("torch", "openvino", threads=args.threads),
        "pictures": {"calibrated": CALIBRATED, "held_out": HELD_OUT, "learned": len(rest)}
        | {kind: len(images) for kind, images in judged.items()},
        "rows": rows,
    }


def _pictures(sets: ModuleType, cache: Path, work: Path) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    path = work / "pictures.npz"
    if not path.exists():
        np.savez(path, **{"learn": sets.learn(cache)}, **{f"judge {k}": v for k, v in sets.judge(cache).items()})
    found = np.load(path)
    return found["learn"], {name.removeprefix("judge "): found[name] for name in found.files if name != "learn"}


def _embed(tower: Tower, images: torch.Tensor) -> np.ndarray:
    with torch.inference_mode():
        return torch.cat([tower(part) for part in images.split(BATCH)]).numpy()


def _row(
    name: str,
    artifact: Artifact,
    tower: Tower,
    plan: Plan,
    sets: ModuleType,
    judged: dict[str, np.ndarray],
    reference: dict[str, np.ndarray],
) -> dict[str, Any]:
    """What the written tower says of the judged pictures."""
    old, model = artifact.tower("vision"), artifact.manifest.model
    with tempfile.TemporaryDirectory() as folder:
        made, dim = Path(folder) / "made", artifact.manifest.embedding_dim
        with ArtifactWriter(made, model=model, embedding_dim=dim) as writer:
            openvino.write(tower, writer.folder("vision"), plan)
            entry = writer.add(
                "vision",
                engine="openvino",
                scheme="int8-static",
                weights=old.weights,
                parameters=old.parameters,
                config=old.config | {"precision": plan.precision},
                preprocess=old.preprocess,
            )
        session = runtime_engine("openvino").open(made, entry, Options(threads=2), model=model, modality="vision")
        with closing(session):
            found = {
                kind: np.concatenate([session.run({INPUT: part.numpy()}) for part in sets.tensor(images).split(BATCH)])
                for kind, images in judged.items()
            }
    kinds = {
        kind: fidelity.measure(reference[kind], found[kind], data=kind).model_dump(
            include={"cosine_mean", "cosine_min", "centred_mean", "centred_min", "samples"}
        )
        for kind in judged
    }
    whole = fidelity.measure(np.concatenate(list(reference.values())), np.concatenate(list(found.values())), data="all")
    return {"row": name, "bytes": entry.bytes, "cosine_mean": whole.cosine_mean, "cosine_min": whole.cosine_min,
            "centred_mean": whole.centred_mean, "centred_min": whole.centred_min, "kinds": kinds}  # fmt: skip


if __name__ == "__main__":
    main()
