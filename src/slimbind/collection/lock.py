"""One writer at a time: an advisory lock on a file, which the system lets go of when its holder dies."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from slimbind.errors import CollectionError


class WriterLock:
    """Held from construction to ``release()``.

    Raises:
        CollectionError: another process writes this index, or the folder cannot be written.
    """

    def __init__(self, path: Path) -> None:
        try:
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o644)
        except OSError as error:
            raise CollectionError(f"cannot write to {path.parent}: {error.strerror}") from error
        try:
            if sys.platform == "win32":
                import msvcrt

                msvcrt.locking(self._fd, msvcrt.LK_NBLCK, 1)
            else:
                import fcntl

                fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._fd)
            self._fd = -1
            raise CollectionError(
                f"another process is writing the index {path.parent}",
                hint="wait until it is done, or choose another --index",
            ) from error

    def release(self) -> None:
        """Let go; a second call does nothing."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
