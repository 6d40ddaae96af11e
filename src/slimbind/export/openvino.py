"""A tower as OpenVINO IR: ``tower.xml`` with the graph, ``tower.bin`` with the weights."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch

from slimbind.errors import EngineError
from slimbind.export.openvino_plan import Lowering, mark
from slimbind.export.saving import saving
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
    lowering = Lowering(ov, model, plan)
    lowering.write()
    with saving(path):
        ov.save_model(model, path, compress_to_fp16=False)
        mark(path, plan)


def trace(tower: Tower) -> Any:  # noqa: ANN401  (openvino has no types)
    """The tower as an ``openvino.Model`` with one input and one output, named as the run plane expects.

    It shares the tower's weights: keep the tower until the model is saved.
    """
    example = tower.example(2)
    ov = quiet.openvino()
    shape = [-1 if axis in tower.dynamic_axes else size for axis, size in enumerate(example.shape)]
    kind = ov.Type.i32 if example.dtype == torch.int32 else ov.Type.f32
    try:
        with torch.no_grad(), warnings.catch_warnings():
            # The tracer warns of every shape that Python looked at. What it gets wrong, the comparison finds.
            warnings.simplefilter("ignore")
            model = quiet.convert_model(tower, example_input=example, input=[(ov.PartialShape(shape), kind)])
    except Exception as error:  # the converter raises whatever its frontends raise
        if "KeyboardInterrupt" in str(error):  # its C++ part makes an error of its own out of Ctrl-C
            raise KeyboardInterrupt from error
        raise EngineError(f"OpenVINO cannot convert the {tower.modality} tower: {error}") from error
    model.input(0).get_tensor().set_names({INPUT})
    model.output(0).get_tensor().set_names({OUTPUT})
    return model
