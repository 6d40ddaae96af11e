"""Confusion matrices: what each class was taken for, and the pairs that were mixed up most."""

from __future__ import annotations

from xml.etree.ElementTree import Element

import numpy as np
from numpy.typing import NDArray

from slimbind.evaluate.report import reading, tables
from slimbind.evaluate.report.grouping import Group
from slimbind.evaluate.report.heatmap import heatmap
from slimbind.evaluate.report.plots import figure

_MOST_PAIRS = 8


def confusion(group: Group) -> list[Element]:
    """A heat map for each model, and its worst pairs as a table."""
    found: list[Element] = []
    worst: list[dict[str, object]] = []
    for column in group.columns:
        classes = reading.names(column.record.details.get("classes"))
        if classes is None:
            continue
        counts = reading.matrix(column.record.details.get("confusion"), len(classes), len(classes))
        if counts is None:
            continue
        total = counts.sum(1, keepdims=True)
        shares = np.divide(counts, total, out=np.zeros_like(counts), where=total > 0)
        right = np.trace(counts) / max(1.0, counts.sum())
        brightest = float(shares.max()) or 1.0
        label = (
            f"Confusion matrix of {column.label}: {len(classes)} true classes down, what they were taken for across; "
            f"{100 * right:.1f} % lie on the diagonal, which is right"
        )
        drawing = heatmap(
            classes,
            classes,
            shares,
            label=label,
            low=0.0,
            high=brightest,
            written=lambda share: f"{100 * share:.0f}" if share else "",
        )
        caption = (
            f"{column.label}: each row is a class, each column what its items were taken for, in percent of the row "
            f"(0 dark, {100 * brightest:.0f} bright). {round(counts.sum()):,} items, {100 * right:.1f} % right."
        )
        found.append(figure(drawing, caption))
        worst += [{"model": column.label} | row for row in _worst(classes, counts)]
    return [*found, tables.rows_table(worst, caption="classes that were mixed up most")] if worst else found


def _worst(classes: list[str], counts: NDArray[np.float64]) -> list[dict[str, object]]:
    wrong = counts.copy()
    np.fill_diagonal(wrong, 0)
    order = np.argsort(-wrong, axis=None, kind="stable")[:_MOST_PAIRS]
    places = [divmod(int(flat), len(classes)) for flat in order]
    return [
        {
            "class": classes[true],
            "taken for": classes[told],
            "items": round(wrong[true, told]),
            "of": round(counts[true].sum()),
        }
        for true, told in places
        if wrong[true, told] > 0
    ]
