"""Reading parquet files; any way in which one is damaged is one error."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from slimbind.errors import DatasetError, MissingExtraError


@contextmanager
def parquet_file(path: Path, once: Sequence[str] = ()) -> Iterator[Any]:
    """An opened ``pyarrow.parquet.ParquetFile``; what is wrong with it is found while it is read, too.

    Args:
        path: the file.
        once: columns of texts that are read as codes beside the different values, each of which is in memory once.

    Raises:
        MissingExtraError: pyarrow is not installed. DatasetError: it is no parquet file, or damaged.
    """
    if find_spec("pyarrow") is None:
        raise MissingExtraError("pyarrow, which reads parquet files,", extra="parquet")
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path, read_dictionary=list(once)) as file:
            yield file
    except (OSError, ValueError, LookupError, TypeError, pa.ArrowException) as error:  # pyarrow raises them all
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        message = f"{path} cannot be read as parquet: {first[:200]}"
        raise DatasetError(message, hint="copy or download it again") from error


def parquet_rows(path: Path, columns: Sequence[str], at_once: int) -> Iterator[tuple[Any, ...]]:
    """The cells of these columns, row by row; ``at_once`` rows are in memory.

    Raises:
        MissingExtraError, DatasetError: see ``parquet_file``.
    """
    import pyarrow.types as types

    with parquet_file(path) as file:
        kinds = {name: file.schema_arrow.field(name).type for name in columns}
    # A text that repeats itself takes a few bytes of the file for each row, and could take gigabytes for each here.
    once = [name for name, kind in kinds.items() if types.is_string(kind) or types.is_large_string(kind)]
    with parquet_file(path, once) as file:
        for batch in file.iter_batches(at_once, columns=list(columns)):
            yield from zip(*(_cells(batch.column(name)) for name in columns), strict=True)


def _cells(column: Any) -> list[Any]:  # noqa: ANN401  (pyarrow has no types)
    """The values of a column; rows of a dictionary share theirs."""
    if not hasattr(column, "dictionary"):
        return list(column.to_pylist())
    values = column.dictionary.to_pylist()
    return [None if place is None else values[place] for place in column.indices.to_pylist()]
