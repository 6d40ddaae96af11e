"""A quantization plan written into an OpenVINO graph: whole-number weights, quantized inputs, 16-bit matrices.

What the engine makes of the patterns written here (its CPU plugin finds them when the tower is opened):

- ``i8 -> convert -> multiply by scale -> MatMul``: the weight stays 8 bits wide in memory. With a group size set, the
  engine quantizes the other side per token when it runs, and multiplies whole numbers; without, it unpacks the weight.
- The same with ``i4`` and a scale per group of inputs.
- ``FakeQuantize`` in front of a layer: its input is quantized in a calibrated range, and whole numbers are multiplied.
- ``bf16 -> convert`` and ``f16 -> convert`` with the mark of a decompression: the weight stays 16 bits wide.

The convolution that cuts a picture into patches is kept in f32 (or whole numbers), whatever the rest is computed in: in
bf16 the engine picks another kernel for another batch, and the last bit that differs is carried on by the rounding of
everything behind it. Towers of many float convolutions need ``Plan.precision``
f32 for that; marked one by one, OpenVINO 2026.4 returned no vectors at all.

A matrix of whole numbers beside inputs in bf16 goes through another kernel where it meets fewer than five rows, which
rounds otherwise: in the heads, which see a row per item, and in all layers when a text is very short. So that an item
gives the same vector alone and in a batch, those rows are filled up, and cut off behind the layer.
"""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slimbind.errors import EngineError
from slimbind.quantize.plan import LEVELS, Float, LayerPlan, Plan, StaticRange, WeightCodes

_MARK = "/stored_in_16_bits"
_LARGEST_F16 = float(np.finfo(np.float16).max)
# Names that the tracer gives to a module's weight. That of a grouped convolution has got an axis for the groups, and
# with it another name; the kernels are those of a stem that takes one frame or two.
_NAMES = ("self.{}.weight", "__module.{}/aten::_convolution/Reshape", "self.{}.kernels")
# Which input of which operation a layer's weight is.
_USES = {
    ("MatMul", 1): "linear",
    ("Convolution", 1): "conv",
    ("GroupConvolution", 1): "conv",
    ("Gather", 0): "table",
    ("Slice", 0): "frames",
}
_CONVOLUTIONS = ("Convolution", "GroupConvolution")
_ROWS = 8  # from here on one kernel computes all


