"""Make the samples folder from the packages pinned in catalogue.toml: `python recipes/samples/build.py`.

Every picture is scaled down to at most 512 pixels and every sound cut to at most 5 seconds; each item's licence is
checked against the words of the package it comes from before anything is written. `--check` rebuilds into a temporary
folder and compares it with the committed one: names and attribution exactly, pictures and sounds by their content (the
encoders' bytes differ between library versions).

Needs Python >= 3.11, apt-get, dpkg-deb, pip, and the packages pillow, numpy, soundfile.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import tomllib
from attribution import LICENSES, as_markdown, as_record
from packages import Package, RecipeError, Unpacked
from PIL import Image

HERE = Path(__file__).parent
SAMPLES = HERE.parent.parent / "samples"
LONGEST_SIDE = 512
LONGEST_DRAWING = 384
LONGEST_SECONDS = 5.0
FADE_SECONDS = 0.05
QUERIES = "queries.json"  # written by hand


def main() -> int:
    """Build the folder, or check the committed one."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache" / "slimbind-samples")
    parser.add_argument("--check", action="store_true", help="compare a fresh build with the committed folder")
    options = parser.parse_args()
    try:
        with tempfile.TemporaryDirectory() as folder:
            build(Path(folder), options.cache)
            if not options.check:
                update(SAMPLES, Path(folder))
                return 0
            differences = compare(Path(folder), SAMPLES)
    except RecipeError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print("\n".join(differences) or "the committed folder is what the packages give", file=sys.stderr)
    return 1 if differences else 0


def build(target: Path, cache: Path) -> None:
    """Write every item of the catalogue and the two attribution files into `target`."""
    catalogue = tomllib.loads((HERE / "catalogue.toml").read_text(encoding="utf-8"))
    packages = {key: Package(**fields) for key, fields in catalogue["package"].items()}
    unpacked: dict[str, Unpacked] = {}
    records = []
    for item in sorted(catalogue["item"], key=lambda item: str(item["file"])):
        key = item["package"]
        if key not in unpacked:
            print(f"{packages[key].name} {packages[key].version}", file=sys.stderr)
            unpacked[key] = Unpacked(packages[key], cache)
        check_licence(item, unpacked[key].read(item["evidence"]).decode("utf-8"))
        destination = target / item["file"]
        destination.parent.mkdir(parents=True, exist_ok=True)
        changes = convert(unpacked[key].read(item["path"]), item, destination)
        records.append(as_record(item, packages[key], changes))
    text = json.dumps({"licenses": LICENSES, "files": records}, indent=1, ensure_ascii=False)
    (target / "attribution.json").write_text(text + "\n", encoding="utf-8")
    (target / "ATTRIBUTION.md").write_text(as_markdown(records), encoding="utf-8")


def check_licence(item: dict[str, Any], evidence: str) -> None:
    """Refuse the item unless one paragraph of the package's own words says all that the catalogue claims."""
    paragraphs = evidence.split("\n\n")
    if item["license"] not in LICENSES:
        raise RecipeError(f"{item['file']}: licence {item['license']} is not one of {', '.join(LICENSES)}")
    if not any(all(words in paragraph for words in item["says"]) for paragraph in paragraphs):
        raise RecipeError(f"{item['file']}: no paragraph of {item['evidence']} says all of {item['says']}")


def convert(content: bytes, item: dict[str, Any], destination: Path) -> str:
    """Write the item in its final form and return what was changed, as the licences ask."""
    if destination.parent.name == "sounds":
        return convert_sound(content, destination, start=item.get("start", 0.0), seconds=item.get("seconds"))
    return convert_picture(content, destination)


def convert_picture(content: bytes, destination: Path) -> str:
    """Scale a picture down, put it on white where it is transparent, and write it without metadata."""
    with Image.open(io.BytesIO(content)) as opened:
        picture = opened.convert("RGBA")
    size = picture.size
    ground = Image.new("RGBA", size, "white")
    ground.alpha_composite(picture)
    picture = ground.convert("RGB")
    side = LONGEST_DRAWING if destination.parent.name == "illustrations" else LONGEST_SIDE
    picture.thumbnail((side, side), Image.Resampling.LANCZOS)
    if destination.suffix == ".png":
        picture.quantize(128, method=Image.Quantize.MEDIANCUT).save(destination, optimize=True)
    elif destination.suffix == ".webp":
        picture.save(destination, quality=80, method=6)
    else:
        picture.save(destination, quality=85, optimize=True)
    scaled = "" if picture.size == size else f"scaled from {size[0]}x{size[1]} to {picture.width}x{picture.height}, "
    return f"{scaled}saved as {destination.suffix[1:].upper()}"


def convert_sound(content: bytes, destination: Path, *, start: float, seconds: float | None) -> str:
    """Copy a sound as it is, or cut `seconds` of it from `start`, mixed down to one channel and faded."""
    info = soundfile.info(io.BytesIO(content))
    if seconds is None and info.duration <= LONGEST_SECONDS:
        destination.write_bytes(content)
        return "unchanged"
    seconds = min(seconds or LONGEST_SECONDS, LONGEST_SECONDS)
    first = int(start * info.samplerate)
    samples, rate = soundfile.read(
        io.BytesIO(content), start=first, frames=int(seconds * info.samplerate), dtype="float32", always_2d=True
    )
    mono = samples.mean(axis=1)
    fade = int(FADE_SECONDS * rate)
    ramp = np.linspace(0.0, 1.0, fade, dtype=np.float32)
    mono[:fade] *= ramp
    mono[-fade:] *= ramp[::-1]
    soundfile.write(destination, mono, rate)
    return f"{len(mono) / rate:g} s from {start:g} s, mixed to one channel, faded in and out"


def update(committed: Path, built: Path) -> None:
    """Make `committed` what was built, leaving alone what is the same but for an encoder's bytes."""
    for path in committed.rglob("*"):
        name = path.relative_to(committed)
        if path.is_file() and name.name != QUERIES and not (built / name).exists():
            path.unlink()
    for path in built.rglob("*"):
        target = committed / path.relative_to(built)
        if path.is_file() and not (target.exists() and _same(path, target)):
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())


def compare(built: Path, committed: Path) -> list[str]:
    """Return one line per difference between two folders."""
    names = {str(path.relative_to(built)) for path in built.rglob("*") if path.is_file()}
    there = {str(path.relative_to(committed)) for path in committed.rglob("*") if path.is_file()}
    differences = [f"missing from {committed}: {name}" for name in sorted(names - there)]
    differences += [f"not from the catalogue: {name}" for name in sorted(there - names - {QUERIES})]
    for name in sorted(names & there):
        new, old = built / name, committed / name
        if not _same(new, old):
            differences.append(f"differs: {name}")
    return differences


def _same(new: Path, old: Path) -> bool:
    if new.suffix in {".json", ".md"}:
        return new.read_bytes() == old.read_bytes()
    if new.parent.name == "sounds":
        (ours, rate), (theirs, other) = soundfile.read(new), soundfile.read(old)
        return rate == other and ours.shape == theirs.shape and float(np.abs(ours - theirs).mean()) < 0.01
    with Image.open(new) as first, Image.open(old) as second:
        if first.size != second.size:
            return False
        pair = [np.asarray(picture.convert("RGB"), dtype=np.float32) for picture in (first, second)]
    return float(np.abs(pair[0] - pair[1]).mean()) < 2.0


if __name__ == "__main__":
    sys.exit(main())
