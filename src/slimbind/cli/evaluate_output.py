"""How every ``slimbind eval`` command tells its result: a table or JSON, an HTML page, what failed, the exit code."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from slimbind.cli import console
from slimbind.errors import UsageError

if TYPE_CHECKING:
    from slimbind.evaluate.record import Estimate, Record
    from slimbind.evaluate.report.grouping import Group

Html = Annotated[
    Path | None, typer.Option("--html", metavar="FILE", help="Write a page with tables and plots to this file as well.")
]
Seed = Annotated[int, typer.Option(min=0, help="Of the samples that intervals are from, and of what is shuffled.")]


_WIDEST = 1000  # characters of a table: a number that is cut is worse than a line that wraps


def check_target(path: Path | None, *, option: str = "--html") -> None:
    """Refuse a file to be written, named by ``option``, that could not be, before any work is done.

    Raises:
        UsageError: it is a folder, or lies in one that is not there or cannot be written to.
    """
    if path is None:
        return
    if path.is_dir():
        raise UsageError(f"{option} {path} is a folder", hint="name a file")
    parent = path.absolute().parent
    if not parent.is_dir():
        raise UsageError(f"{option} {path}: there is no folder {parent}", hint="make it first")
    if not os.access(parent, os.W_OK):
        raise UsageError(f"{option} {path}: {parent} cannot be written to", hint="name a file in a folder of yours")


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
        print_measures(records)
    # What could not be read is known of every record of the same data.
    for item, reason in dict.fromkeys(one for record in records for one in record.failed):
        console.say(f"failed: {item}: {reason}")
    if any(record.failed for record in records):
        raise typer.Exit(4)


def print_measures(records: Sequence[Record]) -> None:
    """The numbers, records of one evaluation side by side; a single one has its intervals beside it."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from slimbind.evaluate.outcome import DIFFERENCE
    from slimbind.evaluate.report.grouping import groups, headings
    from slimbind.evaluate.report.numbers import heading, shown, with_interval

    out = Console(highlight=False, soft_wrap=True, width=_WIDEST)
    found_groups = groups(records)
    for title, group in zip(headings(found_groups), found_groups, strict=True):
        out.print(Text(console.printable(title)))
        if not group.measures:
            continue
        alone = len(group.columns) == 1
        table = Table(box=None, pad_edge=False, padding=(0, 1))
        names = ["", "95 % interval", "of"] if alone else [_short(column.label, group) for column in group.columns]
        for place, text in enumerate(("measure", *names)):
            table.add_column(Text(console.printable(text)), justify="right" if place else "left", no_wrap=True)
        for name in group.measures:
            found = [group.estimate(name, column.label) for column in group.columns]
            cells = ["-" if one is None else shown(name, one.value) for one in found]
            if alone:
                cells += _certainty(name, found[0])
            elif name.endswith(DIFFERENCE):  # says little without its interval
                cells = ["-" if one is None else with_interval(name, one.value, one.low, one.high) for one in found]
            table.add_row(Text(console.printable(heading(name))), *cells)
        out.print(table)


def _short(label: str, group: Group) -> str:
    """A column's heading, without the model where all have the same one."""
    same = len({column.record.model for column in group.columns}) == 1
    return label.partition(", ")[2] or label if same else label


def _certainty(name: str, estimate: Estimate | None) -> tuple[str, str]:
    """The interval, and how many items it is from; empty where there is none."""
    return ("", "") if estimate is None else (_interval(name, estimate), str(estimate.n or ""))


def _interval(name: str, estimate: Estimate | None) -> str:
    from slimbind.evaluate.report.numbers import interval

    if estimate is None or estimate.low is None or estimate.high is None:
        return ""
    return interval(name, estimate.low, estimate.high)
