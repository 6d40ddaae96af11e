"""How do slimbind's int8 schemes stand beside what else makes a PyTorch model int8 on a CPU?

    python benchmarks/peers.py                                   # vision, 8 of 32 blocks, all sets of weights
    python benchmarks/peers.py --modality text --weights outlier # some of it; what was measured before stays

One tower of full width (``fullsize.py``) goes through every tool: the ImageBind paper's two recipes (PyTorch eager
mode), torchao (eager and compiled), ONNX Runtime's ``quantize_dynamic``, OpenVINO with NNCF's post-training
quantization, and slimbind. All but the paper's recipes, which need the plain one, get the tower after slimbind's exact
rewrites. Those that calibrate see the same 16 inputs; all are compared on 16 others with the plain tower in fp32 eager.
Time is processor time of one thread, batch 1, all in turns in one process. A tool that fails says so in the table.
"""

from __future__ import annotations

import argparse
import copy
import gc
import json
import shutil
import statistics
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from environment import environment
from fullsize import MODALITIES, WEIGHTS, full_size, inputs, write_split
from slimbind.evaluate import fidelity
from slimbind.export import onnx, openvino
from slimbind.quantize import eager
from slimbind.quantize.job import quantize
from slimbind.quantize.plan import Plan
from slimbind.runtime import quiet
from slimbind.runtime.engine import INPUT, Options, engine
from slimbind.towers.layers import Tower
from slimbind.towers.simplify import simplify

ROOT = Path(__file__).parents[1]
MIB = 1 << 20
ITEMS = 16
Run = Callable[[np.ndarray], np.ndarray]
Made = tuple[Run, int]  # how it is run, and the bytes of its weights


@dataclass(frozen=True)
class Subject:
    """What every tool is given."""

    modality: str
    tower: Tower
    data: torch.Tensor
    work: Path

    @property
    def batches(self) -> list[np.ndarray]:
        """The calibration data, one input at a time; texts without their padding."""
        return [one(row, self.modality) for row in self.data.numpy()]


def one(row: np.ndarray, modality: str) -> np.ndarray:
    return row[None, : int((row != 0).sum())] if modality == "text" else row[None]


def bytes_of(*files: Path) -> int:
    return sum(file.stat().st_size for file in files)


