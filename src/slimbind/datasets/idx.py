"""MNIST's file format (idx), as Fashion-MNIST has it too: one file of pictures, one of labels, plain or ``.gz``.

LeCun, Cortes and Burges, "The MNIST database of handwritten digits"; Xiao, Rasul and Vollgraf, "Fashion-MNIST" (2017).
Pictures are uint8 ``[height, width]``. They are read one by one; a header is believed only as far as there are bytes.
"""

from __future__ import annotations

import gzip
import re
import struct
import zlib
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import IO, cast

import numpy as np

from slimbind.datasets.dataset import Dataset, Sample
from slimbind.datasets.files import class_names
from slimbind.errors import DatasetError, UsageError

FASHION = (*("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),)
_IMAGES = re.compile(r"(train|t10k|test)-images[-.]idx3-ubyte(\.gz)?", re.IGNORECASE)
_MAGIC_IMAGES, _MAGIC_LABELS = 0x0803, 0x0801  # uint8 in three dimensions, and in one
_LARGEST = 4096  # pixels a side
_MOST = 100_000_000  # pictures
_MEND = "download it again"


class Idx(Dataset):
    """The test pictures, or another ``split``: ``train``, or ``all``.

    Class names are those of Fashion-MNIST for ``fashion-mnist``; for ``idx`` the lines of ``classes.txt`` in its
    folder, or else the numbers.

    Raises:
        DatasetError: files are missing, cut, or no idx files. UsageError: there is no such split.
    """

    def __init__(self, path: Path, kind: str, split: str | None = None) -> None:
        found = _files(path)
        wanted = {**{name: [files] for name, files in found.items()}, "all": list(found.values())}
        only = "test" if "test" in found else next(iter(found), "test")
        if (split or only) not in wanted or not found:
            if not found:
                raise DatasetError(f"{path} has no t10k-images-idx3-ubyte", hint="name the folder that has it")
            raise UsageError.unknown(f"split of {path}", split, wanted)
        self._files = wanted[split or only]
        count = sum(_count(images) for images, _ in self._files)
        names = list(FASHION) if kind == "fashion-mnist" else _names(self._files[0][0].parent)
        super().__init__(kind, path, modalities=("vision",), classes=names, count=count)

    def _samples(self) -> Iterator[Sample]:
        for images, labels in self._files:
            with ExitStack() as stack:
                pictures, answers = stack.enter_context(_Reader(images)), stack.enter_context(_Reader(labels))
                count, height, width = pictures.header(_MAGIC_IMAGES, 3)
                (told,) = answers.header(_MAGIC_LABELS, 1)
                if told != count:
                    raise DatasetError(f"{images} has {count} pictures, and {labels} {told} labels", hint=_MEND)
                for number in range(count):
                    picture = np.frombuffer(pictures.read(height * width), np.uint8).reshape(height, width)
                    label = answers.read(1)[0]
                    name = f"{images.name} {number}"
                    if label >= len(self.classes or ()):
                        self.skip(name, f"has the label {label}")
                    else:
                        yield Sample(picture, label, id=name)
                pictures.finish()
                answers.finish()


def kind_of(path: Path) -> str | None:
    """``fashion-mnist`` or ``idx`` where a folder or file is one; which of the two, its path has to say."""
    if not _files(path):
        return None
    return "fashion-mnist" if "fashion" in str(path.absolute()).lower() else "idx"


class _Reader:
    """An idx file, plain or compressed."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> _Reader:
        try:
            opened = gzip.open(self.path) if self.path.suffix.lower() == ".gz" else open(self.path, "rb")
        except OSError as error:
            raise DatasetError(f"{self.path} cannot be read: {error.strerror}", hint=_MEND) from error
        self._file = cast("IO[bytes]", opened)
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def read(self, count: int) -> bytes:
        data = self._some(count)
        if len(data) != count:
            raise DatasetError(f"{self.path} is cut short: its header promises more than it holds", hint=_MEND)
        return data

    def finish(self) -> None:
        """Nothing may be left; at the end of a compressed file its checksum is looked at, too."""
        if self._some(1):
            raise DatasetError(f"{self.path} holds more than its header says", hint=_MEND)

    def _some(self, count: int) -> bytes:
        try:
            return self._file.read(count)
        except (OSError, EOFError, zlib.error) as error:
            raise DatasetError(f"{self.path} is damaged: {error}", hint=_MEND) from error

    def header(self, magic: int, dimensions: int) -> tuple[int, ...]:
        """The sizes, checked: some pictures, of a size that pictures have."""
        found, *sizes = struct.unpack(f">{1 + dimensions}I", self.read(4 * (1 + dimensions)))
        if found != magic:
            raise DatasetError(f"{self.path} is no idx file of {dimensions} dimensions of uint8", hint=_MEND)
        if not 0 < sizes[0] <= _MOST or not all(0 < size <= _LARGEST for size in sizes[1:]):
            raise DatasetError(f"{self.path} claims {' x '.join(map(str, sizes))} bytes", hint=_MEND)
        return tuple(sizes)


def _count(path: Path) -> int:
    with _Reader(path) as file:
        return file.header(_MAGIC_IMAGES, 3)[0]


def _files(path: Path) -> dict[str, tuple[Path, Path]]:
    """Split -> its files of pictures and labels: in this folder, in ``raw`` below it, or the one that was named."""
    found: dict[str, tuple[Path, Path]] = {}
    if path.is_file():
        places = [path]
    else:
        places = [file for folder in (path, path / "raw") if folder.is_dir() for file in sorted(folder.iterdir())]
    for file in places:
        match = _IMAGES.fullmatch(file.name)
        if match and file.is_file():
            split = "train" if match[1].lower() == "train" else "test"
            stem = re.sub("images(.)idx3", r"labels\1idx1", file.name, flags=re.IGNORECASE)
            plain = stem.removesuffix(".gz")
            beside = next(
                (file.with_name(name) for name in (stem, plain, f"{plain}.gz") if file.with_name(name).is_file()), None
            )
            if beside is not None:
                found.setdefault(split, (file, beside))
    return found


def _names(folder: Path) -> list[str]:
    listed = folder / "classes.txt"
    if listed.is_file():
        return class_names(listed)
    return [str(number) for number in range(10)]
