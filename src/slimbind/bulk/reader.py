"""Paths, folders, lines and texts become items; what is left out is counted by reason."""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from slimbind.bulk.items import Item
from slimbind.errors import MediaError, UsageError
from slimbind.modalities import MODALITIES, check_modality, modality_of

_MAX_LINE = 1 << 20  # bytes; more on one line is no text to embed


class Reader:
    """Finds items. In a folder, files that are not asked for are skipped and counted; a named one is an error.

    Folders are read recursively in sorted order. Names that begin with a dot are left out, links to files are
    followed, links to folders are not (so a loop of links ends).

    Args:
        model: the model's name, for messages.
        available: the modalities it has.
        wanted: the modalities to read from folders (default: all of ``available``).
        modality: treat every file as this one, whatever its type (default: by file type).
        lines: text files are one text per line.
        exclude: a folder that is never entered (the index itself).

    Raises:
        UsageError: ``modality`` is unknown, or the model lacks it.
    """

    def __init__(
        self,
        model: str,
        available: Sequence[str],
        *,
        wanted: Sequence[str] | None = None,
        modality: str | None = None,
        lines: bool = False,
        exclude: Path | None = None,
    ) -> None:
        for name in [modality] if modality else wanted or []:
            if check_modality(name) not in available:
                raise UsageError.unknown(f"modality of {model}", name, available, hint="choose another --model")
        self.model = model
        self.available = tuple(available)
        self.wanted = tuple(available if wanted is None else wanted)
        self.modality = modality
        self.lines = lines
        self.skipped: Counter[str] = Counter()
        self.files: Counter[str] = Counter()  # by folder that was read: files of any type in it, however deep
        self.unreadable: list[str] = []
        self._exclude = os.path.realpath(exclude) if exclude else None

    def paths(self, paths: Iterable[str]) -> Iterator[Item]:
        """Items of files and folders, in the order given."""
        for path in paths:
            if os.path.isdir(path):
                yield from self.folder(path)
            else:
                yield from self._named(path)

    def folder(self, folder: str) -> Iterator[Item]:
        """Items of one folder; a subfolder that cannot be listed is an error item, and noted in ``unreadable``."""
        for path, problem in self._walk(folder):
            if problem is not None:
                self.unreadable.append(path)
                yield _bad(path, "", _reason(problem), hint="check its permissions")
                continue
            self.files[folder] += 1
            if modality := self._modality_in_folder(path):
                yield from self._file(path, modality, named=False)

    def texts(self, texts: Iterable[str]) -> Iterator[Item]:
        """Items of texts; each is its own id."""
        for text in texts:
            yield Item(text, self._check_has("text"), text)

    def lines_of(self, stream: BinaryIO, name: str) -> Iterator[Item]:
        """Items of the lines of a stream of UTF-8, with ids ``name:1``, ``name:2`` ...; blank lines are skipped."""
        self._check_has("text")
        number = 0
        while line := stream.readline(_MAX_LINE):
            number += 1
            where = f"{name}:{number}"
            if len(line) == _MAX_LINE and not line.endswith(b"\n"):
                while (rest := stream.readline(_MAX_LINE)) and not rest.endswith(b"\n"):
                    pass
                yield _bad(where, "text", f"is a line of more than {_MAX_LINE} bytes", hint="break it into sentences")
                continue
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8").strip()
            except UnicodeDecodeError as error:
                yield _bad(where, "text", f"is not UTF-8: {error.reason}", hint="convert it to UTF-8")
                continue
            if text:
                yield Item(where, "text", text)
            else:
                self.skipped["blank lines"] += 1

    def _walk(self, folder: str) -> Iterator[tuple[str, OSError | None]]:
        """Files below a folder in sorted order, without recursion in Python: trees may be deep."""
        stack = [(folder, True)]
        while stack:
            path, is_folder = stack.pop()
            if not is_folder:
                yield path, None
                continue
            if self._exclude and os.path.realpath(path) == self._exclude:
                continue
            try:
                with os.scandir(path) as entries:
                    found = sorted(entries, key=lambda entry: entry.name, reverse=True)
            except OSError as error:
                yield path, error
                continue
            for entry in found:
                if entry.name.startswith("."):
                    continue
                if entry.is_symlink() and os.path.isdir(entry.path):
                    self.skipped["links to folders"] += 1
                else:
                    stack.append((entry.path, entry.is_dir(follow_symlinks=False)))

    def _modality_in_folder(self, path: str) -> str | None:
        suffix = os.path.splitext(path)[1].lower()
        if self.modality:
            info = MODALITIES[self.modality]
            if suffix in info.suffixes | info.explicit_suffixes:
                return self.modality
            self.skipped[f"not {self.modality} by type"] += 1
            return None
        found = modality_of(path)
        if found is None:
            self.skipped["of no known type"] += 1
        elif found not in self.available:
            self.skipped[f"{found}, for which {self.model} has no tower"] += 1
        elif found not in self.wanted:
            self.skipped[f"{found}, not asked for"] += 1
        else:
            return found
        return None

    def _named(self, path: str) -> Iterator[Item]:
        modality = self.modality or modality_of(path)
        if not os.path.lexists(path):
            yield _bad(path, modality or "", "no such file or folder", hint="check the path")
        elif modality is None:
            suffix = os.path.splitext(path)[1]
            kind = f"its type {suffix!r} does not tell a modality" if suffix else "its name has no file type"
            yield _bad(path, "", kind, hint=f"say what it is: --modality {'|'.join(self.available)}")
        elif modality not in self.available:
            has = ", ".join(self.available)
            yield _bad(path, modality, f"is {modality}, and {self.model} has {has} only", hint="choose another --model")
        else:
            yield from self._file(path, modality, named=True)

    def _file(self, path: str, modality: str, *, named: bool) -> Iterator[Item]:
        try:
            info = os.stat(path)
        except (OSError, ValueError) as error:
            yield _bad(path, modality, _reason(error), hint="check the path")
            return
        if not stat.S_ISREG(info.st_mode):
            # A pipe would block the whole job, a device has no end.
            if named:
                yield _bad(path, modality, "is not a regular file", hint="copy its content to a file")
            else:
                self.skipped["not regular files"] += 1
        elif modality == "text" and self.lines:
            try:
                with open(path, "rb") as stream:
                    yield from self.lines_of(stream, path)
            except OSError as error:
                yield _bad(path, modality, _reason(error), hint="check the file")
        else:
            yield Item(path, modality, Path(path), info.st_size, info.st_mtime_ns)

    def _check_has(self, modality: str) -> str:
        if modality not in self.available:
            what = f"modality of {self.model}"
            raise UsageError.unknown(what, modality, self.available, hint="choose another --model")
        return modality


def paths_of(stream: BinaryIO, *, null: bool = False) -> Iterator[str]:
    """The paths listed in a stream, one per line, or ended by NUL bytes (``find -print0``)."""
    separator, ending = (b"\0", b"") if null else (b"\n", b"\r")
    rest = b""
    while block := stream.read(1 << 16):
        *whole, rest = (rest + block).split(separator)
        for line in whole:
            if path := line.removesuffix(ending):
                yield os.fsdecode(path)
    if path := rest.removesuffix(ending):
        yield os.fsdecode(path)


def _bad(name: str, modality: str, reason: str, *, hint: str) -> Item:
    return Item(name, modality, error=MediaError(name, reason, hint=hint))


def _reason(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "is a link to nothing"
    return getattr(error, "strerror", None) or str(error)
