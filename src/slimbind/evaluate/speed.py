"""How many times as fast one thing is as another: both timed in turns, so that a busy machine slows down both."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

# What is measured: enough rounds for a median, and no longer than somebody waits for a number.
LEAST_ROUNDS = 3
MOST_ROUNDS = 60


@dataclass(frozen=True)
class Pace:
    """The outcome.

    Args:
        ratio: time of the reference / time of the candidate, the median over the rounds: 2 is twice as fast.
        low: the ratio that a quarter of the rounds stay below.
        high: the ratio that a quarter of the rounds exceed. Where low and high are far apart, the machine was busy.
        reference: seconds per call, median.
        candidate: seconds per call, median.
        rounds: how many were timed.
    """

    ratio: float
    low: float
    high: float
    reference: float
    candidate: float
    rounds: int


def in_turns(
    reference: Sequence[Callable[[], object]],
    candidate: Sequence[Callable[[], object]],
    *,
    seconds: float = 3.0,
    clock: Callable[[], float] = time.perf_counter,
) -> Pace:
    """Time two ways of doing the same jobs, one job at a time, the two ways right after each other.

    Every job is done once by both before the clock starts (engines prepare for each new shape). Then round r does job
    r, first by one, in the next round first by the other, and takes the ratio; the median of the ratios does not care
    for a few rounds in which somebody else used the machine.

    Args:
        reference: the jobs, done the one way.
        candidate: the same jobs in the same order, done the other way.
        seconds: stop after so long, but not before every job was done once, three rounds at least.
        clock: in seconds.
    """
    if not reference or len(reference) != len(candidate):
        raise ValueError(f"{len(reference)} jobs against {len(candidate)}")
    for job in (*reference, *candidate):
        job()
    times: list[tuple[float, float]] = []
    started = clock()
    least = max(LEAST_ROUNDS, len(reference))
    while len(times) < least or (len(times) < MOST_ROUNDS and clock() - started < seconds):
        place = len(times) % len(reference)
        pair = (reference[place], candidate[place])
        if len(times) % 2:
            second, first = _time(pair[1], clock), _time(pair[0], clock)
        else:
            first, second = _time(pair[0], clock), _time(pair[1], clock)
        times.append((first, second))
    table = np.maximum(np.array(times), 1e-9)  # a clock may be too coarse for a tiny tower
    ratios = table[:, 0] / table[:, 1]
    low, middle, high = (float(value) for value in np.percentile(ratios, (25, 50, 75)))
    slow, fast = (float(value) for value in np.median(table, axis=0))
    return Pace(middle, low, high, slow, fast, len(times))


def _time(job: Callable[[], object], clock: Callable[[], float]) -> float:
    started = clock()
    job()
    return clock() - started
