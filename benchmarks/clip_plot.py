"""Draws the figures of docs/results.md about CLIP from results/clip_report.json.

pip install matplotlib && python benchmarks/clip_plot.py

docs/clip-layers.png: the distributions of weights and inputs of each layer, as Figures 1 and 4 of the report "Dynamic
quantization of CLIP" show them. docs/clip-similarity.png: similarity before and after, as its Figure 3.
"""

from __future__ import annotations

import io
import tempfile
from pathlib import Path
from typing import Any

import matplotlib
from PIL import Image

from clip_tables import NAMES
from environment import ROOT
from markdown import read
from slimbind.evaluate.record import Record
from slimbind.evaluate.report.picture import write_png

DOCS = ROOT / "docs"
PANELS = (
    ("weight", "plain", "weights"),
    ("channels", "plain", "largest input of each channel"),
    ("channels", "balanced", "the same, with outlier channels"),
)
TOWERS = {"vision": "picture tower", "text": "text tower"}
SITES = ("stem", "qkv", "out", "fc1", "fc2", "proj")
# Ends, width and colour of what is drawn: of a weight's SHARES, and of channels from the quietest to the loudest.
BANDS = {
    "weight": ((0, 6, 0.6, "#c8553d"), (1, 5, 1.6, "#6fa3c7"), (2, 4, 3.2, "#1b6ca8")),
    "channels": ((0, 4, 0.6, "#c8553d"), (1, 3, 3.2, "#1b6ca8")),
}
SHOWN = ("report", "int8-dynamic")
WIDTH = 1100


def main() -> None:
    rows = read("clip_report")["rows"]
    draw_layers(rows, DOCS / "clip-layers.png")
    draw_similarity(rows, DOCS / "clip-similarity.png")


def draw_layers(rows: dict[str, Any], path: Path) -> None:
    """A panel for each tower and set of weights, a stroke for each layer, first to last."""
    matplotlib.use("agg")
    matplotlib.rcParams |= {"font.size": 8}
    from matplotlib import pyplot

    figure, sides = pyplot.subplots(len(TOWERS), len(PANELS), figsize=(11, 5.4))
    for across, (tower, said) in zip(sides, TOWERS.items(), strict=True):
        for side, (what, weights, title) in zip(across, PANELS, strict=True):
            layers = sorted(rows[f"layers/{weights}"][tower], key=lambda layer: _place(layer["name"]))
            for first, last, width, colour in BANDS[what]:
                ends = [[layer[what][end] for layer in layers] for end in (first, last)]
                side.vlines(range(len(layers)), *ends, colors=colour, linewidth=width)
            if what == "channels":
                side.set_yscale("log")
            side.set_title(f"{said}: {title}", fontsize=8)
            side.set_xlabel("layer, first to last", fontsize=7)
            side.grid(alpha=0.3, axis="y")
        ends = [side.get_ylim() for side in across[1:]]
        for side in across[1:]:  # to be looked at beside each other
            side.set_ylim(min(low for low, _ in ends), max(high for _, high in ends))
    figure.tight_layout()
    figure.savefig(path, dpi=120, metadata={"Software": "slimbind"})


def _place(name: str) -> tuple[int, int]:
    """Where a layer stands: its block, and which of the block's layers it is."""
    block = next((int(part) for part in name.split(".") if part.isdigit()), None)
    site = next((number for number, site in enumerate(SITES) if site in name), 0)
    return (99 if name.startswith("head") else -1) if block is None else block, site


def draw_similarity(rows: dict[str, Any], path: Path) -> None:
    """The heat maps of two schemes, one below the other."""
    drawn = []
    with tempfile.TemporaryDirectory() as folder:
        for scheme in SHOWN:
            told = next(
                one for one in rows["heatmap/balanced"] if one["task"] == "similarity" and one["model"] == scheme
            )
            record = Record(
                task="similarity",
                title="",
                model=NAMES.get(scheme, scheme),
                settings={"reference": "f32"},
                details=told["details"],
            )
            write_png(Path(folder) / "one.png", record)
            drawn.append(Image.open(io.BytesIO((Path(folder) / "one.png").read_bytes())).convert("RGB"))
    joined = Image.new("RGB", (max(one.width for one in drawn), sum(one.height for one in drawn)), "white")
    top = 0
    for one in drawn:
        joined.paste(one, (0, top))
        top += one.height
    joined = joined.resize((WIDTH, round(joined.height * WIDTH / joined.width)), Image.Resampling.LANCZOS)
    joined.quantize(128, dither=Image.Dither.NONE).save(path, optimize=True)


if __name__ == "__main__":
    main()
