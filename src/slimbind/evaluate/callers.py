"""Threads that call something at the same time: how long each call took, and what the process needed meanwhile."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

_LOOK_EVERY = 0.05  # seconds between two looks at the process


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
