"""PyTorch: opens split folders as they are, without an export. Needs the extra ``build``; a reference, not fast."""

from __future__ import annotations

from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from slimbind.artifact import ModelInfo, TowerEntry
from slimbind.errors import EngineError, MissingExtraError
from slimbind.runtime.engine import INPUT, Options, files_of, single_file
from slimbind.runtime.memory import drop_file_pages

if TYPE_CHECKING:
    from slimbind.towers.layers import Tower


class TorchSession:
    """A tower in eval mode on the CPU, its weights mapped from the safetensors file."""

    def __init__(self, tower: Tower, threads: int, files: tuple[Path, ...]) -> None:
        self._tower: Tower | None = tower
        self._threads = threads
        self._files = files
        self._lock = Lock()
        self.rank = tower.example(1).ndim

    def run(self, inputs: dict[str, NDArray[np.generic]]) -> NDArray[np.float32]:
        """See ``Session.run``."""
        import torch

        tower = self._tower
        if tower is None:
            raise EngineError("the tower was closed")
        with self._lock, torch.inference_mode():
            # The number of threads belongs to the process; it is set for the time of the run only.
            before = torch.get_num_threads()
            torch.set_num_threads(self._threads)
            try:
                found = tower(torch.from_numpy(np.ascontiguousarray(inputs[INPUT])))
            except (RuntimeError, IndexError, ValueError) as error:
                shape = list(inputs[INPUT].shape)
                raise EngineError(f"PyTorch failed on an input of shape {shape}: {error}") from error
            finally:
                torch.set_num_threads(before)
        vectors: NDArray[np.float32] = found.numpy().astype(np.float32)
        return vectors

    def settle(self) -> None:
        """See ``Session.settle``; the mapped weights are what it computes with, and stay."""

    def close(self) -> None:
        """See ``Session.close``."""
        self._tower = None
        drop_file_pages(self._files)


class Torch:
    """Opens ``tower.safetensors``."""

    def open(
        self, folder: Path, entry: TowerEntry, options: Options, *, model: ModelInfo, modality: str
    ) -> TorchSession:
        """See ``Engine.open``."""
        path = single_file(folder, entry, ".safetensors")
        if entry.scheme.startswith("eager-"):  # baselines, on a part of PyTorch that is only loaded for them
            return TorchSession(_eager(path, entry, model, modality), options.threads, files_of(folder, entry))
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
        tower = registry.build(model.family, modality, entry.config)
        return TorchSession(simplify(registry.load(tower, tensors)), options.threads, files_of(folder, entry))


def _eager(path: Path, entry: TowerEntry, model: ModelInfo, modality: str) -> Tower:
    try:
        from slimbind.quantize import eager
        from slimbind.towers import registry
    except ImportError as error:
        raise MissingExtraError("PyTorch with eager-mode quantization", extra="build") from error
    return eager.load(path, registry.build(model.family, modality, entry.config))


ENGINE = Torch()
