"""What a score means: the probability that two items belong together, over their cosine."""

from __future__ import annotations

import math
from collections.abc import Mapping
from xml.etree.ElementTree import Element

from slimbind.evaluate.report import reading
from slimbind.evaluate.report.grouping import Group
from slimbind.evaluate.report.plots import figure, lines

_FROM, _TO, _STEPS = -0.2, 1.0, 12


def calibration(group: Group) -> list[Element]:
    """The fitted curves of all records in one plot."""
    series: dict[str, list[tuple[float, float]]] = {}
    told: list[str] = []
    for column in group.columns:
        curve = column.record.details.get("curve")
        if not isinstance(curve, Mapping):
            continue
        slope, intercept = reading.number(curve.get("slope")), reading.number(curve.get("intercept"))
        if slope is None or intercept is None:
            continue
        places = [round(_FROM + (_TO - _FROM) * step / _STEPS, 6) + 0.0 for step in range(_STEPS + 1)]
        told.append(f"{column.label}: slope {slope:.4g}, intercept {intercept:.4g}")
        series[column.label] = [(x, _sigmoid(slope * x + intercept)) for x in places]
    if not series:
        return []
    label = f"Probability that two items belong together by their cosine: {len(series)} rising from 0 to 1"
    drawing = lines(series, label=label, x="cosine", y="probability", measure="share")
    caption = "Probability that two items belong together, if that was as likely as not beforehand."
    return [figure(drawing, f"{caption} {'; '.join(told)}.")]


def _sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-max(-60.0, min(60.0, value))))
