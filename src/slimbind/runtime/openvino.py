"""OpenVINO: the default engine. Compiled once per tower; weights are mapped, repacked, and held once."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from itertools import count
from pathlib import Path
from threading import Lock, Thread
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from slimbind.artifact import ModelInfo, TowerEntry
from slimbind.errors import EngineError
from slimbind.runtime import quiet
from slimbind.runtime.engine import INPUT, Options, files_of, single_file
from slimbind.runtime.memory import drop_file_pages, dropping_pages, trim_heap, unmapping

# How a scheme's weights are computed with. "f16" is OpenVINO's word for "the CPU's own 16-bit type": bf16 on x86 with
# AVX512-BF16 or AMX, f16 on ARM; f32 where there is none.
# Beside weights of 8 bits the rest is cheap, so those schemes stay in f32 and give the same vectors on every CPU.
_PRECISION = {"f32": "f32", "f16": "f16", "bf16": "bf16", "int8-static": "f32", "int8-weight": "f32"}
_OTHER_PRECISION = "bf16"
# Handing freed memory back to the system takes about a millisecond: worth it after so many seconds of computing.
_SETTLE_AFTER = 0.05
_T = TypeVar("_T")


class _Stream:
    """One inference request, made when it is first needed, and who may use it."""

    def __init__(self) -> None:
        self.lock = Lock()
        self.request: Any = None


class OpenVinoSession:
    """A compiled tower, and an inference request for each of its streams: another would only wait and hold memory."""

    def __init__(self, compiled: Any, files: tuple[Path, ...], streams: int = 1) -> None:  # noqa: ANN401  (no types)
        self._compiled = compiled
        self._streams = [_Stream() for _ in range(streams)]
        self._turns = count()
        self._files = files
        self._lock = Lock()
        self._shapes: set[tuple[int, ...]] = set()
        self._busy = 0.0
        self.rank: int = len(compiled.input(0).get_partial_shape())

    def run(self, inputs: dict[str, NDArray[np.generic]]) -> NDArray[np.float32]:
        """See ``Session.run``."""
        batch = inputs[INPUT]
        stream = self._idle()
        with stream.lock:
            if stream.request is None:
                stream.request = self._compiled.create_infer_request()
            started = time.perf_counter()
            is_new = batch.shape not in self._shapes
            try:
                # Weights are read from the file, and repacked, when a shape is new.
                with dropping_pages(self._files) if is_new else nullcontext():
                    vectors = _infer(stream.request, batch, alone=len(self._streams) == 1)
            except (RuntimeError, TypeError, ValueError) as error:
                raise EngineError(
                    f"OpenVINO failed on an input of shape {list(batch.shape)}: {_first_line(error)}"
                ) from error
            with self._lock:
                self._busy += time.perf_counter() - started
                if is_new:
                    self._shapes.add(batch.shape)
                    self._busy += _SETTLE_AFTER
            return vectors

    def settle(self) -> None:
        """Free activations, and let go of the file's pages, where the work since the last time is worth it.

        Not while a batch is running, which OpenVINO refuses: then whoever comes last does it.
        """
        if self._busy < _SETTLE_AFTER or any(stream.lock.locked() for stream in self._streams):
            return
        with self._all():
            self._busy = 0.0
            self._compiled.release_memory()
        drop_file_pages(self._files)
        trim_heap()

    def close(self) -> None:
        """See ``Session.close``; waits for batches that are running."""
        with self._all(), unmapping():
            for stream in self._streams:
                stream.request = None
            del self._compiled

    def _idle(self) -> _Stream:
        """A stream that nobody uses; one after the other where all are in use, or several look at the same moment."""
        first = next(self._turns) % len(self._streams)
        ordered = self._streams[first:] + self._streams[:first]
        return next((stream for stream in ordered if not stream.lock.locked()), ordered[0])

    @contextmanager
    def _all(self) -> Iterator[None]:
        """Hold all streams, as soon as each is free."""
        with ExitStack() as held:
            for stream in self._streams:
                held.enter_context(stream.lock)
            yield


class OpenVino:
    """Opens ``tower.xml`` + ``tower.bin``."""

    def open(
        self, folder: Path, entry: TowerEntry, options: Options, *, model: ModelInfo, modality: str
    ) -> OpenVinoSession:
        """See ``Engine.open``."""
        path, files = single_file(folder, entry, ".xml"), files_of(folder, entry)
        ov = quiet.openvino()
        settings: dict[str, Any] = {
            "NUM_STREAMS": options.streams,
            "PERFORMANCE_HINT": "LATENCY",
            # Pinning takes a process that shares its CPUs with others hostage to the busiest of them.
            "ENABLE_CPU_PINNING": False,
            "INFERENCE_NUM_THREADS": options.streams * options.threads,
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
            # Some weights are repacked here already, others when they first run.
            with dropping_pages(files):
                model_read, compiled = _in_a_thread_of_its_own(lambda: _compiled(ov, path, settings))
            drop_file_pages(files)
            with unmapping():
                del model_read
        except (RuntimeError, TypeError, ValueError) as error:
            raise EngineError(
                f"OpenVINO cannot open {path}: {_first_line(error)}", hint="export the artifact again"
            ) from error
        return OpenVinoSession(compiled, files, options.streams)


def _compiled(ov: Any, path: Path, settings: dict[str, Any]) -> tuple[Any, Any]:  # noqa: ANN401
    """The model as it was read, which holds the file mapped, and as it was compiled."""
    core = ov.Core()
    core.set_property({"ENABLE_MMAP": True})
    model = core.read_model(path)
    return model, core.compile_model(model, "CPU", settings)


def _in_a_thread_of_its_own(task: Callable[[], _T]) -> _T:
    """The result of ``task``, done by a thread that then ends.

    OpenVINO's CPU plugin gives the thread that makes it a stack for signals, and frees it when the plugin goes, in
    whatever thread that happens. Had the main thread opened a tower that another one closes, because it was idle for
    long, the next Ctrl-C would be a segmentation fault.
    """
    done: Future[_T] = Future()

    def run() -> None:
        try:
            done.set_result(task())
        except BaseException as error:
            done.set_exception(error)

    Thread(target=run, name="slimbind-open", daemon=True).start()
    return done.result()


def _infer(request: Any, batch: NDArray[np.generic], *, alone: bool) -> NDArray[np.float32]:  # noqa: ANN401
    """One batch; ``alone`` where there is a single stream.

    Several streams are run by threads of the engine's own, one each. Callers' threads would be given streams in the
    order they first come, and two that run at the same time could be given the same one. A single stream is run by the
    caller: what the engine's own thread allocates is not all given back (9 to 17 MiB more for the imu tower).
    """
    if alone:
        request.infer({0: batch}, share_inputs=True, share_outputs=True)
    else:
        try:
            request.start_async({0: batch}, share_inputs=True)
            request.wait()
        except KeyboardInterrupt:  # the engine still reads the batch, and the request is not free before it has ended
            with suppress(RuntimeError):
                request.wait()
            raise
    # The output lives in the request and is written over by the next run.
    return np.array(request.get_output_tensor(0).data, dtype=np.float32)


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


ENGINE = OpenVino()
