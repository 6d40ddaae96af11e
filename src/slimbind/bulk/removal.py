"""Which items leave because their files are gone, and which stay because it looks as if a drive were missing."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from slimbind.bulk.reader import Reader
from slimbind.collection import Entry

_MANY = 50  # files gone from which on the loss of more than half of a folder is no everyday thing
_EMPTIED = 10  # files gone from which on a subfolder that is there and empty is taken for a drive's place


@dataclass(frozen=True, slots=True)
class Held:
    """Items that stay in the collection although their files are gone.

    Args:
        folder: where the files were.
        count: how many items.
        why: what is odd about the folder, as the rest of a sentence that begins with its name.
    """

    folder: str
    count: int
    why: str


def gone(
    before: Iterator[Entry], reader: Reader, folders: Sequence[str], seen: set[str], *, all_of_them: bool = False
) -> tuple[list[str], list[Held]]:
    """Ids of the items that leave, and what is held back.

    An item leaves when it lies below the folders, was looked for and not seen; places that could not be listed are
    left alone. The place of a drive that is not there looks like an empty folder. So items stay where a folder that
    was named has no file left, where it has less than half as many as it had (and 50 are gone), and where a subfolder
    that had 10 is there, and empty. A folder that is gone itself was removed by somebody.

    Args:
        before: the items there were when the search for files began.
        reader: what looked for files.
        folders: the folders it was shown.
        seen: ids of all files that it found.
        all_of_them: hold nothing back.
    """
    looked_for = {reader.modality} if reader.modality else set(reader.wanted)
    roots = sorted({_prefix(folder) for folder in folders}, key=len, reverse=True)  # of two that overlap, the inner one
    full = {_prefix(folder) for folder, count in reader.files.items() if count}
    unknown = tuple(_prefix(folder) for folder in reader.unreadable)
    known: Counter[str] = Counter()
    missing: dict[str, list[Entry]] = {}
    for entry in before:
        root = next((root for root in roots if entry.source.startswith(root)), None)
        if root is not None and entry.modality in looked_for and not entry.source.startswith(unknown):
            known[root] += 1
            if entry.id not in seen:
                missing.setdefault(root, []).append(entry)
    leaving: list[str] = []
    held: list[Held] = []
    for root, entries in missing.items():
        if all_of_them:
            leaving += [entry.id for entry in entries]
            continue
        # What was renamed is gone and found again: what counts is how much there is.
        here = sum(name.startswith(root) for name in seen)
        if why := "has no files" if root not in full else _odd(len(entries), known[root], here):
            held.append(Held(root.rstrip(os.sep) or root, len(entries), why))
            continue
        emptied = _in_empty_folders(entries)
        held += [Held(folder, count, "is empty") for folder, count in Counter(emptied.values()).items()]
        leaving += [entry.id for entry in entries if entry.id not in emptied]
    return leaving, held


def _odd(missing: int, known: int, here: int) -> str:
    return f"has {here} files of {known} that it had" if missing >= _MANY and 2 * here < known else ""


def _in_empty_folders(entries: Sequence[Entry]) -> dict[str, str]:
    """Items by id whose nearest folder that is there is empty, with that folder; where it has lost many."""
    nearest: dict[str, str] = {}

    def place(folder: str) -> str:
        if folder not in nearest:
            nearest[folder] = folder if os.path.isdir(folder) else place(os.path.dirname(folder))
        return nearest[folder]

    found = {entry.id: place(os.path.dirname(entry.source)) for entry in entries}
    counts = Counter(found.values())
    empty = {folder for folder, count in counts.items() if count >= _EMPTIED and _is_empty(folder)}
    return {name: folder for name, folder in found.items() if folder in empty}


def _is_empty(folder: str) -> bool:
    try:
        with os.scandir(folder) as entries:
            return next(entries, None) is None
    except OSError:  # gone meanwhile, or it may not be listed, which the next run finds out
        return False


def _prefix(folder: str) -> str:
    return os.path.join(folder, "")
