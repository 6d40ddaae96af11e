"""How does slimbind run CLIP ViT-B/32 beside open_clip and what makes it fast on a CPU?

    python benchmarks/clip_peers.py                                  # both towers, both sets of weights
    python benchmarks/clip_peers.py --modality text --weights plain  # some of it; what was measured before stays

The reference is open_clip's own model in eager fp32, with the random weights of ``clip.py``. Of it as it is are made:
``torch.compile``, ONNX Runtime and OpenVINO in float, and the recipe of the report "Dynamic quantization of CLIP"
(``quantize_dynamic`` over ``nn.Linear``, which leaves attention's projections in float). torchao, ONNX Runtime's
``quantize_dynamic`` and OpenVINO with NNCF's post-training quantization get slimbind's tower after its exact rewrites
(``peer_tools.py``). Those that calibrate see the same 16 inputs; all are compared on 16 others with the reference. Time
is processor time of one thread, batch 1, all in turns in one process.

Texts are timed twice: filled up to 77 tokens, which is the same work for all, and as they are sent, a sentence of the
samples' mean length, which open_clip fills up to 77 and so do the tools that were given its module; the others compute
what is there.

Beside slimbind[build,onnx]: open_clip_torch, torchao, nncf.
"""

from __future__ import annotations

import argparse
import gc
import io
import json
import statistics
import tempfile
import time
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import clip
import peer_tools
from environment import ROOT, environment
from peer_tools import MIB, Opened, Run, Subject, Tool, one, run_reference, weights_of
from peers import opened, pace, reason, turns
from slimbind.towers import registry

ITEMS = 16
STEP = 4  # tokens: slimbind cuts a batch of texts to the next multiple of it
RECIPE = "the CLIP report's recipe"
WEIGHTS = ("plain", "balanced")


class Reference(nn.Module):
    """One side of open_clip's model: inputs in, embeddings out."""

    def __init__(self, model: nn.Module, modality: str) -> None:
        super().__init__()
        if modality == "text":
            del model.visual
        self.model = model.visual if modality == "vision" else model
        self.modality = modality

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``[n, 3, 224, 224]`` or ``[n, 77]`` in, ``[n, 512]`` out."""
        found: torch.Tensor = self.model(x) if self.modality == "vision" else self.model.encode_text(x)
        return found


class ClipSubject(Subject):
    """A tower of CLIP; ``weights`` has the name of a set of weights."""

    @property
    def split(self) -> Path:
        """See ``Subject``."""
        folder = self.work.parent / "split"
        if not folder.exists():
            clip.write_split(folder, self.weights["name"], modalities=[self.modality])
        return folder


def recipe(subject: Subject) -> Opened:
    """``torch.ao.quantization.quantize_dynamic`` over all that is exactly ``nn.Linear``, in 8 bits."""
    made = torch.ao.quantization.quantize_dynamic(subject.reference, {nn.Linear}, dtype=torch.qint8)
    for name, layer in made.named_modules():
        if name.endswith("c_fc"):
            layer.int8_original_dtype = torch.float32  # where open_clip looks, because there is no weight any more
    file = io.BytesIO()
    torch.save(made.state_dict(), file)
    return run_reference(made, subject.modality), file.tell()


_NAMES = (
    "torch.compile, fp32",
    "ONNX Runtime, fp32",
    "OpenVINO, fp32",
    "OpenVINO, bf16",
    "slimbind f32, openvino",
    "slimbind bf16, openvino",
    RECIPE,
    "torchao int8 dynamic, compiled",
    "ONNX Runtime quantize_dynamic",
    "OpenVINO + NNCF PTQ",
    "slimbind int8-dynamic, openvino",
    "slimbind int8-dynamic, onnx",
    "slimbind int8-static, openvino",
    "slimbind int4-weight, openvino",
)
TOOLS: dict[str, Tool] = {name: Tool(recipe) if name == RECIPE else peer_tools.TOOLS[name] for name in _NAMES}


def measure(args: argparse.Namespace, modality: str, weights: str, work: Path) -> dict[str, Any]:
    """Every tool on one tower with one set of weights."""
    values = clip.towers(weights)
    reference = Reference(clip.open_clip_model(weights, values=values), modality)
    tower = registry.load(registry.build("clip", modality, clip.CONFIGS[modality]), values[modality])
    subject = ClipSubject(modality, tower, reference, clip.inputs(modality, ITEMS), {"name": weights}, work)
    rows = [one(row, modality) for row in clip.inputs(modality, ITEMS, start=3 * ITEMS).numpy()]
    runs: dict[str, Run] = {"reference": run_reference(reference, modality)}
    truth = np.concatenate([runs["reference"](x) for x in rows])
    found: dict[str, dict[str, Any]] = {}
    for number, name in enumerate(args.tools.split("+") if args.tools else TOOLS):
        own = replace(subject, work=work / f"{number}")
        own.work.mkdir()
        started = time.process_time()
        try:
            TOOLS[name].make(own)
            runs[name], found[name] = opened(own, TOOLS[name], rows, truth, time.process_time() - started)
        except Exception as error:  # a tool that fails is a row too
            found[name] = {"error": f"{type(error).__name__}: {reason(error)}"}
        print(f"{modality}/{weights} {name:34} {json.dumps(found[name])}", flush=True)
        gc.collect()  # traced modules refer to themselves
    timed = {"full": clip.inputs(modality, 1).numpy()}
    if modality == "text":
        timed["short"] = typical(clip.inputs("text", 8 * ITEMS).numpy())
    result: dict[str, Any] = {"tools": found, "reference": {"mib": weights_of(reference) / MIB}}
    for kind, x in timed.items():
        times = turns(runs, x, args.rounds)
        result["reference"][kind] = {"cpu_seconds": statistics.median(times["reference"]), "shape": list(x.shape)}
        for name in times.keys() & found.keys():
            found[name][kind] = pace(times[name], times["reference"])
    return result


def typical(ids: np.ndarray) -> np.ndarray:
    """The first text of about the mean length ``[1, tokens]``, cut as slimbind cuts it."""
    lengths = (ids != 0).sum(1)
    row = int(np.abs(lengths - lengths.mean()).argmin())
    return ids[row : row + 1, : -(-int(lengths[row]) // STEP) * STEP]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--modality", default=",".join(clip.MODALITIES))
    parser.add_argument("--weights", default=",".join(WEIGHTS))
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--tools", help=f"joined by +: some of {'; '.join(TOOLS)}")
    parser.add_argument("-o", "--output", type=Path, default=ROOT / "benchmarks" / "results" / "clip_peers.json")
    args = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # of the tools, about their own future
    for modality in args.modality.split(","):
        for weights in args.weights.split(","):
            with tempfile.TemporaryDirectory() as work:
                row = measure(args, modality, weights, Path(work))
            before = json.loads(args.output.read_text()) if args.output.exists() else {"rows": {}}
            lengths = (clip.inputs("text", 8 * ITEMS) != 0).sum(1).double()
            record = {
                "benchmark": "clip_peers",
                "command": "python benchmarks/clip_peers.py",
                "environment": environment(
                    "torch",
                    "open_clip_torch",
                    "torchao",
                    "openvino",
                    "nncf",
                    "onnxruntime",
                    "onnx",
                    "numpy",
                    threads=1,
                ),
                "tokens_mean": float(lengths.mean()),
                "rows": before["rows"] | {f"{modality}/{weights}": row},
            }
            args.output.parent.mkdir(parents=True, exist_ok=True)
            args.output.write_text(json.dumps(record, indent=1) + "\n")
            print(f"written: {args.output}")


if __name__ == "__main__":
    main()
