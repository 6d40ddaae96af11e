"""Where collections live: the place when nobody says, and which folders can become one."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from slimbind.collection import database
from slimbind.errors import CollectionError

VARIABLE = "SLIMBIND_INDEX"
_CODES = re.compile(r"codes-\d+-[0-9a-f]{8}\.bin|\.codes-\d+-[0-9a-f]{8}\.bin\..+")  # whole, or being written


def default_location(environ: Mapping[str, str] | None = None, platform: str | None = None) -> Path:
    """The collection of `slimbind index`: ``$SLIMBIND_INDEX``, or ``slimbind/index`` in the user's data folder.

    The data folder is ``$XDG_DATA_HOME`` or ``~/.local/share`` on Linux, ``~/Library/Application Support`` on macOS
    and ``%LOCALAPPDATA%`` on Windows.

    Args:
        environ: the environment to read (default: this process's).
        platform: a value of ``sys.platform`` (default: this one).
    """
    environ = os.environ if environ is None else environ
    platform = sys.platform if platform is None else platform
    if chosen := environ.get(VARIABLE):
        return Path(chosen).expanduser()
    if platform == "win32":
        local = environ.get("LOCALAPPDATA")
        base = Path(local) if local else Path.home() / "AppData" / "Local"
    elif platform == "darwin":
        base = Path.home() / "Library" / "Application Support"
    else:
        data = environ.get("XDG_DATA_HOME", "")
        # The XDG rules: a relative path is invalid and is to be ignored.
        base = Path(data) if os.path.isabs(data) else Path.home() / ".local" / "share"
    return base / "slimbind" / "index"


def refuse_old(folder: Path) -> None:
    """Refuse an index of the first slimbind, which was three plain files.

    Raises:
        CollectionError: it is one.
    """
    if (folder / "index.json").exists() and not (folder / database.FILE).exists():
        raise CollectionError(
            f"{folder} is an index of an earlier slimbind, which this one does not read",
            hint="delete the folder and run `slimbind index` again, or choose another --index",
        )


def check_destination(folder: Path) -> None:
    """Refuse, before any work, a place where a collection cannot be made.

    Raises:
        CollectionError: it is a file, an index of an earlier slimbind, or a folder with other contents.
    """
    if folder.exists() and not folder.is_dir():
        raise CollectionError(f"{folder} is a file, not a folder", hint="choose another place")
    if folder.is_dir() and not (folder / database.FILE).exists():
        refuse_old(folder)
        others = sorted(path.name for path in folder.iterdir())
        if others:
            raise CollectionError(
                f"{folder} is not empty and not a collection (it has {others[0]!r})", hint="choose a new folder"
            )


def code_files(folder: Path) -> Iterator[Path]:
    """The code files in a folder, those included that were never finished; no other file has such a name."""
    return (path for path in folder.iterdir() if _CODES.fullmatch(path.name))


def remove(folder: Path) -> None:
    """Delete the files of a collection, and the folder where nothing else is in it.

    Raises:
        CollectionError: one cannot be deleted.
    """
    try:
        # The database last: as long as it is there, what is left can be deleted by another try.
        beside = [folder / f"{database.FILE}-{name}" for name in ("journal", "shm", "wal")]
        for path in (*code_files(folder), *beside, folder / database.FILE):
            path.unlink(missing_ok=True)
        if not any(folder.iterdir()):
            folder.rmdir()
    except OSError as error:
        raise CollectionError(f"{folder} cannot be deleted: {error.strerror}", hint="check its permissions") from error
