"""Where the index lives when nobody says: the folder each platform has for an application's own data."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

VARIABLE = "SLIMBIND_INDEX"


def default_location(environ: Mapping[str, str] | None = None, platform: str | None = None) -> Path:
    """The index folder: ``$SLIMBIND_INDEX``, or ``slimbind/index`` in the user's data folder.

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
