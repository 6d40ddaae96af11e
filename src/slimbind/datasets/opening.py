"""Opening a data set: what kind it is, seen by what is there, and the class that reads it."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from slimbind.datasets import cifar, esc50, hf_parquet, idx, webdataset
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


def _one(fits: Callable[[Path], bool]) -> Callable[[tuple[Path, ...]], bool]:
    """A test of a single path."""
    return lambda paths: len(paths) == 1 and fits(paths[0])


def _published(
    name: str, what: str, kind_of: Callable[[Path], str | None], make: Callable[[Path, str, str | None], Dataset]
) -> _Kind:
    """One of the data sets that share a format, with the splits its authors made."""
    return _Kind(
        what,
        _one(lambda path: kind_of(path) == name),
        lambda asked: make(asked.path, name, asked.split),
        frozenset({"split"}),
    )


def _is_table(path: Path) -> bool:
    return path.is_file() and path.suffix.lower() in TABLES


def _shards(asked: _Asked) -> list[Path]:
    return [shard for path in asked.paths for shard in webdataset.shards_of(path, asked.split)]


# In the order in which they are tried; what is most particular comes first.
_KINDS: dict[str, _Kind] = {
    "cifar10": _published(
        "cifar10", "cifar-10-python.tar.gz, or a folder with batches.meta and test_batch", cifar.kind_of, cifar.Cifar
    ),
    "cifar100": _published(
        "cifar100", "cifar-100-python.tar.gz, or a folder with meta and test", cifar.kind_of, cifar.Cifar
    ),
    "fashion-mnist": _published(
        "fashion-mnist", "the same as idx, in a place whose name has 'fashion' in it", idx.kind_of, idx.Idx
    ),
    "idx": _published(
        "idx",
        "t10k-images-idx3-ubyte and t10k-labels-idx1-ubyte, plain or .gz, or their folder",
        idx.kind_of,
        idx.Idx,
    ),
    "esc50": _Kind(
        "a folder with meta/esc50.csv and audio/",
        _one(esc50.is_one),
        lambda asked: esc50.Esc50(asked.path, split=asked.split),
        frozenset({"split"}),
    ),
    "webdataset": _Kind(
        "one or many .tar, .tar.gz or .tgz, or a folder of them",
        lambda paths: all(webdataset.has_shards(path) for path in paths),
        lambda asked: webdataset.WebDataset(_shards(asked), asked.path, columns=asked.columns, modalities=asked.pair),
        frozenset({"columns", "split"}),
        paths=None,
    ),
    "hf-parquet": _Kind(
        "a .parquet with pictures or sounds in it, or a folder of such",
        _one(hf_parquet.has_media),
        lambda asked: hf_parquet.HfParquet(asked.path, columns=asked.columns, modalities=asked.pair, split=asked.split),
        frozenset({"columns", "split"}),
    ),
    "pairs": _Kind(
        "a .csv, .tsv or .parquet with two columns that belong together",
        _one(_is_table),
        lambda asked: Pairs(asked.path, columns=asked.columns, modalities=asked.pair, root=asked.root),
        frozenset({"columns", "root"}),
    ),
    "matching": _Kind(
        "two folders in which what belongs together has the same name",
        lambda paths: len(paths) == 2 and all(path.is_dir() for path in paths),
        lambda asked: Matching(asked.paths[0], asked.paths[1], modalities=asked.pair),
        paths=2,
    ),
    "folder": _Kind(
        "a folder with a subfolder of files for each class",
        _one(lambda path: path.is_dir() and bool(subfolders(path))),
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
        paths: a file or folder; two folders for ``matching``, any number of tars for ``webdataset``.
        kind: one of ``KINDS``, or ``auto``: the first in their order that fits what is there.
        columns: which belong together: of a table two, of ``webdataset`` types of files, of ``hf-parquet`` the data and
            their label or caption.
        modalities: of the samples, and in pairs of their other side; by default what the file types tell.
        split: which part of it, for example ``train`` or ``test``. CIFAR and idx give ``test`` by default, and have
            ``all``; of other kinds everything is given, unless they are in parts, which must then be named.
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
        tuple(_named(Path(path).expanduser()) for path in paths),
        None if columns is None else tuple(columns),
        told,
        split,
        None if root is None else Path(root).expanduser(),
    )
    try:
        return _opened(asked, kind)
    except OSError as error:  # a folder that may not be listed, a name longer than names are
        raise DatasetError(f"{error.filename or asked.path} cannot be read: {error.strerror}") from error


def _opened(asked: _Asked, kind: str) -> Dataset:
    """The data set, whatever kind it turns out to be."""
    for path in asked.paths:
        if not path.exists():
            raise UsageError(f"{path}: no such file or folder", hint="check the path")
    name = _detected(asked.paths) if kind == "auto" else kind
    chosen = _KINDS[name]
    if chosen.paths is not None and len(asked.paths) != chosen.paths:
        raise UsageError(
            f"{len(asked.paths)} paths were named for a data set of kind {name}", hint=f"it is {chosen.what}"
        )
    for option in ("columns", "split", "root"):
        if getattr(asked, option) is not None and option not in chosen.options:
            takes = [other for other, entry in _KINDS.items() if option in entry.options]
            raise UsageError(
                f"{option} was given, but {asked.path} is a data set of kind {name}",
                hint=f"for {', '.join(takes)} only",
            )
    made = chosen.make(asked)
    for wanted, found in zip(asked.modalities, made.modalities, strict=False):
        if wanted not in (None, found):
            raise UsageError(f"{wanted} was asked for, but {asked.path} has {found}", hint=f"it is of kind {name}")
    return made


def _named(path: Path) -> Path:
    """The same path, with a name to call it by: ``.`` and ``..`` have none."""
    return path.resolve() if path.name in ("", "..") else path


def _detected(paths: tuple[Path, ...]) -> str:
    for name, kind in _KINDS.items():
        if kind.fits(paths):
            return name
    looked = "; ".join(f"{name}: {kind.what}" for name, kind in _KINDS.items())
    there = ", ".join(str(path) for path in paths)
    raise DatasetError(f"{there} is no data set of a known kind", hint=f"looked for {looked}")
