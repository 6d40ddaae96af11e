"""Draws docs/search.svg from results/search.json: bytes of a vector against recall, with and without the transform.

pip install matplotlib && python benchmarks/search_plot.py
"""

from __future__ import annotations

import json
from typing import Any

import matplotlib

from environment import ROOT

DOCUMENTS = 100_000
KINDS = {
    "slimbind, transform": ("o", "#1b6ca8", lambda row: row["library"] == "slimbind" and row["part"] == "full"),
    "slimbind, no transform": ("o", "#b5cde0", lambda row: row["library"] == "slimbind" and row["part"] == "none"),
    "other libraries": ("^", "#c8553d", lambda row: row["library"] != "slimbind"),
}


def main() -> None:
    matplotlib.use("svg")
    matplotlib.rcParams |= {"svg.hashsalt": "slimbind", "svg.fonttype": "none", "font.size": 9}
    from matplotlib import pyplot

    every = json.loads((ROOT / "benchmarks/results/search.json").read_text(encoding="utf-8"))["rows"]
    rows: list[dict[str, Any]] = [row for row in every if row["documents"] == DOCUMENTS]
    figure, sides = pyplot.subplots(1, 2, figsize=(11, 5))
    for side, axis, told in zip(
        sides,
        ("bytes_per_vector", "single_ms"),
        ("bytes for each vector", "one query, CPU ms, one thread"),
        strict=True,
    ):
        for name, (marker, colour, fits) in KINDS.items():
            chosen = [row for row in rows if fits(row)]
            side.scatter(
                [row[axis] for row in chosen],
                [row["recall10"] for row in chosen],
                s=22,
                c=colour,
                marker=marker,
                label=name,
            )
            for row in chosen:
                label = row["name"] if row["library"] == "slimbind" else f"{row['library']} {row['name'].split(',')[0]}"
                if row["part"] == "full" or row["library"] != "slimbind":
                    side.annotate(label, (row[axis], row["recall10"]), (3, 2), textcoords="offset points", fontsize=5)
        side.set_xscale("log")
        side.set_xlabel(told)
        side.set_ylabel(f"recall@10 of {DOCUMENTS:,} documents")
        side.grid(alpha=0.3)
    sides[0].legend(loc="lower right", fontsize=7)
    figure.tight_layout()
    figure.savefig(ROOT / "docs" / "search.svg", metadata={"Date": None})


if __name__ == "__main__":
    main()
