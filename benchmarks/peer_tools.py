"""The tools that ``peers.py`` compares: how each makes something that runs of a tower, and keeps it in a folder.

A tool has two steps. ``make`` writes what it makes into a folder, once; ``open`` reads it and gives what runs. What
PyTorch can only make in memory (torchao, ``torch.compile``) is made when it is opened.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fullsize import write_split
from imagebind_reference import Reference, as_given, unit
from quantize_tables import PLAIN
from slimbind.artifact import Artifact
from slimbind.export import onnx, openvino
from slimbind.export.job import export
from slimbind.quantize import eager
from slimbind.quantize.job import quantize
from slimbind.quantize.plan import Plan
from slimbind.runtime import quiet
from slimbind.runtime.engine import INPUT, Options, engine
from slimbind.towers import registry
from slimbind.towers.layers import Tower
from slimbind.towers.simplify import simplify

MIB = 1 << 20
Run = Callable[[np.ndarray], np.ndarray]
Opened = tuple[Run, int]  # how it is run, and the bytes of its weights


@dataclass(frozen=True)
class Subject:
    """What every tool is given.

    Args:
        modality: of the tower.
        tower: slimbind's plain one, not rewritten.
        reference: imagebind-unofficial's, of the same weights.
        data: ``[n, ...]`` inputs to calibrate with.
        weights: the settings of ``fullsize.full_size`` that the weights have.
        work: the tool's folder.
    """

    modality: str
    tower: Tower
    reference: Reference
    data: torch.Tensor
    weights: dict[str, Any]
    work: Path

    @property
    def batches(self) -> list[np.ndarray]:
        """The calibration data, one input at a time; texts without their padding."""
        return [one(row, self.modality) for row in self.data.numpy()]

    @property
    def example(self) -> torch.Tensor:
        """One input as the reference takes it."""
        return as_given(self.data[:1], self.modality)

    @property
    def split(self) -> Path:
        """The folder that ``slimbind split`` would write; all tools share it."""
        folder = self.work.parent / "split"
        if not folder.exists():
            write_split(folder, self.modality, **self.weights)
        return folder


@dataclass(frozen=True)
class Tool:
    """One row: how it is made (kept in ``Subject.work``) and opened."""

    open: Callable[[Subject], Opened]
    make: Callable[[Subject], object] = lambda subject: None


def one(row: np.ndarray, modality: str) -> np.ndarray:
    """One input; a text without its padding."""
    return row[None, : int((row != 0).sum())] if modality == "text" else row[None]


def weights_of(module: torch.nn.Module) -> int:
    """Bytes of its tensors. A quantized weight is a tensor of tensors, whose own size is that of the float one."""
    size = 0
    for value in [*module.parameters(), *module.buffers()]:
        names = value.__tensor_flatten__()[0] if hasattr(value, "__tensor_flatten__") else ()
        parts = [getattr(value, name) for name in names] or [value]
        size += sum(part.numel() * part.element_size() for part in parts)
    return size


def run_torch(module: Any) -> Run:  # noqa: ANN401  (a module, or what torch.compile makes of one)
    """A tower of slimbind's in PyTorch."""

    def run(x: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return module(torch.from_numpy(x)).numpy()

    return run


def run_reference(module: Any, modality: str) -> Run:  # noqa: ANN401
    """The reference, or what was made of it: its own kind of input, and embeddings of length 1."""

    def run(x: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return unit(module(as_given(torch.from_numpy(x), modality))).numpy()

    return run


def _compiled(module: torch.nn.Module) -> Any:  # noqa: ANN401
    import torch._inductor.config as inductor

    inductor.freezing = True  # the weights' layout is settled when it is compiled
    return torch.compile(module)


def _compiled_reference(subject: Subject) -> Opened:
    return run_reference(_compiled(subject.reference), subject.modality), weights_of(subject.reference)


def _make_onnx(subject: Subject) -> None:
    quiet.mute_onnxruntime()
    program = torch.onnx.export(subject.reference, (subject.example,), dynamo=True, input_names=[INPUT], verbose=False)
    assert program is not None
    program.save(subject.work / "reference.onnx", external_data=True)


def _session(path: Path) -> Any:  # noqa: ANN401
    ort = quiet.onnxruntime()
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def _open_onnx(subject: Subject) -> Opened:
    path = subject.work / "reference.onnx"
    session = _session(path)

    def run(x: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(session.run(None, {INPUT: x.numpy()})[0])

    return run_reference(run, subject.modality), path.with_name(f"{path.name}.data").stat().st_size


def _make_openvino(subject: Subject) -> None:
    example = subject.example
    model = quiet.convert_model(subject.reference, example_input=example, input=[tuple(example.shape)])
    quiet.openvino().save_model(model, subject.work / "reference.xml", compress_to_fp16=False)


def _compile_openvino(path: Path, precision: str) -> Any:  # noqa: ANN401
    settings = {"INFERENCE_PRECISION_HINT": precision, "INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1}
    return quiet.openvino().Core().compile_model(path, "CPU", settings).create_infer_request()


def _open_openvino(subject: Subject, precision: str) -> Opened:
    path = subject.work / "reference.xml"
    request = _compile_openvino(path, precision)

    def run(x: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(np.array(request.infer([x.numpy()])[0]))

    return run_reference(run, subject.modality), path.with_suffix(".bin").stat().st_size


def _make_paper(subject: Subject, scheme: str, **options: bool) -> None:
    if scheme == eager.DYNAMIC:
        made = eager.dynamic(subject.tower, **options)
    else:
        made = eager.static(subject.tower, [torch.from_numpy(batch) for batch in subject.batches])
    eager.write(made, subject.work, scheme)


def _open_paper(subject: Subject) -> Opened:
    path = subject.work / eager.FILE
    skeleton = registry.build(subject.tower.family, subject.modality, subject.tower.config)
    return run_torch(eager.load(path, skeleton)), path.stat().st_size


def _torchao(subject: Subject, *, compiled: bool) -> Opened:
    from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_

    tower = copy.deepcopy(simplify(subject.tower))
    quantize_(tower, Int8DynamicActivationInt8WeightConfig())
    return run_torch(_compiled(tower) if compiled else tower), weights_of(tower)


def _make_ort_dynamic(subject: Subject) -> None:
    quiet.onnxruntime()
    from onnxruntime.quantization import QuantType, quantize_dynamic

    onnx.write(simplify(subject.tower), subject.work, Plan())
    quantize_dynamic(
        subject.work / "tower.onnx",
        subject.work / "dynamic.onnx",
        op_types_to_quantize=["MatMul", "Gemm"],
        per_channel=True,
        weight_type=QuantType.QInt8,
        extra_options={"DefaultTensorType": 1},
    )


def _open_ort_dynamic(subject: Subject) -> Opened:
    path = subject.work / "dynamic.onnx"
    session = _session(path)
    return lambda x: session.run(None, {INPUT: x})[0], path.stat().st_size


def _make_nncf(subject: Subject) -> None:
    ov = quiet.openvino()  # and with it, no telemetry
    import nncf

    model = openvino.trace(simplify(subject.tower))
    data = nncf.Dataset(subject.batches)
    made = nncf.quantize(model, data, model_type=nncf.ModelType.TRANSFORMER, subset_size=len(subject.batches))
    ov.save_model(made, subject.work / "ptq.xml", compress_to_fp16=False)


def _open_nncf(subject: Subject) -> Opened:
    path = subject.work / "ptq.xml"
    request = _compile_openvino(path, "bf16")
    return lambda x: np.array(request.infer([x])[0]), path.with_suffix(".bin").stat().st_size


def _make_ours(subject: Subject, scheme: str, engine_name: str) -> None:
    place = subject.work / "made"
    if scheme in ("f32", "bf16"):
        export(subject.split, place, engine=engine_name, dtype=scheme, threads=1)
        return
    np.savez(subject.work / "data.npz", **{subject.modality: np.concatenate([subject.data.numpy()] * 2)})
    quantize(
        subject.split,
        place,
        scheme=scheme,
        engine=engine_name,
        calibrate=[str(subject.work / "data.npz")],
        samples=len(subject.data),
        threads=1,
        force=True,
    )


def _open_ours(subject: Subject) -> Opened:
    made = Artifact.open(subject.work / "made")
    entry, model = made.tower(subject.modality), made.manifest.model
    session = engine(entry.engine).open(made.folder, entry, Options(1), model=model, modality=subject.modality)
    return lambda x: session.run({INPUT: x}), max(file.bytes for file in entry.files)


def _ours(scheme: str, engine_name: str) -> Tool:
    return Tool(_open_ours, lambda subject: _make_ours(subject, scheme, engine_name))


def _paper(scheme: str, **options: bool) -> Tool:
    return Tool(_open_paper, lambda subject: _make_paper(subject, scheme, **options))


TOOLS: dict[str, Tool] = {
    PLAIN: Tool(lambda s: (run_torch(s.tower), weights_of(s.tower))),
    "torch.compile, fp32": Tool(_compiled_reference),
    "ONNX Runtime, fp32": Tool(_open_onnx, _make_onnx),
    "OpenVINO, fp32": Tool(lambda s: _open_openvino(s, "f32"), _make_openvino),
    "OpenVINO, bf16": Tool(lambda s: _open_openvino(s, "bf16"), _make_openvino),
    "slimbind f32, openvino": _ours("f32", "openvino"),
    "slimbind bf16, openvino": _ours("bf16", "openvino"),
    "paper, dynamic": _paper(eager.DYNAMIC),
    "paper, dynamic, linear layers alone": _paper(eager.DYNAMIC, linear_only=True),
    "paper, static": _paper(eager.STATIC),
    "torchao int8 dynamic, eager": Tool(lambda s: _torchao(s, compiled=False)),
    "torchao int8 dynamic, compiled": Tool(lambda s: _torchao(s, compiled=True)),
    "ONNX Runtime quantize_dynamic": Tool(_open_ort_dynamic, _make_ort_dynamic),
    "OpenVINO + NNCF PTQ": Tool(_open_nncf, _make_nncf),
    "slimbind int8-dynamic, openvino": _ours("int8-dynamic", "openvino"),
    "slimbind int8-dynamic, onnx": _ours("int8-dynamic", "onnx"),
    "slimbind int8-static, openvino": _ours("int8-static", "openvino"),
    "slimbind int4-weight, openvino": _ours("int4-weight", "openvino"),
}
