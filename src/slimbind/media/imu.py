"""Inertial recordings to six channels at 200 Hz for ten seconds.

File types: ``.csv`` (comma, semicolon, tab or space; a header line is allowed) and ``.npy``. In memory: arrays. Each
has six channels, accelerometer x, y, z in m/s2, then gyroscope x, y, z in rad/s, one reading per row; an array
may also be ``[6, n]``. A seventh column in front holds time stamps, in seconds unless its name ends in ``_ms``,
``_us`` or ``_ns``. Without time stamps the rate is 200 Hz, or the one given as ``(item, rate)``.
Out: float32 ``[1, 6, samples]``, values unchanged in unit.

Readings with time stamps are first put on an even grid (linear interpolation), and soxr changes the rate, so that
nothing above half the new rate folds back. A recording longer than ``samples / rate`` (10 s) keeps its middle; a
shorter one keeps its last reading until the end. Less than a second is refused: it would be mostly padding.
"""

from __future__ import annotations

import io
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slimbind.errors import LimitError, MediaError
from slimbind.media import arrays
from slimbind.media.limits import Limits
from slimbind.media.source import Source, decoding, describe, open_source
from slimbind.media.spec import ImuSpec

_CHANNELS = 6
_SHORTEST_SECONDS = 1.0
_RATES = (1.0, 100_000.0)
_LARGEST = 1e6  # far above what any sensor reads, raw 16-bit counts included
_UNITS = {"_ns": 1e-9, "_us": 1e-6, "_ms": 1e-3, "_s": 1.0}
_MEND = "give accelerometer x, y, z in m/s2, then gyroscope x, y, z in rad/s"


