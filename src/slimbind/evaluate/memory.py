"""What an open tower costs in memory: measured in a fresh process, and computed from its parameters and buffers.

Counted is the growth of the resident set (RSS, file-mapped pages included) over the same process before it opened
anything, with the engine's libraries loaded and every preprocessor run once. Linux only: elsewhere it cannot be read.

``python -m slimbind.evaluate.memory`` is the fresh process: one JSON object comes in on standard input, one goes out.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from importlib import import_module
from itertools import cycle, islice
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
from pydantic import JsonValue

from slimbind.artifact import Artifact
from slimbind.errors import SlimbindError, UsageError
from slimbind.evaluate.record import Estimate, Record, environment
from slimbind.hub import resolve
from slimbind.media import preprocessor, samples
from slimbind.media.source import describe
from slimbind.modalities import check_modality
from slimbind.runtime import quiet
from slimbind.runtime.engine import engine
from slimbind.runtime.memory import mapped_files, trim_heap
from slimbind.runtime.model import Model
from slimbind.runtime.threads import resolve_threads

# Items that are embedded at once: one when the tower opens, then these.
BATCHES = (2, 5, 8)
_KINDS = {"VmRSS": "rss", "RssAnon": "anonymous", "RssFile": "file", "VmHWM": "peak"}
_FP32 = 4  # bytes of a number

Items = Callable[[str, int], Sequence[Any]]


@dataclass(frozen=True)
class Usage:
    """What towers cost, in bytes more than before.

    Args:
        modalities: which were open.
        opened: after the first item of each.
        steady: after batches of several sizes.
        anonymous: of that, what belongs to no file.
        mapped: of that, pages of files.
        peak: the most on the way.
        closed: what is left after all were closed: the engine's own code and kernels, mostly.
        before: what the process held before.
        seconds: to open each tower and embed the first item.
        failed: items that cannot be read and were left out, and why.
    """

    modalities: tuple[str, ...]
    opened: int
    steady: int
    anonymous: int
    mapped: int
    peak: int
    closed: int
    before: int
    seconds: dict[str, float]
    failed: tuple[tuple[str, str], ...] = ()


def measure(model: Model, modalities: Sequence[str], items: Items, batches: Sequence[int] = BATCHES) -> Usage:
    """Open towers of a model, embed, close, and read what that cost. Only in a fresh process does it mean anything.

    Args:
        model: with nothing open.
        modalities: the towers to open, all at the same time.
        items: gives ``count`` items of a modality.
        batches: how many are embedded at a time, after the first.

    Raises:
        RuntimeError: files of other towers were mapped as well.
    """
    towers = {modality: model.artifact.tower(modality) for modality in modalities}
    for modality, entry in towers.items():
        preprocessor(entry.preprocess, folder=model.artifact.folder / modality)(items(modality, 1)[0])
    for name in {entry.engine for entry in towers.values()}:
        _load(name)
    trim_heap()
    _forget_peak()
    start = _status()
    seconds = {}
    for modality in modalities:
        began = time.perf_counter()
        model.embed(items(modality, 1), modality)
        seconds[modality] = round(time.perf_counter() - began, 3)
    opened = _status()
    for size in batches:
        for modality in modalities:
            model.embed(items(modality, size), modality)
    steady = _status()
    folder = model.artifact.folder
    own = {str((folder / file.path).resolve()) for entry in towers.values() for file in entry.files}
    if outside := mapped_files(folder) - own:
        raise RuntimeError(f"files of other towers are mapped: {outside}")
    model.unload()
    closed = _status()
    return Usage(
        modalities=tuple(modalities),
        opened=opened["rss"] - start["rss"],
        steady=steady["rss"] - start["rss"],
        anonymous=steady["anonymous"] - start["anonymous"],
        mapped=steady["file"] - start["file"],
        peak=max(steady["peak"], opened["peak"]) - start["rss"],
        closed=closed["rss"] - start["rss"],
        before=start["rss"],
        seconds=seconds,
    )


def in_fresh_process(
    source: str | os.PathLike[str],
    modalities: Sequence[str],
    *,
    threads: int,
    data: Path | None = None,
    streams: int | None = None,
) -> Usage:
    """``measure`` in a Python of its own, with items of ``data`` or those that come with slimbind.

    Raises:
        UsageError: this system does not tell what a process holds, or there is no item.
        SlimbindError: the fresh process failed; with its message.
    """
    check_possible()
    asked = {
        "source": str(source),
        "modalities": [*modalities],
        "threads": threads,
        "streams": streams,
        "data": None if data is None else str(data),
    }
    done = subprocess.run(
        [sys.executable, "-m", "slimbind.evaluate.memory"], input=json.dumps(asked), capture_output=True, text=True
    )
    told = _last_json(done.stdout)
    if told is None:
        last = done.stderr.strip().splitlines()[-1:] or [f"exit code {done.returncode}"]
        raise SlimbindError(f"the process that was to be measured ended: {last[0]}", hint="is there memory enough?")
    if "error" in told:
        raise UsageError(told["error"], hint=told["hint"])
    told["failed"] = tuple((name, reason) for name, reason in told["failed"])
    return Usage(**told | {"modalities": tuple(told["modalities"])})


def record(
    source: str | os.PathLike[str],
    modality: str,
    *,
    threads: int | None = None,
    streams: int | None = None,
    data: Path | None = None,
    repeats: int = 3,
    on_done: Callable[[], object] = lambda: None,
) -> Record:
    """The memory of one tower, each time in a fresh process: what the median one took, and what it should.

    Args:
        source: a model's name or folder.
        modality: which tower.
        threads: cores of the model.
        streams: forward passes side by side, instead of what suits the tower.
        data: a folder of files, or a ``.txt``; by default what comes with slimbind.
        repeats: how many processes.
        on_done: called after each.

    Raises:
        UsageError: see ``in_fresh_process``.
    """
    check_modality(modality)
    if isinstance(repeats, bool) or not isinstance(repeats, int) or repeats < 1:
        raise UsageError(f"repeats is {repeats!r}", hint="give 1 or more")
    check_possible()
    artifact = Artifact.open(resolve(source, modalities=[modality]))
    entry = artifact.tower(modality)
    count = resolve_threads(threads)
    if data is not None and not samples.from_path(data, modality, alone=True).items:
        raise UsageError(f"{data} holds no {modality}", hint="name a folder of files, or a .txt of sentences")
    with Model(artifact, threads=count, streams=streams) as model:
        told, layout = environment(model), model.encoder(modality).layout
    runs = []
    for _ in range(repeats):
        runs.append(in_fresh_process(source, [modality], threads=count, data=data, streams=streams))
        on_done()
    weights = max(file.bytes for file in entry.files)
    steady = _middle([run.steady for run in runs])
    measures = {
        "computed_bytes": weights,
        "computed_fp32_bytes": _FP32 * entry.parameters,
        "opened_bytes": _middle([run.opened for run in runs]),
        "steady_bytes": steady,
        "peak_bytes": _middle([run.peak for run in runs]),
        "closed_bytes": _middle([run.closed for run in runs]),
        "steady_ratio": steady / weights,
        "peak_ratio": _middle([run.peak for run in runs]) / weights,
    }
    return Record(
        task="memory",
        title=f"memory, {modality}",
        model=str(source),
        settings={
            "modality": modality,
            "engine": entry.engine,
            "scheme": entry.scheme,
            "parameters": entry.parameters,
            "threads": count,
            "layout": str(layout),
            "data": "what comes with slimbind" if data is None else str(data),
            "batches": ", ".join(map(str, (1, *BATCHES))),
        },
        measures={name: Estimate(value, n=repeats) for name, value in measures.items()},
        details={"rows": [_row(number, run, modality) for number, run in enumerate(runs, start=1)]},
        failed=runs[0].failed,
        environment=told,
    )


def _row(number: int, run: Usage, modality: str) -> dict[str, JsonValue]:
    return {
        "run": number,
        "opened_bytes": run.opened,
        "steady_bytes": run.steady,
        "anonymous_bytes": run.anonymous,
        "mapped_bytes": run.mapped,
        "peak_bytes": run.peak,
        "closed_bytes": run.closed,
        "before_bytes": run.before,
        "first_embedding_seconds": run.seconds[modality],
    }


def check_possible() -> None:
    """Raises ``UsageError`` where memory cannot be measured."""
    if not Path("/proc/self/status").exists():
        raise UsageError("memory can be measured on Linux only", hint="run it there, for example in a container")


def _middle(values: Sequence[int]) -> float:
    return float(np.median(values))


def _load(name: str) -> None:
    """Load an engine's libraries, which are in memory once, whatever is open."""
    engine(name)
    if name == "openvino":
        ov = quiet.openvino()
        op = ov.opset13
        x = op.parameter([-1, 4], np.float32)
        ov.Core().compile_model(ov.Model([op.matmul(x, op.constant(np.eye(4, dtype=np.float32)), False, False)], [x]))
    elif name == "onnx":
        quiet.onnxruntime()
    else:
        import_module("slimbind.towers.registry")


