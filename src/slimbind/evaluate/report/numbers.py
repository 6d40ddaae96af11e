"""How numbers of a report are written: each measure in the unit that people read it in."""

from __future__ import annotations

import math
import re
from collections.abc import Callable

from slimbind.sizes import binary

_NONE = "-"
_LARGEST = 10**300  # a float holds no more, and JSON may


def shown(name: str, value: object) -> str:
    """A measure's value for people: ``shown("top1", 0.713)`` is ``71.3 %``, ``shown("bytes", 2048)`` is ``2.0 KiB``.

    The name decides (see ``_KINDS``); numbers of no known kind have four digits. Text stays as it is.
    """
    if value is None:
        return _NONE
    if isinstance(value, bool):
        return "yes" if value else "no"
    if not isinstance(value, int | float):
        return str(value)
    if isinstance(value, int) and abs(value) > _LARGEST:
        return "beyond all numbers"
    if isinstance(value, float) and not math.isfinite(value):
        return "not a number" if math.isnan(value) else ("infinite" if value > 0 else "-infinite")
    for pattern, kind in _KINDS:
        if pattern.search(name):
            return kind(float(value))
    return _plain(float(value))


def interval(name: str, low: float, high: float) -> str:
    """Both ends of an interval, their unit once: ``69.0 to 73.0 %``."""
    first, last = shown(name, low), shown(name, high)
    number, space, unit = last.rpartition(" ")
    return f"{first.removesuffix(space + unit) if number else first} to {last}"


def with_interval(name: str, value: float, low: float | None, high: float | None) -> str:
    """A number, and its interval if there is one: ``71.3 % (69.0 to 73.0 %)``, ``-1.2 points (-2.0 to +0.3)``."""
    told = shown(name, value)
    if low is None or high is None:
        return told
    return f"{told} ({interval(name, low, high).removesuffix(' points')})"


def heading(name: str) -> str:
    """A measure's or a setting's name as a heading: ``cosine_mean`` is ``cosine mean``."""
    return name.replace("_", " ")


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %" if -1.0 <= value <= 1.0 else _plain(value)


def _points(value: float) -> str:
    """A difference of two shares: a point is a hundredth of all items."""
    told = f"{100 * value:+.1f}"
    return f"{told.lstrip('+-') if float(told) == 0 else told} points"


def _bytes(value: float) -> str:
    return binary(round(value)) if value >= 0 else f"-{binary(round(-value))}"


def _seconds(value: float) -> str:
    size = abs(value)
    if size >= 1:
        return f"{value:.3g} s" if size < 100 else f"{value:.0f} s"
    return f"{1e3 * value:.3g} ms" if size >= 1e-3 or not size else f"{1e6 * value:.3g} \u00b5s"


def _plain(value: float) -> str:
    if value == int(value) and abs(value) < 1e15:
        return f"{int(value):,}"
    return f"{value:,.1f}" if 1e4 <= abs(value) < 1e15 else f"{value:.4g}"


_SHARES = r"top.?\d|accuracy|recall|(^|[_ .])r@\d|precision|(^|[_ ])(share|same)"
_KINDS: tuple[tuple[re.Pattern[str], Callable[[float], str]], ...] = (
    (re.compile(rf"(?i)({_SHARES}).* difference$"), _points),
    (re.compile(r"(?i)rank difference$"), lambda value: f"{value:+g}" if value else "0"),
    (re.compile(r"(?i)(^|[_ ])(bytes|rss)$|^bytes_"), _bytes),
    (re.compile(r"(?i)(^|[_ ])(seconds|latency|p50|p90|p95|p99)($|_s$)"), _seconds),
    (re.compile(r"(?i)(^|[_ ])ms$"), lambda value: f"{value:.3g} ms"),
    (re.compile(r"(?i)cosine|centred"), lambda value: f"{value:.5f}"),
    (re.compile(r"(?i)ratio|speedup"), lambda value: f"{value:.2f}x"),
    (re.compile(rf"(?i){_SHARES}"), _percent),
    (re.compile(r"(?i)(^|[_ ])dB$"), lambda value: f"{value:.1f} dB"),
    (re.compile(r"(?i)difference|shift"), lambda value: f"{value:.4f}".replace("-0.0000", "0.0000")),
)
