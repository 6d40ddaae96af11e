"""Open towers: once each, within the budget, given back when idle, never taken away from who uses them."""

from __future__ import annotations

import gc
import random
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest

from slimbind.errors import EngineError, UsageError
from slimbind.runtime.pool import TowerPool

SIZES = {"vision": 60, "text": 30, "audio": 20, "depth": 10}


class FakeSession:
    rank = 4

    def __init__(self, name, log):
        self.name, self.log, self.closed = name, log, False

    def settle(self):
        assert not self.closed

    def close(self):
        assert not self.closed, "closed twice"
        self.closed = True
        self.log.append(f"-{self.name}")


@pytest.fixture
def log():
    return []


@pytest.fixture
def make(log):
    pools = []

    def make(**options):
        def opener(name):
            log.append(f"+{name}")
            time.sleep(0.01)
            return FakeSession(name, log)

        pools.append(TowerPool(opener, SIZES, **options))
        return pools[-1]

    yield make
    for pool in pools:
        pool.close()


def use(pool, name):
    with pool.lease(name) as session:
        assert session.name == name and not session.closed


def wait_for(condition, seconds=5.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.005)


def test_a_tower_opens_on_first_use_and_stays(make, log):
    pool = make()
    assert pool.loaded == {}
    use(pool, "text")
    use(pool, "text")
    assert log == ["+text"]
    assert pool.loaded["text"].bytes == 30
    assert pool.loaded["text"].seconds > 0


def test_the_least_recently_used_tower_makes_room(make, log):
    pool = make(budget=65)
    for name in ("text", "audio", "depth", "text"):
        use(pool, name)
    log.clear()
    use(pool, "audio")
    assert log == []  # 60 of 65
    pool.unload("depth")
    use(pool, "audio")
    log.clear()
    use(pool, "vision")
    assert log == ["-text", "-audio", "+vision"]
    use(pool, "depth")
    assert log[3:] == ["-vision", "+depth"]


def test_no_more_is_closed_than_needed(make, log):
    pool = make(budget=60)
    for name in ("text", "audio", "depth", "text"):
        use(pool, name)
    log.clear()
    pool._sizes = SIZES | {"imu": 15}
    use(pool, "imu")
    assert log == ["-audio", "+imu"]
    assert set(pool.loaded) == {"text", "depth", "imu"}


def test_a_tower_larger_than_the_budget_is_refused_before_anything_is_opened_or_closed(make, log):
    pool = make(budget=50)
    use(pool, "text")
    with pytest.raises(UsageError, match="vision tower has 60 bytes.*budget is 50"):
        use(pool, "vision")
    assert log == ["+text"]


def test_who_needs_room_waits_for_towers_in_use(make, log):
    pool = make(budget=70)
    done = threading.Event()

    def other():
        use(pool, "vision")
        done.set()

    thread = threading.Thread(target=other)
    with pool.lease("text") as session:
        thread.start()
        assert not done.wait(0.1)
        assert not session.closed
    assert done.wait(5)
    thread.join()
    assert log == ["+text", "-text", "+vision"]


def test_many_threads_open_a_tower_once(make, log):
    pool = make()
    with ThreadPoolExecutor(16) as threads:
        list(threads.map(lambda _: use(pool, "vision"), range(64)))
    assert log == ["+vision"]


def test_threads_that_fight_for_room_all_get_their_turn(make, log):
    pool = make(budget=60)
    names = ["vision", "text", "audio", "depth"] * 10
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda name: use(pool, name), names))
    opened = 0
    for line in log:
        opened += SIZES[line[1:]] * (1 if line[0] == "+" else -1)
        assert opened <= 60


def test_a_tower_that_fails_to_open_is_tried_again(log):
    fails = [True]

    def opener(name):
        if fails.pop() if fails else False:
            raise EngineError("not this time")
        return FakeSession(name, log)

    pool = TowerPool(opener, SIZES)
    with pytest.raises(EngineError, match="not this time"):
        use(pool, "text")
    assert pool.loaded == {}
    use(pool, "text")
    pool.close()


