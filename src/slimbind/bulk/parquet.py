"""Vectors as ``.parquet``: one row per item, in row groups, so that any number of them needs little memory."""

from __future__ import annotations

import json
from contextlib import suppress
from importlib.util import find_spec
from typing import Any, BinaryIO

from slimbind.bulk.items import About, Row
from slimbind.errors import MissingExtraError

_ROWS = 4096  # rows in a group: 16 MB at 1024 dimensions


def require() -> None:
    """Raise MissingExtraError where pyarrow is not installed."""
    if find_spec("pyarrow") is None:
        raise MissingExtraError("pyarrow, which writes parquet files,", extra="parquet")


class Parquet:
    """Columns ``id``, ``modality``, ``vector`` (float32 list of fixed size) and ``error``; a bad item has no vector.

    Bytes of a file name that are no UTF-8 appear as ``\\udcXX``. The schema's metadata names model and encoders.
    """

    def __init__(self, file: BinaryIO, about: About) -> None:
        require()
        import pyarrow as pa
        import pyarrow.parquet as pq

        self._schema: Any = pa.schema(
            [
                pa.field("id", pa.string(), nullable=False),
                pa.field("modality", pa.string()),
                # Not a list of fixed size: most versions of pyarrow cannot read those back where an item has none.
                pa.field("vector", pa.list_(pa.float32())),
                pa.field("error", pa.string()),
            ],
            metadata={"slimbind.model": about.model, "slimbind.encoders": json.dumps(dict(about.encoders))},
        )
        self._rows: list[Row] = []
        self._writer: Any = pq.ParquetWriter(file, self._schema)

    def write(self, row: Row) -> None:
        """Take one row; every 4096 make a row group."""
        self._rows.append(row)
        if len(self._rows) == _ROWS:
            self._flush()

    def finish(self) -> None:
        """Write the last group and the footer."""
        self._flush()
        self._writer.close()

    def close(self) -> None:
        """Close the writer while its file is open: it would try, and complain, when it is collected."""
        with suppress(OSError):  # a full disk; the file goes away anyway
            self._writer.close()
        self._writer.is_open = False

    def _flush(self) -> None:
        if not self._rows:
            return
        import pyarrow as pa

        columns = [
            [_utf8(row.item.id) for row in self._rows],
            [row.item.modality or None for row in self._rows],
            [row.vector for row in self._rows],
            [None if row.vector is not None else _utf8(row.reason) for row in self._rows],
        ]
        arrays = [pa.array(column, field.type) for column, field in zip(columns, self._schema, strict=True)]
        self._writer.write_table(pa.Table.from_arrays(arrays, schema=self._schema))
        self._rows = []


def _utf8(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
