"""Draws docs/scaling.svg from results/scaling.json: what a batch gains, and what a larger collection costs.

pip install matplotlib && python benchmarks/scaling_plot.py
"""

from __future__ import annotations

import json

import matplotlib

from environment import ROOT
from scaling_tables import SCHEMES, TOWERS

COLOURS = ("#1b6ca8", "#c8553d", "#3f8f5f", "#8a5fa8", "#b08a2e", "#555555")
LINES = {"f32": "-", "int8-dynamic": "--"}
COSTS = {"search_cpu_ms": "one search, CPU ms", "resident_mib": "in memory while searching, MiB"}


def main() -> None:
    matplotlib.use("svg")
    matplotlib.rcParams |= {"svg.hashsalt": "slimbind", "svg.fonttype": "none", "font.size": 9}
    from matplotlib import pyplot

    result = json.loads((ROOT / "benchmarks/results/scaling.json").read_text(encoding="utf-8"))
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(10, 3.8))
    for (name, told), colour in zip(result["batch"].items(), COLOURS, strict=False):
        for scheme in SCHEMES:
            rows = told[scheme]["rows"]
            label = f"{TOWERS[name].replace('`', '')}, {scheme}"
            left.plot(
                [row["batch"] for row in rows],
                [row["gain"] for row in rows],
                LINES[scheme],
                c=colour,
                marker="o",
                ms=3,
                label=label,
            )
    left.set_xscale("log", base=2)
    sizes = [1, 2, 4, 8, 16, 32]
    left.set_xticks(sizes, [str(size) for size in sizes])
    left.set_xlabel("items in a batch")
    left.set_ylabel("items per CPU second, times that of one item")
    left.legend(fontsize=6)
    shelves = sorted(result["documents"].values(), key=lambda told: int(told["documents"]))
    counts = [told["documents"] for told in shelves]
    for (key, label), colour in zip(COSTS.items(), COLOURS, strict=False):
        right.plot(counts, [told[key] for told in shelves], "-", c=colour, marker="o", ms=3, label=label)
    disk = [(told["database_bytes"] + told["codes_bytes"]) / 1e6 for told in shelves]
    right.plot(counts, disk, "-", c=COLOURS[len(COSTS)], marker="o", ms=3, label="on disk, MB")
    right.set_xscale("log")
    right.set_yscale("log")
    right.set_xlabel("documents of 512 dimensions")
    right.legend(fontsize=7)
    for side in (left, right):
        side.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(ROOT / "docs" / "scaling.svg", metadata={"Date": None})


if __name__ == "__main__":
    main()