def run_torch(module: Any) -> Run:  # noqa: ANN401  (a module, or what torch.compile makes of one)
    def run(x: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return module(torch.from_numpy(x)).numpy()

    return run


def paper(subject: Subject, scheme: str, **options: bool) -> Made:
    if scheme == eager.DYNAMIC:
        made = eager.dynamic(subject.tower, **options)
    else:
        made = eager.static(subject.tower, [torch.from_numpy(batch) for batch in subject.batches])
    eager.write(made, subject.work, scheme)
    return run_torch(made), bytes_of(subject.work / eager.FILE)


def torchao(subject: Subject, *, compiled: bool) -> Made:
    from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_

    tower = copy.deepcopy(simplify(subject.tower))
    quantize_(tower, Int8DynamicActivationInt8WeightConfig())
    # A quantized weight is a tensor of tensors, whose own size is that of the float one.
    size = 0
    for value in [*tower.parameters(), *tower.buffers()]:
        names = value.__tensor_flatten__()[0] if hasattr(value, "__tensor_flatten__") else ()
        parts = [getattr(value, name) for name in names] or [value]
        size += sum(part.numel() * part.element_size() for part in parts)
    if compiled:
        import torch._inductor.config as inductor

        inductor.freezing = True  # the weights' layout is settled when it is compiled
        return run_torch(torch.compile(tower)), size
    return run_torch(tower), size


def ort_dynamic(subject: Subject) -> Made:
    ort = quiet.onnxruntime()
    from onnxruntime.quantization import QuantType, quantize_dynamic

    onnx.write(simplify(subject.tower), subject.work, Plan())
    path = subject.work / "dynamic.onnx"
    quantize_dynamic(
        subject.work / "tower.onnx",
        path,
        op_types_to_quantize=["MatMul", "Gemm"],
        per_channel=True,
        weight_type=QuantType.QInt8,
        extra_options={"DefaultTensorType": 1},
    )
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda x: session.run(None, {INPUT: x})[0], bytes_of(path)


def nncf_ptq(subject: Subject) -> Made:
    ov = quiet.openvino()  # and with it, no telemetry
    import nncf

    model = openvino.trace(simplify(subject.tower))
    data = nncf.Dataset(subject.batches)
    made = nncf.quantize(model, data, model_type=nncf.ModelType.TRANSFORMER, subset_size=len(subject.batches))
    path = subject.work / "ptq.xml"
    ov.save_model(made, path, compress_to_fp16=False)
    settings = {"INFERENCE_PRECISION_HINT": "bf16", "INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1}
    request = ov.Core().compile_model(path, "CPU", settings).create_infer_request()
    return lambda x: np.array(request.infer([x])[0]), bytes_of(path.with_suffix(".bin"))


def ours(subject: Subject, scheme: str, engine_name: str) -> Made:
    np.savez(subject.work / "data.npz", **{subject.modality: np.concatenate([subject.data.numpy()] * 2)})
    made = quantize(
        subject.work.parent / "split",
        subject.work / "made",
        scheme=scheme,
        engine=engine_name,
        calibrate=[str(subject.work / "data.npz")],
        samples=len(subject.data),
        threads=1,
        force=True,
    )
    entry, model = made.tower(subject.modality), made.manifest.model
    session = engine(entry.engine).open(made.folder, entry, Options(1), model=model, modality=subject.modality)
    return lambda x: session.run({INPUT: x}), max(file.bytes for file in entry.files)


TOOLS: dict[str, Callable[[Subject], Made]] = {
    "paper, dynamic": lambda s: paper(s, eager.DYNAMIC),
    "paper, dynamic, linear layers alone": lambda s: paper(s, eager.DYNAMIC, linear_only=True),
    "paper, static": lambda s: paper(s, eager.STATIC),
    "torchao int8 dynamic, eager": lambda s: torchao(s, compiled=False),
    "torchao int8 dynamic, compiled": lambda s: torchao(s, compiled=True),
    "ONNX Runtime quantize_dynamic": ort_dynamic,
    "OpenVINO + NNCF PTQ": nncf_ptq,
    "slimbind int8-dynamic, openvino": lambda s: ours(s, "int8-dynamic", "openvino"),
    "slimbind int8-dynamic, onnx": lambda s: ours(s, "int8-dynamic", "onnx"),
    "slimbind int8-static, openvino": lambda s: ours(s, "int8-static", "openvino"),
    "slimbind int4-weight, openvino": lambda s: ours(s, "int4-weight", "openvino"),
}


def measure(args: argparse.Namespace, weights: str) -> dict[str, Any]:
    """Every tool on one set of weights."""
    modality = args.modality
    shutil.rmtree(args.work, ignore_errors=True)
    write_split(args.work / "split", modality, depth=args.depth, **WEIGHTS[weights])
    tower = full_size(modality, depth=args.depth, **WEIGHTS[weights])
    rows = [one(row, modality) for row in inputs(modality, ITEMS, start=3 * ITEMS).numpy()]
    reference = run_torch(tower)
    truth = np.concatenate([reference(x) for x in rows])
    runs: dict[str, Run] = {"reference": reference}
    found: dict[str, dict[str, Any]] = {}
    for name in args.tools.split("+") if args.tools else TOOLS:
        work = args.work / f"{len(found)}"
        work.mkdir()
        started = time.process_time()
        try:
            run, size = TOOLS[name](Subject(modality, tower, inputs(modality, ITEMS), work))
            told = fidelity.measure(truth, np.concatenate([run(x) for x in rows]), data="")
        except Exception as error:  # a tool that fails is a row too
            found[name] = {"error": f"{type(error).__name__}: {str(error).strip().splitlines()[0][:200]}"}
        else:
            runs[name] = run
            kept = ("cosine_mean", "cosine_min", "centred_mean", "centred_min", "samples")
            found[name] = {"mib": size / MIB, "made_in_cpu_seconds": round(time.process_time() - started, 1)}
            found[name] |= {key: getattr(told, key) for key in kept}
        print(f"{weights:8} {name:38} {json.dumps(found[name])}", flush=True)
        gc.collect()
    shutil.rmtree(args.work, ignore_errors=True)
    times = turns(runs, rows[0] if modality != "text" else inputs(modality, 1).numpy(), args.rounds)
    for name, told in found.items():
        if name in times:
            each = [a / b for a, b in zip(times["reference"], times[name], strict=True)]
            told |= {"cpu_seconds": statistics.median(times[name]), "ratio": statistics.median(each)}
            told["ratio_range"] = [min(each), max(each)]
    size = sum(value.numel() * value.element_size() for value in tower.parameters())
    return {
        "reference": {"cpu_seconds": statistics.median(times["reference"]), "mib": size / MIB},
        "tools": found,
        "depth": len(tower.blocks),  # a tower that has fewer is whole
    }


def turns(runs: dict[str, Run], x: np.ndarray, rounds: int) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {name: [] for name in runs}
    for run in runs.values():
        run(x)
    for turn in range(rounds):
        for name in runs if turn % 2 == 0 else reversed(runs):
            started = time.process_time()
            runs[name](x)
            times[name].append(time.process_time() - started)
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--modality", choices=MODALITIES, default="vision")
    parser.add_argument("--weights", default="plain,balanced,outlier")
    parser.add_argument("--depth", type=int, default=8, help="blocks at most")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--tools", help=f"joined by +: some of {'; '.join(TOOLS)}")
    parser.add_argument("--work", type=Path, default=Path("/tmp/slimbind-peers"), help="for towers; emptied")
    parser.add_argument("-o", "--output", type=Path, default=ROOT / "benchmarks" / "results" / "peers.json")
    args = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # of the tools, about their own future
    record: dict[str, Any] = {"rows": {}}
    if args.output.exists():
        record = json.loads(args.output.read_text())
    for weights in args.weights.split(","):
        row = measure(args, weights)
        record = {
            "benchmark": "peers",
            "command": "python benchmarks/peers.py",
            "environment": environment(
                "torch", "torchao", "openvino", "nncf", "onnxruntime", "onnx", "numpy", threads=1
            ),
            "rows": record["rows"] | {f"{args.modality}/{weights}": row},
        }
        args.output.parent.mkdir(parents=True, exist_ok=True)
        args.output.write_text(json.dumps(record, indent=1) + "\n")
    print(f"written: {args.output}")


if __name__ == "__main__":
    main()
