"""The two recipes of the ImageBind paper, on PyTorch's eager-mode quantization, kept as baselines to measure against.

``dynamic``: int8 weights (one scale per matrix), inputs quantized at run time with one scale per batch, so that an
embedding depends on what else is in its batch; the projections of attention stay in float32. ``static``: int8 weights
(one scale per output channel), everything between the stem and the projection in calibrated 8-bit ranges.

Both stand on ``torch.ao.quantization``, which is deprecated upstream and announced to be removed; all of it that the
project uses is used in this module and in ``eager_layers``. A quantized tower is saved as safetensors: whole numbers
and scales as tensors, and a record of the layers in the header. Nothing is pickled.
"""

from __future__ import annotations

import copy
import json
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.ao.nn.quantized as nnq
import torch.ao.nn.quantized.dynamic as nnqd
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.ao import quantization

from slimbind.errors import EngineError, UsageError
from slimbind.export.saving import saving
from slimbind.quantize.calibration import Calibration
from slimbind.quantize.eager_layers import EagerTower
from slimbind.quantize.plan import Plan
from slimbind.quantize.report import Progress, Report
from slimbind.quantize.schemes import EagerDynamic, EagerStatic, Made
from slimbind.towers.layers import Tower, TransformerTower

_torch: Any = quantization  # which has no types
FILE = "tower.safetensors"
FORMAT = "slimbind-eager-1"
DYNAMIC, STATIC = "eager-dynamic", "eager-static"

# The whole recipe names layers that have no dynamic kernel; they stay as they are, in the paper's models too.
_NAMED = (nn.Linear, nn.LayerNorm, nn.Dropout, nn.GELU)
_Layer = tuple[dict[str, Any], dict[str, Tensor]]


def make_dynamic(tower: Tower, calibration: Calibration, config: EagerDynamic, progress: Progress, /) -> Made:
    """See ``schemes.Make``; the tower is as it was split, and ``write`` writes what comes out."""
    return dynamic(tower, linear_only=config.linear_only), Plan(), Report(layers=0)


def make_static(tower: Tower, calibration: Calibration, config: EagerStatic, progress: Progress, /) -> Made:
    """See ``make_dynamic``."""
    told = progress("observing", len(calibration))
    return static(tower, calibration.batches(), report=told), Plan(), Report(layers=0)


def dynamic(tower: Tower, *, linear_only: bool = False) -> Tower:
    """The paper's dynamic recipe: ``quantize_dynamic`` over linear layers and embedding tables.

    Args:
        tower: as it was split, not simplified. It is left as it is.
        linear_only: the variant that leaves embedding tables alone.
    """
    kinds: dict[Any, Any] = {nn.Linear: _torch.default_dynamic_qconfig}
    if not linear_only:
        kinds = dict.fromkeys(_NAMED, _torch.default_dynamic_qconfig)
        kinds[nn.Embedding] = _torch.float_qparams_weight_only_qconfig
    with _deprecated():
        made: Tower = _torch.quantize_dynamic(_form(tower, DYNAMIC), kinds, inplace=True)
    return made.eval()


def static(tower: Tower, batches: Iterable[Tensor], *, report: Callable[[int], None] = lambda done: None) -> Tower:
    """The paper's static recipe: stubs, wrapped modules, quantizable attention, histograms of every activation.

    Args:
        tower: a transformer tower as it was split, not simplified. It is left as it is.
        batches: inputs of the tower, to calibrate with.
        report: is told the number of inputs seen so far.

    Raises:
        UsageError: it is not a transformer tower, or there are no batches.
    """
    made: Any = _form(tower, STATIC)  # which takes attributes that no module has
    made.qconfig = _torch.QConfig(
        activation=_torch.HistogramObserver.with_args(quant_min=0, quant_max=255),
        weight=_torch.default_per_channel_weight_observer,
    )
    for module in made.modules():
        if isinstance(module, nn.Embedding):
            module.qconfig = _torch.float_qparams_weight_only_qconfig
    seen = 0
    with _deprecated(), torch.inference_mode():
        _torch.prepare(made, inplace=True)
        for batch in batches:
            made(batch)
            seen += len(batch)
            report(seen)
        if not seen:
            raise UsageError(f"there is nothing to calibrate the {tower.modality} tower with", hint="give some inputs")
    with _deprecated(), torch.no_grad():
        _torch.convert(made, inplace=True)
        _join_ranges(made)
    finished: Tower = made
    return finished


