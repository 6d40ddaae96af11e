"""A tower as OpenVINO IR: ``tower.xml`` with the graph, ``tower.bin`` with the weights."""

from __future__ import annotations

import warnings
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from slimbind.errors import EngineError
from slimbind.export.saving import saving
from slimbind.runtime import quiet
from slimbind.runtime.engine import INPUT, OUTPUT
from slimbind.towers.layers import Tower

FILE = "tower.xml"
_MARK = "/stored_as_bf16"


def write(tower: Tower, folder: Path, dtype: str) -> None:
    """Trace ``tower`` and save it into ``folder`` with weights of ``dtype`` (``f32``, ``f16``, ``bf16``).

    Batch, text length and number of frames stay open; everything else is fixed.

    Raises:
        EngineError: OpenVINO cannot convert it.
        ArtifactError: the files cannot be written.
    """
    model = trace(tower)
    path = folder / FILE
    ov = quiet.openvino()
    if dtype == "bf16":
        _store_bf16(ov, model)
    with saving(path):
        ov.save_model(model, path, compress_to_fp16=dtype == "f16")
        if dtype == "bf16":
            _mark_decompression(path)


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
        raise EngineError(f"OpenVINO cannot convert the {tower.modality} tower: {error}") from error
    model.input(0).get_tensor().set_names({INPUT})
    model.output(0).get_tensor().set_names({OUTPUT})
    return model


def _store_bf16(ov: Any, model: Any) -> None:  # noqa: ANN401
    """Replace every f32 matrix by a bf16 one and a conversion back to f32.

    Norms and biases stay: they are small, and their precision matters more than their size.
    """
    for op in model.get_ordered_ops():
        if op.get_type_name() != "Constant" or op.get_element_type() != ov.Type.f32 or not _is_matrix(op.shape):
            continue
        stored = ov.op.Constant(ov.Tensor(_round_bf16(op.data), list(op.shape), ov.Type.bf16), shared_memory=False)
        back = ov.opset15.convert(stored, "f32")
        back.set_friendly_name(op.get_friendly_name() + _MARK)
        for target in op.output(0).get_target_inputs():
            target.replace_source_output(back.output(0))


def _is_matrix(shape: Iterable[int]) -> bool:
    return sum(size > 1 for size in shape) >= 2


def _round_bf16(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    """float32 -> the bits of bfloat16, rounded to nearest, ties to even."""
    bits = np.ascontiguousarray(values).view(np.uint32)
    rounded: NDArray[np.uint16] = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
    return rounded


def _mark_decompression(path: Path) -> None:
    """Say in the file that the conversions only unpack weights, as OpenVINO does for f16.

    Without the mark the engine folds them when it opens the tower, and holds the weights in f32 as well. Its Python
    interface cannot set the mark.
    """
    tree = ElementTree.parse(path)  # written by us a moment ago
    for layer in tree.iter("layer"):
        if layer.get("name", "").endswith(_MARK):
            info = layer.find("rt_info")
            info = ElementTree.SubElement(layer, "rt_info") if info is None else info
            ElementTree.SubElement(info, "attribute", name="decompression", version="0")
    tree.write(path, encoding="utf-8", xml_declaration=True)