class ImuPreprocessor:
    """Inertial recordings for one ``ImuSpec``. Safe to call from several threads. Returns ``[1, 6, samples]`` float32.

    Raises (on call):
        MediaError: not six channels, not numbers, time stamps that do not rise, too short. LimitError: too long.
    """

    def __init__(self, spec: ImuSpec, limits: Limits) -> None:
        self.spec = spec
        self.limits = limits

    def __call__(self, item: object) -> NDArray[np.float32]:
        """One item to ``[1, 6, samples]``; see the class."""
        rate = self.spec.rate
        if isinstance(item, tuple):
            item, rate = _pair(item)
        name = describe(item)
        unit = 1.0
        if isinstance(item, np.ndarray):
            table = _rows(item, name)
        else:
            with open_source(item, self.limits) as source:
                table, unit = self._read(source)
        if not np.isfinite(table).all():
            raise MediaError(name, "has readings that are NaN or infinite", hint="fill the gaps before saving")
        return self._prepare(table, rate, unit, name)[None]

    def _read(self, source: Source) -> tuple[NDArray[np.float64], float]:
        if source.head(6) == arrays.MAGIC:
            most = int(min(self.limits.max_seconds * _RATES[1] * (_CHANNELS + 1), self.limits.max_bytes))
            array = arrays.read_npy(source, max_elements=most, mend="cut the recording")
            return _rows(array, source.name), 1.0
        return _read_csv(source)

    def _prepare(self, table: NDArray[np.float64], rate: float, unit: float, name: str) -> NDArray[np.float32]:
        spec = self.spec
        channels = table
        if table.shape[1] == _CHANNELS + 1:
            times = (table[:, 0] - table[0, 0]) * unit
            rate = _check_times(times, name)
            channels = table[:, 1:]
        else:
            times = np.arange(len(table)) / rate if rate > 0 else np.zeros(0)
        largest = float(np.abs(channels).max())
        if largest > _LARGEST:
            raise MediaError(name, f"has a reading of {largest:g}", hint=_MEND)
        if not _RATES[0] <= rate <= _RATES[1]:
            raise MediaError(
                name,
                f"has {rate:g} readings per second",
                hint="time stamps are in seconds unless their column's name ends in _ms, _us or _ns",
            )
        seconds = len(channels) / rate
        if seconds > self.limits.max_seconds:
            raise LimitError(
                name,
                f"is {seconds:.1f} s long; the limit is {self.limits.max_seconds:g} s",
                hint="cut it, or raise Limits(max_seconds=...)",
            )
        if seconds < _SHORTEST_SECONDS:
            raise MediaError(name, f"is {seconds:.2f} s long", hint=f"at least {_SHORTEST_SECONDS:g} s are needed")
        if len(table.T) > _CHANNELS or rate != round(rate):
            channels, rate = _even(times, channels, rate)
        piece = _resample(channels, int(rate), spec)
        start = max(0, (len(piece) - spec.samples) // 2)
        piece = piece[start : start + spec.samples]
        out = np.empty((_CHANNELS, spec.samples), np.float32)
        out[:, : len(piece)] = piece.T
        out[:, len(piece) :] = piece[-1][:, None]
        return out


def _resample(channels: NDArray[np.float64], rate: int, spec: ImuSpec) -> NDArray[np.float32]:
    """The middle of the recording at ``spec.rate``, with up to a second more than needed on both sides."""
    import soxr

    spare = max(0.0, (len(channels) / rate - spec.samples / spec.rate) / 2)
    first = int(max(0.0, spare - _SHORTEST_SECONDS) * rate)
    piece = channels[first : len(channels) - first].astype(np.float32)
    if rate == spec.rate:
        return piece
    # Outside a recording the filter would see zeros, and ring at both ends with all of gravity.
    padded = np.pad(piece, ((rate, rate), (0, 0)), mode="edge")
    resampled: NDArray[np.float32] = soxr.resample(padded, rate, spec.rate, quality="HQ")
    begin, length = round(spec.rate), round(len(piece) * spec.rate / rate)
    return resampled[begin : begin + length]


def _pair(item: tuple[Any, ...]) -> tuple[Any, float]:
    if len(item) != 2 or isinstance(item[1], bool) or not isinstance(item[1], int | float | np.number):
        raise MediaError(describe(item), "is no (recording, rate) pair", hint="the rate is in Hz")
    return item[0], float(item[1])


def _rows(array: NDArray[Any], name: str) -> NDArray[np.float64]:
    """Any array of a recording as readings ``[n, 6]`` or, with time stamps, ``[n, 7]``."""
    hint = f"{_MEND}: [n, 6], [6, n], or [n, 7] with time stamps in front"
    if array.ndim != 2 or array.dtype.kind not in "fiu" or 0 in array.shape:
        raise MediaError(name, f"a recording cannot have the shape {array.shape} and type {array.dtype}", hint=hint)
    if array.shape[1] not in (_CHANNELS, _CHANNELS + 1):
        if array.shape[0] not in (_CHANNELS, _CHANNELS + 1):
            raise MediaError(name, f"has {min(array.shape)} channels; 6 are needed", hint=hint)
        array = array.T
    return array.astype(np.float64, copy=False)


def _read_csv(source: Source) -> tuple[NDArray[np.float64], float]:
    name = source.name
    data = source.file.read()
    if b"\0" in data[:4096]:
        raise MediaError(name, "is neither .csv nor .npy", hint=_MEND)
    with decoding(name, "read the table", hint=f"one reading per line, numbers only below the header; {_MEND}"):
        text = data.decode("utf-8-sig")
        del data
        first = next((line for line in text.splitlines() if line.strip()), "")
        mark = next((m for m in (",", ";", "\t") if m in first), None)
        cells = [cell.strip().strip('"') for cell in (first.split(mark) if mark else first.split())]
        header = not all(map(_is_number, cells))
        width = len(cells)
        if width not in (_CHANNELS, _CHANNELS + 1):
            raise MediaError(name, f"has {width} columns; 6 are needed, or 7 with time stamps in front", hint=_MEND)
        body = text.split(first, 1)[1] if header else text
        if not body.strip():
            raise MediaError(name, "has a header but no readings", hint=_MEND)
        table = np.loadtxt(io.StringIO(body), dtype=np.float64, delimiter=mark, ndmin=2)
    if table.shape[1] != width:
        raise MediaError(name, f"has {table.shape[1]} columns under {width} names", hint=_MEND)
    column = cells[0].lower() if header else ""
    return table, next((unit for suffix, unit in _UNITS.items() if column.endswith(suffix)), 1.0)


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _check_times(times: NDArray[np.float64], name: str) -> float:
    """Mean readings per second of time stamps, which have to rise."""
    if len(times) < 2:
        raise MediaError(name, "has a single reading", hint=f"at least {_SHORTEST_SECONDS:g} s are needed")
    if (np.diff(times) <= 0).any():
        raise MediaError(
            name, "its time stamps do not rise from row to row", hint="sort the rows and drop doubled ones"
        )
    return (len(times) - 1) / float(times[-1])


def _even(times: NDArray[np.float64], channels: NDArray[np.float64], rate: float) -> tuple[NDArray[np.float64], float]:
    """Readings at any times (seconds from the first) on an even grid of a whole number of readings per second."""
    whole = float(math.ceil(rate))
    grid = np.arange(round(len(times) * whole / rate)) / whole
    return np.column_stack([np.interp(grid, times, channel) for channel in channels.T]), whole