class Lowering:
    """Writes one plan into one traced model, and holds what the model shares with it until the model is saved."""

    def __init__(self, ov: Any, model: Any, plan: Plan, *, longest: int = 0) -> None:  # noqa: ANN401  (openvino has no types)
        self._ov = ov
        self._model = model
        self._longest = longest
        self._op = ov.opset15
        self._plan = plan
        self._constants = {
            op.get_friendly_name(): op for op in model.get_ordered_ops() if op.get_type_name() == "Constant"
        }
        self._shared: list[NDArray[Any]] = []
        self._few_rows = False  # whether there are layers that few rows would be another kernel's for
        self._inputs: dict[tuple[str, int, StaticRange], Any] = {}

    def write(self) -> None:
        """Replace the constants of the model.

        Raises:
            EngineError: a layer of the plan is not in the graph, or OpenVINO cannot do what the plan says of it.
        """
        layers = {self._find(name): (name, layer) for name, layer in self._plan.layers.items()}
        for name, constant in self._constants.items():
            layer_name, layer = layers.get(name, (name, LayerPlan(stored=self._plan.rest)))
            if layer.weight is None:
                self._store(constant, layer.stored)
            else:
                self._quantize(layer_name, constant, layer, layer.weight)
        if self._few_rows and self._longest:
            self._fill_up_texts(min(_ROWS, self._longest))
        self._model.validate_nodes_and_infer_types()

    def _find(self, layer: str) -> str:
        for name in _NAMES:
            if name.format(layer) in self._constants:
                return name.format(layer)
        raise EngineError(f"the layer {layer} of the plan has no weight in the traced graph")

    def _quantize(self, name: str, constant: Any, layer: LayerPlan, codes: WeightCodes) -> None:  # noqa: ANN401
        for target in list(constant.output(0).get_target_inputs()):
            node = target.get_node()
            use = _USES.get((node.get_type_name(), target.get_index()))
            if use is None:
                raise EngineError(
                    f"the weight of {name} is used by a {node.get_type_name()}, which cannot be quantized"
                )
            _check(name, use, layer, codes, self._plan.group_size)
            if use == "table":
                self._look_up(name, node, codes)
                continue
            if use == "frames":
                self._cut(name, node, codes)
                continue
            target.replace_source_output(self._weight(name, codes, list(constant.shape), grouped=use == "linear"))
            if use == "linear" and layer.activation == "float" and self._plan.precision != "f32":
                self._few_rows = True
                self._fill_up_rows(node)
            if isinstance(layer.activation, StaticRange):
                node.input(0).replace_source_output(self._in_range(node.input_value(0), layer.activation))

    def _fill_up_rows(self, node: Any) -> None:  # noqa: ANN401
        """Give a multiplication ``_ROWS`` rows where an item has but one: zeros behind them, cut off behind it."""
        source = node.input_value(0)
        inner = list(source.get_partial_shape())[1:]
        if any(axis.is_dynamic for axis in inner) or prod(axis.get_length() for axis in inner[:-1]) >= _ROWS:
            return
        zeros = self._op.constant(np.zeros((_ROWS - 1, *(axis.get_length() for axis in inner)), np.float32))
        node.input(0).replace_source_output(self._op.concat([source, zeros], 0).output(0))
        targets = list(node.output(0).get_target_inputs())
        first, last, step, axis = (self._op.constant(np.array([k], np.int64)) for k in (0, 1 - _ROWS, 1, 0))
        found = self._op.slice(node.output(0), first, last, step, axis)
        for target in targets:
            target.replace_source_output(found.output(0))

    def _fill_up_texts(self, length: int) -> None:
        """Fill up texts with zeros, which all text towers take for padding, to at least ``length`` tokens."""
        ids = self._model.input(0)
        targets = list(ids.get_target_inputs())
        one, none = (self._op.constant(np.array([k], np.int64)) for k in (1, 0))
        tokens = self._op.gather(self._op.shape_of(ids, "i64"), one, self._op.constant(np.array(0, np.int64)))
        missing = self._op.maximum(self._op.subtract(self._op.constant(np.array([length], np.int64)), tokens), none)
        before, after = self._op.concat([none, none], 0), self._op.concat([none, missing], 0)
        filled = self._op.pad(ids, before, after, "constant", self._op.constant(np.array(0, np.int32)))
        for target in targets:
            target.replace_source_output(filled.output(0))

    def _weight(self, name: str, codes: WeightCodes, shape: list[int], *, grouped: bool) -> Any:  # noqa: ANN401
        """The output that gives the float weight of ``shape`` ``[out, ...]``, or ``[groups, out / groups, ...]``."""
        rows, groups = codes.scale.shape
        scale = np.ascontiguousarray(codes.scale.numpy())
        if groups > 1:
            inner, scale = [rows, groups, shape[1] // groups], scale[:, :, None]
        else:
            inner = shape
            lead = 1 if grouped or shape[0] == rows else 2  # axes that together count the outputs
            scale = scale.reshape(shape[:lead] + [1] * (len(shape) - lead))
        # 4-bit scales are f16 numbers, one for every few weights: as f32 they would be a tenth of the file.
        steps = self._op.constant(scale.astype(np.float16 if codes.bits == 4 else np.float32))
        weight = self._op.multiply(self._op.convert(self._codes(codes, inner), steps.get_element_type()), steps)
        if groups > 1:
            weight = self._op.reshape(weight, self._op.constant(np.array(shape, np.int64)), False)
        if codes.bits == 4:
            weight = self._op.convert(weight, "f32")
        weight.set_friendly_name(f"{name}.weight")
        return weight.output(0)

    def _codes(self, codes: WeightCodes, shape: list[int]) -> Any:  # noqa: ANN401
        values = np.ascontiguousarray(codes.codes.numpy())
        if codes.bits == 8:
            self._shared.append(values)
            return self._ov.op.Constant(values.reshape(shape), shared_memory=True)
        packed = pack(values)
        self._shared.append(packed)
        tensor = self._ov.Tensor(packed, self._ov.Shape(shape), self._ov.Type.i4)
        return self._ov.op.Constant(tensor, shared_memory=True)

    def _look_up(self, name: str, gather: Any, codes: WeightCodes) -> None:  # noqa: ANN401
        """Look up rows of codes and their scales: only what was asked for is ever unpacked."""
        ids, axis = gather.input_value(1), gather.input_value(2)
        rows = self._op.gather(self._codes(codes, list(codes.codes.shape)), ids, axis)
        scales = self._op.gather(self._op.constant(codes.scale.numpy()), ids, axis)
        vectors = self._op.multiply(self._op.convert(rows, "f32"), scales)
        vectors.set_friendly_name(f"{name}.vectors")
        for target in list(gather.output(0).get_target_inputs()):
            target.replace_source_output(vectors.output(0))

    def _cut(self, name: str, cut: Any, codes: WeightCodes) -> None:  # noqa: ANN401
        """Cut a kernel (or two) out of the codes, and their scales out of the scales, and unpack those."""
        rows, kernels = codes.scale.shape
        inner = codes.codes.shape[1] // kernels
        turned = np.ascontiguousarray(codes.codes.numpy().T).reshape(kernels, inner, rows)
        self._shared.append(turned)
        start, stop = (
            self._op.divide(cut.input_value(place), self._op.constant(np.array([inner], np.int64))) for place in (1, 2)
        )
        step, axis = (self._op.constant(np.array([number], np.int64)) for number in (1, 0))
        scale = self._op.constant(np.ascontiguousarray(codes.scale.numpy().T)[:, None])
        parts = [
            self._op.slice(whole, start, stop, step, axis)
            for whole in (self._ov.op.Constant(turned, shared_memory=True), scale)
        ]
        weight = self._op.multiply(self._op.convert(parts[0], "f32"), parts[1])
        flat = self._op.reshape(weight, self._op.constant(np.array([-1, rows], np.int64)), False)
        flat.set_friendly_name(f"{name}.kernels")
        for target in list(cut.output(0).get_target_inputs()):
            target.replace_source_output(flat.output(0))

    def _in_range(self, source: Any, found: StaticRange) -> Any:  # noqa: ANN401
        """``source`` quantized; layers that read the same input in the same range share one quantization."""
        key = (source.get_node().get_friendly_name(), source.get_index(), found)
        if key not in self._inputs:
            low, high = (self._op.constant(np.float32(bound)) for bound in found.nudged)
            self._inputs[key] = self._op.fake_quantize(source, low, high, low, high, LEVELS).output(0)
        return self._inputs[key]

    def _store(self, constant: Any, dtype: Float) -> None:  # noqa: ANN401
        """Replace an f32 matrix by a 16-bit one and a conversion back.

        Norms and biases stay: they are small, and their precision matters more than their size.
        """
        if dtype == "f32" or constant.get_element_type() != self._ov.Type.f32 or not _is_matrix(constant.shape):
            return
        values = constant.data
        if dtype == "bf16":
            tensor = self._ov.Tensor(round_bf16(values), list(constant.shape), self._ov.Type.bf16)
        elif np.abs(values).max(initial=0) > _LARGEST_F16:
            return
        else:
            tensor = self._ov.Tensor(np.asarray(values, dtype=np.float16))
        back = self._op.convert(self._ov.op.Constant(tensor, shared_memory=False), "f32")
        back.set_friendly_name(constant.get_friendly_name() + _MARK)
        for target in constant.output(0).get_target_inputs():
            target.replace_source_output(back.output(0))


def _check(name: str, use: str, layer: LayerPlan, codes: WeightCodes, group_size: int | None) -> None:
    """Refuse what the engine would quietly do in another way."""
    if use == "table" and (layer.activation != "float" or codes.scale.shape[1] > 1 or codes.bits != 8):
        raise EngineError(f"the table {name} can be stored in 8 bits with one scale per row, and nothing else")
    if use == "frames" and (layer.activation != "float" or codes.scale.shape[1] != 3 or codes.bits != 8):
        raise EngineError(f"the kernels of {name} can be stored in 8 bits with one scale per output and kernel only")
    if use == "conv" and (layer.activation == "dynamic" or codes.bits != 8):
        raise EngineError(
            f"OpenVINO runs the convolution {name} in 8 bits with a calibrated range only, not dynamically"
        )
    if use == "linear" and layer.activation == "dynamic":
        width = codes.codes.shape[1]
        if group_size is None or width % group_size:
            raise EngineError(
                f"the input of {name} has {width} values; OpenVINO quantizes it in groups that divide them, "
                f"not of {group_size}"
            )
        if width // codes.scale.shape[1] % group_size:
            raise EngineError(
                f"the weight of {name} has groups of {width // codes.scale.shape[1]} inputs; "
                f"the groups of {group_size} that its input is quantized in must divide them"
            )
    if use == "linear" and layer.activation == "float" and group_size is not None:
        raise EngineError(
            f"the input of {name} is to stay float, but OpenVINO quantizes those of all 8- and 4-bit layers of a tower "
            "or of none; keep its weight in 16 bits, or plan its input as well"
        )


def pack(codes: NDArray[np.int8]) -> NDArray[np.uint8]:
    """4-bit codes, two to a byte, the first in the low half."""
    pairs: NDArray[np.uint8] = codes.reshape(-1, 2).view(np.uint8)
    packed: NDArray[np.uint8] = np.bitwise_or(pairs[:, 0] & 0xF, pairs[:, 1] << 4, dtype=np.uint8)
    return packed


def round_bf16(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    """float32 -> the bits of bfloat16, rounded to nearest, ties to even."""
    bits = np.ascontiguousarray(values).view(np.uint32)
    rounded: NDArray[np.uint16] = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
    return rounded


def mark(path: Path) -> None:
    """Say in the file what OpenVINO's Python interface cannot: which conversions only unpack, and what is kept in f32.

    Without the first mark the engine folds the conversions when it opens the tower, and holds the weights in f32 as
    well. Both are marks that OpenVINO itself writes in other cases.
    """
    tree = ElementTree.parse(path)  # written by us a moment ago
    convolutions = [layer for layer in tree.iter("layer") if layer.get("type") in _CONVOLUTIONS]
    if len(convolutions) == 1:
        _add_mark(convolutions[0], "precise")
    for layer in tree.iter("layer"):
        if layer.get("name", "").endswith(_MARK):
            _add_mark(layer, "decompression")
    tree.write(path, encoding="utf-8", xml_declaration=True)


def _add_mark(layer: ElementTree.Element, name: str) -> None:
    info = layer.find("rt_info")
    if info is None:  # behind the layer's own data, as its schema has it
        info = ElementTree.Element("rt_info")
        layer.insert(1 if layer.find("data") is not None else 0, info)
    ElementTree.SubElement(info, "attribute", name=name, version="0")


def _is_matrix(shape: Iterable[int]) -> bool:
    return sum(size > 1 for size in shape) >= 2
