"""The table of what evaluating embeddings costs; see tables.py."""

from __future__ import annotations

from typing import Any


def cost(result: dict[str, Any]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Head and rows: processor seconds and memory of each evaluation, and of both together."""
    rows = []
    for row in result["rows"]:
        if row["task"] == "both":
            told = (f"**{row['cpu_seconds']:.1f}**", "", f"**{row['total_bytes'] / 1e6:.0f} MB in all**", "")
        else:
            ours, plain = row["slimbind"], row["plain"]
            told = (
                f"{ours['cpu_seconds']:.1f}",
                f"{plain['cpu_seconds']:.1f}",
                f"{ours['grown_bytes'] / 1e6:.0f} MB",
                f"{plain['grown_bytes'] / 1e6:.0f} MB",
            )
        rows.append((row["task"], str(row["dim"]), *told))
    items = f"{result['items']:,} items"
    return (items, "dimensions", "CPU-seconds", "plain", "memory", "plain"), rows