def _forget_peak() -> None:
    """Let the highest use be counted from now on; without it what was imported and freed would count."""
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        pass  # in some containers; the peak then includes what came before


def _status() -> dict[str, int]:
    """Resident bytes of this process: all, anonymous, file-mapped, and the highest so far."""
    fields = (line.split() for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines())
    return {_KINDS[field[0][:-1]]: int(field[1]) << 10 for field in fields if field and field[0][:-1] in _KINDS}


def _last_json(text: str) -> dict[str, Any] | None:
    """The object of the last line; whatever libraries print comes before it."""
    lines = text.strip().splitlines()
    try:
        found: object = json.loads(lines[-1]) if lines else None
    except ValueError:
        return None
    return found if _is_object(found) else None


def _is_object(found: object) -> TypeGuard[dict[str, Any]]:
    return isinstance(found, dict)


def _readable(artifact: Artifact, modality: str, data: Path | None) -> tuple[list[Any], list[tuple[str, str]]]:
    """Some items that can be prepared, and why others cannot."""
    found = samples.shipped(modality) if data is None else samples.from_path(data, modality, alone=True)
    prepare = preprocessor(artifact.tower(modality).preprocess, folder=artifact.folder / modality)
    good: list[Any] = []
    failed: list[tuple[str, str]] = []
    for item in found.items:
        try:
            prepare(item)
        except SlimbindError as error:
            failed.append((describe(item), error.message))
        else:
            good.append(item)
        if len(good) == max(BATCHES):
            break
    if not good:
        first = f"; first: {failed[0][1]}" if failed else ""
        raise UsageError(f"none of {len(failed)} {modality} items can be read{first}")
    return good, failed


def _main() -> int:
    asked = json.loads(sys.stdin.read())
    data = None if asked["data"] is None else Path(asked["data"])
    try:
        artifact = Artifact.open(resolve(asked["source"], modalities=asked["modalities"]))
        known = {modality: _readable(artifact, modality, data) for modality in asked["modalities"]}

        def items(modality: str, number: int) -> list[Any]:
            return list(islice(cycle(known[modality][0]), number))

        with Model(artifact, threads=asked["threads"], streams=asked["streams"], verify=False) as model:
            used = measure(model, asked["modalities"], items)
        told: dict[str, Any] = asdict(
            replace(used, failed=tuple(one for _, failed in known.values() for one in failed))
        )
    except SlimbindError as error:
        told = {"error": error.message, "hint": error.hint}
    print(json.dumps(told))  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(_main())
