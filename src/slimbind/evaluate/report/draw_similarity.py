"""Similarity of two sets of items as heat maps: a model beside its reference, and how far they are apart."""

from __future__ import annotations

from xml.etree.ElementTree import Element

import numpy as np
from numpy.typing import NDArray

from slimbind.evaluate.record import Record
from slimbind.evaluate.report import reading
from slimbind.evaluate.report.grouping import Group
from slimbind.evaluate.report.heatmap import heatmap
from slimbind.evaluate.report.plots import figure
from slimbind.evaluate.report.tables import rows_table

Table = NDArray[np.float64]


def similarity(group: Group) -> list[Element]:
    """A heat map of the reference, then for each model its own and that of the difference, all in the same colours."""
    records = [(column.label, column.record) for column in group.columns]
    tables = [table for _, record in records for table in (scores(record), scores(record, "reference"))]
    present = [table for table in tables if table is not None]
    if not present:
        return []
    ends = min(float(table.min()) for table in present), max(float(table.max()) for table in present)
    found: list[Element] = []
    nearest: list[dict[str, object]] = []
    drawn: list[Table] = [own for _, record in records if (own := scores(record)) is not None]
    for label, record in records:
        own, other = scores(record), scores(record, "reference")
        if own is None:
            continue
        if other is not None and not any(np.array_equal(other, one) for one in drawn):
            drawn.append(other)
            found.append(_one(record, other, str(record.settings.get("reference", "reference")), ends))
        found.append(_one(record, own, label, ends))
        if other is not None:
            found.append(_difference(record, own - other, label))
        nearest += _nearest(record, label, own, other)
    return [*found, rows_table(nearest, caption="the column that each row is most like")]


def scores(record: Record, key: str = "scores") -> Table | None:
    """The similarities ``[rows, columns]`` of a record, or of its reference; None where it has none."""
    rows, columns = reading.names(record.details.get("rows")), reading.names(record.details.get("columns"))
    if rows is None or columns is None:
        return None
    return reading.matrix(record.details.get(key), len(rows), len(columns))


def _nearest(record: Record, label: str, own: Table, other: Table | None) -> list[dict[str, object]]:
    """What the heat map shows first of all, for those who do not see it."""
    rows, columns = reading.names(record.details.get("rows")) or [], reading.names(record.details.get("columns")) or []
    found: list[dict[str, object]] = []
    for place, name in enumerate(rows):
        best = int(own[place].argmax())
        told: dict[str, object] = {"row": name, "model": label, "column": columns[best], "similarity": own[place, best]}
        if other is not None:
            first = int(other[place].argmax())
            told |= {"column of the reference": columns[first], "its similarity": other[place, first]}
        found.append(told)
    return found


def _one(record: Record, table: Table, label: str, ends: tuple[float, float]) -> Element:
    low, high = ends
    caption = f"{label}: cosine similarity, {low:.2f} dark to {high:.2f} bright."
    told = f"Heat map of {label}: similarity of {table.shape[0]} rows with {table.shape[1]} columns"
    return _figure(record, table, told, caption, low, high, differs=False)


def _difference(record: Record, table: Table, label: str) -> Element:
    most = float(np.abs(table).max())
    mean = float(np.abs(table).mean())
    caption = (
        f"{label} less its reference: grey where they agree, red where it finds them more alike, blue where less; "
        f"full colour is {most:.4f}. Off by {mean:.4f} in the mean."
    )
    told = f"Heat map of the difference of {label} from its reference, at most {most:.4f}"
    return _figure(record, table, told, caption, -most, most, differs=True)


def _figure(
    record: Record, table: Table, label: str, caption: str, low: float, high: float, *, differs: bool
) -> Element:
    rows, columns = reading.names(record.details.get("rows")), reading.names(record.details.get("columns"))
    given = record.details.get("thumbnails")
    drawing = heatmap(
        rows or [],
        columns or [],
        table,
        label=label,
        low=low,
        high=high,
        differs=differs,
        written=lambda value: _written(value, "+.3f" if differs else ".2f"),
        pictures=[one if isinstance(one, str) else None for one in given] if isinstance(given, list) else (),
    )
    return figure(drawing, caption)


def _written(value: float, form: str) -> str:
    """Without a sign where nothing is left behind it."""
    told = format(value, form)
    return told if float(told) else told.lstrip("+-")
