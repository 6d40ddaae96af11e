"""Two folders that belong together: files with the same name, but for its type, are a pair."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from slimbind.datasets.dataset import Dataset, Sample
from slimbind.datasets.files import listed, of_modality, text_of
from slimbind.errors import UsageError


class Matching(Dataset):
    """Pairs out of two folders; ``photos/sea/1.jpg`` and ``captions/sea/1.txt`` are one. A text is read when its turn
    comes.

    Raises:
        UsageError: a folder has several modalities or none, or no name is in both.
    """

    def __init__(self, left: Path, right: Path, *, modalities: tuple[str | None, str | None] = (None, None)) -> None:
        kinds, sides = [], []
        for folder, modality in zip((left, right), modalities, strict=True):
            kind, files = of_modality(listed(folder), modality, folder)
            kinds.append(kind)
            sides.append(_by_name(folder, files))
        names = sorted(sides[0].keys() & sides[1].keys())
        if not names:
            raise UsageError(
                f"{left} and {right} have no names in common: {_some(sides[0])}; {_some(sides[1])}",
                hint="a pair has the same name in both, such as a.jpg and a.txt",
            )
        left_out = [
            (name, f"is not in {other}")
            for side, wanted, other in ((sides[0], sides[1], right), (sides[1], sides[0], left))
            for name in side
            if name not in wanted
        ]
        left_out += [
            (name, "is the name of several files") for name in names if len(sides[0][name] + sides[1][name]) > 2
        ]
        self._pairs = [(name, sides[0][name][0], sides[1][name][0]) for name in names]
        self._pairs = [pair for pair in self._pairs if len(sides[0][pair[0]] + sides[1][pair[0]]) == 2]
        super().__init__("matching", left, modalities=(kinds[0], kinds[1]), count=len(self._pairs), left_out=left_out)

    def _samples(self) -> Iterator[Sample]:
        for name, left, right in self._pairs:
            try:
                data, other = (
                    text_of(path) if modality == "text" else path
                    for path, modality in zip((left, right), self.modalities, strict=True)
                )
            except ValueError as error:
                self.skip(name, f"the text {error}")
                continue
            words = next((side for side in (other, data) if isinstance(side, str)), None)
            yield Sample(data, text=words, id=name, other=other)


def _by_name(folder: Path, files: list[Path]) -> dict[str, list[Path]]:
    found: dict[str, list[Path]] = {}
    for file in files:
        found.setdefault(file.relative_to(folder).with_suffix("").as_posix(), []).append(file)
    return found


def _some(side: dict[str, list[Path]]) -> str:
    return ", ".join(sorted(side)[:3]) + (", ..." if len(side) > 3 else "")
