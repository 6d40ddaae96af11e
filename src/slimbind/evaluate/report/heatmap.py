"""Heat maps as inline SVG: rows by columns, each cell coloured by its number; large ones as an embedded picture."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Sequence
from xml.etree.ElementTree import Element

import numpy as np
from numpy.typing import NDArray

from slimbind.evaluate.report import colours
from slimbind.evaluate.report.markup import add, is_embedded_image, tag
from slimbind.evaluate.report.plots import canvas, text
from slimbind.evaluate.report.tables import boxed, cut

_MOST_LABELLED = 60  # rows or columns; more are drawn without labels
_NUMBERED = 24  # rows or columns at most whose cells hold their numbers
_PICTURE = 40  # pixels of a row's thumbnail
_LONGEST = 26  # characters of a label
_CHARACTER = 6.3  # pixels, about


def heatmap(
    rows: Sequence[str],
    columns: Sequence[str],
    scores: Sequence[Sequence[float]] | NDArray[np.floating],
    *,
    label: str,
    low: float,
    high: float,
    differs: bool = False,
    written: Callable[[float], str] | None = None,
    pictures: Sequence[str | None] = (),
) -> Element:
    """A heat map in a box of its own.

    Args:
        rows: their labels.
        columns: their labels.
        scores: ``[rows, columns]``.
        label: what is read aloud.
        low: the number that has the ramp's first colour.
        high: the number that has its last.
        differs: the numbers are differences, whose sign matters: colours away from grey.
        written: how a number is written into its cell, if there is room.
        pictures: thumbnails of the rows, as data URIs; anything else is left out.

    Raises:
        ValueError: the scores have another shape.
    """
    table = np.asarray(scores, np.float64)
    if table.shape != (len(rows), len(columns)):
        raise ValueError(f"scores of shape {table.shape} for {len(rows)} rows and {len(columns)} columns")
    shares = np.nan_to_num((table - low) / (high - low) if high > low else np.full(table.shape, 0.5), nan=0.0)
    ramp = colours.AROUND if differs else colours.RISING
    if max(table.shape) > _MOST_LABELLED:
        return boxed(_picture(shares, ramp, label), label)
    return boxed(_cells(rows, columns, table, shares, ramp, label, written, pictures), label)


def _cells(
    rows: Sequence[str],
    columns: Sequence[str],
    table: NDArray[np.float64],
    shares: NDArray[np.float64],
    ramp: Sequence[colours.Colour],
    label: str,
    written: Callable[[float], str] | None,
    pictures: Sequence[str | None],
) -> Element:
    shown = [picture if is_embedded_image(picture) else None for picture in pictures]
    inside = None if written is None or max(table.shape) > _NUMBERED else written
    height = _PICTURE + 4 if any(shown) else 24
    wide = max((len(inside(value)) for value in table.flat), default=0) if inside else 0
    width = max(24.0, wide * _CHARACTER + 8)
    across = [cut(name, _LONGEST) for name in columns]
    left = (_PICTURE + 6 if any(shown) else 0) + _CHARACTER * max(
        (len(cut(name, _LONGEST)) for name in rows), default=0
    )
    left += 6
    slant = 0.71 * _CHARACTER * max(map(len, across), default=0)
    top = slant + 14
    drawing = canvas(round(left + width * len(columns) + slant + 4), round(top + height * len(rows) + 2), label)
    for place, name in enumerate(across):
        x, y = left + width * (place + 0.5), top - 6
        turned = f"rotate(-45 {x:.1f} {y:.1f})"
        add(drawing, text(x, y, name, transform=turned))
    for number, name in enumerate(rows):
        y = top + height * number
        picture = shown[number] if number < len(shown) else None
        if picture is not None:
            add(drawing, tag("image", href=picture, x=0, y=y + 2, width=_PICTURE, height=_PICTURE))
        add(drawing, text(left - 6, y + height / 2 + 4, cut(name, _LONGEST), text_anchor="end"))
        for place, value in enumerate(table[number]):
            colour = colours.at(ramp, shares[number, place])
            x = left + width * place
            cell = tag(
                "rect", x=f"{x:.1f}", y=f"{y:.1f}", width=f"{width:.1f}", height=height, fill=colours.code(colour)
            )
            add(cell, tag("title", f"{rows[number]}, {columns[place]}: {value:.4g}"))
            add(drawing, cell)
            if inside is not None:
                kind = "onlight" if colours.is_light(colour) else "ondark"
                spot = x + width / 2
                add(drawing, text(spot, y + height / 2 + 4, inside(value), text_anchor="middle", class_=kind))
    return drawing


def _picture(shares: NDArray[np.float64], ramp: Sequence[colours.Colour], label: str) -> Element:
    """A pixel for each cell, enlarged without blurring: 1000 classes are a megapixel, and some hundred KB."""
    from PIL import Image

    table = np.array([colours.at(ramp, place / 255) for place in range(256)], np.uint8)
    pixels = table[np.clip(np.round(shares * 255), 0, 255).astype(np.uint8)]
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "png", optimize=True)
    scale = max(1, round(640 / max(shares.shape)))
    return tag(
        "img",
        src="data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii"),
        alt=label,
        width=shares.shape[1] * scale,
        height=shares.shape[0] * scale,
        class_="cells",
    )
