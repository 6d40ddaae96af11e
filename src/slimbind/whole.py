"""Files that appear whole or not at all, whatever happens while they are written."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import BinaryIO
from uuid import uuid4


class Whole:
    """A file that takes the place of ``path`` when it is published; before that, what is there stays.

    It has the rights of the file whose place it takes, or those that any new file has. As a context manager it gives
    ``file`` to write to, publishes it at the end of the block, and drops it where there is an error.

    Raises:
        OSError: it cannot be made or written.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._temporary = path.with_name(f".{path.name[:48]}.{uuid4().hex[:12]}")  # a name has 255 bytes at the most
        # Not by `tempfile`, whose files only their owner may read: what is written is as much for others as anything.
        self.file: BinaryIO = open(self._temporary, "xb")  # noqa: SIM115  (closed by publish and drop)

    def publish(self) -> None:
        """Give it its name; when this returns, it is on the disk."""
        self.file.flush()
        os.fsync(self.file.fileno())
        self.file.close()
        with suppress(FileNotFoundError):
            os.chmod(self._temporary, self._path.stat().st_mode & 0o777)
        os.replace(self._temporary, self._path)
        with suppress(OSError):  # Windows cannot open a folder
            folder = os.open(self._path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)

    def drop(self) -> None:
        """Leave nothing behind of what was not published."""
        with suppress(OSError):  # a full disk refuses the last flush; the file goes away anyway
            self.file.close()
        with suppress(OSError):
            self._temporary.unlink()

    def __enter__(self) -> BinaryIO:
        return self.file

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                self.publish()
        finally:
            self.drop()
