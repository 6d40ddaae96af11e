"""A tower as OpenVINO IR: ``tower.xml`` with the graph, ``tower.bin`` with the weights."""

from __future__ import annotations

import warnings
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch

from slimbind.export.openvino_plan import Lowering, mark
from slimbind.export.saving import converting, saving
from slimbind.quantize.plan import Plan
from slimbind.runtime import quiet
from slimbind.runtime.engine import INPUT, OUTPUT
from slimbind.towers.layers import Tower

FILE = "tower.xml"


def write(tower: Tower, folder: Path, plan: Plan) -> None:
    """Trace ``tower`` and save it into ``folder`` as ``plan`` says (``Plan(rest="bf16")``: all matrices in bf16).

    Batch, text length and number of frames stay open; everything else is fixed.

    Raises:
        EngineError: OpenVINO cannot convert it, a layer of the plan is not found in it, or cannot be quantized so.
        ArtifactError: the files cannot be written.
    """
    model = trace(tower)
    path = folder / FILE
    ov = quiet.openvino()
    with _converting(tower):
        longest = int(tower.config["tokens"]) if tower.modality == "text" else 0
        lowering = Lowering(ov, model, plan, longest=longest)
        lowering.write()
    with saving(path):
        ov.save_model(model, path, compress_to_fp16=False)
        mark(path)


def trace(tower: Tower) -> Any:  # noqa: ANN401  (openvino has no types)
    """The tower as an ``openvino.Model`` with one input and one output, named as the run plane expects.

    It shares the tower's weights: keep the tower until the model is saved.
    """
    example = tower.example(2)
    ov = quiet.openvino()
    shape = [-1 if axis in tower.dynamic_axes else size for axis, size in enumerate(example.shape)]
    kind = ov.Type.i32 if example.dtype == torch.int32 else ov.Type.f32
    with _converting(tower), torch.no_grad(), warnings.catch_warnings():
        # The tracer warns of every shape that Python looked at. What it gets wrong, the comparison finds.
        warnings.simplefilter("ignore")
        model = quiet.convert_model(tower, example_input=example, input=[(ov.PartialShape(shape), kind)])
    model.input(0).get_tensor().set_names({INPUT})
    model.output(0).get_tensor().set_names({OUTPUT})
    return model


def _converting(tower: Tower) -> AbstractContextManager[None]:
    return converting("OpenVINO", tower.modality, instead="onnx")
