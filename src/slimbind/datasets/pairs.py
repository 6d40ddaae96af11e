"""A table of pairs, CSV, TSV or parquet: two columns, each of texts or of paths beside the table."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

from slimbind.datasets.dataset import Dataset, Sample
from slimbind.datasets.files import inside, modality_of_names, rows
from slimbind.datasets.parquet import parquet_file, parquet_rows
from slimbind.errors import DatasetError, UsageError
from slimbind.modalities import check_modality

SUFFIXES = (".csv", ".tsv", ".parquet")
_LOOKED_AT = 32  # rows that tell what a column holds
_ROWS = 1024  # of a parquet file, read at once
# What people call their columns, where there are more than two and nobody says which.
_MEDIA = ("image", "picture", "photo", "audio", "sound", "video", "filepath", "file_path", "filename", "file_name")
_WORDS = ("caption", "text", "title", "description", "query", "sentence")
_MEDIA_LAST = ("path", "file")


class Pairs(Dataset):
    """Pairs out of a table with a header.

    Args:
        path: the table.
        columns: its two columns; where there are two only, or two with names that say so (``image``, ``caption``), they
            need not be named.
        modalities: of each column; by default paths tell by their type, and all else is text.
        root: where relative paths begin, and what no path may leave; by default the table's folder.

    Raises:
        UsageError: there are no such columns, or it is not clear which are meant.
        DatasetError: the table cannot be read, or is empty.
        MissingExtraError: it is parquet, and pyarrow is not installed.
    """

    def __init__(
        self,
        path: Path,
        *,
        columns: Sequence[str] | None = None,
        modalities: tuple[str | None, str | None] = (None, None),
        root: Path | None = None,
    ) -> None:
        self._table = _table(path)
        self._columns = _chosen(path, self._table.columns, columns)
        self._root = root or path.parent
        first = list(islice(self._table.rows(self._columns), _LOOKED_AT))
        if not first:
            raise DatasetError(f"{path} has no rows", hint="a header and at least one row are needed")
        kinds = [
            check_modality(asked) if asked else _modality(path, name, cells)
            for asked, name, cells in zip(modalities, self._columns, zip(*first, strict=True), strict=True)
        ]
        super().__init__("pairs", path, modalities=(kinds[0], kinds[1]), count=self._table.count)

    def _samples(self) -> Iterator[Sample]:
        for number, cells in enumerate(self._table.rows(self._columns), start=1):
            try:
                data, other = (self._side(*side) for side in zip(cells, self._columns, self.modalities, strict=True))
            except ValueError as error:
                self.skip(f"{self.path.name}, row {number}", str(error))
                continue
            words = next((side for side in (other, data) if isinstance(side, str)), None)
            name = next((cell for cell, kind in zip(cells, self.modalities, strict=True) if kind != "text"), None)
            yield Sample(data, text=words, id=name or f"{self.path.name}, row {number}", other=other)

    def _side(self, cell: str | None, column: str, modality: str) -> str | Path:
        if cell is None or not (told := cell.strip()):
            raise ValueError(f"nothing in column {column}")
        if modality == "text":
            return told
        try:
            return inside(self._root, told)
        except ValueError as error:
            raise ValueError(f"{told} {error}") from None


class _Csv:
    """A table of comma- or tab-separated values, UTF-8."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.count: int | None = None
        self._delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
        self.columns = next(rows(path, self._delimiter), [])

    def rows(self, columns: tuple[str, str]) -> Iterator[tuple[str | None, ...]]:
        """The cells of these columns, row by row; None where a row ends before."""
        places = [self.columns.index(name) for name in columns]
        for row in islice(rows(self.path, self._delimiter), 1, None):
            if row:  # a blank line is no row
                yield tuple(row[place] if place < len(row) else None for place in places)


class _Parquet:
    """A parquet file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with parquet_file(path) as file:
            self.columns = list(file.schema_arrow.names)
            self.count: int | None = file.metadata.num_rows

    def rows(self, columns: tuple[str, str]) -> Iterator[tuple[str | None, ...]]:
        """The cells of these columns, row by row; None where a cell is empty or holds something else than text."""
        for row in parquet_rows(self.path, columns, _ROWS):
            yield tuple(cell if isinstance(cell, str) else None for cell in row)


def _modality(path: Path, column: str, cells: Sequence[str | None]) -> str:
    """What a column holds: files, by the types of most of them, or texts."""
    found = modality_of_names(cell.strip() for cell in cells if cell)
    if found is None and column.strip().lower() in _MEDIA:
        raise UsageError(
            f"column {column} of {path} has no files of a known type, such as {next(filter(None, cells), '')[:60]!r}",
            hint="say what both columns hold, for example --modalities vision,text",
        )
    return found or "text"


def _table(path: Path) -> _Csv | _Parquet:
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise UsageError.unknown("type of table", suffix, SUFFIXES, hint=str(path))
    return _Parquet(path) if suffix == ".parquet" else _Csv(path)


def _chosen(path: Path, there: Sequence[str], asked: Sequence[str] | None) -> tuple[str, str]:
    if not there:
        raise DatasetError(f"{path} is empty", hint="its first line names the columns")
    if asked is not None:
        if isinstance(asked, str) or len(asked) != 2:
            raise UsageError(f"columns is {asked!r}", hint="name two: the items, and what belongs to them")
        for name in asked:
            if name not in there:
                raise UsageError.unknown(f"column of {path}", name, there)
        return asked[0], asked[1]
    if len(there) == 2:
        return there[0], there[1]
    lower = {name.strip().lower(): name for name in reversed(there)}
    media = next((lower[name] for name in (*_MEDIA, *_MEDIA_LAST) if name in lower), None)
    words = next((lower[name] for name in _WORDS if name in lower), None)
    if media is None or words is None:
        raise UsageError(
            f"it is not clear which two columns of {path} belong together: it has {', '.join(there)}",
            hint="name them, for example --columns image,caption",
        )
    return media, words
