"""Draws docs/accuracy.svg from recipes/mini/accuracy.json: what mini is worth against its size and that of its vectors.

pip install matplotlib && python benchmarks/accuracy_plot.py
"""

from __future__ import annotations

from typing import Any

import matplotlib

from accuracy_tables import result
from environment import ROOT

BLUE, PALE, RED = "#1b6ca8", "#7fa8c9", "#c8553d"
WAY = "all, text to picture"


def main() -> None:
    matplotlib.use("svg")
    matplotlib.rcParams |= {"svg.hashsalt": "slimbind", "svg.fonttype": "none", "font.size": 9}
    from matplotlib import pyplot

    found = result()
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(11, 5))
    _schemes(left, found)
    _codecs(right, found)
    for side in (left, right):
        side.grid(alpha=0.3)
        side.set_ylabel("per cent right, with 95 % interval")
    figure.tight_layout()
    figure.savefig(ROOT / "docs" / "accuracy.svg", metadata={"Date": None})


def _schemes(side: Any, found: dict[str, Any]) -> None:  # noqa: ANN401  (matplotlib's axes)
    """Size of both towers against three measures."""
    size = {row["scheme"]: sum(row["bytes"].values()) / 2**20 for row in found["schemes"]}
    whole = {row["scheme"]: row[WAY]["R@10"] for row in found["mix"] if row["towers"] in ("none", "both")}
    lines = {
        "CIFAR-10, linear probe": ("s", BLUE, {row["scheme"]: row["top-1"] for row in found["probe"]}),
        "CIFAR-10, zero-shot, one sentence": (
            "o",
            RED,
            {row["scheme"]: row["photo"]["top-1"] for row in found["schemes"]},
        ),
        "text to picture, R@10": ("^", PALE, whole),
    }
    for name, (marker, colour, told) in lines.items():
        _points(side, [size[scheme] for scheme in told], list(told.values()), marker, colour, name)
    for number, (scheme, mib) in enumerate(sorted(size.items(), key=lambda one: one[1])):
        value = lines["CIFAR-10, linear probe"][2][scheme][1]
        shift = (2, -12 - 9 * (number % 4))
        side.annotate(scheme, (mib, 100 * value), shift, textcoords="offset points", fontsize=6, rotation=0)
    side.set_xscale("log")
    side.set_xlabel("MiB of both towers")
    side.legend(loc="center right", fontsize=7)


def _codecs(side: Any, found: dict[str, Any]) -> None:  # noqa: ANN401
    """Bytes of a vector against retrieval."""
    rows = [row for row in found["codecs"] if row["scheme"] == "f32"]
    alone = [row for row in rows if "refine" not in row["codec"]]
    kinds = {
        "codes alone": ("o", PALE, [row for row in alone if not row["fitted"]]),
        "codes fitted to what is asked": ("o", BLUE, [row for row in alone if row["fitted"]]),
        "scored again by originals": ("^", RED, [row for row in rows if row not in alone and not row["fitted"]]),
    }
    for name, (marker, colour, chosen) in kinds.items():
        _points(side, [row["bytes"] for row in chosen], [row[WAY]["R@10"] for row in chosen], marker, colour, name)
        for row in chosen:
            label = row["codec"].split(",")[0]
            side.annotate(
                label, (row["bytes"], 100 * row[WAY]["R@10"][0]), (4, 3), textcoords="offset points", fontsize=5
            )
    side.set_xscale("log")
    side.set_xlabel("bytes for each vector")
    side.legend(loc="lower right", fontsize=7)


def _points(side: Any, across: list[float], told: list[list[float]], marker: str, colour: str, name: str) -> None:  # noqa: ANN401
    up = [100 * value for value, _, _ in told]
    below = [100 * (value - low) for value, low, _ in told]
    above = [100 * (high - value) for value, _, high in told]
    side.errorbar(
        across, up, yerr=[below, above], fmt=marker, color=colour, markersize=4, elinewidth=0.7, capsize=1.5, label=name
    )


if __name__ == "__main__":
    main()
