"""Opening a data set: what kind it is, seen by what is there, and the class that reads it."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from slimbind.datasets.dataset import Dataset
from slimbind.datasets.files import subfolders
from slimbind.datasets.folder import Folder
from slimbind.datasets.matching import Matching
from slimbind.datasets.pairs import SUFFIXES as TABLES
from slimbind.datasets.pairs import Pairs
from slimbind.errors import DatasetError, UsageError
from slimbind.modalities import check_modality


@dataclass(frozen=True)
class _Asked:
    """What the caller said about it."""

    paths: tuple[Path, ...]
    columns: tuple[str, ...] | None
    modalities: tuple[str | None, ...]
    split: str | None
    root: Path | None

    @property
    def path(self) -> Path:
        return self.paths[0]

    @property
    def pair(self) -> tuple[str | None, str | None]:
        return (*self.modalities, None, None)[0], (*self.modalities, None, None)[1]


@dataclass(frozen=True)
class _Kind:
    """How one kind of data set is told, opened, and described to people."""

    what: str
    fits: Callable[[tuple[Path, ...]], bool]
    make: Callable[[_Asked], Dataset]
    options: frozenset[str] = frozenset()
    paths: int | None = 1


def _is_table(paths: tuple[Path, ...]) -> bool:
    return len(paths) == 1 and paths[0].is_file() and paths[0].suffix.lower() in TABLES


def _is_two_folders(paths: tuple[Path, ...]) -> bool:
    return len(paths) == 2 and all(path.is_dir() for path in paths)


def _has_subfolders(paths: tuple[Path, ...]) -> bool:
    return len(paths) == 1 and paths[0].is_dir() and bool(subfolders(paths[0]))


_KINDS: dict[str, _Kind] = {
    "pairs": _Kind(
        "a .csv, .tsv or .parquet with two columns that belong together",
        _is_table,
        lambda asked: Pairs(asked.path, columns=asked.columns, modalities=asked.pair, root=asked.root),
        frozenset({"columns", "root"}),
    ),
    "matching": _Kind(
        "two folders in which what belongs together has the same name",
        _is_two_folders,
        lambda asked: Matching(asked.paths[0], asked.paths[1], modalities=asked.pair),
        paths=2,
    ),
    "folder": _Kind(
        "a folder with a subfolder of files for each class",
        _has_subfolders,
        lambda asked: Folder(asked.path, modality=asked.pair[0], split=asked.split),
        frozenset({"split"}),
    ),
}

KINDS: dict[str, str] = {name: kind.what for name, kind in _KINDS.items()}


def open(
    *paths: str | os.PathLike[str],
    kind: str = "auto",
    columns: Sequence[str] | None = None,
    modalities: str | Sequence[str | None] = (),
    split: str | None = None,
    root: str | os.PathLike[str] | None = None,
) -> Dataset:
    """Open a data set. Names, headers and lists are read now, contents as they are asked for.

    Args:
        paths: a file or folder; two folders for ``matching``.
        kind: one of ``KINDS``, or ``auto``: the first in their order that fits what is there.
        columns: of a table: which two belong together.
        modalities: of the samples, and in pairs of their other side; by default what the file types tell.
        split: which part of it, for example ``train`` or ``test``.
        root: of a table: where its relative paths begin, and what no path of it may leave (default: its folder).

    Raises:
        UsageError: an argument has a value that is not allowed, or that this kind does not take.
        DatasetError: it is of no known kind (the message lists what was looked for), or damaged.
        MissingExtraError: it is parquet, and pyarrow is not installed.
    """
    if kind != "auto" and kind not in _KINDS:
        raise UsageError.unknown("kind of data set", kind, ["auto", *_KINDS])
    if not paths:
        raise UsageError("no data was named", hint="name a file or a folder")
    told = (modalities,) if isinstance(modalities, str) else tuple(modalities)
    for name in told:
        if name is not None:
            check_modality(name)
    asked = _Asked(
        tuple(Path(path).expanduser() for path in paths),
        None if columns is None else tuple(columns),
        told,
        split,
        None if root is None else Path(root).expanduser(),
    )
    for path in asked.paths:
        if not path.exists():
            raise UsageError(f"{path}: no such file or folder", hint="check the path")
    name = _detected(asked.paths) if kind == "auto" else kind
    chosen = _KINDS[name]
    if chosen.paths is not None and len(paths) != chosen.paths:
        raise UsageError(f"{len(paths)} paths were named for a data set of kind {name}", hint=f"it is {chosen.what}")
    for option in ("columns", "split", "root"):
        if getattr(asked, option) is not None and option not in chosen.options:
            takes = [other for other, entry in _KINDS.items() if option in entry.options]
            raise UsageError(
                f"{option} was given, but {asked.path} is a data set of kind {name}",
                hint=f"for {', '.join(takes)} only",
            )
    return chosen.make(asked)


def _detected(paths: tuple[Path, ...]) -> str:
    for name, kind in _KINDS.items():
        if kind.fits(paths):
            return name
    looked = "; ".join(f"{name}: {kind.what}" for name, kind in _KINDS.items())
    there = ", ".join(str(path) for path in paths)
    raise DatasetError(f"{there} is no data set of a known kind", hint=f"looked for {looked}")
