"""Data to calibrate and to compare with: files of a folder, the samples that come with slimbind, made-up recordings.

Photographs, sounds and sentences are shipped (their origin and licences: ``samples/ATTRIBUTION.md``). Depth maps,
thermal images and inertial recordings are made up (``synthetic``). ``Samples.source`` says which it was.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import overload

from slimbind.errors import ArtifactError, UsageError
from slimbind.media import synthetic
from slimbind.modalities import MODALITIES, modality_of

_MADE_UP = 96  # scenes of each kind
_SHIPPED = {"vision": ("photos", "illustrations"), "audio": ("sounds",)}
_WHAT = {
    "vision": "the photographs and drawings that come with slimbind",
    "text": "the sentences that come with slimbind",
    "audio": "the sounds that come with slimbind",
    "depth": "made-up depth maps of rooms",
    "thermal": "made-up thermal images",
    "imu": "made-up inertial recordings",
}
_SAYINGS = {"photos": "a photo of {}", "illustrations": "a drawing of {}", "sounds": "the sound of {}"}
_QUERIES = "queries.json"
_PARAGRAPHS = 40
_LONGEST_LINE = 2000  # characters; more is no sentence
SENTENCES = ".txt"  # a file of sentences, one per line


@dataclass(frozen=True)
class Samples:
    """Items of one modality, each what its preprocessor takes (a path, a text, an array), and where they come from.

    Args:
        items: paths, sentences, or arrays in the units of their modality.
        source: one line for people and for the manifest.
    """

    items: Sequence[object]
    source: str


class _Scenes(Sequence[object]):
    """Made-up scenes, each made when it is taken."""

    def __init__(self, make: Callable[[int], object]) -> None:
        self._make = make

    def __len__(self) -> int:
        return _MADE_UP

    @overload
    def __getitem__(self, place: int) -> object: ...

    @overload
    def __getitem__(self, place: slice) -> Sequence[object]: ...

    def __getitem__(self, place: int | slice) -> object | Sequence[object]:
        if isinstance(place, slice):
            return [self._make(number) for number in range(*place.indices(_MADE_UP))]
        return self._make(range(_MADE_UP)[place])


def shipped(modality: str) -> Samples:
    """The samples that come with slimbind; for depth, thermal and imu made-up ones, the same every time.

    Raises:
        ArtifactError: the installation lacks its samples.
    """
    what = _WHAT[modality]
    if modality in synthetic.SCENES:
        return Samples(_Scenes(synthetic.SCENES[modality]), what)
    folder = _folder()
    if modality == "text":
        queries = json.loads((folder / _QUERIES).read_text(encoding="utf-8"))
        names = [form.format(_words(path)) for name, form in _SAYINGS.items() for path in _listed(folder / name)]
        return Samples([*queries, *names, *_paragraphs([*names, *queries])], what)
    return Samples([path for name in _SHIPPED[modality] for path in _listed(folder / name)], what)


def captioned(modality: str) -> list[tuple[Path, str]]:
    """The shipped files of a modality, each with a sentence that says what it is, from its name.

    Raises:
        ArtifactError: the installation lacks its samples.
    """
    folder = _folder()
    return [
        (path, _SAYINGS[name].format(_words(path))) for name in _SHIPPED[modality] for path in _listed(folder / name)
    ]


def from_path(path: Path, modality: str, *, alone: bool) -> Samples:
    """The items of ``modality`` in a folder and the folders below it, sorted by name; none found is no error here.

    What lies in a subfolder called like a modality belongs to that one alone, whatever of the types it reads. Elsewhere
    a file's type decides; types that several modalities share (a ``.png``: photograph or depth map) count only when
    ``alone``, that is when nothing else is looked for. Texts are the lines of ``.txt`` files, and one such file may be
    named instead of a folder. Names that begin with a dot are left out.

    Raises:
        UsageError: there is no such folder, or sentences cannot be read.
    """
    source = f"files of {path.absolute().name}"
    if path.is_file():
        if path.suffix.lower() != SENTENCES:
            raise UsageError(f"{path} is a file", hint=f"name a folder, or a {SENTENCES} file of sentences")
        return Samples(_lines(path) if modality == "text" else [], source)
    if not path.is_dir():
        raise UsageError(f"there is no folder {path}", hint="check the path")
    own = path / modality
    if own.is_dir():
        files = _files(own)
    else:
        others = MODALITIES.keys() - {modality}
        files = [file for file in _files(path) if file.relative_to(path).parts[0] not in others]
    info = MODALITIES[modality]
    if modality == "text":
        return Samples([line for file in files if file.suffix.lower() == SENTENCES for line in _lines(file)], source)
    suffixes = info.suffixes | info.explicit_suffixes if alone or own.is_dir() else info.suffixes
    return Samples([file for file in files if file.suffix.lower() in suffixes], source)


def contents(path: Path) -> str:
    """What kinds of files a folder holds, in words: ``12 vision, 3 of no known type``."""
    kinds = Counter(modality_of(file) or "of no known type" for file in (_files(path) if path.is_dir() else [path]))
    return ", ".join(f"{count} {kind}" for kind, count in kinds.most_common()) or "nothing"


def _files(folder: Path) -> list[Path]:
    found: list[Path] = []
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        found += [Path(place, name) for name in sorted(names) if not name.startswith(".")]
    return [path for path in found if path.is_file()]


def _lines(path: Path) -> list[str]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} cannot be read: {error}", hint="sentences are UTF-8, one per line") from error
    return [line.strip() for line in text.splitlines() if line.strip() and len(line) <= _LONGEST_LINE]


def _folder() -> Path:
    """Inside an installed package, or at the root of a checkout."""
    package = Path(__file__).resolve().parents[1]
    for folder in (package / "samples", package.parents[1] / "samples"):
        if (folder / _QUERIES).is_file():
            return folder
    raise ArtifactError("the samples that come with slimbind are missing", hint="install it again, or name your data")


def _listed(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))


def _paragraphs(sentences: Sequence[str]) -> list[str]:
    """Texts of 2 to 16 sentences: short ones alone would leave most positions of a text tower unseen."""
    found, start = [], 0
    for number in range(_PARAGRAPHS):
        taken = [sentences[(start + k) % len(sentences)] for k in range(2 + number % 15)]
        start += len(taken)
        found.append(", ".join(taken))
    return found


def _words(path: Path) -> str:
    return path.stem.replace("-", " ")
