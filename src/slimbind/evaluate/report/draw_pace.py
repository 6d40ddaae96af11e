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
    """For each setting that the rows vary (threads, batch size) and each number: a line for every model."""
    rows = [
        (column.label, row) for column in group.columns for row in reading.mappings(column.record.details.get("rows"))
    ]
    varied = [key for key in _ACROSS if len({row[1].get(key) for row in rows if key in row[1]}) > 1]
    found: list[Element] = []
    for across in varied:
        for up in _UP:
            series = _series(rows, across, up, [key for key in (*_ACROSS, "modality", "part") if key != across])
            if not series:
                continue
            label = f"{heading(up)} by {heading(across)}, {len(series)} lines; the numbers are in the table below"
            drawing = lines(series, label=label, x=heading(across), y=heading(up), measure=up)
            found.append(figure(drawing, f"{heading(up)[:1].upper()}{heading(up)[1:]} by {heading(across)}."))
    return found


def _series(
    rows: list[tuple[str, Mapping[str, Any]]], across: str, up: str, apart: list[str]
) -> dict[str, list[tuple[float, float]]]:
    several = [key for key in apart if len({str(row.get(key)) for _, row in rows}) > 1]
    alone = len({label for label, _ in rows}) == 1
    found: dict[str, list[tuple[float, float]]] = {}
    for label, row in rows:
        x, y = reading.number(row.get(across)), reading.number(row.get(up))
        if x is None or y is None:
            continue
        told = [f"{heading(key)} {row[key]}" if key in _ACROSS else str(row[key]) for key in several if key in row]
        name = ", ".join(told if alone and told else [label, *told])
        found.setdefault(name, []).append((x, y))
    return {name: sorted(points) for name, points in found.items() if len(points) > 1}


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