def write(tower: Tower, folder: Path, scheme: str) -> None:
    """Save what ``dynamic`` or ``static`` made into ``folder``; raises ``ArtifactError`` where it cannot be written."""
    layers: dict[str, Any] = {}
    tensors: dict[str, Tensor] = {}
    for name, module in tower.named_modules():
        freeze = next((freeze for kind, freeze, _ in _LAYERS.values() if type(module) is kind), None)
        if freeze is None:
            continue
        record, found = freeze(module)
        layers[name] = {"kind": next(key for key, entry in _LAYERS.items() if entry[0] is type(module))} | record
        tensors |= {f"{name}.{key}": value.contiguous() for key, value in found.items()}
    for name, value in [*tower.named_parameters(), *tower.named_buffers()]:
        tensors.setdefault(name, value.detach().contiguous())
    path = folder / FILE
    with saving(path):
        save_file(tensors, path, metadata={"format": FORMAT, "scheme": scheme, "layers": json.dumps(layers)})


def load(path: Path, skeleton: Tower) -> Tower:
    """Open a saved tower.

    Args:
        path: the file that ``write`` made.
        skeleton: the tower it was made from, without weights (on the ``meta`` device).

    Raises:
        EngineError: the file is damaged, or does not belong to this tower.
    """
    try:
        with safe_open(path, framework="pt") as file:
            told = file.metadata() or {}
            if told.get("format") != FORMAT:
                raise ValueError(f"its format is {told.get('format')!r}, not {FORMAT!r}")
            layers: dict[str, dict[str, Any]] = json.loads(told["layers"])
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  (not a dict)
        with _deprecated():
            return _thaw(_form(skeleton, told["scheme"]), layers, tensors)
    except (OSError, KeyError, ValueError, TypeError, AttributeError, RuntimeError) as error:
        raise EngineError(
            f"{path} is not a quantized {skeleton.modality} tower: {error}", hint="quantize the split folder again"
        ) from error
    except Exception as error:  # SafetensorError has no public home in every version
        raise EngineError(
            f"{path} is not a safetensors file: {error}", hint="quantize the split folder again"
        ) from error


def _form(tower: Tower, scheme: str) -> Tower:
    """A tower that eager mode can quantize in place: modules of its own, weights shared."""
    if scheme not in (DYNAMIC, STATIC):
        raise UsageError.unknown("eager scheme", scheme, (DYNAMIC, STATIC))
    shaped = tower
    if isinstance(tower, TransformerTower):
        if tower.pools_last:
            raise UsageError(
                "the tower was simplified, which hides its attention from eager mode", hint="give it as split"
            )
        shaped = EagerTower(tower, static=scheme == STATIC)
    elif scheme == STATIC:
        raise UsageError(
            f"{STATIC} is made for transformer towers, not for {type(tower).__name__}", hint="use int8-static"
        )
    shared = {id(value): value for value in [*shaped.parameters(), *shaped.buffers()]}
    return copy.deepcopy(shaped, shared).eval()


def _join_ranges(tower: Tower) -> None:
    """Bring the added key and value of attention into the range of the others now.

    Upstream joins tensors of different ranges on every run: the same numbers, more slowly and with a warning.
    """
    for module in tower.modules():
        if isinstance(module, nnq.MultiheadAttention) and module.bias_k is not None:
            pairs: tuple[tuple[str, Any], ...] = (("bias_k", module.linear_K), ("bias_v", module.linear_V))
            for name, layer in pairs:
                row = getattr(module, name).dequantize()
                setattr(module, name, torch.quantize_per_tensor(row, layer.scale, layer.zero_point, torch.quint8))


