"""Plots as inline SVG, drawn at the width of a phone; their colours come from the page's style."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from xml.etree.ElementTree import Element

from slimbind.evaluate.report.markup import Node, add, tag
from slimbind.evaluate.report.numbers import shown
from slimbind.evaluate.report.tables import cut

WIDTH = 330
_SERIES = 6  # colours that there are
_DASHES = (None, "6 3", "2 3", "8 3 2 3", "1 2", "10 4")
_LEFT, _RIGHT, _HEIGHT = 56, 14, 170
_MARKS = (
    "M-3.5 -3.5h7v7h-7z",
    "M0 -4.5L4 3.5H-4z",
    "M0 -4.5L4.5 0L0 4.5L-4.5 0z",
    "M-3.5 -4.5h2.5v9h-2.5z",
    "M0 4.5L4 -3.5H-4z",
)


@dataclass(frozen=True)
class Box:
    """A row of ``boxes``: five numbers above zero, in rising order, and those that are named."""

    label: str
    low: float
    quarter: float
    middle: float
    three_quarters: float
    high: float


@dataclass(frozen=True)
class Whisker:
    """A row of ``whiskers``: a value between the ends of its interval, and how the numbers are told."""

    label: str
    told: str
    low: float
    value: float
    high: float


def figure(drawing: Element, caption: str) -> Element:
    """A drawing with a caption below it."""
    return tag("figure", drawing, tag("figcaption", caption))


def side_by_side(figures: Sequence[Element], *, small: bool = False) -> Element:
    """Figures in as many columns as there is room for."""
    return tag("div", *figures, class_="figures small" if small else "figures")


def canvas(width: float, height: float, label: str) -> Element:
    """An empty drawing of so many pixels that is read aloud as ``label``."""
    return tag("svg", role="img", aria_label=label, width=width, height=height, viewBox=f"0 0 {width:.6g} {height:.6g}")


def text(x: float, y: float, content: str, **attributes: str | float | None) -> Element:
    """Text at a place."""
    return tag("text", content, x=_at(x), y=_at(y), **attributes)


def lines(
    series: Mapping[str, Sequence[tuple[float, float]]], *, label: str, x: str, y: str, measure: str = ""
) -> Element:
    """A line for each series, from zero upwards; wide ranges of ``x`` (threads, batches) are drawn in octaves.

    Args:
        series: name -> points ``(x, y)``.
        label: what is read aloud.
        x: the horizontal axis in words.
        y: the vertical axis in words.
        measure: what ``y`` is called among measures, which gives its unit (see ``numbers.shown``).
    """
    points = [point for line in series.values() for point in line]
    across = sorted({point[0] for point in points}) or [0.0, 1.0]
    octaves = across[0] > 0 and across[-1] / across[0] >= 8
    ticks = round_ticks(0.0, max([point[1] for point in points], default=1.0))
    top = 26 + 16 * len(series)
    drawing = canvas(WIDTH, top + _HEIGHT + 40, label)
    span = WIDTH - _LEFT - _RIGHT

    def place_x(value: float) -> float:
        first, last, here = (math.log2(one) if octaves else one for one in (across[0], across[-1], value))
        return _LEFT + (span * (here - first) / (last - first) if last > first else span / 2)

    def place_y(value: float) -> float:
        return top + _HEIGHT * (1 - value / ticks[-1])

    add(drawing, text(0, 11, y, class_="quiet"))
    for tick in ticks:
        height = _at(place_y(tick))
        add(drawing, tag("line", x1=_LEFT, x2=WIDTH - _RIGHT, y1=height, y2=height, class_="grid"))
        add(drawing, text(_LEFT - 6, place_y(tick) + 4, shown(measure, tick), text_anchor="end", class_="quiet"))
    for tick in _thinned(across, place_x):
        add(drawing, text(place_x(tick), top + _HEIGHT + 16, f"{tick:g}", text_anchor="middle", class_="quiet"))
    add(drawing, text(_LEFT + span / 2, top + _HEIGHT + 33, x, text_anchor="middle", class_="quiet"))
    for number, (name, line) in enumerate(series.items()):
        add(drawing, _line(number, [(place_x(a), place_y(b)) for a, b in line]))
        add(drawing, _line(number, [(6.0, 24.0 + 16 * number), (30.0, 24.0 + 16 * number)]))
        add(drawing, text(38, 28 + 16 * number, cut(name, 44)))
    return drawing


def _line(number: int, points: Sequence[tuple[float, float]]) -> Element:
    dash = _DASHES[number % len(_DASHES)]
    path = " ".join(f"{_at(a)},{_at(b)}" for a, b in points)
    marks = [_mark(number, a, b) for a, b in points]
    stroke = tag("polyline", points=path, class_="stroke", stroke_dasharray=dash)
    return tag("g", stroke, *marks, class_=f"s{number % _SERIES}")


def _mark(number: int, x: float, y: float) -> Element:
    kind = number % (len(_MARKS) + 1)
    if kind == 0:
        return tag("circle", cx=_at(x), cy=_at(y), r="3.5", class_="fill")
    return tag("path", d=_MARKS[kind - 1], transform=f"translate({_at(x)} {_at(y)})", class_="fill")


def bars(rows: Mapping[str, float], *, label: str, measure: str = "", most: float | None = None) -> Element:
    """A bar for each number, its name above it and its value behind it; longest at ``most``."""
    drawing = canvas(WIDTH, 34 * len(rows) + 4, label)
    longest = most or max([value for value in rows.values() if math.isfinite(value)], default=0.0)
    for number, (name, value) in enumerate(rows.items()):
        top = 34 * number
        share = value / longest if longest > 0 and math.isfinite(value) else 0.0
        width = max(1.0, (WIDTH - 90) * min(max(share, 0.0), 1.0))
        bar = tag("rect", x=0, y=top + 17, width=_at(width), height=11, rx=2, class_="fill")
        add(drawing, text(0, top + 12, cut(name, 52)), tag("g", bar, class_=f"s{number % _SERIES}"))
        add(drawing, text(width + 6, top + 27, shown(measure, value), class_="quiet"))
    return drawing


def histogram(edges: Sequence[float], counts: Sequence[float], *, label: str, colour: int = 0) -> Element:
    """How often values lie where; heights are logarithmic, so that a single outlier is seen beside millions.

    Args:
        edges: ends of the bins, one more than bins.
        counts: values in each bin.
        label: what is read aloud.
        colour: which of the page's colours.
    """
    width, height = 250, 90
    drawing = canvas(width, height + 22, label)
    low, high = edges[0], edges[-1]
    tallest = math.log10(1 + max(counts, default=0.0)) or 1.0

    def place(value: float) -> float:
        return 4 + (width - 8) * (value - low) / (high - low) if high > low else width / 2

    path = [f"M{_at(place(low))} {height}"]
    for count, left, right in zip(counts, edges[:-1], edges[1:], strict=True):
        y = _at(height - (height - 6) * math.log10(1 + count) / tallest)
        path.append(f"L{_at(place(left))} {y}L{_at(place(right))} {y}")
    path.append(f"L{_at(place(high))} {height}Z")
    add(drawing, tag("line", x1=0, x2=width, y1=height, y2=height, class_="axis"))
    add(drawing, tag("g", tag("path", d="".join(path), class_="area"), class_=f"s{colour % _SERIES}"))
    add(drawing, text(2, height + 15, f"{low:.3g}", class_="quiet"))
    add(drawing, text(width - 2, height + 15, f"{high:.3g}", text_anchor="end", class_="quiet"))
    if low < 0 < high and 45 < place(0.0) < width - 45:
        zero = _at(place(0.0))
        add(drawing, tag("line", x1=zero, x2=zero, y1=height, y2=height + 4, class_="axis"))
        add(drawing, text(place(0.0), height + 15, "0", text_anchor="middle", class_="quiet"))
    return drawing


def boxes(rows: Sequence[Box], *, label: str, x: str) -> Element:
    """A box from the lower to the upper quarter with a stroke at the middle, whiskers to both ends; logarithmic."""
    found = [value for row in rows for value in (row.low, row.high) if value > 0]
    usual = min([row.middle for row in rows if row.middle > 0], default=1.0)
    # A channel that is all but unused would take the room of all others: whiskers end a hundredth below the medians.
    first = math.floor(math.log10(max(min(found, default=1.0), usual / 100)))
    last = max(math.ceil(math.log10(max(found, default=1.0))), first + 1)
    row_height, top = 30, 4
    bottom = top + row_height * len(rows)
    drawing = canvas(WIDTH, bottom + 36, label)

    def place(value: float) -> float:
        here = math.log10(max(value, 10.0**first))
        return 10 + (WIDTH - 24) * (here - first) / (last - first)

    step = max(1, (last - first) // 6)
    for power in range(first, last + 1, step):
        spot = place(10.0**power)
        add(drawing, tag("line", x1=_at(spot), x2=_at(spot), y1=top, y2=bottom, class_="grid"))
        anchor = "start" if power == first else "middle"
        add(drawing, text(spot, bottom + 14, f"{10.0**power:g}", text_anchor=anchor, class_="quiet"))
    add(drawing, text(WIDTH / 2, bottom + 31, x, text_anchor="middle", class_="quiet"))
    for number, row in enumerate(rows):
        y = top + row_height * number
        middle = y + 21
        ends = [place(one) for one in (row.low, row.quarter, row.middle, row.three_quarters, row.high)]
        parts: list[Node] = [
            tag("line", x1=_at(ends[0]), x2=_at(ends[4]), y1=middle, y2=middle, class_="stroke"),
            tag("rect", x=_at(ends[1]), y=middle - 5, width=_at(max(1, ends[3] - ends[1])), height=10, class_="area"),
            tag("line", x1=_at(ends[2]), x2=_at(ends[2]), y1=middle - 5, y2=middle + 5, class_="stroke"),
            tag("circle", cx=_at(ends[4]), cy=middle, r="3", class_="fill"),
        ]
        add(drawing, tag("g", *parts, class_="s0"), text(2, y + 11, cut(row.label, 54)))
    return drawing


def whiskers(rows: Sequence[Whisker], *, label: str, low: float, high: float, measure: str) -> Element:
    """A point with a whisker to both ends of its interval for each row, around a line at zero.

    Args:
        rows: from the top.
        label: what is read aloud.
        low: the axis reaches from at most here, which is not above zero ...
        high: ... to at least here, which is not below.
        measure: what the values are called among measures, which gives their unit (see ``numbers.shown``).
    """
    row_height, top, edge = 32, 4, 16
    bottom = top + row_height * len(rows)
    drawing = canvas(WIDTH, bottom + 22, label)
    ticks = round_ticks(low, high) if high > low else [-0.01, 0.0, 0.01]

    def place(value: float) -> float:
        return edge + (WIDTH - 2 * edge) * (value - ticks[0]) / (ticks[-1] - ticks[0])

    for tick in ticks:
        is_zero = abs(tick) < 1e-12
        spot, kind = _at(place(tick)), "axis" if is_zero else "grid"
        for number in range(len(rows)):  # not through the words above each whisker
            y = top + row_height * number
            add(drawing, tag("line", x1=spot, x2=spot, y1=y + 15, y2=y + 29, class_=kind))
        anchor = "start" if tick == ticks[0] else "end" if tick == ticks[-1] else "middle"
        ends = {"start": 0.0, "middle": place(tick), "end": float(WIDTH)}
        said = shown(measure, 0.0 if is_zero else tick).removesuffix(" points")
        add(drawing, text(ends[anchor], bottom + 15, said, text_anchor=anchor, class_="quiet"))
    for number, row in enumerate(rows):
        y = top + row_height * number
        told = text(WIDTH, y + 11, row.told, text_anchor="end", class_="quiet")
        whisker = tag("line", x1=_at(place(row.low)), x2=_at(place(row.high)), y1=y + 22, y2=y + 22, class_="stroke")
        point = _mark(0, place(row.value), y + 22)
        add(drawing, text(0, y + 11, cut(row.label, 30)), told, tag("g", whisker, point, class_="s0"))
    return drawing


def round_ticks(low: float, high: float, *, about: int = 4) -> list[float]:
    """Round numbers from at most ``low`` to at least ``high``, about so many steps."""
    span = high - low
    if not span > 0 or not math.isfinite(span):
        return [low, low + 1.0]
    rough = span / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [place * step for place in range(first, last + 1)]


def _thinned(values: Sequence[float], place: Callable[[float], float]) -> list[float]:
    """Those whose labels do not touch."""
    kept: list[float] = []
    for value in values:
        if not kept or place(value) - place(kept[-1]) >= 12 + 7 * len(f"{value:g}"):
            kept.append(value)
    return kept


def _at(value: float) -> str:
    """A place on the canvas, to a tenth of a pixel."""
    return f"{value:.1f}".removesuffix(".0")
