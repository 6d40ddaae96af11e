"""Who works when: all that a model does at one time fits the cores it may use, however many callers it has.

Work is done by the callers' own threads and by a few of the model's. Before it computes, each takes as many cores as it
has threads (``Cores``): one to decode an item, a layout's ``threads`` for a forward pass. So decoding, engines and
callers together never run on more cores than there are, and nobody's threads are stopped in the middle of a layer
because somebody else's wait for the same core.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from threading import Event, Lock
from typing import ParamSpec, TypeVar

from slimbind.errors import UsageError
from slimbind.runtime.forks import leave_to_parent, renew_after_fork

P = ParamSpec("P")
T = TypeVar("T")


class _Turn:
    """Somebody who has, or waits for, some cores."""

    def __init__(self, cores: int) -> None:
        self.cores = cores
        self.granted = Event()


class Cores:
    """So many cores, each used by one at a time; who comes first gets them first, forward passes before all else.

    A pass that waits for several cores is not overtaken by items that need one: those would never leave it enough.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        # What is free follows from who holds cores: there is no number that an interrupt could leave wrong.
        self._holders: set[_Turn] = set()
        self._passes: deque[_Turn] = deque()
        self._others: deque[_Turn] = deque()
        self._lock = Lock()

    @property
    def used(self) -> int:
        """How many are taken now."""
        with self._lock:
            return self._used()

    @contextmanager
    def taken(self, count: int = 1, *, for_pass: bool = False) -> Iterator[None]:
        """Hold ``count`` cores (all, where there are fewer) for the length of the block; waits until they are free."""
        turn = _Turn(min(count, self.count))
        queue = self._passes if for_pass else self._others
        try:
            with self._lock:
                queue.append(turn)
                self._grant()
            turn.granted.wait()
            yield
        finally:  # Ctrl-C may have come at any place
            with self._lock:
                self._holders.discard(turn)
                if turn in queue:
                    queue.remove(turn)
                self._grant()

    def _grant(self) -> None:
        for queue in (self._passes, self._others):
            while queue:
                turn = queue[0]
                if turn.cores > self.count - self._used():
                    return
                self._holders.add(turn)
                queue.popleft()
                turn.granted.set()

    def _used(self) -> int:
        return sum(turn.cores for turn in self._holders)


class Crew:
    """A model's cores, and the threads that work for it beside its callers'; shared by all of its encoders.

    Args:
        cores: how many cores the model may use.
    """

    def __init__(self, cores: int) -> None:
        self._closed = False
        self._begin(cores)
        renew_after_fork(self)

    def _begin(self, cores: int) -> None:
        self.cores = Cores(cores)
        self._lock = Lock()
        # Two kinds of threads, so that a forward pass does not queue behind everything that is still to be decoded.
        self._pools: dict[str, ThreadPoolExecutor] = {}

    @property
    def size(self) -> int:
        """How many cores there are."""
        return self.cores.count

    def decode(self, task: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Prepare an item, in a thread of the crew. ``task`` takes the core it needs itself.

        Raises:
            UsageError: the crew was closed.
        """
        return self._submit("decode", task, *args, **kwargs)

    def forward(self, task: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Run a batch through a tower, in a thread of the crew. ``task`` takes the cores it needs itself.

        Raises:
            UsageError: the crew was closed.
        """
        return self._submit("forward", task, *args, **kwargs)

    def close(self) -> None:
        """Let the threads go, as soon as they have done what they are at. There are no others after them."""
        with self._lock:
            self._closed = True
            for pool in self._pools.values():
                pool.shutdown(wait=False)
            self._pools.clear()

    def _submit(self, kind: str, task: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        with self._lock:
            if self._closed:
                raise UsageError("the model is closed", hint="load it again")
            if kind not in self._pools:
                self._pools[kind] = ThreadPoolExecutor(self.size, thread_name_prefix=f"slimbind-{kind}")
            return self._pools[kind].submit(task, *args, **kwargs)

    def after_fork(self) -> None:
        """See ``forks``."""
        leave_to_parent(self._pools)
        self._begin(self.size)
