"""A tower as ONNX: ``tower.onnx`` with the graph, ``tower.onnx.data`` with the weights. Needs the extra ``onnx``."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from pathlib import Path
from typing import Any

import torch

from slimbind.errors import MissingExtraError
from slimbind.export.saving import converting, saving
from slimbind.quantize.plan import Plan
from slimbind.runtime import quiet
from slimbind.runtime.engine import INPUT, OUTPUT
from slimbind.towers.layers import Tower

FILE = "tower.onnx"
OPSET = 20


def write(tower: Tower, folder: Path, plan: Plan) -> None:
    """Export ``tower`` into ``folder`` as ``plan`` says (``Plan(rest="f16")``: all matrices in f16).

    16-bit weights are computed with in f32: they halve the file, not the memory. Batch, text length and number of
    frames stay open.

    Raises:
        EngineError: the exporter cannot convert it, a layer of the plan is not found in it, or cannot be quantized so.
        ArtifactError: the files cannot be written.
        MissingExtraError: ``onnx`` or ``onnxscript`` is not installed.
    """
    quiet.mute_onnxruntime()  # PyTorch's exporter imports it where it is installed
    try:
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise MissingExtraError("the ONNX exporter (onnx, onnxscript)", extra="onnx") from error
    from slimbind.export.onnx_plan import Lowering

    with converting("the ONNX exporter", tower.modality, instead="openvino"):
        program = _export(tower)
        Lowering(program.model, plan).write()
    with saving(folder / FILE):
        program.save(folder / FILE, external_data=True)


def _export(tower: Tower) -> Any:  # noqa: ANN401  (torch's ONNXProgram, or None)
    axes = {axis: torch.export.Dim.DYNAMIC for axis in tower.dynamic_axes}
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        # The exporter prints its progress and warns of its own future; only its errors are of interest.
        with torch.no_grad(), warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            return torch.onnx.export(
                tower,
                (tower.example(2),),
                dynamo=True,
                opset_version=OPSET,
                input_names=[INPUT],
                output_names=[OUTPUT],
                dynamic_shapes=(axes,),
                verbose=False,
            )
    finally:
        logger.setLevel(level)
