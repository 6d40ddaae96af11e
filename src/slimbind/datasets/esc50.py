"""ESC-50: environmental sounds in 50 classes, ``meta/esc50.csv`` beside ``audio/``.

Piczak, "ESC: Dataset for Environmental Sound Classification" (2015). Its five folds are made so that pieces of one
recording lie in one fold: to train on some and test on another is right, to mix them is not.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from slimbind.datasets.dataset import Dataset, Sample
from slimbind.datasets.files import inside, rows
from slimbind.errors import DatasetError, UsageError

_LIST = Path("meta", "esc50.csv")
_COLUMNS = ("filename", "fold", "category")
_SPLITS = {
    "all": "12345",
    "train": "1234",
    "test": "5",
    **{f"fold{number}": str(number) for number in range(1, 6)},
}


class Esc50(Dataset):
    """All sounds, or a ``split``: ``fold1`` to ``fold5``, ``train`` (the first four) or ``test`` (the fifth).

    Raises:
        DatasetError: the list is missing, damaged or empty. UsageError: there is no such split.
    """

    def __init__(self, path: Path, *, split: str | None = None) -> None:
        if split is not None and split not in _SPLITS:
            raise UsageError.unknown("split of esc50", split, _SPLITS)
        listed = _rows(path / _LIST)
        classes = sorted({category for _, _, category in listed})
        labels = {category: number for number, category in enumerate(classes)}
        folds = _SPLITS[split or "all"]
        self._rows = [(name, labels[category]) for name, fold, category in listed if fold in folds]
        super().__init__("esc50", path, modalities=("audio",), classes=classes, count=len(self._rows))

    def _samples(self) -> Iterator[Sample]:
        for name, label in self._rows:
            try:
                yield Sample(inside(self.path / "audio", name), label, id=name)
            except ValueError as error:
                self.skip(name, str(error))


def is_one(path: Path) -> bool:
    """Whether a folder has the list of ESC-50."""
    return (path / _LIST).is_file()


def _rows(path: Path) -> list[tuple[str, str, str]]:
    table = rows(path)
    header = next(table, [])
    lacking = [name for name in _COLUMNS if name not in header]
    if lacking:
        raise DatasetError(f"{path} has no column {', '.join(lacking)}", hint="download it again")
    places = [header.index(name) for name in _COLUMNS]
    found = []
    for row in table:
        if row:
            name, fold, category = (row[place] if place < len(row) else "" for place in places)
            found.append((name, fold, category))
    if bad := next((row for row in found if row[1] not in set("12345") or not row[2]), None):
        raise DatasetError(f"{path}: {bad[0]!r} has no fold from 1 to 5, or no category", hint="download it again")
    if not found:
        raise DatasetError(f"{path} has no rows", hint="download it again")
    return found
