"""Captioned pictures: Openclipart drawings, emoji of several vendors, and Tux Paint's stamps (the last for evaluation).

A picture has a *concept*, its name without numbers and articles. Concepts are dealt into training and evaluation by a
hash of the concept alone, over all sources at once: no drawing of a held-out concept is ever trained on.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import resvg_py
from PIL import Image
from sources import member, members

SIDE = 288  # pixels; a little more than the tower takes, so that augmentation has something to cut
TRAIN_VENDORS = ("noto", "noto-v1", "twemoji", "fluent-emoji")
HELD_OUT_VENDOR = "openmoji"
TEST_SHARE, DEV_SHARE = 0.15, 0.07

# Folders of Openclipart whose pictures say nothing that their names tell (numbered shapes, letters, gradients).
_SKIPPED = (
    "shapes/stars", "shapes/jigsaw", "shapes/flowchart", "special/", "recreation/games/cards",
    "signs_and_symbols/flags/semaphore", "signs_and_symbols/led", "computer/buttons", "buttons/",
    "computer/icons/flat-theme", "computer/icons/lemon-theme", "computer/icons/etiquette-theme",
)  # fmt: skip
_DULL_TAGS = {
    "hash", "unsorted", "special", "clip_art", "clipart", "theme", "icons", "icon", "color", "image", "media",
    "cartoon", "illustration", "no_cc_license_found", "public_domain", "mapsym", "svg", "png", "simple", "group",
}  # fmt: skip
_BY_AUTHOR = re.compile(r"clip\s?art by [\w ]+ - |\(?\bby [a-z]+ [a-z]+\)?$|\barchitetto\b.*|\(?b and w\)?")


@dataclass(frozen=True)
class Picture:
    """One captioned picture; ``art`` is SVG text, or PNG bytes of a stamp."""

    source: str
    concept: str
    name: str
    tags: tuple[str, ...]
    art: str | bytes


def role(concept: str) -> str:
    """What a concept is for: ``train``, ``dev`` (to choose settings by) or ``test`` (to report).

    Its last word decides, without a plural s, so that 'red apple' and 'apples' go where 'apple' goes.
    """
    word = concept.split()[-1]
    word = word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith("ss") else word
    lot = int(hashlib.sha256(word.encode()).hexdigest()[:8], 16) / 0xFFFFFFFF
    return "test" if lot < TEST_SHARE else "dev" if lot < TEST_SHARE + DEV_SHARE else "train"


def clean(text: str) -> str:
    """A name as a person would type it: lower case, no digits, underscores or punctuation."""
    text = re.sub(r"([a-z])([A-Z])", r"\1 \2", text).lower().replace("&amp;", "and").replace("_", " ").replace("-", " ")
    text = re.sub(r"[^a-z' ]+", " ", _BY_AUTHOR.sub(" ", text))
    words = [word for word in text.split() if len(word) > 1 or word in ("a", "x")]
    return " ".join(words)


def _concept(name: str) -> str:
    return re.sub(r"^(a|an|the) ", "", name)


def openclipart(cache: Path) -> list[Picture]:
    """Drawings with a usable title, exact doubles removed."""
    drafts, titles = [], Counter()
    for path, data in members("openclipart", cache):
        folder, _, file = path.partition("openclipart/svg/")[2].rpartition("/")
        if not file.endswith(".svg") or f"{folder}/".startswith(_SKIPPED) or len(data) > 400_000:
            continue
        svg = data.decode("utf-8", errors="replace")
        if "creativecommons.org/licenses/GPL" in svg:
            continue
        titled = re.search(r"<dc:title[^>]*>(.*?)</dc:title>", svg, re.S)
        title = clean(titled[1]) if titled else ""
        tags = [clean(tag) for tag in re.findall(r"<rdf:li[^>]*>(.*?)</rdf:li>", svg, re.S) if "0x" not in tag]
        titles[title] += 1
        drafts.append((file.removesuffix(".svg"), title, folder, tags, svg))
    pictures, seen = [], set()
    for file, title, folder, tags, svg in drafts:
        # A title that many drawings carry names a collection; the file then says what is drawn.
        shared = not title or (titles[title] > 8 and not set(title.split()) & set(clean(file).split()))
        name = clean(file) if shared else title
        if folder.startswith("signs_and_symbols/flags") and "flag" not in name:
            name = f"flag of {name}"
        body = hashlib.sha256(re.sub(r"<metadata.*?</metadata>", "", svg, flags=re.S).encode()).hexdigest()
        if len(name) < 3 or len(name.split()) > 6 or body in seen:
            continue
        seen.add(body)
        useful = tuple(dict.fromkeys(tag for tag in tags if len(tag) > 2 and tag.replace(" ", "_") not in _DULL_TAGS))
        pictures.append(Picture("openclipart", _concept(name), name, useful[:8], svg))
    return pictures


def emoji(vendor: str, cache: Path) -> list[Picture]:
    """One vendor's emoji with the names and tags of the Unicode data; skin tones left out."""
    icons = json.loads(member(vendor, "package/icons.json", cache))
    names = json.loads(member(vendor, "package/chars.json", cache))
    width, height = icons.get("width", 16), icons.get("height", 16)
    pictures = []
    for entry in json.loads(member("emojibase", "package/en/data.json", cache)):
        code = entry["hexcode"].lower()
        slug = re.sub("[^a-z0-9]+", "-", entry["label"].lower()).strip("-")
        icon = icons["icons"].get(names.get(code) or names.get(code.replace("-fe0f", "")) or slug)
        name = clean(entry["label"])
        if icon is None or "group" not in entry or not name:
            continue
        if entry["group"] == 9 and not name.startswith("flag"):
            name = f"flag of {name}" if "flag" not in name else name
        box = f"0 0 {icon.get('width', width)} {icon.get('height', height)}"
        svg = f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" viewBox="{box}">'
        tags = tuple(tag for tag in map(clean, entry.get("tags", ())) if tag and tag != name)
        pictures.append(Picture(vendor, _concept(name), name, tags[:8], f"{svg}{icon['body']}</svg>"))
    return pictures