def _thaw(tower: Tower, layers: Mapping[str, dict[str, Any]], tensors: dict[str, Tensor]) -> Tower:
    for name, record in layers.items():
        kind, _, thaw = _LAYERS[record["kind"]]
        old = tower.get_submodule(name)
        own = {key.removeprefix(f"{name}."): tensors.pop(key) for key in _own_keys(tensors, name, kind)}
        made = thaw(old, record, own)
        if made is not old:
            tower.set_submodule(name, made)
    for name, value in tensors.items():
        _assign(tower, name, value)
    left = [name for name, value in [*tower.named_parameters(), *tower.named_buffers()] if value.is_meta]
    if left:
        raise ValueError(f"it lacks {left[0]!r}")
    return tower.eval().requires_grad_(False)


def _own_keys(tensors: Mapping[str, Tensor], name: str, kind: type) -> list[str]:
    prefix = f"{name}."
    own = ("bias_k", "bias_v") if kind is nnq.MultiheadAttention else None  # its layers have records of their own
    return [key for key in tensors if key.startswith(prefix) and (own is None or key.removeprefix(prefix) in own)]


def _assign(tower: Tower, name: str, value: Tensor) -> None:
    place, _, last = name.rpartition(".")
    module = tower.get_submodule(place)
    old = getattr(module, last)
    if old.shape != value.shape:
        raise ValueError(f"{name!r} has shape {list(value.shape)}, not {list(old.shape)}")
    setattr(module, last, nn.Parameter(value, requires_grad=False) if isinstance(old, nn.Parameter) else value)


