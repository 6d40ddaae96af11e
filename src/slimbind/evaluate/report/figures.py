"""What is drawn of each task's details. A task that nobody drew yet, or details of another shape, get tables."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any
from xml.etree.ElementTree import Element

from slimbind.evaluate.report import tables
from slimbind.evaluate.report.draw_accuracy import confusion
from slimbind.evaluate.report.draw_difference import differences
from slimbind.evaluate.report.draw_layers import layers
from slimbind.evaluate.report.draw_pace import memory, speed
from slimbind.evaluate.report.draw_scores import calibration
from slimbind.evaluate.report.draw_similarity import similarity
from slimbind.evaluate.report.grouping import Group
from slimbind.evaluate.report.plots import side_by_side

# Task -> how its figures are drawn, and the keys of the details that need no table then. A drawing gives nothing where
# the details do not hold what it needs.
_DRAWN: Mapping[str, tuple[Callable[[Group], list[Element]], frozenset[str]]] = {
    "zero-shot": (confusion, frozenset({"classes", "confusion"})),
    "linear-probe": (confusion, frozenset({"classes", "confusion"})),
    "similarity": (similarity, frozenset({"rows", "columns", "scores", "reference", "thumbnails"})),
    "activations": (layers, frozenset({"layers"})),
    "calibrate": (calibration, frozenset({"curve"})),
    "speed": (speed, frozenset()),
    "memory": (memory, frozenset()),
}


def drawn(group: Group) -> list[Element]:
    """The figures of a group, and tables of the details that no figure shows."""
    draw, shown = _DRAWN.get(group.task, (None, frozenset[str]()))
    found = draw(group) if draw is not None else []
    if not found:
        shown = frozenset()
    found = differences(group) + found
    figures = [one for one in found if one.tag == "figure"]
    told = [side_by_side(figures)] if figures else []
    told += [one for one in found if one.tag != "figure"]
    rest: dict[str, dict[str, Any]] = {
        column.label: {key: value for key, value in column.record.details.items() if key not in shown}
        for column in group.columns
    }
    return told + tables.anything({label: one for label, one in rest.items() if one})
