"""What people see: messages and progress on standard error. Standard output is kept for data."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Protocol

_EVERY = 5.0  # seconds between lines of progress in a log


class Advance(Protocol):
    """Tells a progress bar what was done."""

    def __call__(self, amount: float = 1) -> None:
        """Count ``amount`` more items as done."""


def say(text: str) -> None:
    """One line on standard error."""
    print(printable(text), file=sys.stderr, flush=True)  # noqa: T201


def error(message: str, hint: str = "") -> None:
    """An error and what to do about it, on standard error."""
    say(f"error: {message}")
    if hint:
        say(f"hint: {hint}")


def shows_progress(show: bool | None = None) -> bool:
    """Whether ``progress(show=...)`` shows anything."""
    return sys.stderr.isatty() if show is None else show


@contextmanager
def progress(
    label: str, *, total: float | None = None, unit: str = "items", show: bool | None = None
) -> Iterator[Advance]:
    """A progress bar with ``unit``/s on standard error while it is a terminal; silent otherwise.

    ``unit="bytes"`` shows sizes and MB/s. ``show=True`` writes a line every few seconds where there is no terminal,
    ``show=False`` nothing in any case.
    """
    if show is False or not sys.stderr.isatty():
        with _lines(label, total, unit) if show else nullcontext(lambda amount=1: None) as advance:
            yield advance
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        MofNCompleteColumn,
        Progress,
        ProgressColumn,
        SpinnerColumn,
        Task,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )
    from rich.text import Text

    class Rate(ProgressColumn):
        def render(self, task: Task) -> Text:
            return Text(f"{task.finished_speed or task.speed or 0:.1f} {unit}/s", style="cyan")

    columns: list[ProgressColumn] = [SpinnerColumn(), TextColumn("{task.description}"), BarColumn()]
    if unit == "bytes":
        columns += [DownloadColumn(), TransferSpeedColumn()]
    else:
        columns += [MofNCompleteColumn(), Rate()]
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(label, total=total)
        yield lambda amount=1: bar.advance(task, amount)


@contextmanager
def _lines(label: str, total: float | None, unit: str) -> Iterator[Advance]:
    """Progress for a log: a line at most every ``_EVERY`` seconds, and one at the end."""
    start = last = time.monotonic()
    done = 0.0

    def tell() -> None:
        seconds = max(time.monotonic() - start, 1e-9)
        of = f"/{total:.0f}" if total is not None else ""
        say(f"{label}: {done:.0f}{of} {unit}, {done / seconds:.1f} {unit}/s")

    def advance(amount: float = 1) -> None:
        nonlocal done, last
        done += amount
        if time.monotonic() - last >= _EVERY:
            last = time.monotonic()
            tell()

    try:
        yield advance
    finally:
        tell()


def printable(text: str) -> str:
    """Text that a terminal survives: control characters and bytes that are no text (of file names) are escaped."""
    safe = text.encode("utf-8", "backslashreplace").decode("utf-8")
    return "".join(char if char.isprintable() or char == "\t" else repr(char)[1:-1] for char in safe)
