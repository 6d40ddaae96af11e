"""A tower as ONNX: ``tower.onnx`` with the graph, ``tower.onnx.data`` with the weights. Needs the extra ``onnx``."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch

from slimbind.errors import EngineError, MissingExtraError
from slimbind.export.saving import saving
from slimbind.quantize.plan import Plan
from slimbind.runtime import quiet
from slimbind.runtime.engine import INPUT, OUTPUT
from slimbind.towers.layers import Tower

FILE = "tower.onnx"
OPSET = 20


def write(tower: Tower, folder: Path, plan: Plan) -> None:
    """Export ``tower`` into ``folder`` with weights stored as ``dtype`` (``f32`` or ``f16``).

    f16 weights are computed with in f32: they halve the file, not the memory. Batch, text length and number of frames
    stay open.

    Raises:
        EngineError: the exporter cannot convert it.
        ArtifactError: the files cannot be written.
        MissingExtraError: ``onnx`` or ``onnxscript`` is not installed.
    """
    quiet.mute_onnxruntime()  # PyTorch's exporter imports it where it is installed
    try:
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise MissingExtraError("the ONNX exporter (onnx, onnxscript)", extra="onnx") from error
    program = _export(tower)
    if plan.rest == "f16":
        _store_f16(program.model)
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
    except Exception as error:  # the exporter raises whatever its stages raise
        raise EngineError(f"the ONNX exporter cannot convert the {tower.modality} tower: {error}") from error
    finally:
        logger.setLevel(level)


def _store_f16(model: Any) -> None:  # noqa: ANN401  (an onnx_ir.Model)
    """Replace every f32 matrix that fits into f16 by an f16 one and a cast back to f32; norms and biases stay."""
    import onnx_ir as ir

    graph = model.graph
    for name, value in list(graph.initializers.items()):
        tensor = value.const_value
        if tensor is None or tensor.dtype != ir.DataType.FLOAT:
            continue
        array = tensor.numpy()
        if sum(size > 1 for size in array.shape) < 2 or np.abs(array).max(initial=0) > np.finfo(np.float16).max:
            continue
        stored = ir.val(f"{name}.f16", ir.DataType.FLOAT16, array.shape)
        stored.const_value = ir.tensor(array.astype(np.float16), name=stored.name)
        cast = ir.node("Cast", [stored], attributes={"to": ir.DataType.FLOAT.value})
        ir.convenience.replace_all_uses_with(value, cast.outputs[0])
        graph.initializers.pop(name)
        graph.register_initializer(stored)
        cast.outputs[0].name = f"{name}.f32"
        graph.insert_before(graph[0], cast)
