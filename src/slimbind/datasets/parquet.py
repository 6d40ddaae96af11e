"""Reading parquet files; any way in which one is damaged is one error."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from slimbind.errors import DatasetError, MissingExtraError

_MOST_BYTES = 1 << 28  # of the values of a column in memory at once


@contextmanager
def parquet_file(path: Path) -> Iterator[Any]:
    """An opened ``pyarrow.parquet.ParquetFile``; what is wrong with it is found while it is read, too.

    Raises:
        MissingExtraError: pyarrow is not installed. DatasetError: it is no parquet file, or damaged.
    """
    if find_spec("pyarrow") is None:
        raise MissingExtraError("pyarrow, which reads parquet files,", extra="parquet")
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            yield file
    except (OSError, ValueError, LookupError, TypeError, pa.ArrowException) as error:  # pyarrow raises them all
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        message = f"{path} cannot be read as parquet: {first[:200]}"
        raise DatasetError(message, hint="copy or download it again") from error


def parquet_rows(path: Path, columns: Sequence[str], at_once: int) -> Iterator[tuple[Any, ...]]:
    """The cells of these columns, row by row; at most ``at_once`` rows are in memory.

    Raises:
        MissingExtraError, DatasetError: see ``parquet_file``.
    """
    with parquet_file(path) as file:
        for batch in file.iter_batches(_at_once(file.metadata, columns, at_once), columns=list(columns)):
            yield from zip(*(batch.column(name).to_pylist() for name in columns), strict=True)


def _at_once(metadata: Any, columns: Sequence[str], most: int) -> int:  # noqa: ANN401  (pyarrow has no types)
    """How many rows to read: fewer where each could be as large as the largest piece of its column in the file.

    A value that repeats itself is in the file once, and in memory for each of its rows: kilobytes can be gigabytes.
    """
    ours = tuple(f"{name}." for name in columns)  # a picture's bytes are the column image.bytes
    groups = (metadata.row_group(number) for number in range(metadata.num_row_groups))
    pieces = (group.column(number) for group in groups for number in range(group.num_columns))
    sizes = (piece.total_uncompressed_size for piece in pieces if f"{piece.path_in_schema}.".startswith(ours))
    largest = max(sizes, default=0)
    return max(1, min(most, _MOST_BYTES // max(1, largest)))
