"""CIFAR-10 and CIFAR-100 as published for Python: the ``.tar.gz``, or the folder that comes out of it.

Krizhevsky, "Learning Multiple Layers of Features from Tiny Images" (2009). The files are pickles; they are read as
plain data (``plain_pickle``), never unpickled. Pictures are uint8 ``[32, 32, 3]``.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from slimbind.datasets.dataset import Dataset, Sample
from slimbind.datasets.plain_pickle import Bytes, loads
from slimbind.datasets.tar import MEMBER_BYTES, is_tar, members
from slimbind.errors import DatasetError, UsageError

_SIDE, _COLOURS = 32, 3
_FOLDERS = {"cifar10": "cifar-10-batches-py", "cifar100": "cifar-100-python"}
_SPLITS: dict[str, dict[str, tuple[str, ...]]] = {
    "cifar10": {"train": tuple(f"data_batch_{n}" for n in range(1, 6)), "test": ("test_batch",)},
    "cifar100": {"train": ("train",), "test": ("test",)},
}
_META = {"cifar10": ("batches.meta", b"label_names"), "cifar100": ("meta", b"fine_label_names")}
_LABELS = {"cifar10": b"labels", "cifar100": b"fine_labels"}
_MEND = "download it again from the authors' page, or copy it again"


class Cifar(Dataset):
    """The test pictures, or another ``split``: ``train``, or ``all``.

    Raises:
        DatasetError: files are missing, damaged, or hold something else than they should.
        UsageError: there is no such split.
    """

    def __init__(self, path: Path, kind: str, split: str | None = None) -> None:
        splits = _SPLITS[kind]
        wanted = {"all": sum(splits.values(), ()), **splits}
        if (split or "test") not in wanted:
            raise UsageError.unknown(f"split of {kind}", split, wanted)
        self._batches = wanted[split or "test"]
        self._place = path if is_tar(path) else _folder(path, kind)
        name, key = _META[kind]
        names = _entry(self._read(name), key, f"{path}: {name}")
        if not isinstance(names, list) or not names or not all(isinstance(one, bytes | str) for one in names):
            raise DatasetError(f"{path}: {name} has no names of classes", hint=_MEND)
        classes = [one.decode("utf-8", "replace") if isinstance(one, bytes) else one for one in names]
        super().__init__(kind, path, modalities=("vision",), classes=classes)

    def _samples(self) -> Iterator[Sample]:
        for batch in self._batches:
            where = f"{self.path}: {batch}"
            told = self._read(batch)
            pixels, labels = _entry(told, b"data", where), _entry(told, _LABELS[self.kind], where)
            array = pixels.array if isinstance(pixels, Bytes) else None
            length = _COLOURS * _SIDE * _SIDE
            if array is None or array.ndim != 2 or array.shape[1] != length:
                raise DatasetError(f"{where} holds no pictures of {length} bytes", hint=_MEND)
            if not isinstance(labels, list) or len(labels) != len(array):
                raise DatasetError(f"{where} has not one label for each of {len(array)} pictures", hint=_MEND)
            pictures = array.reshape(-1, _COLOURS, _SIDE, _SIDE).transpose(0, 2, 3, 1)
            for number, (picture, label) in enumerate(zip(pictures, labels, strict=True)):
                if type(label) is not int or not 0 <= label < len(self.classes or ()):
                    told_as = label if isinstance(label, int) else f"of type {type(label).__name__}"
                    self.skip(f"{batch} {number}", f"has the label {told_as}")
                else:
                    yield Sample(picture.copy(), label, id=f"{batch} {number}")

    def _read(self, name: str) -> Any:  # noqa: ANN401  (whatever plain thing was pickled)
        """One of its files, of the folder or the tar."""
        where = f"{self._place}: {name}"
        try:
            return loads(_content(self._place, name))
        except ValueError as error:
            raise DatasetError(f"{where} {error}", hint=_MEND) from error
        except OSError as error:
            raise DatasetError(f"{where} cannot be read: {error.strerror}", hint=_MEND) from error


def kind_of(path: Path) -> str | None:
    """``cifar10`` or ``cifar100`` where a folder or tar is one, told by its names."""
    for kind, folder in _FOLDERS.items():
        files = (_META[kind][0], *_SPLITS[kind]["test"])
        if path.is_dir() and any(all((place / name).is_file() for name in files) for place in (path, path / folder)):
            return kind
    if is_tar(path):
        try:
            first = next(members(path), None)
        except DatasetError:
            return None  # whoever opens it as what it is then says so
        parts = PurePosixPath(first.name).parts if first else ()
        return next((kind for kind, folder in _FOLDERS.items() if folder in parts), None)
    return None


def _folder(path: Path, kind: str) -> Path:
    for place in (path, path / _FOLDERS[kind]):
        if (place / _META[kind][0]).is_file():
            return place
    raise DatasetError(f"{path} has no {_META[kind][0]} of {kind}", hint=f"name the .tar.gz or {_FOLDERS[kind]}")


def _content(place: Path, name: str) -> bytes:
    if place.is_dir():
        with open(place / name, "rb") as file:
            data = file.read(MEMBER_BYTES + 1)
        if len(data) > MEMBER_BYTES:
            raise ValueError(f"has more than {MEMBER_BYTES} bytes")
        return data
    for member in members(place):
        if PurePosixPath(member.name).name == name:
            return member.read()
    raise ValueError("is missing")


def _entry(told: object, key: bytes, where: str) -> Any:  # noqa: ANN401
    if isinstance(told, dict):
        for name in (key, key.decode()):
            if name in told:
                return told[name]
    raise DatasetError(f"{where} has no {key.decode()}", hint=_MEND)
