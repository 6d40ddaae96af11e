"""What every data set gives: samples, the names of its classes, and what had to be left out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Sample:
    """One item, and what is known about it.

    Args:
        data: what an encoder takes: a path, bytes, an array, or a text.
        label: position of its class in ``Dataset.classes``; None where there are no classes.
        text: words that belong to it (a caption); None where there are none.
        id: how messages name it: a path inside the data set, or its place there.
        other: the other side of a pair, again what an encoder takes (equal to ``text`` where it is a text); None
            where the data set has no pairs. Pairs that share an item have equal ``data`` or equal ``other``.
    """

    data: Any
    label: int | None = None
    text: str | None = None
    id: str = ""
    other: Any = None


class Dataset(ABC):
    """Samples, read as they are asked for. It may be iterated any number of times.

    Args:
        kind: one of ``datasets.KINDS``.
        path: the file or folder it was opened from.
        modalities: modality of ``Sample.data``, and in a data set of pairs that of ``Sample.other`` behind it.
        classes: names of the classes as the data spells them, underscores and all; None where there are none.
        count: number of samples, None where only reading would tell. Samples that are left out are counted.
        left_out: known from the beginning not to be usable, each with the reason.
    """

    def __init__(
        self,
        kind: str,
        path: Path,
        *,
        modalities: tuple[str, ...],
        classes: Sequence[str] | None = None,
        count: int | None = None,
        left_out: Sequence[tuple[str, str]] = (),
    ) -> None:
        self.kind = kind
        self.path = path
        self.modalities = modalities
        self.classes = None if classes is None else list(classes)
        self.count = count
        self.skipped: list[tuple[str, str]] = list(left_out)  # of the last pass: the name of each, and why
        self._left_out = tuple(left_out)

    def __iter__(self) -> Iterator[Sample]:
        """One pass over the samples.

        What is wrong with a single sample leaves it out, and adds it to ``skipped``. A file that exists but holds no
        picture is not looked into here: whoever embeds it finds out.

        Raises:
            DatasetError: the data set itself is damaged, or has no sample that can be used.
        """
        from slimbind.errors import DatasetError

        self.skipped = list(self._left_out)
        some = False
        for sample in self._samples():
            some = True
            yield sample
        if not some:
            why = f"; the first of {len(self.skipped)}: {': '.join(self.skipped[0])}" if self.skipped else ""
            raise DatasetError(f"{self.path} has no sample that can be used{why}", hint="check the data")

    def __len__(self) -> int:
        """``count``.

        Raises:
            TypeError: the number is not known before the data were read.
        """
        if self.count is None:
            raise TypeError(f"the number of samples in {self.path} is not known before they were read")
        return self.count

    def __bool__(self) -> bool:
        return True

    def __repr__(self) -> str:
        count = "?" if self.count is None else self.count
        classes = "" if self.classes is None else f", {len(self.classes)} classes"
        return f"<slimbind.datasets.Dataset {self.kind} {self.path}: {count} {' + '.join(self.modalities)}{classes}>"

    @abstractmethod
    def _samples(self) -> Iterator[Sample]:
        """One pass; ``skip`` is called for what is left out."""

    def skip(self, name: str, why: str) -> None:
        """Leave a sample out of this pass."""
        self.skipped.append((name, why))
