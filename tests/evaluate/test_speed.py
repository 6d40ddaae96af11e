"""Both are timed in turns: what disturbs the machine disturbs both, and the ratio stays."""

from __future__ import annotations

import pytest

from slimbind.evaluate.speed import LEAST_ROUNDS, MOST_ROUNDS, in_turns


class Machine:
    """A clock that jobs push forward; ``slow`` says how much more a job takes that begins at that time."""

    def __init__(self, slow=lambda now: 1.0):
        self.now = 0.0
        self.log = []
        self.slow = slow

    def clock(self):
        return self.now

    def job(self, name, seconds):
        def run():
            self.log.append(name)
            self.now += seconds * self.slow(self.now)

        return run


def test_the_ratio_is_that_of_the_times():
    machine = Machine()
    pace = in_turns([machine.job("r", 0.4)], [machine.job("c", 0.1)], clock=machine.clock)
    assert (pace.ratio, pace.low, pace.high) == (pytest.approx(4),) * 3
    assert (pace.reference, pace.candidate) == (pytest.approx(0.4), pytest.approx(0.1))


def test_a_machine_that_is_busy_for_a_while_does_not_change_it():
    machine = Machine(slow=lambda now: 10 if 3 < now < 6 else 1)
    pace = in_turns([machine.job("r", 0.4)], [machine.job("c", 0.1)], seconds=20, clock=machine.clock)
    assert pace.ratio == pytest.approx(4)


def test_a_machine_that_slows_down_is_cancelled_by_changing_the_order():
    machine = Machine(slow=lambda now: 1 + now)
    pace = in_turns([machine.job("r", 0.01)], [machine.job("c", 0.01)], seconds=1, clock=machine.clock)
    assert pace.ratio == pytest.approx(1, abs=0.02)


def test_every_job_is_warmed_up_then_timed_by_both_in_turns():
    machine = Machine()
    names = "abcd"
    in_turns(
        [machine.job(f"r{name}", 1) for name in names],
        [machine.job(f"c{name}", 1) for name in names],
        seconds=0,
        clock=machine.clock,
    )
    warm, timed = machine.log[:8], machine.log[8:]
    assert sorted(warm) == sorted(timed) == sorted(f"{side}{name}" for side in "rc" for name in names)
    assert timed == ["ra", "ca", "cb", "rb", "rc", "cc", "cd", "rd"]


def test_it_ends_by_time_but_not_before_three_rounds_and_not_after_too_many():
    slow, quick = Machine(), Machine()
    assert in_turns([slow.job("r", 9)], [slow.job("c", 9)], clock=slow.clock).rounds == LEAST_ROUNDS
    assert in_turns([quick.job("r", 0)], [quick.job("c", 0)], clock=quick.clock).rounds == MOST_ROUNDS


def test_jobs_that_do_not_correspond_are_a_mistake():
    with pytest.raises(ValueError, match="2 jobs against 1"):
        in_turns([print, print], [print])
    with pytest.raises(ValueError, match="0 jobs"):
        in_turns([], [])
