"""The cores of a model: never more taken than there are, nobody forgotten, whoever is interrupted."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slimbind.errors import UsageError
from slimbind.runtime.crew import Cores, Crew


def wait_for(condition, seconds=5.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.002)


@settings(deadline=None, max_examples=25)
@given(
    count=st.integers(1, 5),
    jobs=st.lists(st.tuples(st.integers(1, 7), st.booleans()), min_size=1, max_size=30),
)
def test_no_more_cores_are_used_than_there_are_and_everybody_gets_a_turn(count, jobs):
    cores = Cores(count)
    lock, used, most, done = threading.Lock(), 0, 0, 0

    def work(wanted, for_pass):
        nonlocal used, most, done
        with cores.taken(wanted, for_pass=for_pass):
            with lock:
                used += min(wanted, count)
                most = max(most, used)
            time.sleep(0.0005)
            with lock:
                used -= min(wanted, count)
                done += 1

    with ThreadPoolExecutor(len(jobs)) as pool:
        for future in [pool.submit(work, *job) for job in jobs]:
            future.result(timeout=20)
    assert most <= count and done == len(jobs) and cores.used == 0


class Line:
    """Threads that wait for cores, in a known order, and note when it is their turn."""

    def __init__(self, cores):
        self.cores, self.order, self.threads = cores, [], []

    def add(self, name, count, *, for_pass=False):
        def work():
            with self.cores.taken(count, for_pass=for_pass):
                self.order.append(name)
                time.sleep(0.01)

        queue = self.cores._passes if for_pass else self.cores._others
        before = len(queue)
        self.threads.append(threading.Thread(target=work))
        self.threads[-1].start()
        wait_for(lambda: len(queue) > before)

    def end(self):
        for thread in self.threads:
            thread.join(5)
        return self.order


def test_who_comes_first_is_served_first():
    cores = Cores(1)
    line = Line(cores)
    with cores.taken():
        for name in "abcde":
            line.add(name, 1)
    assert line.end() == list("abcde")


def test_forward_passes_go_before_items_that_are_still_to_be_decoded():
    cores = Cores(2)
    line = Line(cores)
    with cores.taken(2):
        line.add("first item", 1)
        line.add("second item", 1)
        line.add("pass", 2, for_pass=True)
    assert line.end()[0] == "pass"


def test_a_pass_that_waits_for_all_cores_is_not_overtaken_for_ever():
    cores = Cores(2)
    line = Line(cores)
    with cores.taken(1):
        line.add("pass", 2, for_pass=True)
        line.add("item", 1)  # there is a core for it, but then there would never be two
        time.sleep(0.05)
        assert line.order == []
    assert line.end() == ["pass", "item"]


def test_an_error_gives_the_cores_back():
    cores = Cores(2)
    with pytest.raises(ZeroDivisionError), cores.taken(2):
        raise ZeroDivisionError
    assert cores.used == 0


def test_who_is_interrupted_while_waiting_leaves_the_line(monkeypatch):
    cores = Cores(1)

    def interrupted(self, timeout=None):
        raise KeyboardInterrupt

    with cores.taken():
        with monkeypatch.context() as patch:
            patch.setattr(threading.Event, "wait", interrupted)
            with pytest.raises(KeyboardInterrupt), cores.taken():
                pass
        assert cores.used == 1 and not cores._others
    with cores.taken():
        assert cores.used == 1


def test_a_crew_has_no_threads_before_it_is_asked_and_lets_them_go():
    crew = Crew(3)

    def threads():
        return [thread.name for thread in threading.enumerate() if thread.name.startswith("slimbind-decode")]

    before = len(threads())
    assert [crew.decode(pow, number, 2).result() for number in range(20)] == [number**2 for number in range(20)]
    assert before < len(threads()) <= before + 3
    crew.close()
    wait_for(lambda: len(threads()) == before)
    with pytest.raises(UsageError, match="closed"):
        crew.forward(pow, 2, 2)
    crew.close()


def test_openvino_converts_types_in_many_threads_at_once():
    """It hangs where several threads make the first conversion; ``quiet.openvino`` makes it beforehand."""
    code = (
        "import sys, threading; sys.setswitchinterval(1e-6)\n"
        "from slimbind.runtime import quiet\n"
        "ov, barrier = quiet.openvino(), threading.Barrier(4)\n"
        "def convert(): barrier.wait(); ov.Type.f32.to_dtype()\n"
        "threads = [threading.Thread(target=convert, daemon=True) for _ in range(4)]\n"
        "for thread in threads: thread.start()\n"
        "for thread in threads: thread.join(20)\n"
        "sys.exit(any(thread.is_alive() for thread in threads))"
    )
    for _ in range(3):
        subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
