"""A quantization plan written into an ONNX graph: whole-number weights, quantized inputs, 16-bit matrices.

Each layer becomes a few plain nodes, so that the result does not hang on what a version of ONNX Runtime fuses:

- dynamic: the largest value of each token gives its step; ``MatMulInteger``; both scales multiplied back in. A token
  has one step here: the plan's groups are a matter of OpenVINO. ``DynamicQuantizeLinear`` is as fast, but takes one
  step for the whole batch: a vector would depend on what else is embedded with it.
- static: ``QuantizeLinear``, then ``MatMulInteger``. A convolution is put between ``QuantizeLinear`` and
  ``DequantizeLinear``, which becomes one of whole numbers where its output is quantized again; the others are computed
  in float. ``ConvInteger`` is nine times as slow as float.
- weights alone: ``DequantizeLinear`` in front of the operation that was there (ONNX Runtime makes one of the two, which
  rounds the input to 8 bits in blocks of 32); 4 bits as ``MatMulNBits``.
"""

from __future__ import annotations

import ast
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from slimbind.errors import EngineError
from slimbind.export.openvino_plan import pack, round_bf16
from slimbind.quantize.plan import LARGEST, Float, LayerPlan, Plan, StaticRange, WeightCodes

_SCOPES = "pkg.torch.onnx.name_scopes"
_USES = {("MatMul", 1): "linear", ("Gemm", 1): "linear", ("Conv", 1): "conv", ("Gather", 0): "table"} | {
    ("Slice", 0): "frames"
}
_MIDDLE = 128  # the zero point of what is symmetric but stored without a sign
_LARGEST_INT32 = 2**31 - 129  # as a float32 it is still one
_TINY = np.finfo(np.float32).tiny
_CONTRIB = "com.microsoft"
_SMALLEST_BLOCK = 16


