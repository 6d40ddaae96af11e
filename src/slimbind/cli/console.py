"""What people see: messages and progress on standard error. Standard output is kept for data."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol


class Advance(Protocol):
    """Tells a progress bar what was done."""

    def __call__(self, amount: float = 1) -> None:
        """Count ``amount`` more items as done."""


def say(text: str) -> None:
    """One line on standard error."""
    print(_printable(text), file=sys.stderr, flush=True)  # noqa: T201


def error(message: str, hint: str = "") -> None:
    """An error and what to do about it, on standard error."""
    say(f"error: {message}")
    if hint:
        say(f"hint: {hint}")


@contextmanager
def progress(label: str, *, total: float | None = None, unit: str = "items") -> Iterator[Advance]:
    """A progress bar with ``unit``/s on standard error while it is a terminal; silent otherwise.

    ``unit="bytes"`` shows sizes and MB/s.
    """
    if not sys.stderr.isatty():
        yield lambda amount=1: None
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


def _printable(text: str) -> str:
    """File names may hold bytes that are not text, or control characters; a terminal must survive them."""
    safe = text.encode("utf-8", "backslashreplace").decode("utf-8")
    return "".join(char if char.isprintable() or char == "\t" else repr(char)[1:-1] for char in safe)
