"""Finding files for a data set: listing folders, telling a modality by file types, and staying inside a folder."""

from __future__ import annotations

import csv
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TextIO

from slimbind.errors import DatasetError, UsageError
from slimbind.modalities import MODALITIES, check_modality, modality_of

_TEXT_BYTES = 400_004  # what the longest text that is accepted can take
_NAMES_BYTES = 16 << 20
_ROW = 1 << 20  # characters of a table's row, be it of one line or of many; each cell has at most 131072
# Notes and tables lie beside many data; they are what is meant only where there is nothing else.
_BESIDE = ("text", "imu")
SPLITS = ("train", "val", "valid", "validation", "dev", "test")


def listed(folder: Path, suffix: str = "") -> list[Path]:
    """Regular files in a folder and below, sorted; hidden ones and links to folders are left out.

    ``suffix``, in lower case, leaves out those of other types.

    Raises:
        DatasetError: a folder cannot be listed.
    """

    def refuse(error: OSError) -> None:
        raise DatasetError(f"{error.filename} cannot be listed: {error.strerror}", hint="check its permissions")

    found: list[Path] = []
    for place, folders, names in os.walk(folder, onerror=refuse):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        found += [
            Path(place, name) for name in sorted(names) if not name.startswith(".") and name.lower().endswith(suffix)
        ]
    return [path for path in found if path.is_file()]


def subfolders(folder: Path) -> list[Path]:
    """The folders right inside, sorted by name; hidden ones are left out."""
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def part_of(folder: Path, split: str | None) -> Path:
    """The subfolder of a split; the folder itself where none is asked for.

    Raises:
        UsageError: there is no such subfolder, or the folder has nothing but splits and none is asked for.
    """
    there = [path.name for path in subfolders(folder)]
    if split is not None:
        if split not in there:
            raise UsageError.unknown(f"split of {folder}", split, there, hint="a split is a subfolder")
        return folder / split
    if there and set(there) <= set(SPLITS):
        raise UsageError(f"{folder} holds splits: {', '.join(there)}", hint="say which one: split")
    return folder


def of_modality(files: Iterable[Path], modality: str | None, where: Path) -> tuple[str, list[Path]]:
    """The files of one modality: the one asked for, or the only one that the file types tell of.

    Raises:
        UsageError: there are files of several modalities, or none of the one asked for.
    """
    every = list(files)
    if modality is not None:
        info = MODALITIES[check_modality(modality)]
        chosen = [path for path in every if path.suffix.lower() in info.suffixes | info.explicit_suffixes]
        if not chosen:
            raise UsageError(f"{where} has no files of {modality}", hint=f"it has {_told(every)}")
        return modality, chosen
    kinds = {name for path in every if (name := modality_of(path))}
    plain = kinds - set(_BESIDE) or kinds
    if len(plain) != 1:
        if not plain:
            raise UsageError(f"{where} has no files of a known type", hint=f"it has {_told(every)}")
        raise UsageError(f"{where} has files of several modalities: {_told(every)}", hint="say which one: modality")
    (only,) = plain
    return only, [path for path in every if modality_of(path) == only]


def modality_of_names(names: Iterable[str]) -> str | None:
    """The modality of most of these, by their file types; None where most are not names of media files."""
    every = list(names)
    best, count = next(iter(Counter(map(modality_of, every)).most_common(1)), (None, 0))
    return best if best not in _BESIDE and 2 * count > len(every) else None


def inside(root: Path, name: str) -> Path:
    """The path that a data set calls ``name``.

    Data come from strangers, and a list of files must not be a way to read others than those that came with it. Links
    are followed: those in a folder of one's own are one's own.

    Raises:
        ValueError: it leaves ``root``, or is no path; the message says which.
    """
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", name):
        raise ValueError("is an address, and nothing is fetched")
    if "\0" in name or not name:
        raise ValueError("is no path")
    base = os.path.abspath(root)
    whole = os.path.abspath(os.path.join(base, name))
    if os.path.commonpath([base, whole]) != base or whole == base:
        raise ValueError(f"lies outside {root} (another root can be named)")
    return Path(whole)


def text_of(path: Path) -> str:
    """The words in a file.

    Raises:
        ValueError: it cannot be read, is no UTF-8, empty or too long; the message says which.
    """
    try:
        with open(path, "rb") as file:
            raw = file.read(_TEXT_BYTES + 1)
        text = raw.decode("utf-8-sig").strip()
    except OSError as error:
        raise ValueError(f"cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"is not UTF-8 (byte {error.start})") from None
    if not text:
        raise ValueError("is empty")
    if len(raw) > _TEXT_BYTES:
        raise ValueError("is too long for a text")
    return text


def class_names(path: Path) -> list[str]:
    """The lines of a file of class names.

    Raises:
        DatasetError: it cannot be read, is no UTF-8, empty or too long.
    """
    try:
        with open(path, "rb") as file:
            raw = file.read(_NAMES_BYTES + 1)
        names = [line.strip() for line in raw.decode("utf-8-sig").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"{path} cannot be read: {error}", hint="one class a line, in UTF-8") from error
    if not names or len(raw) > _NAMES_BYTES:
        raise DatasetError(f"{path} is {'empty' if not names else 'too long'}", hint="one class a line, in UTF-8")
    return names


def rows(path: Path, delimiter: str = ",") -> Iterator[list[str]]:
    """The rows of a table in UTF-8, its header first; blank lines are empty rows.

    Raises:
        DatasetError: it cannot be read, is no UTF-8, no table, or has a row without end.
    """

    number, left = 0, _ROW

    def lines(file: TextIO) -> Iterator[str]:
        nonlocal number, left
        while line := file.readline(left):
            number, left = number + 1, left - len(line)
            if not left:
                raise csv.Error(f"a row of {_ROW} characters or more")
            yield line

    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            for row in csv.reader(lines(file), delimiter=delimiter, strict=True):
                left = _ROW
                yield row
    except OSError as error:
        raise DatasetError(f"{path} cannot be read: {error.strerror}", hint="check the path") from error
    except csv.Error as error:
        raise DatasetError(f"{path} is no table: line {number}: {error}", hint="save it as CSV in UTF-8") from error
    except UnicodeDecodeError as error:
        raise DatasetError(f"{path} is no table in UTF-8: {error}", hint="save it as CSV in UTF-8") from error


def _told(files: list[Path]) -> str:
    kinds = Counter(modality_of(path) or f"of type {path.suffix.lower() or '(none)'}" for path in files)
    return ", ".join(f"{count} {kind}" for kind, count in kinds.most_common(6)) or "no files"
