"""Which towers are open: opened once on first use, closed when idle, when room is needed, or when asked to."""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from slimbind.errors import UsageError
from slimbind.runtime.engine import Session
from slimbind.runtime.forks import leave_to_parent, renew_after_fork
from slimbind.runtime.memory import resident_bytes, trim_heap

_MEASURED_RELEASES = 2
# Seconds for which who waits for a tower to become free lets others use it: callers that overlap could keep it in use
# without end.
_PATIENCE = 1.0


@dataclass(frozen=True)
class LoadedTower:
    """One open tower, as ``Model.loaded`` shows it.

    Attributes:
        bytes: its weights on disk; what it counts for in the memory budget.
        resident: by how much the process had grown, in bytes, when it had been opened and used for the first time; None
            where that cannot be measured. What else happened in the process meanwhile is in it too, and so are the
            engine's own libraries for the first tower.
        seconds: how long opening took.
        idle: seconds since it was last used; 0 while in use.
    """

    bytes: int
    resident: int | None
    seconds: float
    idle: float


@dataclass(frozen=True)
class _Waiter:
    """Somebody who waits until nobody uses ``tower``; or enough of them, to have room for another, where it is None."""

    tower: str | None
    since: float = field(default_factory=time.monotonic)


@dataclass
class _Slot:
    session: Session | None = None  # None while it is being opened
    # Tokens, and not a number: a second interrupt, or one between two lines, could leave a number wrong.
    users: set[object] = field(default_factory=set)
    workers: set[object] = field(default_factory=set)  # users who have not finished their work yet
    last_used: float = 0.0
    seconds: float = 0.0
    before: int | None = None  # what the process held before the tower was opened
    resident: int | None = None
    number: int = 0  # how many towers had been opened by then
    releases: int = 0


