"""OpenVINO: the default engine. Compiled once per tower; weights are mapped, repacked, and held once."""

from __future__ import annotations

import time
from contextlib import nullcontext
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slimbind.artifact import ModelInfo, TowerEntry
from slimbind.errors import EngineError
from slimbind.runtime import quiet
from slimbind.runtime.engine import INPUT, Options, files_of, single_file
from slimbind.runtime.memory import drop_file_pages, dropping_pages, trim_heap

# How a scheme's weights are computed with. "f16" is OpenVINO's word for "the CPU's own 16-bit type": bf16 on x86 with
# AVX512-BF16 or AMX, f16 on ARM; f32 where there is none.
# Beside weights of 8 bits the rest is cheap, so those schemes stay in f32 and give the same vectors on every CPU.
_PRECISION = {"f32": "f32", "f16": "f16", "bf16": "bf16", "int8-static": "f32", "int8-weight": "f32"}
_OTHER_PRECISION = "bf16"
# Handing freed memory back to the system takes about a millisecond: worth it after so many seconds of computing.
_SETTLE_AFTER = 0.05


class OpenVinoSession:
    """A compiled tower with one inference request: a second one would only wait and hold memory."""

    def __init__(self, compiled: Any, files: tuple[Path, ...]) -> None:  # noqa: ANN401  (openvino has no types)
        self._compiled = compiled
        self._request = compiled.create_infer_request()
        self._files = files
        self._lock = Lock()
        self._shapes: set[tuple[int, ...]] = set()
        self._busy = 0.0
        self.rank: int = len(compiled.input(0).get_partial_shape())

    def run(self, inputs: dict[str, NDArray[np.generic]]) -> NDArray[np.float32]:
        """See ``Session.run``."""
        batch = inputs[INPUT]
        with self._lock:
            started = time.perf_counter()
            is_new = batch.shape not in self._shapes
            try:
                # Weights are read from the file, and repacked, when a shape is new.
                with dropping_pages(self._files) if is_new else nullcontext():
                    found = self._request.infer({0: batch}, share_inputs=True, share_outputs=True)[0]
            except (RuntimeError, TypeError, ValueError) as error:
                raise EngineError(
                    f"OpenVINO failed on an input of shape {list(batch.shape)}: {_first_line(error)}"
                ) from error
            # The output lives in the request and is written over by the next run.
            vectors = np.array(found, dtype=np.float32)
            self._busy += time.perf_counter() - started
            if is_new:
                self._shapes.add(batch.shape)
                self._busy += _SETTLE_AFTER
        return vectors

    def settle(self) -> None:
        """Free activations, and let go of the file's pages."""
        with self._lock:
            self._compiled.release_memory()
            if self._busy >= _SETTLE_AFTER:
                self._busy = 0.0
                drop_file_pages(self._files)
                trim_heap()

    def close(self) -> None:
        """See ``Session.close``."""
        with self._lock:
            del self._request, self._compiled


class OpenVino:
    """Opens ``tower.xml`` + ``tower.bin``."""

    def open(
        self, folder: Path, entry: TowerEntry, options: Options, *, model: ModelInfo, modality: str
    ) -> OpenVinoSession:
        """See ``Engine.open``."""
        path = single_file(folder, entry, ".xml")
        ov = quiet.openvino()
        settings: dict[str, Any] = {
            "NUM_STREAMS": 1,
            "PERFORMANCE_HINT": "LATENCY",
            # Pinning takes a process that shares its CPUs with others hostage to the busiest of them.
            "ENABLE_CPU_PINNING": False,
            "INFERENCE_NUM_THREADS": options.threads,
            # Compiled kernels of shapes that were seen before: they hold tens of megabytes and save nothing measurable.
            "CPU_RUNTIME_CACHE_CAPACITY": 0,
            # A tower may say that it keeps its quality in another precision (mini's convolutions: bf16, twice as fast).
            "INFERENCE_PRECISION_HINT": entry.config.get("precision", _PRECISION.get(entry.scheme, _OTHER_PRECISION)),
        }
        if options.cache_dir is not None:
            settings["CACHE_DIR"] = str(options.cache_dir)
        if "group_size" in entry.config:  # 0: leave the inputs of 8- and 4-bit weights alone, which is not the default
            settings["DYNAMIC_QUANTIZATION_GROUP_SIZE"] = int(entry.config["group_size"])
        try:
            core = ov.Core()
            core.set_property({"ENABLE_MMAP": True})
            compiled = core.compile_model(core.read_model(path), "CPU", settings)
        except (RuntimeError, TypeError, ValueError) as error:
            raise EngineError(
                f"OpenVINO cannot open {path}: {_first_line(error)}", hint="export the artifact again"
            ) from error
        return OpenVinoSession(compiled, files_of(folder, entry))


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


ENGINE = OpenVino()
