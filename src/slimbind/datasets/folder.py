"""A folder with a subfolder for each class; what lies deeper belongs to the class above it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from slimbind.datasets.dataset import Dataset, Sample
from slimbind.datasets.files import listed, of_modality, part_of, subfolders
from slimbind.errors import DatasetError


class Folder(Dataset):
    """Class by subfolder. Only names are read when it is opened.

    Raises:
        DatasetError: it has no subfolders. UsageError: of several modalities, or none; or a split must be named.
    """

    def __init__(self, path: Path, *, modality: str | None = None, split: str | None = None) -> None:
        root = part_of(path, split)
        names = [folder.name for folder in subfolders(root)]
        if not names:
            raise DatasetError(f"{root} has no subfolders", hint="make one for each class, and call it like the class")
        modality, files = of_modality((file for name in names for file in listed(root / name)), modality, root)
        # A folder that holds nothing of this modality is no class: notes, masks.
        classes = sorted({file.relative_to(root).parts[0] for file in files})
        super().__init__("folder", path, modalities=(modality,), classes=classes, count=len(files))
        self._root = root
        self._files = files
        self._label = {name: number for number, name in enumerate(classes)}

    def _samples(self) -> Iterator[Sample]:
        for file in self._files:
            inside = file.relative_to(self._root)
            yield Sample(file, self._label[inside.parts[0]], id=inside.as_posix())
