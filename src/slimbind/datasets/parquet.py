"""Reading parquet files; any way in which one is damaged is one error."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from slimbind.errors import DatasetError, MissingExtraError


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
    """The cells of these columns, row by row; ``at_once`` rows are in memory.

    Raises:
        MissingExtraError, DatasetError: see ``parquet_file``.
    """
    with parquet_file(path) as file:
        for batch in file.iter_batches(at_once, columns=list(columns)):
            yield from zip(*(batch.column(name).to_pylist() for name in columns), strict=True)
