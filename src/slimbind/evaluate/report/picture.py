"""Heat maps of similarity as a PNG, for papers and slides: the reference, the model, and their difference."""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from slimbind.errors import MissingExtraError, UsageError
from slimbind.evaluate.record import Record
from slimbind.evaluate.report import colours
from slimbind.evaluate.report.draw_similarity import scores
from slimbind.evaluate.report.markup import fit
from slimbind.evaluate.report.page import write_whole
from slimbind.evaluate.report.reading import names
from slimbind.evaluate.report.tables import cut

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_DOTS = 150  # per inch
_LONGEST = 28  # characters of a label
_MOST_LABELS = 80


def check_png() -> None:
    """Make sure that pictures can be drawn here.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise MissingExtraError("matplotlib", extra="eval") from error


def write_png(path: str | os.PathLike[str], record: Record) -> None:
    """Write the heat maps of a similarity record side by side; the file appears whole or not at all.

    Raises:
        UsageError: the record holds no similarities, or the file cannot be written.
        MissingExtraError: matplotlib is not installed.
    """
    check_png()
    from matplotlib.figure import Figure

    own, other = scores(record), scores(record, "reference")
    if own is None:
        raise UsageError("the record holds no table of similarities", hint="give one of `slimbind eval similarity`")
    tables = [own] if other is None else [other, own]
    low, high = min(float(one.min()) for one in tables), max(float(one.max()) for one in tables)
    panels: list[tuple[str, NDArray[np.float64], str, float, float]] = []
    if other is not None:
        panels.append((str(record.settings.get("reference", "reference")), other, "rising", low, high))
    panels.append((record.model, own, "rising", low, high))
    if other is not None:
        most = float(np.abs(own - other).max()) or 1e-9
        panels.append(("difference", own - other, "around", -most, most))
    height = min(16.0, 3.4 + 0.2 * len(own))
    width = min(12.0, 2.6 + 0.2 * own.shape[1])
    figure = Figure(figsize=(2.0 + width * len(panels), height), layout="constrained")
    sides = figure.subplots(1, len(panels), squeeze=False)[0]
    maps = {name: _colours(name, ramp) for name, ramp in (("rising", colours.RISING), ("around", colours.AROUND))}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*[Gg]lyph .* missing")  # a box is drawn for a letter without one
        for number, (side, (title, table, ramp, first, last)) in enumerate(zip(sides, panels, strict=True)):
            drawn = side.imshow(table, cmap=maps[ramp], vmin=first, vmax=last, aspect="auto")
            side.set_title(_label(title), fontsize=9, parse_math=False)
            _ticks(side, record, labelled=number == 0)
            figure.colorbar(drawn, ax=side, shrink=0.8).ax.tick_params(labelsize=7)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=_DOTS, metadata={"Software": "slimbind"})
    write_whole(Path(path), buffer.getvalue())


def _colours(name: str, ramp: Sequence[colours.Colour]) -> Any:  # noqa: ANN401
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list(name, [tuple(part / 255 for part in colour) for colour in ramp])


def _ticks(side: Axes, record: Record, *, labelled: bool) -> None:
    across, down = names(record.details.get("columns")) or [], names(record.details.get("rows")) or []
    if len(across) <= _MOST_LABELS:
        side.set_xticks(range(len(across)), [_label(one) for one in across], rotation=90, fontsize=6, parse_math=False)
    else:
        side.set_xticks([])
    if labelled and len(down) <= _MOST_LABELS:
        side.set_yticks(range(len(down)), [_label(one) for one in down], fontsize=6, parse_math=False)
    else:
        side.set_yticks([])


def _label(text: str) -> str:
    return cut(" ".join(fit(text).split()), _LONGEST)
