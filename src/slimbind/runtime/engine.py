"""The small protocol that every inference engine is used through, and the list of engines.

An engine opens the files of one tower and gives a session; a session turns a batch of inputs into unit vectors.
All that differs between engines (options, threads, memory tricks) stays behind this line.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from slimbind.artifact import ModelInfo, TowerEntry
from slimbind.errors import ArtifactError, UsageError
from slimbind.runtime.device import Device

INPUT = "input"
OUTPUT = "vectors"  # not "embedding": a layer of that name would collide in ONNX

# Engine -> the module that holds it.
ENGINES: dict[str, str] = {
    "openvino": "slimbind.runtime.openvino",
    "onnx": "slimbind.runtime.onnx",
    "torch": "slimbind.runtime.torch",
}


@dataclass(frozen=True)
class Options:
    """What an engine is told when it opens a tower.

    Args:
        threads: how many threads one forward pass may use.
        streams: how many forward passes may run at the same time; more wait for their turn. See ``runtime.layout``.
        cache_dir: where an engine may keep compiled models between runs; None keeps nothing.
        device: where PyTorch computes and in which numbers, as ``runtime.device.resolve`` gives it; the other engines
            run on the CPU.
    """

    threads: int
    cache_dir: Path | None = None
    device: Device = Device()
    streams: int = 1


class Session(Protocol):
    """One opened tower. ``run`` may be called from several threads at once."""

    @property
    def rank(self) -> int:
        """Number of axes of the input, the batch included."""

    def run(self, inputs: dict[str, NDArray[np.generic]]) -> NDArray[np.float32]:
        """Embed one batch.

        Args:
            inputs: ``{"input": [n, ...]}``, float32, or int32 for token ids.

        Returns:
            ``[n, dim]`` float32 unit vectors, the caller's own.

        Raises:
            EngineError: the engine refused the input or failed.
        """

    def settle(self) -> None:
        """Give back what is not needed between batches (activations, pages of the weights' file).

        Best called when no batch is running: one that is may have to get again what is given back.
        """

    def close(self) -> None:
        """Let go of everything. A closed session is not used again."""


class Engine(Protocol):
    """Opens towers."""

    def open(self, folder: Path, entry: TowerEntry, options: Options, *, model: ModelInfo, modality: str) -> Session:
        """Open the tower whose files (``entry.files``, relative to the artifact ``folder``) lie there.

        Raises:
            EngineError: the files are not a model that this engine can run.
            MissingExtraError: the engine is not installed.
        """


def engine(name: str) -> Engine:
    """The engine called ``name``; imports it on first use.

    Raises:
        UsageError: there is no such engine.
        MissingExtraError: it is not installed.
    """
    if name not in ENGINES:
        raise UsageError.unknown("engine", name, ENGINES)
    found: Engine = import_module(ENGINES[name]).ENGINE
    return found


def files_of(folder: Path, entry: TowerEntry) -> tuple[Path, ...]:
    """Where the files of a tower really lie, links followed."""
    return tuple((folder / file.path).resolve() for file in entry.files)


def single_file(folder: Path, entry: TowerEntry, suffix: str) -> Path:
    """The one file of a tower that ends in ``suffix``.

    Raises:
        ArtifactError: there is none, or more than one.
    """
    found = [folder / file.path for file in entry.files if file.path.endswith(suffix)]
    if len(found) != 1:
        raise ArtifactError(
            f"{folder} lists {len(found)} files ending in {suffix} for this tower; its engine needs one",
            hint="build the artifact again",
        )
    return found[0]