@pytest.mark.parametrize("moment", [1, 2, 3])
def test_ctrl_c_while_memory_is_measured_does_not_make_closing_wait_for_ever(log, monkeypatch, moment):
    calls = []

    def interrupted():
        calls.append(1)
        if len(calls) == moment:
            raise KeyboardInterrupt
        return 0

    pool = TowerPool(lambda name: FakeSession(name, log), SIZES)
    monkeypatch.setattr("slimbind.runtime.pool.resident_bytes", interrupted)
    with pytest.raises(KeyboardInterrupt):
        use(pool, "text")
    use(pool, "text")  # and it can be opened again
    closing = threading.Thread(target=pool.close, daemon=True)
    closing.start()
    closing.join(5)
    assert not closing.is_alive()
    assert pool.loaded == {}


def test_an_error_inside_the_block_lets_go_of_the_tower(make, log):
    pool = make()
    with pytest.raises(RuntimeError), pool.lease("text"):
        raise RuntimeError
    pool.unload("text")
    assert log == ["+text", "-text"]


def test_idle_towers_are_closed_and_used_ones_are_not(make, log):
    pool = make(idle_ttl=0.1)
    use(pool, "audio")
    with pool.lease("text") as session:
        wait_for(lambda: "-audio" in log)
        time.sleep(0.2)
        assert not session.closed
    assert set(pool.loaded) == {"text"}
    assert pool.loaded["text"].idle >= 0
    wait_for(lambda: not pool.loaded)
    use(pool, "text")
    assert log == ["+audio", "+text", "-audio", "-text", "+text"] or log[-1] == "+text"


def test_use_puts_the_end_of_idleness_off(make, log):
    pool = make(idle_ttl=0.4)
    for _ in range(5):
        use(pool, "text")
        time.sleep(0.1)
    assert log == ["+text"]


def test_unload_waits_for_the_user(make, log):
    pool = make()
    with pool.lease("text"):
        thread = threading.Thread(target=pool.unload, args=("text",))
        thread.start()
        time.sleep(0.05)
        assert log == ["+text"]
    thread.join(5)
    assert log == ["+text", "-text"]


def test_a_closed_pool_opens_nothing(make, log):
    pool = make(idle_ttl=1)
    use(pool, "text")
    pool.close()
    pool.close()
    assert log == ["+text", "-text"]
    with pytest.raises(UsageError, match="closed"):
        use(pool, "text")


def test_the_idle_thread_ends_with_its_pool():
    pool = TowerPool(lambda name: FakeSession(name, []), SIZES, idle_ttl=0.05)
    use(pool, "text")
    thread, gone = pool._reaper, weakref.ref(pool)
    assert thread is not None and thread.daemon
    del pool
    gc.collect()
    thread.join(5)
    assert not thread.is_alive()
    assert gone() is None


def test_an_endless_idle_time_is_no_error_in_the_idle_thread(make, log):
    pool = make(idle_ttl=float("inf"))
    use(pool, "text")
    pool._reaper.join(0.1)
    assert pool._reaper.is_alive(), "it waits"
    pool.close()
    pool._reaper.join(5)
    assert not pool._reaper.is_alive()


class Busy:
    """Threads that use a tower in turns, so that it is always in use."""

    def __init__(self, pool, name, count=3):
        self.pool, self.name, self.end, self.turns = pool, name, threading.Event(), 0
        self.threads = [threading.Thread(target=self.work, args=(number,)) for number in range(count)]

    def work(self, number):
        while not self.end.is_set():
            with self.pool.lease(self.name) as session:
                time.sleep(0.01 + 0.002 * number)
                assert not session.closed
            self.turns += 1

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        wait_for(lambda: self.turns > 3)
        return self

    def __exit__(self, *_):
        self.end.set()
        for thread in self.threads:
            thread.join(10)
        assert not any(thread.is_alive() for thread in self.threads)


def test_callers_that_overlap_for_ever_do_not_keep_others_out(make, log, monkeypatch):
    monkeypatch.setattr("slimbind.runtime.pool._PATIENCE", 0.05)
    pool = make(budget=60)
    with Busy(pool, "vision") as busy, ThreadPoolExecutor(3) as threads:
        for future in [threads.submit(use, pool, name) for name in ("text", "audio", "depth", "text")]:
            future.result(timeout=10)
        before = busy.turns
        wait_for(lambda: busy.turns > before)  # and they come to their turn again
    assert not pool._waiting


