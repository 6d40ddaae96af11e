"""The same numbers as Markdown tables, for a README or an issue."""

from __future__ import annotations

import re
from collections.abc import Sequence

from slimbind.errors import UsageError
from slimbind.evaluate.record import Estimate, Record
from slimbind.evaluate.report.grouping import all_labels, groups, headings
from slimbind.evaluate.report.markup import fit
from slimbind.evaluate.report.numbers import heading, with_interval


def markdown(records: Sequence[Record]) -> str:
    """One table: a row for each measure, a column for each model; intervals behind the numbers.

    Raises:
        UsageError: there are no records.
    """
    if not records:
        raise UsageError("there is nothing to report", hint="give at least one record")
    found = groups(records)
    columns = all_labels(found)
    lines = [["measure", *columns]]
    for title, group in zip(headings(found), found, strict=True):
        for measure in group.measures:
            name = f"{title}: {heading(measure)}" if len(found) > 1 else heading(measure)
            lines.append([name, *(_estimate(measure, group.estimate(measure, label)) for label in columns)])
    told = [[_cell(text) for text in row] for row in lines]
    told.insert(1, ["---", *("---:" for _ in columns)])
    return "".join(f"| {' | '.join(row)} |\n" for row in told)


def _estimate(measure: str, found: Estimate | None) -> str:
    if found is None:
        return "-"
    return with_interval(measure, found.value, found.low, found.high)


def _cell(text: str) -> str:
    """Text that stays text and stays in its cell."""
    escaped = re.sub(r"([\\`*_{}\[\]<>|#~&$!])", r"\\\1", fit(text))
    return re.sub(r"\s+", " ", escaped)
