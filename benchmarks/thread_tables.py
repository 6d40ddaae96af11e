"""The table of threads, passes side by side and concurrent callers; see tables.py."""

from __future__ import annotations

from typing import Any

_WHAT = {
    "mini-text": "`mini`, text",
    "mini-vision": "`mini`, vision",
    "imu": "imu, full size",
    "depth": "depth, full size",
    "text": "text, full width, 6 blocks",
}


def threads(result: dict[str, Any]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Head and rows: one item a call, by threads and passes side by side, for one caller and for eight."""
    rows = []
    for name, tower in result["towers"].items():
        single = [row for row in tower["rows"] if row["batch"] == 1]
        many = max(row["callers"] for row in single)
        for threads, streams in sorted({(row["threads"], row["streams"]) for row in single}):
            found = {row["callers"]: row for row in single if (row["threads"], row["streams"]) == (threads, streams)}
            alone, beside = found[min(found)], found[many]
            passes = f"**{streams}**" if alone["chosen"] else str(streams)
            rows.append(
                (
                    _WHAT[name],
                    str(threads),
                    passes,
                    *(
                        cell
                        for row in (alone, beside)
                        for cell in (
                            f"{row['items_per_second']:.3g}",
                            _ms(row["p50_seconds"]),
                            _ms(row["p99_seconds"]),
                        )
                    ),
                )
            )
    head = ("tower", "threads", "passes", "items/s", "p50, ms", "p99, ms", "8 callers: items/s", "p50, ms", "p99, ms")
    return head, rows


def _ms(seconds: float) -> str:
    return f"{1e3 * seconds:.0f}" if seconds >= 0.1 else f"{1e3 * seconds:.3g}"
