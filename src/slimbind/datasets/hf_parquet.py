"""Parquet as the Hugging Face hub keeps data sets: pictures and sounds inside, names of classes in the metadata.

A picture or sound is a struct of ``bytes`` and ``path``. ``train-00000-of-00005.parquet`` is a piece of the split
``train``; a folder holds any number of pieces, of any splits.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from slimbind.datasets.dataset import Dataset, Sample
from slimbind.datasets.files import inside, listed, modality_of_names
from slimbind.datasets.parquet import parquet_file, parquet_rows
from slimbind.errors import DatasetError, UsageError
from slimbind.modalities import check_modality

_ROWS = 32  # read at once; a row may hold a picture of megabytes
_NAMES_AT_ONCE = 4096  # the same, of names alone
_MOST_CLASSES = 100_000
_FEATURES = {"Image": "vision", "Audio": "audio", "Video": "vision"}
_LABELS = ("label", "labels", "fine_label", "class", "target", "category")
_WORDS = ("caption", "captions", "text", "sentence", "title", "description")


@dataclass(frozen=True)
class _Columns:
    """What the columns hold.

    Args:
        media: name -> modality, empty where it is not said.
        classes: name -> names of the classes, None where none are known.
        spelled: those of ``classes`` that hold names, not numbers.
        texts: all others with words in them.
    """

    media: Mapping[str, str]
    classes: Mapping[str, list[str] | None]
    spelled: tuple[str, ...]
    texts: tuple[str, ...]

    @property
    def names(self) -> list[str]:
        return [*self.media, *self.classes, *self.texts]


class HfParquet(Dataset):
    """Rows of one split.

    Args:
        path: a parquet file, or a folder of them.
        columns: what is embedded and, behind it, its class or the other side of the pair; by default the first picture
            or sound, and its label, or else its caption. A caption that is a list gives a sample for each.
        modalities: of the columns; by default what the metadata say, or the paths.
        split: where there are several.

    Raises:
        DatasetError: a file is no parquet, damaged, or has no picture or sound in it.
        UsageError: there are no such columns, or a split has to be named.
        MissingExtraError: pyarrow is not installed.
    """

    def __init__(
        self,
        path: Path,
        *,
        columns: Sequence[str] | None = None,
        modalities: tuple[str | None, str | None] = (None, None),
        split: str | None = None,
    ) -> None:
        self._files = _pieces(path, split)
        with parquet_file(self._files[0]) as file:
            there = _columns(file.schema_arrow)
        self._data, self._label, self._other = _chosen(path, there, columns)
        kinds = [_modality(self._files[0], self._data, there, modalities[0])]
        if self._other is not None:
            kinds.append(
                "text" if self._other in there.texts else _modality(self._files[0], self._other, there, modalities[1])
            )
        count = 0
        for piece in self._files:
            with parquet_file(piece) as file:
                if lacking := set(self._wanted) - set(file.schema_arrow.names):
                    raise DatasetError(f"{piece} has no column {sorted(lacking)[0]}, and {self._files[0]} has")
                count += file.metadata.num_rows
        names = _spelled(self._files, self._label) if self._label in there.spelled else []
        self._named = {name: position for position, name in enumerate(names)}  # empty where the column holds numbers
        super().__init__(
            "hf-parquet",
            path,
            modalities=tuple(kinds),
            classes=names or (there.classes[self._label] if self._label else None),
            count=count,
        )

    @property
    def _wanted(self) -> list[str]:
        return [name for name in (self._data, self._label, self._other) if name is not None]

    def _samples(self) -> Iterator[Sample]:
        for piece in self._files:
            for number, values in enumerate(parquet_rows(piece, self._wanted, _ROWS), start=1):
                name = f"{piece.name}, row {number}"
                try:
                    yield from self._row(dict(zip(self._wanted, values, strict=True)), piece, name)
                except ValueError as error:
                    self.skip(name, str(error))

    def _row(self, row: Mapping[str, Any], piece: Path, name: str) -> Iterator[Sample]:
        data = _medium(row[self._data], piece.parent)
        label = told = row[self._label] if self._label else None
        if self._named:
            label = self._named.get(told.strip()) if isinstance(told, str) else None
        if self._label and (
            type(label) is not int or not 0 <= label < (len(self.classes) if self.classes else 1 << 31)
        ):
            raise ValueError(f"has the label {told!r}")
        if self._other is None:
            yield Sample(data, label, id=name)
        elif self.modalities[1] != "text":
            yield Sample(data, label, id=name, other=_medium(row[self._other], piece.parent))
        else:
            told = row[self._other]
            words = [text.strip() for text in (told if isinstance(told, list) else [told]) if isinstance(text, str)]
            if not any(words):
                raise ValueError(f"nothing in column {self._other}")
            for text in filter(None, words):
                yield Sample(data, label, text, name, text)


def has_media(path: Path) -> bool:
    """Whether a parquet file, or the first in a folder, has pictures or sounds in it."""
    pieces = [path] if path.suffix.lower() == ".parquet" and path.is_file() else _all_pieces(path)
    if not pieces:
        return False
    with parquet_file(pieces[0]) as file:
        return bool(_columns(file.schema_arrow).media)


def _all_pieces(path: Path) -> list[Path]:
    return listed(path, ".parquet") if path.is_dir() else []


def _pieces(path: Path, split: str | None) -> list[Path]:
    if path.is_file():
        if split is not None:
            raise UsageError(f"split was given, but {path} is one file", hint="name the folder")
        return [path]
    splits: dict[str, list[Path]] = {}
    for file in _all_pieces(path):
        splits.setdefault(file.stem.split("-")[0], []).append(file)
    if not splits:
        raise DatasetError(f"{path} has no parquet files", hint="name the folder that has them")
    if split is None and len(splits) > 1:
        raise UsageError(f"{path} holds splits: {', '.join(splits)}", hint="say which one: split")
    if split is not None and split not in splits:
        raise UsageError.unknown(f"split of {path}", split, splits)
    return splits[split or next(iter(splits))]


def _columns(schema: Any) -> _Columns:  # noqa: ANN401  (pyarrow has no types)
    import pyarrow.types as types

    try:
        told = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))["info"]["features"]
    except (ValueError, KeyError, TypeError, RecursionError):
        told = {}
    features = told if isinstance(told, dict) else {}
    media: dict[str, str] = {}
    classes: dict[str, list[str] | None] = {}
    spelled: list[str] = []
    texts: list[str] = []
    for field in schema:
        feature = features.get(field.name)
        feature = feature if isinstance(feature, dict) else {}
        kind = field.type
        if types.is_struct(kind) and {inner.name for inner in kind} >= {"bytes", "path"}:
            media[field.name] = _FEATURES.get(str(feature.get("_type")), "")
        elif types.is_integer(kind) and (feature.get("_type") == "ClassLabel" or field.name in _LABELS):
            names = feature.get("names")
            named = isinstance(names, list) and all(isinstance(name, str) for name in names)
            classes[field.name] = names if named else None
        elif _is_text(kind, types) and field.name in _LABELS:
            classes[field.name] = None
            spelled.append(field.name)
        elif _is_text(kind, types) or (_is_list(kind, types) and _is_text(kind.value_type, types)):
            texts.append(field.name)
    return _Columns(media, classes, tuple(spelled), tuple(texts))


def _spelled(pieces: Sequence[Path], column: str) -> list[str]:
    """The different names in a column of classes, sorted."""
    found: set[str] = set()
    for piece in pieces:
        for (cell,) in parquet_rows(piece, [column], _NAMES_AT_ONCE):
            if isinstance(cell, str) and cell.strip():
                found.add(cell.strip())
                if len(found) > _MOST_CLASSES:
                    raise DatasetError(
                        f"column {column} of {piece} has over {_MOST_CLASSES:,} different values, too many for classes",
                        hint="name the columns: the data and its caption",
                    )
    if not found:
        raise DatasetError(f"column {column} of {pieces[0]} has no names of classes in it", hint="check the data")
    return sorted(found)


def _is_text(kind: Any, types: Any) -> bool:  # noqa: ANN401
    kind = kind.value_type if types.is_dictionary(kind) else kind  # as pandas writes what repeats itself
    return bool(types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind))


def _is_list(kind: Any, types: Any) -> bool:  # noqa: ANN401
    return bool(types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind))


def _chosen(path: Path, there: _Columns, asked: Sequence[str] | None) -> tuple[str, str | None, str | None]:
    """The columns of the data, of its label, and of the other side."""
    if not there.media:
        raise DatasetError(f"{path} has no column of pictures or sounds: a struct of bytes and path")
    if asked:
        for name in asked:
            if name not in there.names:
                raise UsageError.unknown(f"column of {path}", name, there.names)
        if asked[0] not in there.media or len(asked) > 2:
            raise UsageError(
                f"columns is {list(asked)}", hint=f"first one of {', '.join(there.media)}, then its label or caption"
            )
        behind = asked[1] if len(asked) > 1 else None
        return asked[0], behind if behind in there.classes else None, None if behind in there.classes else behind
    data = next(iter(there.media))
    label = next((name for name in (*_LABELS, *there.classes) if name in there.classes), None)
    words = next((name for name in _WORDS if name in there.texts), None)
    other = words or next((name for name in there.media if name != data), None)
    return data, label, None if label else other


def _modality(file: Path, column: str, there: _Columns, asked: str | None) -> str:
    """The modality of a column: as asked, as the metadata say, or as the paths of the first rows do."""
    if asked or there.media[column]:
        return check_modality(asked or there.media[column])
    cells = [cell for (cell,) in islice(parquet_rows(file, [column], _ROWS), _ROWS)]
    found = modality_of_names(cell["path"] for cell in cells if cell and isinstance(cell["path"], str))
    if found is None:
        raise UsageError(f"column {column} of {file} does not tell its modality", hint="say which one: modality")
    return found


def _medium(cell: Any, folder: Path) -> bytes | Path:  # noqa: ANN401
    """The bytes in a cell, or the path beside the file."""
    if isinstance(cell, dict):
        if isinstance(cell["bytes"], bytes) and cell["bytes"]:
            return cell["bytes"]
        if isinstance(cell["path"], str) and cell["path"]:
            try:
                return inside(folder, cell["path"])
            except ValueError as error:
                raise ValueError(f"{cell['path']} {error}") from None
    raise ValueError("is empty")