def test_what_is_always_in_use_can_be_unloaded_and_what_is_not_meant_goes_on(make, log, monkeypatch):
    monkeypatch.setattr("slimbind.runtime.pool._PATIENCE", 0.05)
    pool = make()
    with Busy(pool, "vision"), Busy(pool, "text") as other:
        unloading = threading.Thread(target=pool.unload, args=("vision",), daemon=True)
        unloading.start()
        unloading.join(10)
        assert not unloading.is_alive() and "-vision" in log and "-text" not in log
        with pool.lease("vision"):
            unloading = threading.Thread(target=pool.unload, args=("vision",), daemon=True)
            unloading.start()
            time.sleep(0.2)
            before = other.turns
            wait_for(lambda: other.turns > before + 3)  # nobody waits for this one
        unloading.join(10)
    assert not pool._waiting


def test_who_gives_up_waiting_holds_nobody_back(make, monkeypatch):
    monkeypatch.setattr("slimbind.runtime.pool._PATIENCE", 0.0)
    pool = make(budget=60)
    with pool.lease("vision"):
        with monkeypatch.context() as patch:
            patch.setattr(pool._changed, "wait", _interrupt)
            for refused in (lambda: use(pool, "text"), lambda: pool.unload("vision")):
                with pytest.raises(KeyboardInterrupt):
                    refused()
        use(pool, "vision")
    assert not pool._waiting and set(pool.loaded) == {"vision"}


def _interrupt(timeout=None):
    raise KeyboardInterrupt


def test_the_idle_thread_ends_at_once_when_it_is_closed_at_a_bad_moment(log, monkeypatch):
    pool = TowerPool(lambda name: FakeSession(name, log), SIZES, idle_ttl=3600)
    plain, looked = pool._close_idle, threading.Event()

    def slow():
        wait = plain()
        looked.set()
        time.sleep(0.2)  # closed now: before it waits, and after it has looked
        return wait

    monkeypatch.setattr(pool, "_close_idle", slow)
    use(pool, "text")
    assert looked.wait(5)
    pool.close()
    pool._reaper.join(5)
    assert not pool._reaper.is_alive()


@pytest.mark.parametrize("seed", range(6))
def test_whatever_many_threads_do_at_once_nobody_is_left_waiting(seed, monkeypatch):
    """Leases that fail, towers that do not open, unloading, and closing in the middle of it."""
    plan = random.Random(seed)
    monkeypatch.setattr("slimbind.runtime.pool._PATIENCE", plan.choice([0.0, 0.005, 1.0]))
    budget = plan.choice([60, 90, None])
    lock, held, most, left = threading.Lock(), [0], [0], []

    class Session(FakeSession):
        def close(self):
            super().close()
            with lock:
                held[0] -= SIZES[self.name]

    def opener(name):
        time.sleep(0.001)
        if dice(0.1):
            raise EngineError("not this time")
        with lock:
            held[0] += SIZES[name]
            most[0] = max(most[0], held[0])
        return Session(name, left)

    def dice(share):
        with lock:
            return plan.random() < share

    pool = TowerPool(opener, SIZES, budget=budget, idle_ttl=plan.choice([None, 0.002]))

    def work(number):
        own = random.Random(seed * 100 + number)
        for _ in range(60):
            name = own.choice(list(SIZES))
            if own.random() < 0.15:
                pool.unload(own.choice([None, name]))
                continue
            with suppress(EngineError, ZeroDivisionError), pool.lease(name) as session:
                time.sleep(own.random() * 0.002)
                assert session.name == name and not session.closed
                if own.random() < 0.1:
                    raise ZeroDivisionError
        return True

    closes = plan.random() < 0.5
    with ThreadPoolExecutor(8) as threads:
        futures = [threads.submit(work, number) for number in range(8)]
        if closes:
            time.sleep(0.05)
            pool.close()
        for future in futures:
            try:
                assert future.result(timeout=60)
            except UsageError as error:
                assert closes and "closed" in str(error)
    pool.close()
    assert held[0] == 0 and not pool._waiting and not pool._slots
    assert budget is None or most[0] <= budget
