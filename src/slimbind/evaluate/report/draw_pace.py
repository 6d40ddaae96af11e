"""Speed by threads and batch sizes as lines, memory as bars."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from xml.etree.ElementTree import Element

from slimbind.evaluate.report import reading
from slimbind.evaluate.report.grouping import Group
from slimbind.evaluate.report.numbers import heading
from slimbind.evaluate.report.plots import bars, figure, lines

_ACROSS = ("threads", "batch", "batch_size", "callers")
_UP = ("per_second", "items_per_second", "throughput", "p50_seconds", "p99_seconds", "p50_ms", "p99_ms")


def speed(group: Group) -> list[Element]:
    """A plot for each modality, each setting that was varied and each number, with a line for every model.

    While one setting is varied the others stay at their smallest value; the table has all.
    """
    rows = [
        (column.label, row) for column in group.columns for row in reading.mappings(column.record.details.get("rows"))
    ]
    varied = [key for key in _ACROSS if len({row[1].get(key) for row in rows if _has(row[1], key)}) > 1]
    found: list[Element] = []
    for part in dict.fromkeys(str(row.get("modality", "")) for _, row in rows):
        of_part = [(label, row) for label, row in rows if str(row.get("modality", "")) == part]
        for across in varied:
            base = {
                key: min(row[key] for _, row in of_part if _has(row, key))
                for key in varied
                if key != across and any(_has(row, key) for _, row in of_part)
            }
            chosen = [one for one in of_part if all(one[1].get(key) == value for key, value in base.items())]
            told = ", ".join([part, *(f"{heading(key)} {value:g}" for key, value in base.items())]).lstrip(", ")
            found += [_plot(chosen, across, up, told) for up in _UP if _lines(chosen, across, up)]
    return found


def _plot(rows: list[tuple[str, Mapping[str, Any]]], across: str, up: str, told: str) -> Element:
    name = f"{heading(up)} by {heading(across)}" + (f" ({told})" if told else "")
    series = _lines(rows, across, up)
    label = f"{name}: {len(series)} {'line' if len(series) == 1 else 'lines'}; the numbers are in the table below"
    return figure(lines(series, label=label, x=heading(across), y=heading(up), measure=up), f"{name}.")


def _lines(rows: list[tuple[str, Mapping[str, Any]]], across: str, up: str) -> dict[str, list[tuple[float, float]]]:
    found: dict[str, list[tuple[float, float]]] = {}
    for label, row in rows:
        x, y = reading.number(row.get(across)), reading.number(row.get(up))
        if x is not None and y is not None:
            found.setdefault(label, []).append((x, y))
    return {name: sorted(points) for name, points in found.items() if len(points) > 1}


def _has(row: Mapping[str, Any], key: str) -> bool:
    return reading.number(row.get(key)) is not None


def memory(group: Group) -> list[Element]:
    """The measures in bytes of all models, as bars."""
    found: list[Element] = []
    for measure in group.measures:
        values = {
            column.label: estimate.value
            for column in group.columns
            if (estimate := group.estimate(measure, column.label)) is not None
        }
        if "bytes" in measure and len(values) > 1:
            told = heading(measure)
            found.append(figure(bars(values, label=f"{told}: {len(values)} bars", measure=measure), f"{told}."))
    return found
