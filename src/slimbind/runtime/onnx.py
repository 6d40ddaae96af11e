"""ONNX Runtime: the portable engine, on the CPU. Needs the extra ``onnx``."""

from __future__ import annotations

from pathlib import Path
from threading import BoundedSemaphore
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slimbind.artifact import ModelInfo, TowerEntry
from slimbind.errors import EngineError, MissingExtraError
from slimbind.runtime import quiet
from slimbind.runtime.engine import INPUT, OUTPUT, Options, files_of, single_file
from slimbind.runtime.memory import drop_file_pages, trim_heap, unmapping


class OnnxSession:
    """An inference session. ONNX Runtime lets any number of threads run it, each on a core more: they take turns."""

    def __init__(self, session: Any, run_options: Any, streams: int) -> None:  # noqa: ANN401  (onnxruntime has no types)
        self._session: Any = session
        self._run_options = run_options
        self._turns = BoundedSemaphore(streams)
        self.rank: int = len(session.get_inputs()[0].shape)

    def run(self, inputs: dict[str, NDArray[np.generic]]) -> NDArray[np.float32]:
        """See ``Session.run``."""
        try:
            with self._turns:
                found = self._session.run([OUTPUT], {INPUT: inputs[INPUT]}, self._run_options)[0]
        except Exception as error:  # onnxruntime's exceptions share no base class of their own
            shape = list(inputs[INPUT].shape)
            raise EngineError(f"ONNX Runtime failed on an input of shape {shape}: {error}") from error
        return np.asarray(found, dtype=np.float32)

    def settle(self) -> None:
        """See ``Session.settle``: the arena has shrunk after every run by itself."""

    def close(self) -> None:
        """See ``Session.close``."""
        with unmapping():
            self._session = None


class OnnxRuntime:
    """Opens ``tower.onnx`` with its external data."""

    def open(
        self, folder: Path, entry: TowerEntry, options: Options, *, model: ModelInfo, modality: str
    ) -> OnnxSession:
        """See ``Engine.open``."""
        path = single_file(folder, entry, ".onnx")
        try:
            ort = quiet.onnxruntime()
        except ImportError as error:
            raise MissingExtraError("ONNX Runtime", extra="onnx") from error
        settings = ort.SessionOptions()
        # The caller's own thread is one of them, and the session's others serve all callers.
        settings.intra_op_num_threads = options.threads
        settings.inter_op_num_threads = 1
        settings.log_severity_level = 3
        # Threads that wait in a loop are quick to start and burn the CPU that preprocessing needs.
        settings.add_session_config_entry("session.intra_op.allow_spinning", "0")
        run_options = ort.RunOptions()
        run_options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
        try:
            session = ort.InferenceSession(path, settings, providers=["CPUExecutionProvider"])
        except Exception as error:  # see OnnxSession.run
            raise EngineError(f"ONNX Runtime cannot open {path}: {error}", hint="export the artifact again") from error
        # Most weights were just repacked; what is used as it lies in the file comes back from the page cache.
        drop_file_pages(files_of(folder, entry))
        trim_heap()
        return OnnxSession(session, run_options, options.streams)


ENGINE = OnnxRuntime()