class Lowering:
    """Writes one plan into one exported model."""

    def __init__(self, model: ir.Model, plan: Plan) -> None:
        self._model = model
        self._graph = model.graph
        self._plan = plan
        self._place: ir.Node | None = None  # new nodes go in front of it
        self._name = ""
        self._tokens: dict[ir.Value, tuple[ir.Value, ir.Value]] = {}
        self._static: set[ir.Node] = set()
        self._constants: dict[tuple[str, float], ir.Value] = {}

    def write(self) -> None:
        """Replace the weights of the model.

        Raises:
            EngineError: a layer of the plan is not in the graph, or ONNX cannot say what the plan says of it.
        """
        found = self._weights()
        for name in self._plan.layers:
            if name not in found:
                raise EngineError(f"the layer {name} of the plan has no weight in the exported graph")
        stored = {found[name][2]: layer.stored for name, layer in self._plan.layers.items() if layer.weight is None}
        quantized = {found[name][2] for name, layer in self._plan.layers.items() if layer.weight is not None}
        for weight in list(self._graph.initializers.values()):
            if weight not in quantized:
                self._store(weight, stored.get(weight, self._plan.rest))
        self._static = {
            found[name][0] for name, layer in self._plan.layers.items() if isinstance(layer.activation, StaticRange)
        }
        for name, place in found.items():  # in the order of the graph: what layers share comes before the first
            layer = self._plan.layers.get(name, LayerPlan())
            if layer.weight is not None:
                self._quantize(name, *place, layer, layer.weight)

    def _weights(self) -> dict[str, tuple[ir.Node, str, ir.Value]]:
        """Module name -> the node that takes its weight, as what, and the weight.

        The exporter turns weights around and renames them, but writes down which module a node comes from.
        """
        found = {}
        for node in self._graph:
            scopes = ast.literal_eval(node.metadata_props.get(_SCOPES, "[]"))
            for (operator, index), use in _USES.items():
                if node.op_type == operator and len(scopes) > 1 and len(node.inputs) > index:
                    value = node.inputs[index]
                    if value is not None and value.const_value is not None and len(value.const_value.shape) > 1:
                        found[scopes[-2]] = (node, use, value)
        return found

    def _quantize(
        self, name: str, node: ir.Node, use: str, weight: ir.Value, layer: LayerPlan, codes: WeightCodes
    ) -> None:
        _check(name, use, layer, codes)
        self._place, self._name = node, name
        new: ir.Value = getattr(self, f"_{use}")(node, layer, codes)
        old = node.outputs[0]
        new.shape, new.type = old.shape, old.type
        ir.convenience.replace_all_uses_with(old, new)
        self._graph.remove(node, safe=True)
        if not weight.uses():
            self._graph.initializers.pop(str(weight.name))

    def _linear(self, node: ir.Node, layer: LayerPlan, codes: WeightCodes) -> ir.Value:
        x = node.inputs[0]
        assert x is not None
        bias = node.inputs[2] if len(node.inputs) > 2 else None
        if codes.bits == 4 or codes.scale.shape[1] > 1:
            out = self._blocks(x, layer, codes)
        elif layer.activation == "float":
            held = [self._hold("codes", codes.codes.numpy().T), self._hold("scale", codes.scale.numpy()[:, 0])]
            out = self._add("MatMul", [x, self._add("DequantizeLinear", held, axis=1)])
        else:
            numbers, zero, step = self._numbers(x, layer)
            weight = self._hold("codes", codes.codes.numpy().T)
            whole = self._add("MatMulInteger", [numbers, weight, zero])
            scale = codes.scale.numpy()[:, 0]
            if isinstance(layer.activation, StaticRange):
                scale = scale * np.float32(layer.activation.scale)
            out = self._add("Cast", [whole], to=ir.DataType.FLOAT.value)
            out = out if step is None else self._add("Mul", [out, step])
            out = self._add("Mul", [out, self._hold("scale", scale)])
        return out if bias is None else self._add("Add", [out, bias])

    def _conv(self, node: ir.Node, layer: LayerPlan, codes: WeightCodes) -> ir.Value:
        x = node.inputs[0]
        assert x is not None
        bias = node.inputs[2] if len(node.inputs) > 2 else None
        settings: dict[str, Any] = {name: value for name, value in node.attributes.items() if name != "auto_pad"}
        weight, scale = self._hold("codes", codes.codes.numpy()), codes.scale.numpy()[:, 0]
        if isinstance(layer.activation, StaticRange):
            step = self._hold("step", np.array(layer.activation.scale, np.float32))
            numbers, zero, _ = self._numbers(x, layer)
            x = self._add("DequantizeLinear", [numbers, step, zero])
        if isinstance(layer.activation, StaticRange) and self._is_rounded(node.outputs[0]):
            weight = self._add("DequantizeLinear", [weight, self._hold("scale", scale)], axis=0)
            if bias is not None and bias.const_value is not None:
                steps = scale * np.float32(layer.activation.scale)
                whole = np.rint(bias.const_value.numpy() / steps).clip(-_LARGEST_INT32, _LARGEST_INT32)
                held = [self._hold("bias", whole.astype(np.int32)), self._hold("bias_scale", steps)]
                bias = self._add("DequantizeLinear", held, axis=0)
        else:  # unpacked once, when the tower is opened
            spread = scale.reshape([-1] + [1] * (codes.codes.ndim - 1))
            weight = self._add("Cast", [weight], to=ir.DataType.FLOAT.value)
            weight = self._add("Mul", [weight, self._hold("scale", spread)])
        return self._add("Conv", [x, weight, *([] if bias is None else [bias])], **settings)

    def _is_rounded(self, value: ir.Value) -> bool:
        """Whether a convolution's output is read in a calibrated range only: then it can stay in whole numbers."""
        users = [use.node for use in value.uses()]
        if len(users) == 1 and users[0].op_type in ("Relu", "Clip"):
            users = [use.node for use in users[0].outputs[0].uses()]
        return bool(users) and all(node.op_type == "QuantizeLinear" or node in self._static for node in users)

    def _table(self, node: ir.Node, layer: LayerPlan, codes: WeightCodes) -> ir.Value:
        """Look up rows of codes and their scales: only what was asked for is ever unpacked."""
        rows, scales = (
            self._add("Gather", [self._hold(name, array.numpy()), node.inputs[1]], axis=0)
            for name, array in (("codes", codes.codes), ("scale", codes.scale))
        )
        return self._add("Mul", [self._add("Cast", [rows], to=ir.DataType.FLOAT.value), scales])

    def _frames(self, node: ir.Node, layer: LayerPlan, codes: WeightCodes) -> ir.Value:
        """The three kernels unpacked and cut as before; they are small."""
        rows, kernels = codes.scale.shape
        turned = np.ascontiguousarray(codes.codes.numpy().T).reshape(kernels, -1, rows)
        scale = np.ascontiguousarray(codes.scale.numpy().T)[:, None]
        whole = self._add("Cast", [self._hold("codes", turned)], to=ir.DataType.FLOAT.value)
        weight = self._add("Mul", [whole, self._hold("scale", scale)])
        flat = self._add("Reshape", [weight, self._hold("shape", np.array([-1, rows], np.int64))])
        return self._add("Slice", [flat, *node.inputs[1:]])

    def _blocks(self, x: ir.Value, layer: LayerPlan, codes: WeightCodes) -> ir.Value:
        """A weight in groups, as blocks of codes without a sign."""
        rows, width = codes.codes.shape
        groups = codes.scale.shape[1]
        middle = LARGEST[codes.bits] + 1
        shifted = (codes.codes.numpy().view(np.uint8) + np.uint8(middle)).view(np.int8)
        whole = pack(shifted) if codes.bits == 4 else shifted.view(np.uint8)
        self._model.opset_imports.setdefault(_CONTRIB, 1)
        return self._add(
            "MatMulNBits",
            [
                x,
                self._hold("codes", whole.reshape(rows, groups, -1)),
                self._hold("scale", codes.scale.numpy().reshape(-1)),
            ],
            _CONTRIB,
            K=width,
            N=rows,
            bits=codes.bits,
            block_size=width // groups,
            # The least precise arithmetic that may be used: 1 is float, 4 is int8 with a step per block.
            accuracy_level=4 if layer.activation == "dynamic" else 1,
        )

    def _numbers(self, x: ir.Value, layer: LayerPlan) -> tuple[ir.Value, ir.Value, ir.Value | None]:
        """``x`` in whole numbers, their zero point, and the step of each token (none where the range is known)."""
        if isinstance(layer.activation, StaticRange):
            zero = self._hold("zero", np.array(layer.activation.zero_point, np.uint8))
            step = self._hold("step", np.array(layer.activation.scale, np.float32))
            return self._add("QuantizeLinear", [x, step, zero]), zero, None
        zero = self._constant("middle", np.array(_MIDDLE, np.uint8))
        if x not in self._tokens:  # queries, keys and values may come from the same tokens
            largest = self._add("ReduceMax", [self._add("Abs", [x]), self._constant("last", np.array([-1]))])
            step = self._add("Div", [largest, self._constant("most", np.array(LARGEST[8], np.float32))])
            step = self._add("Max", [step, self._constant("tiny", np.array(_TINY, np.float32))])
            rounded = self._add("Round", [self._add("Div", [x, step])])
            moved = self._add("Add", [rounded, self._constant("shift", np.array(_MIDDLE, np.float32))])
            self._tokens[x] = self._add("Cast", [moved], to=ir.DataType.UINT8.value), step
        return self._tokens[x][0], zero, self._tokens[x][1]

    def _store(self, weight: ir.Value, dtype: Float) -> None:
        """Replace an f32 matrix by a 16-bit one and a cast back to f32; norms and biases stay."""
        tensor = weight.const_value
        if dtype == "f32" or tensor is None or tensor.dtype != ir.DataType.FLOAT:
            return
        array = tensor.numpy()
        if sum(size > 1 for size in array.shape) < 2:
            return
        name = str(weight.name)
        if dtype == "bf16":
            stored: ir.Tensor[Any] = ir.Tensor(
                round_bf16(array), dtype=ir.DataType.BFLOAT16, shape=ir.Shape(array.shape), name=f"{name}.bf16"
            )
        elif np.abs(array).max(initial=0) > np.finfo(np.float16).max:
            return
        else:
            stored = ir.Tensor(array.astype(np.float16), name=f"{name}.f16")
        self._place, self._name = self._graph[0], name
        back = self._add("Cast", [self._register(stored)], to=ir.DataType.FLOAT.value)
        ir.convenience.replace_all_uses_with(weight, back)
        self._graph.initializers.pop(name)

    def _add(self, operator: str, inputs: list[Any], domain: str = "", **attributes: Any) -> ir.Value:  # noqa: ANN401
        assert self._place is not None
        node = ir.node(operator, inputs, attributes=attributes, domain=domain)
        self._graph.insert_before(self._place, node)
        return node.outputs[0]

    def _hold(self, name: str, array: NDArray[Any]) -> ir.Value:
        """A constant of the layer at hand."""
        return self._register(ir.Tensor(np.ascontiguousarray(array), name=f"{self._name}/{name}"))

    def _constant(self, name: str, array: NDArray[Any]) -> ir.Value:
        """A constant that all layers share."""
        key = (name, float(array.flat[0]))
        if key not in self._constants:
            self._constants[key] = self._register(ir.Tensor(array, name=f"slimbind/{name}"))
        return self._constants[key]

    def _register(self, tensor: ir.Tensor[Any]) -> ir.Value:
        value = ir.Value(name=tensor.name, shape=tensor.shape, type=ir.TensorType(tensor.dtype), const_value=tensor)
        self._graph.initializers[str(tensor.name)] = value
        return value


def _check(name: str, use: str, layer: LayerPlan, codes: WeightCodes) -> None:
    """Refuse what cannot be said in ONNX."""
    groups = codes.scale.shape[1]
    if use == "table" and (layer.activation != "float" or groups > 1 or codes.bits != 8):
        raise EngineError(f"the table {name} can be stored in 8 bits with one scale per row, and nothing else")
    if use == "frames" and (layer.activation != "float" or groups != 3 or codes.bits != 8):
        raise EngineError(f"the kernels of {name} can be stored in 8 bits with one scale per output and kernel only")
    if use == "conv" and (layer.activation == "dynamic" or codes.bits != 8):
        raise EngineError(f"the convolution {name} runs in 8 bits with a calibrated range only, not dynamically")
    if use == "linear" and (codes.bits == 4 or groups > 1):
        block = codes.codes.shape[1] // groups
        if block < _SMALLEST_BLOCK or block & (block - 1):
            raise EngineError(
                f"the weight of {name} has groups of {block} inputs; ONNX Runtime takes powers of two from "
                f"{_SMALLEST_BLOCK}"
            )
        if isinstance(layer.activation, StaticRange):
            raise EngineError(f"the input of {name} has a calibrated range, which goes with one scale per output only")
