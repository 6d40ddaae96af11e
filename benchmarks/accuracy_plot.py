"""Draws docs/accuracy.svg from recipes/mini/accuracy.json: what mini loses by smaller towers and by shorter codes.

pip install matplotlib && python benchmarks/accuracy_plot.py
"""

from __future__ import annotations

from typing import Any

import matplotlib

from accuracy_tables import result
from environment import ROOT

BLUE, PALE, RED = "#1b6ca8", "#8fb4d2", "#c8553d"
WAY = "all, text to picture"
Series = tuple[str, str, str, dict[str, list[float] | None]]  # name, marker, colour; of each place value, low, high


def main() -> None:
    matplotlib.use("svg")
    matplotlib.rcParams |= {"svg.hashsalt": "slimbind", "svg.fonttype": "none", "font.size": 9}
    from matplotlib import pyplot

    found = result()
    figure, (upper, lower) = pyplot.subplots(2, 1, figsize=(9, 8))
    _draw(upper, *_schemes(found))
    _draw(lower, *_codecs(found))
    figure.tight_layout()
    figure.savefig(ROOT / "docs" / "accuracy.svg", metadata={"Date": None})


def _schemes(found: dict[str, Any]) -> tuple[dict[str, str], list[Series], str]:
    """Each scheme's label, the smallest first, and what it loses."""
    size = {row["scheme"]: sum(row["bytes"].values()) / 2**20 for row in found["schemes"]}
    labels = {
        name: f"{name}\n{mib:.1f}".replace(", ", "\n") for name, mib in sorted(size.items(), key=lambda one: one[1])
    }
    whole = [row for row in found["mix"] if row["towers"] in ("none", "both")]
    series: list[Series] = [
        ("CIFAR-10, linear probe", "s", BLUE, {row["scheme"]: _of(row, "top-1") for row in found["probe"]}),
        ("CIFAR-10, zero-shot", "o", RED, {row["scheme"]: _of(row["photo"], "top-1") for row in found["schemes"]}),
        ("text to picture, R@10", "^", PALE, {row["scheme"]: _of(row[WAY], "R@10") for row in whole}),
    ]
    return labels, series, "scheme, and MiB of both towers"


def _codecs(found: dict[str, Any]) -> tuple[dict[str, str], list[Series], str]:
    """Each codec's label, the shortest first, and what it loses where pictures are searched by texts."""
    rows = sorted(found["codecs"], key=lambda row: row["bytes"])
    alone = [row for row in rows if "refine" not in row["codec"]]
    again = [row for row in rows if "refine" in row["codec"] and not row["fitted"]]
    labels = {row["codec"]: f"{row['codec']}\n{row['bytes']}" for row in alone}
    series: list[Series] = [
        ("codes alone", "o", PALE, {row["codec"]: _of(row[WAY], "R@10") for row in alone if not row["fitted"]}),
        ("fitted to questions", "o", BLUE, {row["codec"]: _of(row[WAY], "R@10") for row in alone if row["fitted"]}),
        ("scored again by originals", "^", RED, {row["codec"].split(",")[0]: _of(row[WAY], "R@10") for row in again}),
    ]
    return labels, series, "codec, and bytes for each vector: text to picture, R@10"


def _of(measured: dict[str, Any], name: str) -> list[float] | None:
    told: list[float] | None = measured.get(f"{name} difference")
    return told


def _draw(side: Any, labels: dict[str, str], series: list[Series], below: str) -> None:  # noqa: ANN401  (matplotlib)
    places = {name: place for place, name in enumerate(labels)}
    side.axhline(0, color="#888888", linewidth=0.8)
    for number, (name, marker, colour, told) in enumerate(series):
        known = {places[one]: value for one, value in told.items() if value is not None}
        value, low, high = ([100 * each[n] for each in known.values()] for n in range(3))
        errors = [[a - b for a, b in zip(value, low, strict=True)], [a - b for a, b in zip(high, value, strict=True)]]
        across = [place + 0.18 * (number - 1) for place in known]
        side.errorbar(
            across, value, yerr=errors, fmt=marker, color=colour, markersize=5, linewidth=0, elinewidth=1, label=name
        )
    side.set_xticks(list(places.values()), list(labels.values()), fontsize=7)
    side.set_xlabel(below)
    side.set_ylabel("points more than float32, 95 % interval")
    side.grid(axis="y", alpha=0.3)
    side.legend(fontsize=7, loc="lower right")


if __name__ == "__main__":
    main()