def stamps(cache: Path) -> list[Picture]:
    """Tux Paint's stamps, photographs and drawings, with their English sentence."""
    found = dict(members("stamps", cache))
    pictures = []
    for path, data in sorted(found.items()):
        caption = found.get(path.removesuffix(".png") + ".txt", b"").decode("utf-8", errors="replace")
        name = clean(caption.splitlines()[0]) if caption else ""
        if path.endswith(".png") and "mirror" not in path and "/symbols/" not in path and name:
            kind = "stamps-drawn" if "cartoon" in path else "stamps"
            pictures.append(Picture(kind, _concept(name), name, (), data))
    return pictures


def render(art: str | bytes) -> Image.Image | None:
    """A picture as RGBA, its longer side SIDE pixels; None where it cannot be drawn or is empty."""
    if isinstance(art, str):
        try:
            raw = resvg_py.svg_to_bytes(svg_string=art, width=SIDE, skip_system_fonts=True, dpi=96)
        except ValueError:  # not drawable: no size, broken XML
            return None
        art = bytes(raw)
    image = Image.open(io.BytesIO(art)).convert("RGBA")
    box = image.getchannel("A").getbbox()
    if box is None:
        return None
    image = image.crop(box)
    if min(image.size) < 2 or max(image.size) > 8 * min(image.size):
        return None
    scale = SIDE / max(image.size)
    return image.resize([max(1, round(side * scale)) for side in image.size], Image.Resampling.BICUBIC)


def place(image: Image.Image, rng: np.random.Generator | None = None) -> Image.Image:
    """Put a cut-out on a ground of SIDE x SIDE: white and whole, or with ``rng`` shifted, scaled, flipped, coloured."""
    share, ground, at = 0.9, (255, 255, 255), (0.5, 0.5)
    if rng is not None:
        share, at = rng.uniform(0.55, 1.05), tuple(rng.uniform(0, 1, 2))
        if rng.random() < 0.5:
            ground = tuple(int(value) for value in rng.integers(0, 256, 3))
        if rng.random() < 0.5:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        image = image.rotate(rng.uniform(-12, 12), Image.Resampling.BILINEAR, expand=True)
    scale = share * SIDE / max(image.size)
    image = image.resize([max(1, round(side * scale)) for side in image.size], Image.Resampling.BILINEAR)
    canvas = Image.new("RGB", (SIDE, SIDE), ground)
    offset = [round((SIDE - side) * where) for side, where in zip(image.size, at, strict=True)]
    canvas.paste(image, tuple(offset), image)
    return canvas
