"""The tables of what evaluating embeddings costs, and of what mini's scores mean; see tables.py."""

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


def scores_methods(result: dict[str, Any]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Head and rows: both methods side by side, for each set and number of pairs they were fitted on."""
    found: dict[tuple[str, int], dict[str, dict[str, Any]]] = {}
    for row in result["methods"]:
        found.setdefault((row["set"], row["fitted on"]), {})[row["method"]] = row
    rows = [
        (
            what,
            str(count),
            *(f"{each[method][name]:.3f}" for name in ("brier", "ece") for method in ("Platt", "isotonic")),
            *(f"{100 * each[method]['levels']:.3g} %" for method in ("Platt", "isotonic")),
        )
        for (what, count), each in found.items()
    ]
    head = (
        "pairs of",
        "fitted on",
        "Brier, Platt",
        "isotonic",
        "ECE, Platt",
        "isotonic",
        "told apart, Platt",
        "isotonic",
    )
    return head, rows


def scores_shipped(result: dict[str, Any]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Head and rows: the curve that comes with mini, on the half that was kept out and on other pictures."""
    curve, yes, no = result["curve"], "recall of matching pairs", "share of other pairs"
    own = {"set": f"{curve['data'].split(' (')[0]}: the other half", "pairs": curve["measured"]["pairs"]}
    rows = [
        (
            row["set"],
            str(row["pairs"]),
            f"{row['Brier score before']:.3f} -> {row['Brier score after']:.3f}",
            f"{row['ECE before']:.3f} -> {row['ECE after']:.3f}",
            *(f"{100 * row[f'{yes} at {cut}']:.0f} % / {100 * row[f'{no} at {cut}']:.1f} %" for cut in ("0.5", "0.9")),
        )
        for row in (own | result["held_out"], *result["shipped"])
    ]
    head = ("pairs of", "pairs", "Brier score", "ECE", "at 0.5: matching / others", "at 0.9: matching / others")
    return head, rows
