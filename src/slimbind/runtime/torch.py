"""PyTorch: opens split folders as they are, without an export. On the CPU a reference, on a GPU the fast way.

Needs the extra ``build``; 8-bit weights need the extra ``gpu``. What can be asked for stands in ``runtime.device``.

On a GPU the same item may round differently alone and in a batch, because its libraries choose another kernel for
another shape; the CPU engines do not.
"""

from __future__ import annotations

import gc
import logging
from importlib import import_module
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from slimbind.artifact import ModelInfo, TowerEntry
from slimbind.errors import EngineError, MissingExtraError, UsageError
from slimbind.runtime.device import Device
from slimbind.runtime.engine import INPUT, Options, files_of, single_file
from slimbind.runtime.memory import drop_file_pages, unmapping

if TYPE_CHECKING:
    import torch
    from torch import nn

    from slimbind.towers.layers import Tower

_BF16_SINCE = (8, 0)  # compute capability: Ampere
_FP8_SINCE = (8, 9)  # Ada, Hopper
# What the layers that keep 8 bits must be divisible by, in and out, for the GPU's integer and fp8 kernels.
_MULTIPLE = 16


class TorchSession:
    """A tower in eval mode; in float32 on the CPU its weights are mapped from the safetensors file."""

    def __init__(self, tower: Tower, device: Device, threads: int, files: tuple[Path, ...]) -> None:
        self.rank = tower.example(1).ndim
        self._place = _place(device)
        self._on_card = device.is_cuda
        self._dtype = None if device.dtype is None else _dtype(device.dtype)
        self._threads = threads
        self._files = files
        self._lock = Lock()
        # Tensors of torchao's own kinds cannot be used in inference mode.
        self._is_plain = device.weights is None
        self._tower: nn.Module | None = prepare(tower, device)

    def run(self, inputs: dict[str, NDArray[np.generic]]) -> NDArray[np.float32]:
        """See ``Session.run``."""
        import torch

        tower = self._tower
        if tower is None:
            raise EngineError("the tower was closed")
        shape = list(inputs[INPUT].shape)
        with self._lock, torch.inference_mode() if self._is_plain else torch.no_grad():
            # The number of threads belongs to the process; it is set for the time of the run only.
            before = torch.get_num_threads()
            if not self._on_card:
                torch.set_num_threads(self._threads)
            try:
                x = torch.from_numpy(np.ascontiguousarray(inputs[INPUT])).to(self._place)
                if self._dtype is not None and x.is_floating_point():
                    x = x.to(self._dtype)
                found = tower(x)
                if found.dtype != torch.float32:  # a unit vector rounded to 8 bits is none any more
                    found = torch.nn.functional.normalize(found.float(), dim=-1)
                vectors: NDArray[np.float32] = found.cpu().numpy().astype(np.float32)
            except torch.OutOfMemoryError as error:
                torch.cuda.empty_cache()
                raise EngineError(
                    f"the memory of {self._place} does not suffice for an input of shape {shape}",
                    hint="use a smaller batch_size, or 16-bit numbers",
                ) from error
            except (RuntimeError, IndexError, ValueError) as error:
                raise EngineError(f"PyTorch failed on an input of shape {shape}: {error}") from error
            finally:
                if not self._on_card:
                    torch.set_num_threads(before)
        return vectors

    def settle(self) -> None:
        """See ``Session.settle``; the weights are what it computes with, and stay."""

    def close(self) -> None:
        """See ``Session.close``."""
        with unmapping():
            self._tower = None
        drop_file_pages(self._files)
        if self._on_card:
            import torch

            gc.collect()  # a compiled tower refers to itself
            torch.cuda.empty_cache()


class Torch:
    """Opens ``tower.safetensors``."""

    def open(
        self, folder: Path, entry: TowerEntry, options: Options, *, model: ModelInfo, modality: str
    ) -> TorchSession:
        """See ``Engine.open``."""
        path = single_file(folder, entry, ".safetensors")
        files = files_of(folder, entry)
        if entry.scheme.startswith("eager-"):  # baselines, on a part of PyTorch that is only loaded for them
            return TorchSession(_eager(path, entry, model, modality), Device(), options.threads, files)
        try:
            from safetensors.torch import load_file

            from slimbind.towers import registry
            from slimbind.towers.simplify import simplify
        except ImportError as error:
            raise MissingExtraError("PyTorch", extra="build") from error
        try:
            tensors = load_file(path)
        except Exception as error:  # SafetensorError has no public home in every version
            raise EngineError(
                f"{path} is not a safetensors file: {error}", hint="split the checkpoint again"
            ) from error
        tower = simplify(registry.load(registry.build(model.family, modality, entry.config), tensors))
        session = TorchSession(tower, options.device, options.threads, files)
        if options.device.is_cuda:
            del tensors
            drop_file_pages(files)  # all of it was copied
        return session


