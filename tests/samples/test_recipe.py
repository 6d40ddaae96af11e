"""The samples' recipe: it reads Qt resources, refuses unproven licences and wrong packages, and notices changes."""

import importlib
import io
import struct
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import soundfile
from PIL import Image

pytest.importorskip("tomllib")  # the recipe asks for Python 3.11
RECIPE = Path(__file__).parents[2] / "recipes" / "samples"
MODULES = ("qt_resources", "packages", "attribution", "build")


@pytest.fixture
def recipe(monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    before: dict[str, ModuleType] = {name: sys.modules.pop(name) for name in MODULES if name in sys.modules}
    monkeypatch.syspath_prepend(str(RECIPE))
    yield SimpleNamespace(**{name: importlib.import_module(name) for name in MODULES})
    for name in MODULES:
        sys.modules.pop(name, None)
    sys.modules.update(before)


def resource(files: dict[str, tuple[bytes, bool]]) -> bytes:
    """Write a version-1 Qt resource with one folder, `art`, that holds `files` (content, compress)."""
    names, contents, nodes = b"", b"", b""

    def name(text: str) -> int:
        nonlocal names
        offset = len(names)
        names += struct.pack(">HI", len(text), 0) + text.encode("utf-16-be")
        return offset

    nodes += struct.pack(">IHII", 0, 2, 1, 1)  # the root: one child, at 1
    nodes += struct.pack(">IHII", name("art"), 2, len(files), 2)
    for text, (content, compress) in files.items():
        stored = struct.pack(">I", len(content)) + zlib.compress(content) if compress else content
        nodes += struct.pack(">IHHHI", name(text), int(compress), 0, 0, len(contents))
        contents += struct.pack(">I", len(stored)) + stored
    tree = 20
    return (
        b"qres"
        + struct.pack(">4I", 1, tree, tree + len(nodes), tree + len(nodes) + len(contents))
        + nodes
        + contents
        + names
    )


def test_members_of_a_qt_resource_come_out_plain(recipe: SimpleNamespace) -> None:
    data = resource({"a.txt": (b"plain", False), "b.txt": (b"squeezed" * 50, True)})
    assert dict(recipe.qt_resources.members(data)) == {"art/a.txt": b"plain", "art/b.txt": b"squeezed" * 50}


def test_something_else_is_not_a_qt_resource(recipe: SimpleNamespace) -> None:
    with pytest.raises(ValueError, match="not a Qt resource"):
        dict(recipe.qt_resources.members(b"PK\x03\x04 and so on"))


def test_a_licence_must_be_said_in_one_paragraph_of_the_package(recipe: SimpleNamespace) -> None:
    item = {"file": "photos/x.jpg", "license": "CC0-1.0", "evidence": "README", "says": ["x.webp", "CC0"]}
    recipe.build.check_licence(item, "Files: y.webp\nGPL\n\nFiles: x.webp\nCC0")
    with pytest.raises(recipe.packages.RecipeError, match=r"photos/x\.jpg: no paragraph"):
        recipe.build.check_licence(item, "Files: y.webp\nCC0\n\nFiles: x.webp\nGPL")


def test_a_licence_that_is_not_open_is_refused(recipe: SimpleNamespace) -> None:
    item = {"file": "photos/x.jpg", "license": "CC-BY-NC-4.0", "evidence": "README", "says": []}
    with pytest.raises(recipe.packages.RecipeError, match="CC-BY-NC-4.0 is not one of"):
        recipe.build.check_licence(item, "anything")


def test_a_package_with_another_sha256_is_refused(recipe: SimpleNamespace, tmp_path: Path) -> None:
    package = recipe.packages.Package("debian", "thing", "1-1", sha256="0" * 64, suite="stable")
    folder = tmp_path / package.sha256
    folder.mkdir()
    (folder / "thing_1-1_all.deb").write_bytes(b"not what was pinned")
    with pytest.raises(recipe.packages.RecipeError, match="sha256"):
        recipe.packages.fetch(package, tmp_path)


def test_a_picture_is_scaled_put_on_white_and_stripped(recipe: SimpleNamespace, tmp_path: Path) -> None:
    source = Image.new("RGBA", (1000, 500), (255, 0, 0, 0))  # red, but wholly transparent
    exif = Image.Exif()
    exif[0x010E] = "a description"
    buffer = io.BytesIO()
    source.save(buffer, "PNG", exif=exif)
    target = tmp_path / "photos" / "x.jpg"
    target.parent.mkdir()
    changes = recipe.build.convert(buffer.getvalue(), {}, target)
    with Image.open(target) as made:
        assert made.size == (512, 256)
        assert not made.getexif()
        assert np.asarray(made).min() > 250
    assert changes == "scaled from 1000x500 to 512x256, saved as JPG"


def test_a_short_sound_is_kept_and_a_long_one_cut_and_mixed(recipe: SimpleNamespace, tmp_path: Path) -> None:
    def wav(seconds: float) -> bytes:
        time = np.arange(int(8000 * seconds)) / 8000
        buffer = io.BytesIO()
        soundfile.write(buffer, np.stack([np.sin(440 * time), 0 * time], axis=1) * 0.5, 8000, format="WAV")
        return buffer.getvalue()

    target = tmp_path / "sounds" / "x.wav"
    target.parent.mkdir()
    assert recipe.build.convert(wav(1), {}, target) == "unchanged"
    assert target.read_bytes() == wav(1)
    recipe.build.convert(wav(9), {"start": 1.0, "seconds": 3.0}, target)
    info = soundfile.info(target)
    assert (info.duration, info.channels) == (3.0, 1)


def test_compare_tells_what_is_missing_strange_or_altered(recipe: SimpleNamespace, tmp_path: Path) -> None:
    built, committed = tmp_path / "built", tmp_path / "committed"
    for folder in (built, committed):
        (folder / "photos").mkdir(parents=True)
        for name in ("same", "altered"):
            Image.new("RGB", (90, 90), "navy").save(folder / "photos" / f"{name}.jpg")
    (built / "attribution.json").write_text("{}")
    (committed / "queries.json").write_text("{}")
    (committed / "photos" / "stranger.jpg").write_bytes(b"")
    Image.new("RGB", (90, 90), "gold").save(committed / "photos" / "altered.jpg")
    assert recipe.build.compare(built, committed) == [
        f"missing from {committed}: attribution.json",
        "not from the catalogue: photos/stranger.jpg",
        "differs: photos/altered.jpg",
    ]


def test_update_replaces_what_changed_and_leaves_the_rest_untouched(recipe: SimpleNamespace, tmp_path: Path) -> None:
    built, committed = tmp_path / "built", tmp_path / "committed"
    for folder, colour in ((built, "gold"), (committed, "navy")):
        (folder / "photos").mkdir(parents=True)
        Image.new("RGB", (90, 90), colour).save(folder / "photos" / "altered.jpg")
    Image.new("RGB", (90, 90), "teal").save(built / "photos" / "same.jpg", quality=85)
    Image.new("RGB", (90, 90), "teal").save(committed / "photos" / "same.jpg", quality=95)
    same = (committed / "photos" / "same.jpg").read_bytes()
    (committed / "photos" / "stranger.jpg").write_bytes(b"")
    (committed / "queries.json").write_text("{}")
    recipe.build.update(committed, built)
    assert recipe.build.compare(built, committed) == []
    assert (committed / "photos" / "same.jpg").read_bytes() == same
    assert (committed / "queries.json").exists()
    assert not (committed / "photos" / "stranger.jpg").exists()
