"""How fast a model embeds: latency percentiles and throughput over threads, batch sizes and concurrent callers.

Measured is all of ``Encoder.embed``, from the item (a file, a text) to its vector, as whoever calls it sees it. The
settings take turns: each round measures all of them once, every other round in reverse order, so that a machine that is
busy or hot for a while slows all of them and not one. A round opens one model for each number of threads and closes it
again: a model's cores are fixed when it is opened, and several would hold the weights several times.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import JsonValue

from slimbind.errors import ItemsError, UsageError
from slimbind.evaluate.record import Estimate, Record, environment
from slimbind.media import samples as known
from slimbind.media.source import describe
from slimbind.modalities import check_modality
from slimbind.runtime.encoder import Encoder
from slimbind.runtime.layout import Layout, of_tower
from slimbind.runtime.model import Model, load
from slimbind.runtime.threads import resolve_threads

CALLERS = (1, 8)
SECONDS = 2.0  # for each setting, over all rounds
ROUNDS = 3
SAMPLES = 32
_RESAMPLES = 1000
_LOOK_EVERY = 0.05  # seconds between two looks at the process


@dataclass(frozen=True)
class Setting:
    """Cores for the model, forward passes side by side (None: what suits the tower), items in a call, callers."""

    threads: int
    streams: int | None
    batch: int
    callers: int


@dataclass
class Run:
    """What callers saw. Adding two is measuring longer.

    Args:
        latencies: seconds of each call.
        elapsed: seconds from the first call's begin to the last one's end.
        cpu: CPU seconds of the process meanwhile.
        threads: most threads of the process, waiting ones included; None where it cannot be read.
        resident: most bytes it held.
    """

    latencies: list[float] = field(default_factory=list)
    elapsed: float = 0.0
    cpu: float = 0.0
    threads: int | None = None
    resident: int | None = None

    def add(self, other: Run) -> None:
        """Count what another run saw as well."""
        self.latencies += other.latencies
        self.elapsed += other.elapsed
        self.cpu += other.cpu
        self.saw(other.threads, other.resident)

    def saw(self, threads: int | None, resident: int | None) -> None:
        """Keep the greater numbers."""
        self.threads = max(filter(None, (self.threads, threads)), default=None)
        self.resident = max(filter(None, (self.resident, resident)), default=None)


@dataclass(frozen=True)
class Pace:
    """One setting's numbers, a row of the table.

    Args:
        modality: which tower.
        threads: cores the model could use.
        streams: forward passes side by side that were chosen for that.
        batch: items in each call.
        callers: threads that called at the same time.
        items_per_second: all callers together.
        p50_seconds: half of the calls took no longer.
        p90_seconds: so for nine of ten.
        p99_seconds: so for 99 of 100; with fewer calls than that, about the longest.
        cores_used: CPU seconds of the process for each second.
        process_threads: most threads of the process, the callers and all that only wait included.
        resident_bytes: most that the process held.
        calls: how many were timed.
        chosen: whether so many streams are what is chosen where nobody asks.
    """

    modality: str
    threads: int
    streams: int
    batch: int
    callers: int
    items_per_second: float
    p50_seconds: float
    p90_seconds: float
    p99_seconds: float
    cores_used: float
    process_threads: int | None
    resident_bytes: int | None
    calls: int
    chosen: bool


def thread_counts(cores: int) -> tuple[int, ...]:
    """1, 2, 4, ... and ``cores``."""
    return tuple(sorted({1 << power for power in range(cores.bit_length()) if 1 << power <= cores} | {cores}))


def drive(call: Callable[[int, int], object], *, callers: int, seconds: float) -> Run:
    """Let ``callers`` threads call at the same time, each again and again for ``seconds``, and at least once.

    Args:
        call: is given the caller's number and how often it has called.
        callers: how many.
        seconds: after that no new call is begun.

    Raises:
        Exception: what the first call to fail raised; the others end after the call they are at.
    """
    gate = threading.Barrier(callers + 1)
    ended = threading.Event()
    found: list[list[float]] = [[] for _ in range(callers)]
    errors: list[BaseException] = []

    def caller(number: int) -> None:
        gate.wait()
        end = time.perf_counter() + seconds
        while not ended.is_set():
            started = time.perf_counter()
            try:
                call(number, len(found[number]))
            except BaseException as error:
                errors.append(error)
                ended.set()
                return
            now = time.perf_counter()
            found[number].append(now - started)
            if now >= end:
                return

    workers = [threading.Thread(target=caller, args=(number,), daemon=True) for number in range(callers)]
    for worker in workers:
        worker.start()
    gate.wait()
    cpu, started = time.process_time(), time.perf_counter()
    run = Run()
    try:
        for worker in workers:
            while worker.is_alive():
                worker.join(_LOOK_EVERY)
                run.saw(*_process())
    finally:
        ended.set()
    run.elapsed, run.cpu = time.perf_counter() - started, time.process_time() - cpu
    run.latencies = [one for own in found for one in own]
    if errors:
        raise errors[0]
    return run


def _process() -> tuple[int | None, int | None]:
    """Threads of this process, and the bytes it holds; None where the system does not tell."""
    try:
        text = Path("/proc/self/status").read_text(encoding="utf-8")
        fields = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
        return int(fields["Threads"]), int(fields["VmRSS"].split()[0]) << 10
    except (OSError, KeyError, ValueError):
        return None, None


def measure(
    source: str | os.PathLike[str],
    modality: str,
    *,
    threads: Sequence[int] = (),
    batches: Sequence[int] = (),
    callers: Sequence[int] = CALLERS,
    streams: Sequence[int] = (),
    data: Path | None = None,
    samples: int = SAMPLES,
    seconds: float = SECONDS,
    rounds: int = ROUNDS,
    seed: int = 0,
    on_begin: Callable[[str, int], object] = lambda modality, steps: None,
    on_done: Callable[[], object] = lambda: None,
) -> Record:
    """Measure one tower of a model in all combinations of the settings.

    Args:
        source: a model's name or folder.
        modality: which tower.
        threads: numbers of cores to try; by default 1, 2, 4, ... up to those this process may use.
        batches: items in each call; by default 1, and what the encoder would take.
        callers: threads that call at the same time.
        streams: numbers of forward passes side by side to try, where there are threads enough, instead of what suits
            the tower.
        data: a folder of files, or a ``.txt`` of sentences; by default what comes with slimbind.
        samples: most items; callers go round them.
        seconds: for each setting.
        rounds: in so many parts, between which the other settings are measured.
        seed: of the resampling that the intervals come from.
        on_begin: is told how many steps there will be.
        on_done: called after each.

    Raises:
        UsageError: a setting that makes no sense, or no item.
        ArtifactError, EngineError: the tower cannot be opened.
    """
    check_modality(modality)
    tried = tuple(dict.fromkeys(threads)) or thread_counts(resolve_threads())
    for what, values in (("threads", tried), ("batch sizes", batches), ("callers", callers), ("streams", streams)):
        if any(isinstance(value, bool) or not isinstance(value, int) or value < 1 for value in values):
            raise UsageError(f"{what}: {list(values)}", hint="give whole numbers of 1 or more")
    if not seconds > 0 or rounds < 1 or samples < 1:
        raise UsageError(f"seconds {seconds}, rounds {rounds}, samples {samples}", hint="give numbers above 0")
    chosen = _items(data, modality, samples)
    load_before = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    opened = _opened(tried, streams)
    with load(source, threads=opened[0][0], streams=opened[0][1]) as model:
        items, failed = _readable(model, modality, chosen.items)
        sizes = tuple(dict.fromkeys(batches)) or tuple(sorted({1, model.encoder(modality).batch_size}))
        told = environment(model)
    settings = [Setting(*one, size, beside) for one in opened for size in sizes for beside in dict.fromkeys(callers)]
    on_begin(modality, rounds * len(settings))
    runs = {setting: Run() for setting in settings}
    layouts: dict[tuple[int, int | None], Layout] = {}
    usual: dict[tuple[int, int | None], int] = {}
    for number in range(rounds):
        for one in opened if number % 2 == 0 else reversed(opened):
            ours = [setting for setting in settings if (setting.threads, setting.streams) == one]
            with load(source, threads=one[0], streams=one[1], verify=False) as model:
                encoder = model.encoder(modality)
                layouts[one] = encoder.layout
                usual[one] = of_tower(model.artifact.tower(modality), modality, one[0]).streams
                for setting in ours if number % 2 == 0 else reversed(ours):
                    runs[setting].add(_visit(encoder, items, setting, seconds / rounds))
                    on_done()
    rows = [
        _pace(modality, layouts[one], usual[one], setting, run)
        for setting, run in runs.items()
        for one in [(setting.threads, setting.streams)]
    ]
    return Record(
        task="speed",
        title=f"speed, {modality}",
        model=str(source),
        settings={
            "modality": modality,
            "data": chosen.source,
            "items": len(items),
            "seconds": seconds,
            "rounds": rounds,
            "layout": "; ".join(f"threads {count}: {layout}" for (count, _), layout in layouts.items()),
            "load_before": load_before,
        },
        measures=_headlines(rows, runs, settings, seed),
        details={"rows": [_row(row) for row in rows]},
        failed=failed,
        environment=told,
    )


def _opened(threads: Sequence[int], streams: Sequence[int]) -> list[tuple[int, int | None]]:
    """Threads and streams of each model that is opened."""
    if not streams:
        return [(count, None) for count in threads]
    found: list[tuple[int, int | None]] = [
        (count, own) for count in threads for own in dict.fromkeys(streams) if own <= count
    ]
    if not found:
        raise UsageError(f"streams is {[*streams]}", hint=f"give at most the threads there are: {max(threads)}")
    return found


def _items(data: Path | None, modality: str, most: int) -> known.Samples:
    found = known.shipped(modality) if data is None else known.from_path(data, modality, alone=True)
    if not found.items:
        raise UsageError(f"{data} holds no {modality}", hint="name a folder of files, or a .txt of sentences")
    step = max(1, len(found.items) // most)
    return known.Samples([found.items[place] for place in range(0, len(found.items), step)][:most], found.source)


def _readable(model: Model, modality: str, items: Sequence[object]) -> tuple[list[object], tuple[tuple[str, str], ...]]:
    """The items that can be embedded, and why the others cannot."""
    try:
        model.embed(items, modality)
    except ItemsError as error:
        failed = tuple((describe(items[place]), reason.message) for place, reason in error.errors.items())
        if not error.indices:
            raise UsageError(f"none of {len(items)} items can be embedded; first: {failed[0][1]}") from error
        return [items[place] for place in error.indices], failed
    return list(items), ()


def _visit(encoder: Encoder, items: Sequence[object], setting: Setting, seconds: float) -> Run:
    def call(caller: int, times: int) -> NDArray[np.float32]:
        start = (caller + times) * setting.batch % len(items)
        return encoder.embed(islice(cycle(items), start, start + setting.batch), batch_size=setting.batch)

    # Engines prepare for each new shape. Callers go round the same batches, and each has come once before the clock
    # runs, or as many as there is time for.
    end = time.perf_counter() + seconds
    for times in range(-(-len(items) // setting.batch)):
        call(0, times)
        if time.perf_counter() > end:
            break
    return drive(call, callers=setting.callers, seconds=seconds)


def _pace(modality: str, layout: Layout, usual: int, setting: Setting, run: Run) -> Pace:
    p50, p90, p99 = (float(value) for value in np.percentile(run.latencies, (50, 90, 99)))
    calls = len(run.latencies)
    return Pace(
        modality=modality,
        threads=setting.threads,
        streams=layout.streams,
        batch=setting.batch,
        callers=setting.callers,
        items_per_second=calls * setting.batch / run.elapsed,
        p50_seconds=p50,
        p90_seconds=p90,
        p99_seconds=p99,
        cores_used=run.cpu / run.elapsed,
        process_threads=run.threads,
        resident_bytes=run.resident,
        calls=calls,
        chosen=layout.streams == usual,
    )


def _row(row: Pace) -> dict[str, JsonValue]:
    told: dict[str, Any] = asdict(row)
    return told


def _headlines(
    rows: Sequence[Pace], runs: dict[Setting, Run], settings: Sequence[Setting], seed: int
) -> dict[str, Estimate]:
    """The numbers that stand for all: one item at a time, the most that was reached, and what more cores gave."""
    most = max(row.threads for row in rows)
    alone = min(rows, key=lambda row: (-row.threads, row.callers, row.batch))
    calls = runs[settings[rows.index(alone)]].latencies
    found = {f"p{point}_seconds": percentile(calls, point, seed=seed) for point in (50, 90, 99)}
    best = max(rows, key=lambda row: row.items_per_second)
    found["items_per_second"] = Estimate(best.items_per_second, n=best.calls)
    if most > 1 and any(row.threads == 1 for row in rows):
        found["threads_speedup"] = Estimate(_best(rows, threads=most) / _best(rows, threads=1))
    beside = max(row.callers for row in rows)
    if beside > alone.callers:
        ratio = _best(rows, threads=most, callers=beside) / _best(rows, threads=most, callers=alone.callers)
        found["callers_speedup"] = Estimate(ratio)
    return found


def _best(rows: Iterable[Pace], **wanted: int) -> float:
    """The most items per second of the rows with these settings."""
    return max(row.items_per_second for row in rows if all(getattr(row, key) == value for key, value in wanted.items()))


def percentile(values: Sequence[float], point: float, *, seed: int = 0) -> Estimate:
    """A percentile with its 95 % interval (bootstrap of the values, percentile method).

    The values of one run follow each other on one machine and are not quite independent: the interval says how sure
    the number is on this machine as it was, and nothing of another day.
    """
    table = np.asarray(values, np.float64)
    random = np.random.default_rng(seed)
    drawn = [np.percentile(random.choice(table, len(table)), point) for _ in range(_RESAMPLES)]
    low, high = (float(value) for value in np.percentile(drawn, (2.5, 97.5)))
    return Estimate(float(np.percentile(table, point)), low, high, len(table))
