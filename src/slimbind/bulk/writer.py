"""Vectors to a file: npz, parquet or JSON lines, written as they come, published whole or not at all."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Protocol

from slimbind.bulk.items import About, Row
from slimbind.errors import SlimbindError, UsageError
from slimbind.whole import Whole


class Format(Protocol):
    """How rows become bytes. ``finish`` writes what can only be known at the end; ``close`` drops what it holds."""

    def write(self, row: Row) -> None:
        """Take one row."""

    def finish(self) -> None:
        """All rows were written."""

    def close(self) -> None:
        """Let go of temporary files; called once, after ``finish`` or after an error."""


class JsonLines:
    """One object a line: ``{"id", "modality", "vector"}``, or ``{"id", "modality", "error"}`` for a bad item."""

    def __init__(self, file: BinaryIO, about: About, folder: Path) -> None:
        self._file = file

    def write(self, row: Row) -> None:
        """Write one line."""
        told = {"id": row.item.id, "modality": row.item.modality or None}
        if row.vector is None:
            line = to_json(told | {"error": row.reason})
        else:
            # Nine digits say a float32 exactly, and are written three times as fast as json writes a double.
            numbers = ", ".join(map("%.9g".__mod__, row.vector.tolist()))
            line = f'{to_json(told)[:-1]}, "vector": [{numbers}]}}'
        self._file.write(line.encode("utf-8") + b"\n")

    def finish(self) -> None:
        """Nothing is left to write."""
        self._file.flush()

    def close(self) -> None:
        """Nothing is held."""


class Writer:
    """A context manager with ``write(row)``: the file appears when the block ends without an error, else nothing does.

    Raises:
        SlimbindError: the file cannot be written.
    """

    def __init__(self, path: Path, make: Callable[[BinaryIO, About, Path], Format], about: About) -> None:
        self.path = path
        try:
            # Made before the work starts: what cannot be written is known now, not after an hour.
            self._whole = Whole(path)
        except OSError as error:
            raise _not_written(path, error) from error
        try:
            self._format = make(self._whole.file, about, path.parent)
        except BaseException:
            self._whole.drop()
            raise

    def write(self, row: Row) -> None:
        """Add one row."""
        try:
            self._format.write(row)
        except OSError as error:
            raise _not_written(self.path, error) from error

    def __enter__(self) -> Writer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                self._format.finish()
                self._whole.publish()
        except OSError as problem:
            raise _not_written(self.path, problem) from problem
        finally:
            try:
                self._format.close()
            finally:
                self._whole.drop()


class Stream:
    """JSON lines to standard output; what was written is written.

    Raises:
        SlimbindError: it cannot be written. A reader that went away is a BrokenPipeError, as ever.
    """

    def __init__(self, stream: BinaryIO, about: About) -> None:
        self._stream = stream
        self._format = JsonLines(stream, about, Path())

    def write(self, row: Row) -> None:
        """Add one row."""
        try:
            self._format.write(row)
            self._stream.flush()  # somebody may be waiting for it
        except BrokenPipeError:
            raise
        except OSError as error:
            raise _not_written("standard output", error) from error

    def __enter__(self) -> Stream:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Nothing to close: the stream is somebody else's."""


def check_output(path: Path) -> None:
    """Refuse an output that cannot be written, before any work.

    Raises:
        UsageError: its type is unknown, it is a folder, or its folder does not exist.
        MissingExtraError: its format needs a package that is not installed.
    """
    if path.suffix.lower() not in _FORMATS:
        raise UsageError.unknown("output type", path.suffix, _FORMATS, hint=f"for example {path.stem}.npz")
    if path.is_dir():
        raise UsageError(f"{path} is a folder", hint="name a file")
    if not path.parent.is_dir():
        raise UsageError(f"there is no folder {path.parent}", hint="make it first")
    if path.suffix.lower() == ".parquet":
        from slimbind.bulk import parquet

        parquet.require()


def open_writer(path: Path, about: About) -> Writer:
    """A writer for a file; its type tells the format.

    Raises:
        UsageError, MissingExtraError: see ``check_output``.
        SlimbindError: it cannot be written.
    """
    check_output(path)
    return Writer(path, _FORMATS[path.suffix.lower()], about)


def to_json(value: object) -> str:
    """JSON on one line, in UTF-8 where that is safe.

    File names that are no text, or hold what some readers take for the end of a line (U+0085, U+2028), are written in
    ASCII with ``\\u`` escapes instead.
    """
    text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return json.dumps(value, allow_nan=False)
    return text if len(text.splitlines()) == 1 else json.dumps(value, allow_nan=False)


def _npz(file: BinaryIO, about: About, folder: Path) -> Format:
    from slimbind.bulk.npz import Npz

    return Npz(file, about, folder)


def _parquet(file: BinaryIO, about: About, folder: Path) -> Format:
    from slimbind.bulk.parquet import Parquet

    return Parquet(file, about)


_FORMATS: dict[str, Callable[[BinaryIO, About, Path], Format]] = {
    ".npz": _npz,
    ".parquet": _parquet,
    ".jsonl": JsonLines,
}


def _not_written(path: Path | str, error: OSError) -> SlimbindError:
    mend = "free some space or choose another place" if error.errno in (errno.ENOSPC, errno.EDQUOT) else ""
    return SlimbindError(f"{path} was not written: {error.strerror}", hint=mend)
