"""Layers of a tower: how the channels of their inputs differ in size, and the distributions of weights and inputs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from xml.etree.ElementTree import Element

from slimbind.evaluate.report import reading
from slimbind.evaluate.report.grouping import Column, Group
from slimbind.evaluate.report.markup import tag
from slimbind.evaluate.report.plots import Box, boxes, figure, histogram, side_by_side
from slimbind.evaluate.report.tables import rows_table

_MOST_BOXES = 40
_MOST_HISTOGRAMS = 8
_NAMED = 4  # outlier channels of a layer
_FIRST = ("name", "one scale dB", "scale per row dB", "weight dB", "ratio")


def layers(group: Group) -> list[Element]:
    """The layers of each record in their order, which is the hardest to round first."""
    found: list[Element] = []
    for column in group.columns:
        told = reading.mappings(column.record.details.get("layers"))
        found += _of(column, told) if told else []
    return found


def _of(column: Column, ordered: list[Mapping[str, Any]]) -> list[Element]:
    every = [box for layer in ordered if (box := _box(layer)) is not None]
    beside: list[Element] = []
    if rows := every[:_MOST_BOXES]:
        some = f"the {len(rows)} hardest of {len(every)} layers" if len(rows) < len(every) else f"{len(rows)} layers"
        label = f"Largest input of each channel in {some} of {column.label}; the numbers are in the table below"
        caption = (
            f"{column.label}: the largest magnitude that each input channel reached, {some}. Box: the middle half of "
            "the channels; stroke: the median; dot: the loudest channel. One scale for the whole input has to reach "
            "the dot, so the further it lies from the box, the fewer steps are left for all the others."
        )
        beside.append(figure(boxes(rows, label=label, x="largest magnitude of a channel"), caption))
    if pictures := [one for layer in ordered[:_MOST_HISTOGRAMS] for one in _histograms(layer)]:
        told_of = f"Distributions of {column.label}: {min(len(ordered), _MOST_HISTOGRAMS)} layers, the hardest first"
        about = tag("p", f"{told_of}. Heights are logarithmic; the axis ends at the extremes.", class_="faint")
        beside.append(tag("div", about, side_by_side(pictures, small=True), class_="beside"))
    table = rows_table([_row(layer) for layer in ordered], caption=f"{column.label}: layers, the hardest first")
    return [side_by_side(beside), table] if beside else [table]


def _box(layer: Mapping[str, Any]) -> Box | None:
    ends = reading.numbers(layer.get("channels"))
    if ends is None or len(ends) != 5 or ends != sorted(ends) or ends[-1] <= 0:
        return None
    return Box(str(layer.get("name", "")), *ends)


def _histograms(layer: Mapping[str, Any]) -> list[Element]:
    found = []
    for number, what in enumerate(("weight", "input")):
        told = layer.get(what)
        if not isinstance(told, Mapping):
            continue
        edges, counts = reading.numbers(told.get("edges")), reading.numbers(told.get("counts"))
        if edges is None or counts is None or len(edges) != len(counts) + 1 or min(counts) < 0:
            continue
        name = f"{layer.get('name', '')}: {what}"
        label = f"Histogram of {name}, from {edges[0]:.3g} to {edges[-1]:.3g}"
        found.append(figure(histogram(edges, counts, label=label, colour=number), name))
    return found


def _row(layer: Mapping[str, Any]) -> dict[str, Any]:
    named = [
        f"{one.get('channel')} ({ratio:.0f}x)"
        for one in reading.mappings(layer.get("outliers"))[:_NAMED]
        if (ratio := reading.number(one.get("ratio"))) is not None
    ]
    more = len(reading.mappings(layer.get("outliers"))) - len(named)
    plain = {key: value for key, value in layer.items() if isinstance(value, str | int | float)}
    first = {key: plain.pop(key) for key in _FIRST if key in plain}
    return first | {"outlier channels": ", ".join(named) + (f" and {more} more" if more > 0 else "") or "-"} | plain
