"""By how much each model, or codec, differs from the first one: a point and its interval, around a line at zero."""

from __future__ import annotations

from xml.etree.ElementTree import Element

from slimbind.evaluate.outcome import DIFFERENCE
from slimbind.evaluate.report.grouping import Group
from slimbind.evaluate.report.numbers import heading, shown, with_interval
from slimbind.evaluate.report.plots import Whisker, figure, whiskers


def differences(group: Group) -> list[Element]:
    """A drawing for each measure that is a share, all to one scale."""
    drawn: dict[str, list[Whisker]] = {}
    for measure in group.measures:
        for column in group.columns:
            found = group.estimate(measure, column.label)
            if not measure.endswith(DIFFERENCE) or found is None or found.low is None or found.high is None:
                continue
            if not shown(measure, found.value).endswith("points"):  # a rank has another scale
                continue
            told = with_interval(measure, found.value, found.low, found.high)
            drawn.setdefault(measure, []).append(Whisker(column.label, told, found.low, found.value, found.high))
    ends = [end for rows in drawn.values() for row in rows for end in (row.low, row.high)]
    found_figures = []
    for measure, rows in drawn.items():
        name = heading(measure.removesuffix(DIFFERENCE))
        label = f"{name}, difference from the first column: " + "; ".join(f"{row.label} {row.told}" for row in rows)
        drawing = whiskers(rows, label=label, low=min(0.0, *ends), high=max(0.0, *ends), measure=measure)
        found_figures.append(figure(drawing, f"{name}: difference from the first column, with its 95 % interval."))
    return found_figures
