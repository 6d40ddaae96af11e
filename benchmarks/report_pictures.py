"""Draws the pictures of docs/evaluation.md: what reports of real artifacts look like, in a real browser.

    python recipes/mini/split.py mini-split && slimbind quantize mini-split -o mini-int4 --scheme int4-weight --force
    python benchmarks/report_pictures.py mini-split mini-int4

Needs Chromium and `pip install "slimbind[dev]"`. Writes docs/similarity.png and docs/report-*.png.
"""

from __future__ import annotations

import argparse
import csv
import io
import sys
import tempfile
from pathlib import Path

from PIL import Image

import slimbind
from environment import ROOT
from slimbind import datasets
from slimbind.evaluate.record import Record
from slimbind.evaluate.report import write_html
from slimbind.evaluate.report.picture import write_png
from slimbind.evaluate.side_by_side import Settings, Tasks, side_by_side
from slimbind.evaluate.similarity import shipped, similarity
from slimbind.media.samples import captioned
from slimbind.quantize.distributions import activations

sys.path.insert(0, str(ROOT / "tests" / "evaluate" / "report"))
from chromium import Chromium, find

DOCS = ROOT / "docs"
ROWS = 16


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("split", type=Path, help="a split folder")
    parser.add_argument("small", type=Path, help="what was made from it")
    asked = parser.parse_args()
    program = find()
    if program is None:
        parser.error("there is no Chromium")
    records = compared(asked.split, asked.small)
    write_png(DOCS / "similarity.png", next(record for record in records if record.task == "similarity"))
    shrink(DOCS / "similarity.png", 1600, colours=None)
    with tempfile.TemporaryDirectory() as name:
        page, layers = Path(name) / "page.html", Path(name) / "layers.html"
        write_html(page, records, title="Models side by side")
        write_html(layers, activations(asked.split, modalities=["text"], name=asked.split.name), title="Layers")
        browser = Chromium(program)
        try:
            shoot(browser, page, DOCS / "report-phones.png", DOCS / "report-desktop.png")
            browser.open(layers, width=1100, height=860)
            browser.ask("document.querySelector('.beside').parentElement.scrollIntoView()")
            browser.screenshot(DOCS / "report-layers.png", whole=False)
        finally:
            browser.close()
    for picture in DOCS.glob("report-*.png"):
        shrink(picture, 1400)


def compared(split: Path, small: Path) -> list[Record]:
    """What `slimbind eval compare` finds in a minute, with more rows in the heat maps.

    The pairs are the photographs and drawings that come with slimbind, and what each shows by its name.
    """
    with tempfile.TemporaryDirectory() as name:
        table = Path(name) / "photographs.csv"
        shown = captioned("vision")
        with open(table, "w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([("image", "caption"), *shown])
        pairs = datasets.open(table, root=shown[0][0].parents[1])
        tasks = Tasks(speed=False, memory=False, similarity=False, retrieval=pairs)
        found = side_by_side([split, small], tasks=tasks, settings=Settings(samples=16), mix=True)
    rows, columns = shipped(ROWS)
    with slimbind.load(small) as model, slimbind.load(split) as reference:
        names = {"name": small.name, "reference_name": split.name, "title": "photographs and what they show"}
        return [*found, similarity(model, rows, columns, reference=reference, **names)]


def shoot(browser: Chromium, page: Path, phones: Path, desktop: Path) -> None:
    """A page at two widths: on a phone in light and dark, each screen beside the next; and on a desk."""
    screens = []
    for dark in (False, True):
        browser.open(page, width=360, height=900, dark=dark)
        for place in ("0", "document.querySelector('figure').getBoundingClientRect().top - 60"):
            browser.ask(f"window.scrollTo(0, {place})")
            screens.append(seen(browser))
    joined = Image.new("RGB", (sum(one.width for one in screens) + 24 * (len(screens) - 1), screens[0].height), "#888")
    left = 0
    for one in screens:
        joined.paste(one, (left, 0))
        left += one.width + 24
    joined.save(phones)
    browser.open(page, width=1280, height=1000)
    browser.screenshot(desktop, whole=False)


def seen(browser: Chromium) -> Image.Image:
    with tempfile.NamedTemporaryFile(suffix=".png") as file:
        browser.screenshot(Path(file.name), whole=False)
        return Image.open(io.BytesIO(Path(file.name).read_bytes())).convert("RGB")


def shrink(path: Path, width: int, *, colours: int | None = 256) -> None:
    """At most so wide, and in so many colours."""
    image = Image.open(io.BytesIO(path.read_bytes())).convert("RGB")
    if image.width > width:
        image = image.resize((width, round(image.height * width / image.width)), Image.Resampling.LANCZOS)
    (image.quantize(colours, dither=Image.Dither.NONE) if colours else image).save(path, optimize=True)


if __name__ == "__main__":
    main()