def resolve(device: Device) -> Device:
    """The device with its type filled in; see ``runtime.device.resolve``."""
    try:
        import torch
    except ImportError as error:
        raise MissingExtraError("PyTorch", extra="build") from error
    if device.is_cuda:
        if not torch.cuda.is_available():
            built = "finds no graphics card" if torch.version.cuda else "was built without CUDA"
            raise UsageError(
                f"device {str(device)!r}: PyTorch {torch.__version__} {built}",
                hint="install the PyTorch for your CUDA version (pytorch.org), or leave the device out",
            )
        index, count = _index(device), torch.cuda.device_count()
        if index >= count:
            raise UsageError(f"device {str(device)!r}: there are {count}, counted from 0", hint="choose another")
        _check_capability(device, torch.cuda.get_device_capability(index))
    if device.weights is not None:
        _torchao()
        if device.weights.startswith("fp8") and not device.is_cuda:
            raise UsageError(f"device {str(device)!r}: fp8 needs a graphics card", hint="use int8-weight on the CPU")
    if device.dtype is not None:
        return device
    if not device.is_cuda:
        return Device(device.name, "f32", device.weights, device.compile)
    has_bf16 = torch.cuda.get_device_capability(_index(device)) >= _BF16_SINCE
    return Device(device.name, "bf16" if has_bf16 else "f16", device.weights, device.compile)


def prepare(tower: Tower, device: Device) -> nn.Module:
    """Bring a tower to its device and into its numbers, as a resolved ``device`` says. The tower is used up.

    Raises:
        EngineError: it does not fit there.
    """
    import torch

    moved: nn.Module = tower
    if device.is_plain:
        return moved
    try:
        moved = tower.to(_place(device), None if device.dtype is None else _dtype(device.dtype))
        if device.weights is not None:
            _squeeze(moved, device.weights)
    except torch.OutOfMemoryError as error:
        torch.cuda.empty_cache()
        raise EngineError(
            f"the {tower.modality} tower does not fit into the memory of {device.name}",
            hint="close other towers (memory_budget), or use 16-bit numbers or 8-bit weights",
        ) from error
    if device.compile:
        moved = cast("nn.Module", torch.compile(moved))
    return moved


def squeezable(name: str, module: nn.Module) -> bool:
    """Whether a layer may keep 8 bits: linear layers of the blocks. Stem and head are small, and tell the most."""
    from torch import nn

    return (
        isinstance(module, nn.Linear)
        and name.startswith(("blocks.", "layers."))
        and not (module.in_features % _MULTIPLE or module.out_features % _MULTIPLE)
    )


def _squeeze(tower: nn.Module, weights: str) -> None:
    """8-bit weights by torchao, layer by layer in place; its own global settings of the compiler are left alone."""
    ao = _torchao()
    configs: dict[str, Any] = {
        "int8-weight": lambda: ao.Int8WeightOnlyConfig(set_inductor_config=False),
        "int8-dynamic": lambda: ao.Int8DynamicActivationInt8WeightConfig(set_inductor_config=False),
        "fp8-weight": lambda: ao.Float8WeightOnlyConfig(set_inductor_config=False),
        "fp8-dynamic": lambda: ao.Float8DynamicActivationFloat8WeightConfig(
            granularity=ao.PerRow(), set_inductor_config=False
        ),
    }
    ao.quantize_(tower, configs[weights](), filter_fn=lambda module, name: squeezable(name, module))


def _torchao() -> Any:  # noqa: ANN401  (a module without types)
    """Its quantization. On import it complains of kernels that were built for other machines, which helps nobody."""
    chatty = [logging.getLogger(name) for name in ("torchao", "torch.utils._pytree")]
    before = [logger.level for logger in chatty]
    for logger in chatty:
        logger.setLevel(logging.ERROR)
    try:
        return import_module("torchao.quantization")
    except ImportError as error:
        raise MissingExtraError("torchao", extra="gpu") from error
    finally:
        for logger, level in zip(chatty, before, strict=True):
            logger.setLevel(level)


def _check_capability(device: Device, capability: tuple[int, int]) -> None:
    for asked, since, what, instead in (
        (device.dtype == "bf16", _BF16_SINCE, "bf16", "f16"),
        ((device.weights or "").startswith("fp8"), _FP8_SINCE, "fp8", "int8-weight"),
    ):
        if asked and capability < since:
            raise UsageError(
                f"device {str(device)!r}: this graphics card has compute capability {_dotted(capability)}, and {what} "
                f"needs {_dotted(since)}",
                hint=f"use {instead}",
            )


def _dotted(capability: tuple[int, int]) -> str:
    return ".".join(map(str, capability))


def _index(device: Device) -> int:
    return int(device.name.partition(":")[2] or 0)


def _place(device: Device) -> torch.device:
    import torch

    return torch.device("cuda", _index(device)) if device.is_cuda else torch.device("cpu")


def _dtype(name: str) -> torch.dtype:
    import torch

    return {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}[name]


def _eager(path: Path, entry: TowerEntry, model: ModelInfo, modality: str) -> Tower:
    try:
        from slimbind.quantize import eager
        from slimbind.towers import registry
    except ImportError as error:
        raise MissingExtraError("PyTorch with eager-mode quantization", extra="build") from error
    return eager.load(path, registry.build(model.family, modality, entry.config))


ENGINE = Torch()
