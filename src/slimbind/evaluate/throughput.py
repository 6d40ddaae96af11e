"""How fast a model embeds: latency percentiles and throughput over threads, batch sizes and concurrent callers.

Measured is all of ``Encoder.embed``, from the item (a file, a text) to its vector, as whoever calls it sees it. The
settings take turns: each round measures all of them once, every other round in reverse order, so that a machine that is
busy or hot for a while slows all of them and not one; so do several models. A round opens one model for each number of
threads and closes it again: a model's cores are fixed when it is opened, and several would hold the weights several
times.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import JsonValue

from slimbind.errors import ItemsError, UsageError
from slimbind.evaluate.callers import Run, drive
from slimbind.evaluate.inputs import evenly
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

Source = str | os.PathLike[str]


@dataclass(frozen=True)
class Plan:
    """What is tried, with what, and for how long.

    Args:
        threads: numbers of cores; by default 1, 2, 4, ... up to those this process may use.
        batches: items in each call; by default 1, and what the encoder would take.
        callers: threads that call at the same time.
        streams: numbers of forward passes side by side, where there are threads enough, instead of what suits the
            tower.
        data: a folder of files, or a ``.txt`` of sentences; by default what comes with slimbind.
        samples: most items; callers go round them.
        seconds: for each setting.
        rounds: in so many parts, between which the other settings are measured.
        seed: of the resampling that the intervals come from.

    Raises:
        UsageError: a setting makes no sense.
    """

    threads: Sequence[int] = ()
    batches: Sequence[int] = ()
    callers: Sequence[int] = CALLERS
    streams: Sequence[int] = ()
    data: Path | None = None
    samples: int = SAMPLES
    seconds: float = SECONDS
    rounds: int = ROUNDS
    seed: int = 0

    def __post_init__(self) -> None:
        for what in ("threads", "batches", "callers", "streams"):
            values = getattr(self, what)
            if any(isinstance(value, bool) or not isinstance(value, int) or value < 1 for value in values):
                raise UsageError(f"{what}: {list(values)}", hint="give whole numbers of 1 or more")
        if not self.callers:
            raise UsageError("callers: []", hint="give at least one number")
        if not self.seconds > 0 or self.rounds < 1 or self.samples < 1:
            raise UsageError(
                f"seconds {self.seconds}, rounds {self.rounds}, samples {self.samples}", hint="give numbers above 0"
            )

    def opened(self, sources: int) -> list[Opened]:
        """Every model that is opened: each of so many sources with all threads and streams.

        Raises:
            UsageError: more streams are asked for than there are threads.
        """
        threads = tuple(dict.fromkeys(self.threads)) or thread_counts(resolve_threads())
        streams: Sequence[int | None] = tuple(dict.fromkeys(self.streams)) or (None,)
        found = [
            Opened(source, count, own)
            for source in range(sources)
            for count in threads
            for own in streams
            if own is None or own <= count
        ]
        if not found:
            raise UsageError(
                f"streams is {[*self.streams]}", hint=f"give at most the threads there are: {max(threads)}"
            )
        return found

    def samples_of(self, modality: str) -> known.Samples:
        """The items, evenly spread over those that there are.

        Raises:
            UsageError: there are none.
        """
        data = self.data
        found = known.shipped(modality) if data is None else known.from_path(data, modality, alone=True)
        if not found.items:
            raise UsageError(f"{data} holds no {modality}", hint="name a folder of files, or a .txt of sentences")
        return known.Samples(evenly(found.items, self.samples), found.source)


@dataclass(frozen=True)
class Opened:
    """A model as it is opened: which source, its cores, forward passes side by side (None: what suits the tower)."""

    source: int
    threads: int
    streams: int | None


@dataclass(frozen=True)
class Setting:
    """An opened model, items in a call, and callers."""

    opened: Opened
    batch: int
    callers: int


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


def measure(
    source: Source,
    modality: str,
    plan: Plan,
    *,
    on_begin: Callable[[str, int], object] = lambda modality, steps: None,
    on_done: Callable[[], object] = lambda: None,
) -> Record:
    """``measure_in_turns`` of a single model."""
    (record,) = measure_in_turns([source], modality, plan, on_begin=on_begin, on_done=on_done)
    return record


def measure_in_turns(
    sources: Sequence[Source],
    modality: str,
    plan: Plan,
    *,
    on_begin: Callable[[str, int], object] = lambda modality, steps: None,
    on_done: Callable[[], object] = lambda: None,
) -> list[Record]:
    """Measure one tower of several models in all combinations of the settings, all of which take turns.

    Args:
        sources: the models' names or folders.
        modality: which tower.
        plan: the settings.
        on_begin: is told how many steps there will be.
        on_done: called after each.

    Returns:
        A record for each model.

    Raises:
        UsageError: there are more streams than threads, or no item that all models can embed.
        ArtifactError, EngineError: the tower cannot be opened.
    """
    check_modality(modality)
    opened = plan.opened(len(sources))
    chosen = plan.samples_of(modality)
    load_before = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    items, failed = list(chosen.items), dict[str, str]()
    settings: list[Setting] = []
    environments: list[dict[str, JsonValue]] = []
    for place, source in enumerate(sources):
        own = [one for one in opened if one.source == place]
        with load(source, threads=own[0].threads, streams=own[0].streams) as model:
            items = _readable(model, modality, items, failed)
            usual = model.encoder(modality).batch_size
            environments.append(environment(model))
        sizes = dict.fromkeys(plan.batches or sorted({1, usual}))
        settings += [
            Setting(one, size, beside) for one in own for size in sizes for beside in dict.fromkeys(plan.callers)
        ]
    on_begin(modality, plan.rounds * len(settings))
    runs = {setting: Run() for setting in settings}
    layouts: dict[Opened, tuple[Layout, bool]] = {}
    for number in range(plan.rounds):
        turn = opened if number % 2 == 0 else opened[::-1]
        for one in turn:
            with load(sources[one.source], threads=one.threads, streams=one.streams, verify=False) as model:
                encoder = model.encoder(modality)
                usual = of_tower(model.artifact.tower(modality), modality, one.threads).streams
                layouts[one] = encoder.layout, encoder.layout.streams == usual
                own_settings = [setting for setting in settings if setting.opened == one]
                for setting in own_settings if turn is opened else own_settings[::-1]:
                    runs[setting].add(_visit(encoder, items, setting, plan.seconds / plan.rounds))
                    on_done()
    about: dict[str, JsonValue] = {
        "modality": modality,
        "data": chosen.source,
        "items": len(items),
        "seconds": plan.seconds,
        "rounds": plan.rounds,
        "load_before": load_before,
    }
    records = []
    for place, source in enumerate(sources):
        mine = {setting: run for setting, run in runs.items() if setting.opened.source == place}
        told = [f"threads {one.threads}: {layout}" for one, (layout, _) in layouts.items() if one.source == place]
        rows = [_pace(modality, *layouts[setting.opened], setting, run) for setting, run in mine.items()]
        records.append(
            Record(
                task="speed",
                title=f"speed, {modality}",
                model=str(source),
                settings=about | {"layout": "; ".join(told)},
                measures=_headlines(rows, list(mine.values()), plan.seed),
                details={"rows": [_row(row) for row in rows]},
                failed=tuple(failed.items()),
                environment=environments[place],
            )
        )
    return records


def _readable(model: Model, modality: str, items: list[object], failed: dict[str, str]) -> list[object]:
    """The items that can be embedded; why the others cannot is put into ``failed``."""
    try:
        model.embed(items, modality)
    except ItemsError as error:
        failed |= {describe(items[place]): reason.message for place, reason in error.errors.items()}
        if not error.indices:
            name, first = next(iter(failed.items()))
            raise UsageError(f"none of {len(items)} items can be embedded; first: {name}: {first}") from error
        return [items[place] for place in error.indices]
    return items


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


def _pace(modality: str, layout: Layout, chosen: bool, setting: Setting, run: Run) -> Pace:
    p50, p90, p99 = (float(value) for value in np.percentile(run.latencies, (50, 90, 99)))
    calls = len(run.latencies)
    return Pace(
        modality=modality,
        threads=setting.opened.threads,
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
        chosen=chosen,
    )


def _row(row: Pace) -> dict[str, JsonValue]:
    told: dict[str, Any] = asdict(row)
    return told


def _headlines(rows: Sequence[Pace], runs: Sequence[Run], seed: int) -> dict[str, Estimate]:
    """The numbers that stand for all: one item at a time, the most that was reached, and what more cores gave."""
    most = max(row.threads for row in rows)
    alone = min(rows, key=lambda row: (-row.threads, row.callers, row.batch))
    calls = runs[rows.index(alone)].latencies
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
