"""How every ``slimbind eval`` command tells its result: a table or JSON, an HTML page, what failed, the exit code."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from slimbind.cli import console
from slimbind.errors import UsageError

if TYPE_CHECKING:
    from slimbind.evaluate.record import Estimate, Record

Html = Annotated[
    Path | None, typer.Option("--html", metavar="FILE", help="Write a page with tables and plots to this file as well.")
]
Seed = Annotated[int, typer.Option(min=0, help="Of the samples that intervals are from, and of what is shuffled.")]


def check_html(path: Path | None) -> None:
    """Refuse a page that could not be written, before any work is done.

    Raises:
        UsageError: it is a folder, or lies in a folder that is not there.
    """
    if path is None:
        return
    if path.is_dir():
        raise UsageError(f"--html {path} is a folder", hint="name a file")
    if not path.absolute().parent.is_dir():
        raise UsageError(f"--html {path}: there is no folder {path.absolute().parent}", hint="make it first")


def finish(records: Sequence[Record], *, as_json: bool, html: Path | None, title: str = "") -> None:
    """Print the records (JSON: one object, or a list where there are several), write the page, say what failed.

    Raises:
        typer.Exit: with 4 where items failed.
    """
    import json

    if html is not None:
        from slimbind.evaluate.report import write_html

        write_html(html, records, title=title or records[0].title)
        console.say(f"written: {html}")
    if as_json:
        told = [record.to_dict() for record in records]
        typer.echo(json.dumps(told[0] if len(told) == 1 else told, indent=1, allow_nan=False))
    else:
        for record in records:
            print_measures(record)
    for record in records:
        for item, reason in record.failed:
            console.say(f"failed: {item}: {reason}")
    if any(record.failed for record in records):
        raise typer.Exit(4)


def print_measures(record: Record) -> None:
    """The numbers of a record, one a line, with their intervals."""
    typer.echo(console.printable(record.title))
    width = max((len(name) for name in record.measures), default=0)
    for name, estimate in record.measures.items():
        typer.echo(console.printable(f"  {name:<{width}}  {shown(estimate)}"))


def shown(estimate: Estimate) -> str:
    """A number and its interval, to four digits."""
    interval = "" if estimate.low is None else f"  ({estimate.low:.4g} to {estimate.high:.4g})"
    return f"{estimate.value:.4g}{interval}  n={estimate.n}"