class TowerPool:
    """Open sessions by modality, shared by all threads.

    Args:
        opener: opens one tower; called by one thread at a time per modality.
        sizes: bytes of each tower's weights.
        budget: most bytes of weights open at once; the tower that was used least recently is closed first.
        idle_ttl: seconds after which a tower that nobody uses is closed.
    """

    def __init__(
        self,
        opener: Callable[[str], Session],
        sizes: Mapping[str, int],
        *,
        budget: int | None = None,
        idle_ttl: float | None = None,
    ) -> None:
        self._opener = opener
        self._sizes = sizes
        self._budget = budget
        self._idle_ttl = idle_ttl
        self._closed = False
        self._opened = 0
        self._begin()
        renew_after_fork(self)

    def _begin(self) -> None:
        self._slots: dict[str, _Slot] = {}
        self._changed = threading.Condition()
        self._waiting: dict[object, _Waiter] = {}  # in the order in which they came
        self._reaper: threading.Thread | None = None

    @property
    def loaded(self) -> dict[str, LoadedTower]:
        """The open towers."""
        with self._changed:
            now = time.monotonic()
            return {
                name: LoadedTower(
                    bytes=self._sizes[name],
                    resident=slot.resident,
                    seconds=slot.seconds,
                    idle=0.0 if slot.users else now - slot.last_used,
                )
                for name, slot in self._slots.items()
                if slot.session is not None
            }

    @contextmanager
    def lease(self, modality: str) -> Iterator[Session]:
        """Use a tower; it is opened first if need be, and not closed before the block ends.

        Waits while every tower that would have to make room is in use, so hold it for a forward pass and no longer, and
        one at a time: who waits for longer than a second is served before others may use what has to go.

        Raises:
            UsageError: it is larger than the whole budget, or the pool was closed.
        """
        user = object()
        # Ctrl-C may come at any place, and a slot that is never released would make `close` wait for ever.
        try:
            slot = self._take(modality, user)
            session = self._open(modality, slot) if slot.session is None else slot.session
            try:
                slot.workers.add(user)
                yield session
            finally:
                slot.workers.discard(user)
                if not slot.workers:  # what the last one gives back, the others would only have to get again
                    session.settle()
        finally:
            self._release(modality, user)

    def unload(self, modality: str | None = None) -> None:
        """Close one tower, or all, as soon as nobody uses them, and give their memory back."""
        closed, waiter = False, object()
        with self._changed:
            try:
                for name in [modality] if modality else list(self._slots):
                    while (slot := self._slots.get(name)) and (slot.users or slot.session is None):
                        self._waiting.setdefault(waiter, _Waiter(name))
                        self._changed.wait()
                    self._stop_waiting(waiter)
                    closed |= self._close_slot(name)
            finally:
                self._stop_waiting(waiter)
        if closed:
            trim_heap()

    def close(self) -> None:
        """Close all towers for good."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self.unload()

    def after_fork(self) -> None:
        """See ``forks``: the engines' threads are the parent's, and so are the towers; they are opened anew."""
        leave_to_parent(self._slots)
        self._begin()

    def _take(self, modality: str, user: object) -> _Slot:
        """A slot with one user more; its session is None when it is up to the caller to open it."""
        size = self._sizes[modality]
        if self._budget is not None and size > self._budget:
            raise UsageError(
                f"the {modality} tower has {size} bytes of weights; the memory budget is {self._budget}",
                hint="raise memory_budget, or use a smaller model",
            )
        freed = False
        try:
            with self._changed:
                while True:
                    if self._closed:
                        raise UsageError("the model is closed", hint="load it again")
                    slot = self._slots.get(modality)
                    if not self._is_held_back(modality, user):
                        if slot is not None and slot.session is not None:
                            slot.users.add(user)
                            return slot
                        if slot is None:
                            fits, closed = self._make_room(size)
                            freed |= closed
                            if fits:
                                self._slots[modality] = slot = _Slot(users={user})
                                return slot
                            self._waiting.setdefault(user, _Waiter(None))
                    self._changed.wait()
        finally:
            with self._changed:
                self._stop_waiting(user)
            if freed:
                trim_heap()

    def _is_held_back(self, modality: str, user: object) -> bool:
        """Whether somebody else has waited for long enough to be served before who comes new, or later."""
        first, waiter = next(iter(self._waiting.items()), (user, None))
        if waiter is None or first is user or waiter.tower not in (None, modality):
            return False
        return time.monotonic() - waiter.since >= _PATIENCE

    def _stop_waiting(self, user: object) -> None:
        if self._waiting.pop(user, None) is not None:
            self._changed.notify_all()  # whom it held back may go on

    def _open(self, modality: str, slot: _Slot) -> Session:
        before, started = resident_bytes(), time.monotonic()
        session = self._opener(modality)
        after = resident_bytes()
        with self._changed:
            slot.seconds = time.monotonic() - started
            slot.before, slot.resident = before, _growth(before, after)
            self._opened += 1
            slot.number = self._opened
            slot.last_used = time.monotonic()
            slot.session = session
            if self._idle_ttl is not None and self._reaper is None:
                self._reaper = threading.Thread(
                    target=_reap, args=(weakref.ref(self), self._changed), name="slimbind-idle", daemon=True
                )
                self._reaper.start()
            self._changed.notify_all()
        return session

    def _release(self, modality: str, user: object) -> None:
        slot = self._slots.get(modality)
        if slot is None or user not in slot.users:
            return  # it was never taken
        # Engines repack weights during the first run, which is the first release, or the second after a preload.
        measure = slot.session is not None and slot.releases < _MEASURED_RELEASES and slot.number == self._opened
        after = None
        try:
            after = resident_bytes() if measure else None
        finally:
            with self._changed:
                if after is not None:
                    slot.resident = _growth(slot.before, after)
                slot.releases += 1
                slot.users.discard(user)
                slot.last_used = time.monotonic()
                if slot.session is None:  # it could not be opened; who waits for it may try
                    del self._slots[modality]
                self._changed.notify_all()

    def _make_room(self, size: int) -> tuple[bool, bool]:
        """Close what was used least recently until ``size`` fits; (does it fit now, was anything closed)."""
        if self._budget is None:
            return True, False
        open_bytes = sum(self._sizes[name] for name in self._slots)
        idle = sorted(
            (name for name, slot in self._slots.items() if slot.session is not None and not slot.users),
            key=lambda name: self._slots[name].last_used,
        )
        if open_bytes - sum(self._sizes[name] for name in idle) + size > self._budget:
            return False, False  # even all idle ones would not do: wait for those in use, close nothing for nothing
        closed = False
        for name in idle:
            if open_bytes + size <= self._budget:
                break
            open_bytes -= self._sizes[name]
            closed |= self._close_slot(name)
        return True, closed

    def _close_slot(self, name: str) -> bool:
        slot = self._slots.pop(name, None)
        if slot is None or slot.session is None:
            return False
        slot.session.close()
        slot.session = None
        self._changed.notify_all()
        return True

    def _close_idle(self) -> float | None:
        """Close what has been idle for too long; seconds until the next one may be, None when the pool is closed."""
        closed = False
        with self._changed:
            if self._closed or self._idle_ttl is None:
                return None
            now = time.monotonic()
            for name, slot in list(self._slots.items()):
                if slot.session is not None and not slot.users and now - slot.last_used >= self._idle_ttl:
                    closed |= self._close_slot(name)
            ends = [slot.last_used + self._idle_ttl for slot in self._slots.values() if not slot.users]
        if closed:
            trim_heap()
        return max(0.01, min(ends, default=now + self._idle_ttl) - now)


def _growth(before: int | None, after: int | None) -> int | None:
    return None if before is None or after is None else max(0, after - before)


def _reap(pool: weakref.ref[TowerPool], changed: threading.Condition) -> None:
    """Close idle towers until the pool is closed or forgotten (hence the weak reference)."""
    while True:
        alive = pool()
        wait = alive._close_idle() if alive is not None else None
        with changed:
            if alive is None or wait is None or alive._closed:  # it may have been closed just before the lock was had
                return
            del alive
            changed.wait(min(wait, threading.TIMEOUT_MAX))
