"""Sizes in bytes, as people write them and as they are told of them."""

from __future__ import annotations

import re

from slimbind.errors import UsageError

_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}
_MOST_BYTES = 1 << 62


def parse_bytes(size: int | str) -> int:
    """A number of bytes, or text like ``"2GB"``, ``"512 MiB"``, ``"1.5GB"``.

    Raises:
        UsageError: it is neither, or not above 0.
    """
    mend = 'give bytes, or text like "2GB" (10^9 bytes each) or "2GiB" (2^30)'
    if isinstance(size, str):
        match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", size)
        if match is None or match[2].upper() not in _UNITS:
            raise UsageError(f"the size is {size!r}", hint=mend)
        number = float(match[1]) * _UNITS[match[2].upper()]
        size = int(number) if number < _MOST_BYTES else _MOST_BYTES  # hundreds of digits are infinity
    if isinstance(size, bool) or not isinstance(size, int) or size < 1:
        raise UsageError(f"the size is {size!r}", hint=mend)
    return size


def binary(size: int) -> str:
    """In the unit of 1024 that suits it: ``"512 bytes"``, ``"64.0 KiB"``, ``"24.4 MiB"``, ``"2.1 GiB"``."""
    return _told(size, 1024, ("KiB", "MiB", "GiB"))


def decimal(size: int) -> str:
    """In the unit of 1000 that suits it: ``"512 bytes"``, ``"64.0 KB"``, ``"25.6 MB"``, ``"2.3 GB"``."""
    return _told(size, 1000, ("KB", "MB", "GB"))


def at_least(size: int) -> str:
    """A text that ``parse_bytes`` reads as ``size`` or a little more: what to ask for where so much is needed."""
    for unit in ("GB", "MB", "KB"):
        if size >= _UNITS[unit]:
            tenths = -(-10 * size // _UNITS[unit])
            return f"{tenths // 10}.{tenths % 10}{unit}"
    return str(size)


def _told(size: int, base: int, units: tuple[str, ...]) -> str:
    if size < base:
        return f"{size} bytes"
    value, place = size / base, 0
    while value >= base - 0.05 and place + 1 < len(units):  # which would be rounded up to the next unit
        value, place = value / base, place + 1
    return f"{value:.1f} {units[place]}"