@contextmanager
def _deprecated() -> Iterator[None]:
    """Silence what PyTorch says of the API's future: known, and of no use to who runs a baseline."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.ao.quantization is deprecated", category=DeprecationWarning)
        warnings.filterwarnings("ignore", message="torch.quantize_per_tensor, torch.quantize_per", category=UserWarning)
        # The scaling of queries inside attention is exact and has an observer that is never run.
        warnings.filterwarnings("ignore", message="must run observer before calling", category=UserWarning)
        yield


def _freeze_weight(weight: Tensor) -> dict[str, Tensor]:
    found = {"codes": weight.int_repr()}
    if weight.qscheme() == torch.per_tensor_affine:
        return found | {"scale": torch.tensor(weight.q_scale(), dtype=torch.float64)}
    found["scale"] = weight.q_per_channel_scales()
    if weight.dtype == torch.quint8:
        found["zero"] = weight.q_per_channel_zero_points()
    return found


def _thaw_weight(own: Mapping[str, Tensor]) -> Tensor:
    codes, scale = own["codes"], own["scale"]
    if scale.ndim == 0:
        return torch._make_per_tensor_quantized_tensor(codes, float(scale), 0)
    zero = own["zero"] if "zero" in own else torch.zeros(len(scale), dtype=torch.int64)
    return torch._make_per_channel_quantized_tensor(codes, scale, zero, 0)


def _freeze_linear(module: Any) -> _Layer:  # noqa: ANN401  (quantized modules share no interface)
    found = _freeze_weight(module.weight())
    if module.bias() is not None:
        found["bias"] = module.bias().detach()
    return {"scale": module.scale, "zero": module.zero_point}, found


def _thaw_linear(kind: Any) -> Callable[..., Any]:  # noqa: ANN401
    def thaw(old: Any, record: dict[str, Any], own: Mapping[str, Tensor]) -> Any:  # noqa: ANN401
        _check(own["codes"], old.weight)
        if isinstance(old, nn.Linear):
            made = kind(1, 1)
            made.in_features, made.out_features = old.in_features, old.out_features
        else:
            made = kind(1, 1, 1)
            for name in ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups"):
                setattr(made, name, getattr(old, name))
        made.scale, made.zero_point = float(record["scale"]), int(record["zero"])
        made.set_weight_bias(_thaw_weight(own), own.get("bias"))
        return made

    return thaw


def _check(codes: Tensor, weight: Tensor) -> None:
    if codes.shape != weight.shape:
        raise ValueError(f"codes of shape {list(codes.shape)}, not {list(weight.shape)}")


def _freeze_embedding(module: Any) -> _Layer:  # noqa: ANN401
    return {}, _freeze_weight(module.weight())


def _thaw_embedding(old: Any, record: dict[str, Any], own: Mapping[str, Tensor]) -> nn.Module:  # noqa: ANN401
    _check(own["codes"], old.weight)
    return nnq.Embedding(old.num_embeddings, old.embedding_dim, _weight=_thaw_weight(own))


def _freeze_norm(module: Any) -> _Layer:  # noqa: ANN401
    record = {"scale": float(module.scale), "zero": int(module.zero_point)}
    return record, {"weight": module.weight.detach(), "bias": module.bias.detach()}


def _thaw_norm(old: Any, record: dict[str, Any], own: Mapping[str, Tensor]) -> nn.Module:  # noqa: ANN401
    _check(own["weight"], old.weight)
    weight, bias = (nn.Parameter(own[name], requires_grad=False) for name in ("weight", "bias"))
    return nnq.LayerNorm(old.normalized_shape, weight, bias, record["scale"], record["zero"], old.eps)


def _freeze_scale(module: Any) -> _Layer:  # noqa: ANN401
    return {"scale": float(module.scale), "zero": int(module.zero_point)}, {}


def _thaw_quantize(old: Any, record: dict[str, Any], own: Mapping[str, Tensor]) -> Any:  # noqa: ANN401
    quantize: Any = nnq.Quantize  # which has no types
    return quantize(record["scale"], record["zero"], torch.quint8)


def _thaw_sum(old: Any, record: dict[str, Any], own: Mapping[str, Tensor]) -> nn.Module:  # noqa: ANN401
    made = nnq.QFunctional()
    made.scale, made.zero_point = float(record["scale"]), int(record["zero"])
    return made


def _freeze_attention(module: Any) -> _Layer:  # noqa: ANN401
    record, found = {}, {}
    for name in ("bias_k", "bias_v"):
        value = getattr(module, name)
        if value is not None:
            record[name] = [value.q_scale(), value.q_zero_point()]
            found[name] = value.int_repr()
    return record, found


def _thaw_attention(old: Any, record: dict[str, Any], own: Mapping[str, Tensor]) -> Any:  # noqa: ANN401
    # As upstream converts it: the same module under its quantized class, less what the quantizable one inherits unused.
    old.__class__ = nnq.MultiheadAttention
    del old.in_proj_weight, old.in_proj_bias
    for name in ("bias_k", "bias_v"):
        parameter = old._parameters.pop(name, None)
        if parameter is not None:
            _check(own[name], parameter)
            setattr(old, name, torch._make_per_tensor_quantized_tensor(own[name], *record[name]))
    return old


# Name in the record -> class, how it is saved, how it is made again.
_LAYERS: dict[str, tuple[type, Callable[[Any], _Layer], Callable[..., Any]]] = {
    "linear-dynamic": (nnqd.Linear, _freeze_linear, _thaw_linear(nnqd.Linear)),
    "linear": (nnq.Linear, _freeze_linear, _thaw_linear(nnq.Linear)),
    "conv2d": (nnq.Conv2d, _freeze_linear, _thaw_linear(nnq.Conv2d)),
    "conv3d": (nnq.Conv3d, _freeze_linear, _thaw_linear(nnq.Conv3d)),
    "embedding": (nnq.Embedding, _freeze_embedding, _thaw_embedding),
    "norm": (nnq.LayerNorm, _freeze_norm, _thaw_norm),
    "quantize": (nnq.Quantize, _freeze_scale, _thaw_quantize),
    "dequantize": (nnq.DeQuantize, lambda module: ({}, {}), lambda old, record, own: nnq.DeQuantize()),
    "sum": (nnq.QFunctional, _freeze_scale, _thaw_sum),
    "attention": (nnq.MultiheadAttention, _freeze_attention, _thaw_attention),
}
