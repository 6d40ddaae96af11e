"""The tables of ``scaling.py``: towers by batch, collections by number of documents."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Table = tuple[tuple[str, ...], list[tuple[str, ...]]]
TOWERS = {
    "mini-text": "`mini`, text",
    "mini-vision": "`mini`, vision",
    "text": "text, 6 blocks",
    "vision": "vision, 4 blocks",
    "depth": "depth, whole",
    "imu": "imu, whole",
}
SCHEMES = ("f32", "int8-dynamic")
_MEMORY_AT = (1, 8, 32)


def batch(result: dict[str, Any]) -> Table:
    """Items per CPU second one by one, what batches gain, and memory."""
    sizes = sorted({row["batch"] for told in result["batch"].values() for row in told["f32"]["rows"]})
    rows = []
    for name, told in result["batch"].items():
        for scheme in SCHEMES:
            found = {row["batch"]: row for row in told[scheme]["rows"]}
            gains = (f"{found[size]['gain']:.2f}x" if size in found else "-" for size in sizes[1:])
            memory = (f"{found[size]['memory_mib']:.0f}" if size in found else "-" for size in _MEMORY_AT)
            pace = f"{found[1]['items_per_cpu_second']:.3g}"
            rows.append((TOWERS[name], f"`{scheme}`", pace, *gains, f"{told[scheme]['weights_mib']:.0f}", *memory))
    head = ("tower", "scheme", "items per CPU second, one by one", f"batch of {sizes[1]}", *map(str, sizes[2:]))
    return (*head, "weights, MiB", f"memory, MiB, batch of {_MEMORY_AT[0]}", *map(str, _MEMORY_AT[1:])), rows


_ROWS: tuple[tuple[str, Callable[[dict[str, Any]], str]], ...] = (
    ("how it searches", lambda told: f"`{told['method']}`"),
    ("add, items per CPU second", lambda told: f"{told['documents'] / told['add_cpu_seconds']:,.0f}"),
    ("make codes, CPU s", lambda told: f"{told['build_cpu_seconds']:.2g}"),
    ("... memory meanwhile, MiB", lambda told: f"{told['build_peak_mib']:.0f}"),
    ("open, ms", lambda told: f"{told['open_ms']:.1f}"),
    ("first search of a process, CPU ms", lambda told: f"{told['first_search_cpu_ms']:.0f}"),
    ("search, CPU ms: half", lambda told: f"{told['search_cpu_ms']:.2g}"),
    ("... 99 of 100", lambda told: f"{told['search_p99_cpu_ms']:.2g}"),
    ("... where a fifth of the items count", lambda told: f"{told['where_a_fifth_cpu_ms']:.3g}"),
    ("200 searches at once, per CPU second", lambda told: f"{told['batch_per_cpu_second']:,.0f}"),
    ("recall@10", lambda told: f"{told['recall_at_10']:.3f}"),
    ("on disk: database, MB", lambda told: f"{told['database_bytes'] / 1e6:.0f}"),
    ("... codes, MB", lambda told: f"{told['codes_bytes'] / 1e6:.1f}"),
    ("in memory while searching, MiB", lambda told: f"{told['resident_mib']:.0f}"),
)


def collection(result: dict[str, Any]) -> Table:
    """A column for each size."""
    sizes = sorted(result["documents"].values(), key=lambda told: int(told["documents"]))
    rows = [(name, *(show(told) for told in sizes)) for name, show in _ROWS]
    return ("documents", *(f"{told['documents']:,}" for told in sizes)), rows
